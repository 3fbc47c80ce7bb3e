"""The scheduler of a daemon, on a real database."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from tests.support.databases import Database, SqliteServer
from tests.support.factories import put, session
from tests.support.receivers import SECRET
from tests.support.waiting import eventually

from tminus import clock as wall_clock
from tminus.api import Services
from tminus.config import Settings, Webhook
from tminus.config.settings import Lifecycle
from tminus.delivery import Webhooks
from tminus.domain import ids, timestamps
from tminus.domain.errors import Draining, Overloaded, RequestError, StoreUnavailable
from tminus.domain.types import SessionType, Status, Trigger
from tminus.logs import output
from tminus.monitoring.event_log import EventLog
from tminus.scheduler import sweeps
from tminus.scheduler.scheduler import Scheduler
from tminus.storage import EventFilter, Transaction

Lines = Callable[[], list[dict[str, Any]]]


class Works:
    """A scheduler without running timers: the test calls each tick."""

    def __init__(self, database: Database, folder: Path, opened: ExitStack) -> None:
        self.store = database.open(wall_clock.now)
        self.path = make_url(database.url).database or ""
        self.settings = Settings()
        self.webhooks = Webhooks(self.store, folder)
        self.webhooks.start()
        opened.callback(self.webhooks.stop)
        self.services = Services(self.store, self.settings, self.webhooks, list, "a test")
        opened.callback(self.services.close)
        event_log = EventLog(self.store, output.log_events)
        self.scheduler = Scheduler(self.services, event_log, threading.Event(), lambda: None, None)
        self.lead = self.settings.lifecycle.timeouts.lead

    def put(self, **fields: Any) -> None:
        """Store a session with these fields."""
        self.store.submit(lambda tx: put(tx, session(**fields))).result(30)

    def metric(self, name: str) -> float:
        scrape = self.services.metrics.scrape().decode()
        return next(float(line.split()[1]) for line in scrape.splitlines() if line.startswith(f"{name} "))


@pytest.fixture
def works(sqlite_server: SqliteServer, tmp_path: Path) -> Iterator[Works]:
    with sqlite_server.database() as database, ExitStack() as opened:
        yield Works(database, tmp_path, opened)


def test_a_clock_that_jumped_ahead_is_logged_once_and_nothing_is_removed(works: Works, log_lines: Lines) -> None:
    works.scheduler._remove_old()
    last = wall_clock.now() - timedelta(days=90)
    works.store.submit(
        lambda tx: tx.set_meta("retention", f"[{timestamps.milliseconds(last - timestamps.EPOCH)},0,null]")
    )
    works.put(id="old", status=Status.CLOSED, closed_at=wall_clock.now() - timedelta(days=100))
    works.scheduler._remove_old()
    works.scheduler._remove_old()
    [held] = [line for line in log_lines() if line["event"] == "retention.held"]
    assert held["ahead_s"] == pytest.approx(90 * 86400, abs=100)
    assert works.store.read(lambda view: view.session("old")) is not None


@pytest.mark.parametrize(("step", "cause"), [(90, "wall clock set"), (0, "load")])
def test_a_clock_step_is_named_as_the_cause_of_late_transitions_before_it_is_detected(
    works: Works, log_lines: Lines, monkeypatch: pytest.MonkeyPatch, step: int, cause: str
) -> None:
    works.scheduler.first_tick()
    due = wall_clock.now() + timedelta(seconds=10 if step else -80)
    works.put(id="waits", start_time=due + works.lead, due_at=due, due_trigger=Trigger.OPEN)
    for stepped in ("_source", "_outside"):
        monkeypatch.setattr(wall_clock, stepped, lambda: wall_clock.machine() + timedelta(seconds=step))
    works.scheduler.tick()
    [late] = [line for line in log_lines() if line["event"] == "clock.late"]
    assert late["cause"] == cause
    assert late["lag_ms"] > 70_000


def test_a_heartbeat_contains_that_the_next_deadline_is_overdue(works: Works, log_lines: Lines) -> None:
    due = wall_clock.now() - timedelta(seconds=30)
    works.put(id="waits", start_time=due + works.lead, due_at=due, due_trigger=Trigger.OPEN)
    works.scheduler._heartbeat()
    works.scheduler.tick()
    works.scheduler._heartbeat()
    late, in_time = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert f"overdue by {late['overdue_s']} seconds" in late["message"]
    assert late["overdue_s"] >= 30
    assert "overdue" not in in_time["message"]


def test_a_reload_and_the_timers_never_run_a_tick_at_the_same_time(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    met: list[int] = []

    def meet(*_arguments: Any, **_named: Any) -> int:
        try:
            met.append(both.wait(0.3))
        except threading.BrokenBarrierError:
            both.reset()
        return 0

    monkeypatch.setattr(sweeps, "recompute_deadlines", meet)
    ticking = threading.Thread(target=works.scheduler.tick)
    ticking.start()
    works.scheduler.apply_settings(works.settings, works.settings)
    ticking.join()
    assert met == []


def other_lead(works: Works) -> Settings:
    """Schedule a session, then change the lead time."""
    start = wall_clock.now() + timedelta(days=1)
    works.put(id="waits", start_time=start, due_at=start - works.lead, due_trigger=Trigger.OPEN)
    new = Settings(lifecycle=Lifecycle(lead=works.lead + timedelta(minutes=5)))
    works.services.apply(new)
    return new


def opens_ahead(works: Works) -> timedelta:
    """Return how long before its start the session opens."""
    waits = works.store.read(lambda view: view.session("waits"))
    assert waits is not None
    assert waits.start_time is not None
    assert waits.due_at is not None
    return waits.start_time - waits.due_at


def test_a_reload_under_overload_changes_stored_deadlines(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    works.scheduler.tick()
    new, submit = other_lead(works), works.store.submit

    def full(job: Callable[[Transaction], Any], *, clock: bool = False) -> Future[Any]:
        if not clock:
            raise Overloaded
        return submit(job, clock=True)

    monkeypatch.setattr(works.store, "submit", full)
    works.scheduler.apply_settings(works.settings, new)
    assert opens_ahead(works) == new.lifecycle.lead


@pytest.mark.parametrize(
    "error", [Overloaded(), StoreUnavailable(), Draining()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("refused", ["at once", "in the middle"])
def test_stored_deadlines_that_a_reload_could_not_change_are_changed_by_the_next_tick(
    works: Works, monkeypatch: pytest.MonkeyPatch, error: RequestError, refused: str
) -> None:
    works.scheduler.tick()
    new = other_lead(works)

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    owner, name = (works.store, "submit") if refused == "at once" else (sweeps, "recompute_deadlines")
    monkeypatch.setattr(owner, name, refuse)
    works.scheduler.apply_settings(works.settings, new)
    assert opens_ahead(works) == works.lead
    monkeypatch.undo()
    works.scheduler.tick()
    assert opens_ahead(works) == new.lifecycle.lead


def test_a_defect_in_the_change_of_stored_deadlines_is_logged_and_the_next_tick_changes_them(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    works.scheduler.tick()
    new, submit = other_lead(works), works.store.submit

    def fail(job: Callable[[Transaction], Any], *, clock: bool = False) -> Future[Any]:
        return submit(lambda _tx: 1 / 0, clock=clock)

    monkeypatch.setattr(works.store, "submit", fail)
    with pytest.raises(ZeroDivisionError):
        works.scheduler.apply_settings(works.settings, new)
    monkeypatch.undo()
    works.scheduler.tick()
    assert opens_ahead(works) == new.lifecycle.lead


def test_the_delay_of_a_sweep_is_observed_only_if_it_made_transitions(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    overdue = wall_clock.now() - timedelta(seconds=5)
    works.put(id="holder", type=SessionType.SUPPORT, status=Status.NEW, pin=100_000, due_at=None, due_trigger=None)
    works.put(type=SessionType.SUPPORT, start_time=overdue + works.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    works.scheduler.tick()
    assert works.metric("tminus_clock_lag_seconds_count") == 0, "there was no PIN"
    monkeypatch.undo()
    works.put(id="late", start_time=overdue + works.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    works.scheduler.tick()
    assert works.metric("tminus_clock_lag_seconds_count") == 1
    assert 5 <= works.metric("tminus_clock_lag_seconds_sum") < 30


def test_a_heartbeat_has_the_figures_since_the_previous_one(works: Works, log_lines: Lines) -> None:
    desk = Webhook.model_validate({"name": "desk", "url": "http://127.0.0.1:9", "secret_file": "s"})
    works.webhooks.apply(Settings(webhooks=(desk,)), {"desk": (SECRET,)})
    eventually(lambda: works.store.read(works.webhooks.endpoint_statuses))
    works.services.requests = 7
    overdue, tomorrow = wall_clock.now() - timedelta(seconds=5), wall_clock.now() + timedelta(days=1)
    works.put(id="late", start_time=overdue + works.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    works.put(id="next", start_time=tomorrow + works.lead, due_at=tomorrow, due_trigger=Trigger.OPEN)
    works.scheduler.tick()
    works.scheduler._heartbeat()
    works.scheduler._heartbeat()
    [opened] = works.store.read(lambda view: view.events(0, 10, EventFilter()))
    first, second = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert first["sessions"] == {"scheduled": 1, "new": 1, "active": 0}
    assert (first["worst_lag_ms"], second["worst_lag_ms"]) == (opened.lag_ms, 0)
    assert (first["requests"], second["requests"]) == (7, 0)
    assert first["oldest_undelivered"] == second["oldest_undelivered"] == timestamps.text(opened.event.ts)
    assert "unreadable" not in first


def test_the_heartbeat_is_logged_with_the_reason_while_the_database_cannot_be_read(
    works: Works, log_lines: Lines
) -> None:
    works.services.requests = 7
    spoiler = sqlite3.connect(works.path)
    spoiler.execute("ALTER TABLE event RENAME TO gone")
    spoiler.close()
    works.scheduler._heartbeat()
    [told] = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert (told["requests"], told["worst_lag_ms"], told["unreadable"]) == (7, 0, "no such table: event")
    assert "sessions" not in told
    assert "unwritable" not in told


def test_the_heartbeat_contains_why_the_database_cannot_be_written(
    works: Works, log_lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(works.store._writer, "failing", "database or disk is full")
    works.scheduler._heartbeat()
    [told] = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert (told["unwritable"], "sessions" in told) == ("database or disk is full", True)
