"""The limit of attempts per address: a sliding window of monotonic time, in bounded memory."""

import pytest

from tminus import clock
from tminus.api import rate_limit
from tminus.api.rate_limit import RateLimiter
from tminus.config import Rate


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time in a list, which a test sets."""
    present = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: present[0])
    return present


def tried(rate: Rate | None, address: str, times: int) -> RateLimiter:
    counted = RateLimiter(rate)
    for _ in range(times):
        counted.count(address)
    return counted


def test_an_address_at_its_limit_is_refused_until_its_first_attempt_leaves_the_window(time: list[float]) -> None:
    counted = tried(Rate(3, 60), "192.0.2.1", 2)
    assert counted.retry_after("192.0.2.1") is None
    time[0] += 20
    counted.count("192.0.2.1")
    assert counted.retry_after("192.0.2.1") == 40
    assert counted.retry_after("192.0.2.2") is None
    time[0] += 39.5
    assert counted.retry_after("192.0.2.1") == 1, "no client is asked to come back at once"
    time[0] += 0.5
    assert counted.retry_after("192.0.2.1") is None
    counted.count("192.0.2.1")
    assert counted.retry_after("192.0.2.1") is None, "two of the last minute"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:0:7::1", "2001:db8:0:7:ffff::2", True),
        ("2001:db8:0:7::1", "2001:db8:0:8::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_attempts_count_per_ipv4_address_or_per_64_network_of_ipv6(
    time: list[float], first: str, second: str, same: bool
) -> None:
    assert (tried(Rate(1, 60), first, 1).retry_after(second) is not None) is same


def test_without_a_rate_there_is_no_limit(time: list[float]) -> None:
    assert tried(None, "192.0.2.1", 1000).retry_after("192.0.2.1") is None


def test_old_attempts_are_removed_and_in_a_full_memory_the_least_recent_address(
    time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MAX_ADDRESSES", 3)
    monkeypatch.setattr(clock, "now", lambda: pytest.fail("the wall clock may be set back, and is not asked"))
    counted = tried(Rate(1, 60), "192.0.2.1", 1)
    for last in (2, 3, 4):
        counted.count(f"192.0.2.{last}")
    assert [counted.retry_after(f"192.0.2.{last}") is not None for last in (1, 2, 3, 4)] == [False, True, True, True]
    time[0] += 60
    counted.count("192.0.2.5")
    assert list(counted._attempts) == ["192.0.2.5"]
