"""The timers, with a real APScheduler and the real clock."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import apscheduler.schedulers.base
import apscheduler.triggers.date
import pytest
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.errors import StoreUnavailable
from tminus.scheduler import timers
from tminus.scheduler.failures import FailureLog
from tminus.scheduler.timers import Timers

HOUR = timedelta(hours=1)
SOON = timedelta(milliseconds=60)

LogLines = Callable[[], list[dict[str, Any]]]


class Ticks:
    """A tick that records when it ran and returns the given deadlines, then None."""

    def __init__(self, *deadlines: datetime) -> None:
        self.at: list[datetime] = []
        self._deadlines = list(deadlines)

    def __call__(self) -> datetime | None:
        self.at.append(clock.now())
        return self._deadlines.pop(0) if self._deadlines else None


@contextmanager
def running(tick: Callable[[], datetime | None], jobs: timers.PeriodicJobs | None = None) -> Iterator[Timers]:
    started = Timers(tick, jobs or {}, FailureLog())
    started.start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the sweep so rare that it does not run during the test."""
    monkeypatch.setattr(timers, "SWEEP", HOUR)


@pytest.fixture
def quick_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timers, "SWEEP", timedelta(milliseconds=20))


def test_a_tick_runs_at_the_deadline_and_not_before(no_sweep: None) -> None:
    tick = Ticks()
    with running(tick) as started:
        due = clock.now() + SOON
        started.set_deadline(due)
        eventually(lambda: tick.at)
    assert len(tick.at) == 1
    assert tick.at[0] >= due


def test_a_timer_is_not_set_before_its_deadline_however_long_reading_the_clocks_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, reads = clock.now(), count()

    def read() -> datetime:
        return begun + next(reads) * timedelta(milliseconds=1)

    monkeypatch.setattr(clock, "machine", read)
    monkeypatch.setattr(clock, "now", read)
    assert timers._on_this_machine(begun + SOON) >= begun + SOON


