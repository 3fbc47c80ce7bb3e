"""Repeated log lines of one address."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.support.clocks import NOW

from tminus import clock
from tminus.logs import repeated
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.repeated import Repeated

LogLines = Callable[[], list[dict[str, Any]]]


class Clock:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(clock, "monotonic", moved)
    return moved


def log_limited(counted: Repeated, address: str) -> None:
    counted.log("auth.limited", address, remote_ip=address, request_id="r")


def test_a_line_has_the_times_of_the_first_and_the_last_that_it_counts(
    log_lines: LogLines, monotonic: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Repeated()
    for second in range(4):
        monkeypatch.setattr(clock, "now", lambda second=second: NOW + timedelta(seconds=second))
        log_limited(counted, "192.0.2.1")
    monotonic.now += repeated.INTERVAL
    counted.write()
    first, others = log_lines()
    assert "since" not in first
    assert "last" not in first
    assert (others["count"], others["since"], others["last"]) == (
        3, "2030-01-07T09:00:01.000Z", "2030-01-07T09:00:03.000Z",
    )  # fmt: skip


def test_the_first_is_logged_at_once_and_the_others_once_a_minute_with_their_number(
    log_lines: LogLines, monotonic: Clock
) -> None:
    counted = Repeated()
    for _ in range(100_000):
        log_limited(counted, "192.0.2.1")
    log_limited(counted, "192.0.2.2")
    monotonic.now += repeated.INTERVAL - 1
    counted.write()
    assert [(line["remote_ip"], line["count"]) for line in log_lines()] == [("192.0.2.1", 1), ("192.0.2.2", 1)]
    monotonic.now += 1
    counted.write()
    [line] = log_lines()[2:]
    assert (line["remote_ip"], line["count"], line["request_id"]) == ("192.0.2.1", 99_999, "r")
    assert line["message"].startswith("too many wrong tokens from 192.0.2.1, requests refused: 99999 since 2")
    assert line["since"] <= line["last"] <= line["ts"]
    log_limited(counted, "192.0.2.1")
    assert len(log_lines()) == 3, "still within the next minute"
    monotonic.now += repeated.INTERVAL
    counted.write()
    monotonic.now += repeated.INTERVAL
    counted.write()
    log_limited(counted, "192.0.2.1")
    assert [line["count"] for line in log_lines()[3:]] == [1, 1]


def test_too_many_addresses_are_counted_together(log_lines: LogLines, monotonic: Clock) -> None:
    counted = Repeated()
    for number in range(3 * repeated.MAX_COUNTS):
        log_limited(counted, f"10.0.{number // 256}.{number % 256}")
    counted.log("auth.forgery_refused", "10.9.9.9", remote_ip="10.9.9.9")
    assert log_lines()[-1]["remote_ip"] == "10.9.9.9", "other lines keep their addresses"
    assert len(log_lines()) == repeated.MAX_COUNTS + 2
    counted.write(everything=True)
    assert (log_lines()[-1]["remote_ip"], log_lines()[-1]["count"]) == ("(others)", 2 * repeated.MAX_COUNTS - 1)


def test_a_site_of_ipv6_is_one_address(log_lines: LogLines, monotonic: Clock) -> None:
    counted = Repeated()
    for number in range(10):
        log_limited(counted, f"2001:db8::{number:x}")
    assert len(log_lines()) == 1


@pytest.mark.parametrize("name", [name for name, line in LOG_LINES.items() if "count" in line.fields])
def test_the_message_of_a_repeated_line_has_its_count(name: str) -> None:
    assert {"count", "since"} <= set(LOG_LINES[name].field_names)


def test_a_line_about_ipv6_names_the_network_that_was_counted(log_lines: LogLines, monotonic: Clock) -> None:
    counted = Repeated()
    for last in range(1, 10):
        log_limited(counted, f"2001:db8::{last}")
    log_limited(counted, "192.0.2.1")
    counted.write(everything=True)
    first, other, rest = log_lines()
    assert (first["remote_ip"], first["network"], first["count"]) == ("2001:db8::1", "2001:db8::/64", 1)
    assert (rest["remote_ip"], rest["network"], rest["count"]) == ("2001:db8::9", "2001:db8::/64", 8)
    assert "network" not in other


def test_recent_returns_the_count_until_a_minute_has_passed_without_a_line(
    log_lines: LogLines, monotonic: Clock
) -> None:
    counted = Repeated()
    assert counted.recent("auth.limited", "2001:db8::1") == 0
    for _ in range(3):
        log_limited(counted, "2001:db8::1")
    assert counted.recent("auth.limited", "2001:db8::9") == 3, "the /64 counts as one address"
    assert counted.recent("auth.failed", "2001:db8::1") == counted.recent("auth.limited", "192.0.2.1") == 0
    monotonic.now += repeated.INTERVAL
    counted.write()
    log_limited(counted, "2001:db8::1")
    assert counted.recent("auth.limited", "2001:db8::1") == 4, "the number of the minute before is kept"
    for _ in range(2):
        monotonic.now += repeated.INTERVAL
        counted.write()
    assert counted.recent("auth.limited", "2001:db8::1") == 0
    assert [line["count"] for line in log_lines()] == [1, 2, 1]
