"""The limit of attempts per address: a sliding window of monotonic time, in bounded memory."""

import pytest

from tminus import clock
from tminus.api import rate_limit
from tminus.api.rate_limit import GrowingPause, RateLimiter
from tminus.config import Rate


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the monotonic clock by the number in the returned list, which a test changes."""
    present = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: present[0])
    return present


def tried(rate: Rate | None, address: str, times: int) -> RateLimiter:
    limiter = RateLimiter(rate)
    for _ in range(times):
        limiter.count(address)
    return limiter


def test_an_address_at_its_limit_is_refused_until_its_first_attempt_leaves_the_window(time: list[float]) -> None:
    limiter = tried(Rate(3, 60), "192.0.2.1", 2)
    assert limiter.retry_after("192.0.2.1") is None
    time[0] += 20
    limiter.count("192.0.2.1")
    assert limiter.retry_after("192.0.2.1") == 40
    assert limiter.retry_after("192.0.2.2") is None
    time[0] += 39.5
    assert limiter.retry_after("192.0.2.1") == 1, "at least 1 s, so that no client retries at once"
    time[0] += 0.5
    assert limiter.retry_after("192.0.2.1") is None
    limiter.count("192.0.2.1")
    assert limiter.retry_after("192.0.2.1") is None, "only two attempts in the last minute"


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


def addresses(times: int, number: int) -> list[str]:
    """Return addresses in different /64 networks of one /48 (`times` 8), or in different /48 networks of one /32."""
    return [f"2001:db8:1:{one:x}::1" if times == 8 else f"2001:db8:{one:x}::1" for one in range(number)]


@pytest.mark.parametrize(("times", "foreign"), [(8, "2001:db8:2::1"), (64, "2001:db9::1")])
def test_somebody_with_many_ipv6_networks_does_not_have_the_limit_for_each(
    time: list[float], times: int, foreign: str
) -> None:
    """A tunnel broker gives away 65,536 networks; with 20 guesses each, a minute would be enough for all PINs."""
    limiter, pause = RateLimiter(Rate(2, 60)), GrowingPause(Rate(2, 60))
    refused = []
    for address in addresses(times, 2 * times + 5):
        refused.append((limiter.retry_after(address) is not None, pause.begin(address) is not None))
        if not refused[-1][0]:
            limiter.count(address)
        if not refused[-1][1]:
            pause.end(address, failed=True)
    assert refused == [(False, False)] * 2 * times + [(True, True)] * 5
    assert (limiter.retry_after(foreign), pause.begin(foreign)) == (None, None)


def test_a_flood_from_many_small_networks_does_not_push_out_the_large_one(
    time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MAX_NETWORKS", 6)
    limiter, pause = RateLimiter(Rate(2, 60)), GrowingPause(Rate(2, 60))
    for address in addresses(8, 16):
        limiter.count(address)
        assert fail(pause, address) == [None]
    assert limiter.retry_after("2001:db8:1:ffff::1") == 60
    assert pause.begin("2001:db8:1:ffff::1") == 60


def test_without_a_rate_there_is_no_limit(time: list[float]) -> None:
    assert tried(None, "192.0.2.1", 1000).retry_after("192.0.2.1") is None


def test_old_attempts_are_removed_and_in_a_full_memory_the_least_recent_address(
    time: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "MAX_NETWORKS", 3)
    monkeypatch.setattr(clock, "now", lambda: pytest.fail("the wall clock may be set back and must not be read"))
    limiter = tried(Rate(1, 60), "192.0.2.1", 1)
    for last in (2, 3, 4):
        limiter.count(f"192.0.2.{last}")
    assert [limiter.retry_after(f"192.0.2.{last}") is not None for last in (1, 2, 3, 4)] == [False, True, True, True]
    time[0] += 60
    limiter.count("192.0.2.5")
    assert list(limiter._attempts) == ["192.0.2.5"]


def fail(pause: GrowingPause, address: str = "192.0.2.1", times: int = 1) -> list[float | None]:
    """Make attempts, each of which fails if it is allowed. Return what `begin` returned for each."""
    pauses = []
    for _ in range(times):
        pauses.append(pause.begin(address))
        if pauses[-1] is None:
            pause.end(address, failed=True)
    return pauses


def test_each_pause_is_twice_as_long_up_to_the_longest(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    for seconds in (60, 120, 240, 480, 900, 900):
        assert fail(pause, times=3) == [None, None, seconds]
        time[0] += seconds - 0.5
        assert fail(pause) == [1.0], "at least 1 s, so that no client retries at once"
        time[0] += 0.5
    assert fail(pause, "192.0.2.2") == [None]


def test_an_address_that_has_not_failed_for_long_begins_again(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    assert fail(pause, times=3) == [None, None, 60]
    time[0] += 60
    assert fail(pause, times=3) == [None, None, 120]
    time[0] += 2 * 900
    assert fail(pause, times=3) == [None, None, 60]


def test_right_attempts_do_not_keep_an_address_from_beginning_again(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    assert fail(pause, times=3) == [None, None, 60]
    for _ in range(60):
        time[0] += 60
        assert pause.begin("192.0.2.1") is None
        pause.end("192.0.2.1", failed=False)
    assert fail(pause, times=3) == [None, None, 60]


def test_networks_that_have_not_tried_for_long_are_removed(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    fail(pause)
    time[0] += 2 * 900
    fail(pause, "192.0.2.2")
    assert list(pause._networks) == ["192.0.2.2"]


def test_failures_that_are_far_apart_cause_no_pause(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    for _ in range(10):
        assert fail(pause) == [None]
        time[0] += 60


def test_success_does_not_count_and_attempts_in_progress_do(time: list[float]) -> None:
    pause = GrowingPause(Rate(2, 60))
    for _ in range(5):
        assert pause.begin("192.0.2.1") is None
        pause.end("192.0.2.1", failed=False)
    assert [pause.begin("192.0.2.1") for _ in range(3)] == [None, None, 1.0]
    pause.end("192.0.2.1", failed=False)
    assert pause.begin("192.0.2.1") is None
    pause.end("192.0.2.1", failed=True)
    pause.end("192.0.2.1", failed=True)
    assert pause.begin("192.0.2.1") == 60


def test_a_success_does_not_forgive_earlier_failures(time: list[float]) -> None:
    """A caller who knows one right PIN could otherwise guess others without a limit."""
    pause = GrowingPause(Rate(2, 60))
    assert fail(pause) == [None]
    assert pause.begin("192.0.2.1") is None
    pause.end("192.0.2.1", failed=False)
    assert fail(pause, times=2) == [None, 60]


def test_a_pause_is_kept_in_bounded_memory(time: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MAX_NETWORKS", 3)
    pause = GrowingPause(Rate(1, 60))
    for last in (1, 2, 3, 4):
        fail(pause, f"192.0.2.{last}")
    assert list(pause._networks) == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
    pause.end("192.0.2.1", failed=True)
    assert fail(GrowingPause(None), times=100) == [None] * 100