@pytest.mark.parametrize(
    "zone",
    ["UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "<+0530>-5:30", "No/Such", ":/none", "Europe/Berlin", "\x01", "", None],
)
def test_timers_do_not_depend_on_the_local_time_zone(
    no_sweep: None, monkeypatch: pytest.MonkeyPatch, zone: str | None
) -> None:
    def fail_lookup() -> None:
        raise AssertionError("APScheduler has looked up the local time zone")

    for module in (apscheduler.schedulers.base, apscheduler.triggers.date):
        monkeypatch.setattr(module, "get_localzone", fail_lookup)
    if zone is None:
        monkeypatch.delenv("TZ", raising=False)
    else:
        monkeypatch.setenv("TZ", zone)
    time.tzset()
    tick = Ticks()
    try:
        with running(tick, {"job": (SOON, lambda: None)}) as started:
            due = clock.now() + SOON
            started.set_deadline(due)
            eventually(lambda: tick.at)
        assert tick.at[0] >= due
    finally:
        monkeypatch.undo()
        time.tzset()


def test_apscheduler_has_the_main_loop_that_timers_override() -> None:
    found = [kind.__name__ for kind in timers._Scheduler.__mro__[1:] if "_main_loop" in vars(kind)]
    assert found, "APScheduler no longer has _main_loop: timers._Scheduler needs another way to restart its thread"


def test_the_tick_runs_at_once_for_a_deadline_in_the_past(no_sweep: None) -> None:
    tick = Ticks()
    with running(tick) as started:
        started.set_deadline(clock.now() - HOUR)
        eventually(lambda: tick.at)


def test_an_earlier_deadline_replaces_a_later_one(no_sweep: None) -> None:
    tick = Ticks()
    with running(tick) as started:
        started.set_deadline(clock.now() + HOUR)
        started.set_deadline(clock.now() + SOON)
        eventually(lambda: tick.at)


def test_a_later_deadline_does_not_replace_an_earlier_one(no_sweep: None) -> None:
    tick = Ticks()
    with running(tick) as started:
        started.set_deadline(clock.now() + SOON)
        started.set_deadline(clock.now() + HOUR)
        eventually(lambda: tick.at)


def test_the_next_tick_runs_at_the_deadline_that_the_tick_returned(no_sweep: None) -> None:
    first, second = clock.now() + SOON, clock.now() + 3 * SOON
    tick = Ticks(second)
    with running(tick) as started:
        started.set_deadline(first)
        eventually(lambda: len(tick.at) == 2)
    assert tick.at[1] >= second


def test_a_past_deadline_that_a_tick_returns_is_left_to_the_sweep(no_sweep: None) -> None:
    tick = Ticks(*[clock.now() - HOUR] * 1000)
    later = threading.Event()
    with running(tick) as started:
        started.set_deadline(clock.now())
        eventually(lambda: tick.at)
        started._scheduler.add_job(later.set)  # in the same queue, so it runs after any further tick
        assert later.wait(10)
    assert len(tick.at) == 1, "a timer in the past would fire for ever"


def test_the_earliest_deadline_that_many_threads_set_counts(no_sweep: None) -> None:
    tick = Ticks()
    spans = [SOON, *(HOUR + n * timedelta(seconds=1) for n in range(199))]
    Random(5).shuffle(spans)
    now = clock.now()
    with running(tick) as started:
        begin = threading.Barrier(8)

        def set_some(mine: list[timedelta]) -> None:
            begin.wait()
            for span in mine:
                started.set_deadline(now + span)

        threads = [threading.Thread(target=set_some, args=(spans[n::8],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: tick.at)
    assert now + SOON <= tick.at[0] < now + HOUR


def test_a_deadline_set_while_a_tick_runs_is_not_skipped(no_sweep: None) -> None:
    running_now, go_on = threading.Event(), threading.Event()
    runs: list[datetime] = []

    def tick() -> None:
        runs.append(clock.now())
        running_now.set()
        assert go_on.wait(10)

    with running(tick) as started:
        started.set_deadline(clock.now())
        assert running_now.wait(10)
        due = clock.now() + timedelta(milliseconds=1)
        started.set_deadline(due)
        eventually(lambda: clock.now() > due + SOON)  # the second timer has fired while the first tick still runs
        go_on.set()
        eventually(lambda: len(runs) == 2)


def test_two_ticks_never_run_at_once(quick_sweep: None) -> None:
    inside = threading.Semaphore(1)
    runs: list[bool] = []

    def tick() -> datetime:
        alone = inside.acquire(blocking=False)
        runs.append(alone)
        if alone:
            inside.release()
        return clock.now() + timedelta(milliseconds=2)

    with running(tick) as started:
        started.set_deadline(clock.now())
        eventually(lambda: len(runs) > 20)
    assert all(runs)


def test_the_sweep_runs_the_tick_without_a_deadline(quick_sweep: None) -> None:
    tick = Ticks()
    with running(tick):
        eventually(lambda: len(tick.at) >= 3)


def test_a_failed_tick_is_retried_by_the_sweep_and_logged_once(quick_sweep: None, log_lines: LogLines) -> None:
    runs: list[int] = []

    def tick() -> None:
        runs.append(1)
        raise RuntimeError("the database is away")

    with running(tick):
        eventually(lambda: len(runs) >= 5)
    failed = [line for line in log_lines() if line["event"] == "clock.failed"]
    assert [(line["job"], line["error"], line["level"]) for line in failed] == [
        ("clock tick", "RuntimeError: the database is away", "error")
    ]
    assert "tick (" in failed[0]["traceback"]


def test_the_log_has_the_drivers_error_for_an_unreachable_database(quick_sweep: None, log_lines: LogLines) -> None:
    def tick() -> None:
        raise StoreUnavailable from OSError("connection refused")

    with running(tick):
        failed = eventually(lambda: [line for line in log_lines() if line["event"] == "clock.failed"])
    assert failed[0]["error"] == "the database is not available: connection refused"
    assert "traceback" not in failed[0]


def test_another_failure_or_one_after_a_success_is_logged_again(quick_sweep: None, log_lines: LogLines) -> None:
    outcomes: list[Exception | None] = [OSError("a"), OSError("a"), OSError("b"), None, OSError("b")]
    runs: list[int] = []

    def tick() -> None:
        runs.append(1)
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome

    with running(tick):
        eventually(lambda: len(runs) > 5)
    logged = [line.get("error", line["event"]) for line in log_lines()]
    assert logged == ["OSError: a", "OSError: b", "clock.recovered", "OSError: b", "clock.recovered"]


def test_a_failed_tick_loses_no_deadline(no_sweep: None, log_lines: LogLines) -> None:
    runs: list[datetime] = []

    def tick() -> None:
        runs.append(clock.now())
        if len(runs) == 1:
            raise OSError("once")

    with running(tick) as started:
        started.set_deadline(clock.now())
        eventually(lambda: runs)
        started.set_deadline(clock.now() + SOON)
        eventually(lambda: len(runs) == 2)


def test_stop_returns_only_when_the_running_tick_has_finished(no_sweep: None) -> None:
    begun, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def tick() -> None:
        begun.set()
        assert go_on.wait(10)
        finished.set()

    started = Timers(tick, {}, FailureLog())
    started.start()
    started.set_deadline(clock.now())
    assert begun.wait(10)
    stopping = threading.Thread(target=started.stop)
    stopping.start()
    stopping.join(0.1)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(10)
    assert not stopping.is_alive()
    assert finished.is_set()


def test_a_deadline_set_after_stop_has_no_effect(no_sweep: None) -> None:
    tick = Ticks()
    with running(tick) as started:
        pass
    started.set_deadline(clock.now())
    assert started._armed is None
    assert tick.at == []


def test_a_job_runs_at_its_interval_on_a_thread_of_its_own(no_sweep: None) -> None:
    tick, job_may_end = Ticks(), threading.Event()
    job_runs = threading.Event()

    def job() -> None:
        job_runs.set()
        assert job_may_end.wait(60)  # longer than the test waits for the tick

    with running(tick, {"retention": (timedelta(milliseconds=20), job)}) as started:
        assert job_runs.wait(10)
        started.set_deadline(clock.now())
        eventually(lambda: tick.at)  # while the job is still busy
        job_may_end.set()


def test_a_slow_job_delays_no_other_job(no_sweep: None) -> None:
    heartbeat, may_end = Ticks(), threading.Event()
    every = timedelta(milliseconds=20)
    jobs: timers.PeriodicJobs = {name: (every, lambda: may_end.wait(60)) for name in ("retention", "status")}
    with running(Ticks(), {**jobs, "heartbeat": (every, heartbeat)}):
        try:
            eventually(lambda: len(heartbeat.at) > 3)
        finally:
            may_end.set()


def test_set_jobs_replaces_the_jobs_and_keeps_the_sweep(quick_sweep: None) -> None:
    tick, old, new = Ticks(), Ticks(), Ticks()
    with running(tick, {"old": (timedelta(milliseconds=20), old)}) as started:
        eventually(lambda: old.at)
        started.set_jobs({"new": (timedelta(milliseconds=20), new)})
        eventually(lambda: new.at)
        assert {job.id for job in started._scheduler.get_jobs()} - {"deadline"} == {"sweep", "new"}
        seen = len(tick.at)
        eventually(lambda: len(tick.at) > seen)


@pytest.mark.parametrize(
    "set_again", [lambda timers: timers.set_jobs(timers._jobs), Timers.reset], ids=["reload", "step"]
)
def test_a_job_runs_although_the_timers_are_reset_often(set_again: Callable[[Timers], None], no_sweep: None) -> None:
    """Each reload and each step of the wall clock resets the timers."""
    done = Ticks()

    def done_twice(started: Timers) -> bool:
        set_again(started)
        return len(done.at) >= 2

    with running(Ticks(), {"retention": (timedelta(milliseconds=200), done)}) as started:
        eventually(lambda: done_twice(started))
    assert done.at[1] - done.at[0] > timedelta(milliseconds=150), "no more often than its interval"


def test_a_job_is_rescheduled_when_its_interval_changes(no_sweep: None) -> None:
    done = Ticks()
    with running(Ticks(), {"heartbeat": (HOUR, done)}) as started:
        started.set_jobs({"heartbeat": (SOON, done)})
        eventually(lambda: done.at)


def test_a_failed_job_is_logged_by_name_and_runs_again(no_sweep: None, log_lines: LogLines) -> None:
    runs: list[int] = []

    def job() -> None:
        runs.append(1)
        raise ValueError("no")

    with running(Ticks(), {"heartbeat": (timedelta(milliseconds=20), job)}):
        eventually(lambda: len(runs) >= 3)
    assert [(line["event"], line["job"]) for line in log_lines()] == [("clock.failed", "heartbeat")]


def test_the_scheduler_is_alive_while_ticks_finish_and_not_while_one_hangs(
    quick_sweep: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "STALLED_AFTER", 0.2)
    hang, runs = threading.Event(), Ticks()

    def tick() -> None:
        runs()
        if hang.is_set():
            assert go_on.wait(10)

    go_on = threading.Event()
    with running(tick) as started:
        eventually(lambda: len(runs.at) > 2)
        assert started.alive
        hang.set()
        eventually(lambda: not started.alive)
        go_on.set()
        eventually(lambda: started.alive)
