"""Log lines about a database that cannot be written."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.support.clocks import NOW

from tminus import clock
from tminus.domain import timestamps
from tminus.monitoring import outages
from tminus.monitoring.outages import Outages

LogLines = Callable[[], list[dict[str, Any]]]


class Machine:
    """What `Outages` reads and counts. A test sets the monotonic clock and the seconds of the current write."""

    now = 1000.0
    writing = 0.0
    refused = 0
    blocked = 0.0

    def count(self, seconds: float) -> None:
        self.blocked += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(clock, "monotonic", lambda: machine.now)
    monkeypatch.setattr(clock, "now", lambda: NOW + timedelta(seconds=machine.now))
    return machine


@pytest.fixture
def watched(machine: Machine) -> Outages:
    return Outages(lambda: machine.writing, lambda: machine.refused, machine.count)


def test_a_full_disk_that_takes_a_small_write_now_and_then_is_one_outage(
    watched: Outages, machine: Machine, log_lines: LogLines
) -> None:
    for _ in range(10):
        watched.health("disk full")
        machine.now += 0.125
        machine.refused += 3
        watched.health(None)
        writable = timestamps.text(clock.now())
        machine.now += 0.125
        watched.check()
    assert [line["event"] for line in log_lines()] == ["storage.unavailable"]
    machine.now += outages.STEADY
    watched.check()
    watched.check()
    [_, recovered] = log_lines()
    assert (recovered["event"], recovered["away_s"], recovered["refused"]) == ("storage.recovered", 2, 30)
    assert recovered["message"] == f"database writable again since {writable}, after 2 s, 30 requests refused meanwhile"
    assert watched.cause(timedelta(seconds=5)) == "database not writable"
    machine.now += 100
    assert watched.cause(timedelta(seconds=5)) is None


def test_a_lock_is_reported_while_it_lasts_and_its_seconds_are_counted(
    watched: Outages, machine: Machine, log_lines: LogLines
) -> None:
    for held in (0.9, 1.9, 2.9, 10.4):
        machine.writing = held
        machine.now = 1000.0 + held
        watched.check()
    assert [(line["event"], line["blocked_ms"]) for line in log_lines()] == [("storage.blocked", 1900)]
    assert watched.cause(timedelta(seconds=2)) == "write held up"
    machine.writing, machine.now = 0.0, 1011.0
    watched.check()
    assert [(line["event"], line["blocked_ms"]) for line in log_lines()[1:]] == [("storage.unblocked", 11000)]
    assert machine.blocked == pytest.approx(10.4)


def test_an_outage_that_has_just_ended_when_the_daemon_stops_is_reported(
    watched: Outages, machine: Machine, log_lines: LogLines
) -> None:
    watched.health("disk full")
    watched.health(None)
    watched.close()
    assert [line["event"] for line in log_lines()] == ["storage.unavailable", "storage.recovered"]


@pytest.mark.parametrize(("seconds", "cause"), [(1.2, "read held up"), (0.1, None)])
def test_a_blocked_read_of_the_scheduler_is_the_cause_of_late_transitions(
    watched: Outages, machine: Machine, seconds: float, cause: str | None
) -> None:
    with watched.during("read"):
        machine.now += seconds
    assert watched.cause(timedelta(seconds=2)) == cause


def test_a_failed_read_of_the_scheduler_is_the_cause_of_late_transitions(watched: Outages) -> None:
    with pytest.raises(ValueError, match="away"), watched.during("read"):
        raise ValueError("away")
    assert watched.cause(timedelta(seconds=2)) == "database not readable"


def test_an_outage_begins_when_the_failed_write_began(watched: Outages, machine: Machine, log_lines: LogLines) -> None:
    machine.writing = 10.0
    watched.health("no answer within 10 s, given up")
    machine.now += 2
    watched.health(None)
    watched.close()
    assert log_lines()[-1]["away_s"] == 12
