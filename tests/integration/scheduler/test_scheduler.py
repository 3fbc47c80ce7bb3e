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


class Parts:
    """The scheduler and the parts of a daemon that it uses. No timers run: the test calls the scheduler."""

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
def parts(sqlite_server: SqliteServer, tmp_path: Path) -> Iterator[Parts]:
    with sqlite_server.database() as database, ExitStack() as opened:
        yield Parts(database, tmp_path, opened)


def test_a_clock_that_jumped_ahead_is_logged_once_and_nothing_is_removed(parts: Parts, log_lines: Lines) -> None:
    parts.scheduler._remove_old()
    last = wall_clock.now() - timedelta(days=90)
    parts.store.submit(
        lambda tx: tx.set_meta("retention", f"[{timestamps.milliseconds(last - timestamps.EPOCH)},0,null]")
    )
    parts.put(id="old", status=Status.CLOSED, closed_at=wall_clock.now() - timedelta(days=100))
    parts.scheduler._remove_old()
    parts.scheduler._remove_old()
    [pause] = [line for line in log_lines() if line["event"] == "retention.held"]
    assert pause["ahead_s"] == pytest.approx(90 * 86400, abs=100)
    assert parts.store.read(lambda view: view.session("old")) is not None


@pytest.mark.parametrize(("step", "cause"), [(90, "wall clock set"), (0, "load")])
def test_a_clock_step_is_named_as_the_cause_of_late_transitions_before_it_is_detected(
    parts: Parts, log_lines: Lines, monkeypatch: pytest.MonkeyPatch, step: int, cause: str
) -> None:
    parts.scheduler.first_tick()
    due = wall_clock.now() + timedelta(seconds=10 if step else -80)
    parts.put(id="waits", start_time=due + parts.lead, due_at=due, due_trigger=Trigger.OPEN)
    for stepped in ("_source", "_outside"):
        monkeypatch.setattr(wall_clock, stepped, lambda: wall_clock.machine() + timedelta(seconds=step))
    parts.scheduler.tick()
    [late] = [line for line in log_lines() if line["event"] == "clock.late"]
    assert late["cause"] == cause
    assert late["lag_ms"] > 70_000


def test_a_heartbeat_contains_that_the_next_deadline_is_overdue(parts: Parts, log_lines: Lines) -> None:
    due = wall_clock.now() - timedelta(seconds=30)
    parts.put(id="waits", start_time=due + parts.lead, due_at=due, due_trigger=Trigger.OPEN)
    parts.scheduler._heartbeat()
    parts.scheduler.tick()
    parts.scheduler._heartbeat()
    late, in_time = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert f"overdue by {late['overdue_s']} seconds" in late["message"]
    assert late["overdue_s"] >= 30
    assert "overdue" not in in_time["message"]


def test_a_reload_and_the_timers_never_run_a_tick_at_the_same_time(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(2)
    met: list[int] = []

    def run_together(*_arguments: Any, **_named: Any) -> int:
        try:
            met.append(barrier.wait(0.3))
        except threading.BrokenBarrierError:
            barrier.reset()
        return 0

    monkeypatch.setattr(sweeps, "recompute_deadlines", run_together)
    ticking = threading.Thread(target=parts.scheduler.tick)
    ticking.start()
    parts.scheduler.apply_settings(parts.settings, parts.settings)
    ticking.join()
    assert met == []


def schedule_and_change_lead(parts: Parts) -> Settings:
    """Store a scheduled session, then change the lead time; return the new settings."""
    start = wall_clock.now() + timedelta(days=1)
    parts.put(id="waits", start_time=start, due_at=start - parts.lead, due_trigger=Trigger.OPEN)
    new = Settings(lifecycle=Lifecycle(lead=parts.lead + timedelta(minutes=5)))
    parts.services.apply(new)
    return new


def lead_of_session(parts: Parts) -> timedelta:
    """Return how long before its start the stored session is due to open."""
    stored = parts.store.read(lambda view: view.session("waits"))
    assert stored is not None
    assert stored.start_time is not None
    assert stored.due_at is not None
    return stored.start_time - stored.due_at


def test_a_reload_under_overload_changes_stored_deadlines(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.scheduler.tick()
    new, submit = schedule_and_change_lead(parts), parts.store.submit

    def full(job: Callable[[Transaction], Any], *, clock: bool = False) -> Future[Any]:
        if not clock:
            raise Overloaded
        return submit(job, clock=True)

    monkeypatch.setattr(parts.store, "submit", full)
    parts.scheduler.apply_settings(parts.settings, new)
    assert lead_of_session(parts) == new.lifecycle.lead


@pytest.mark.parametrize(
    "error", [Overloaded(), StoreUnavailable(), Draining()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("refused", ["at once", "in the middle"])
def test_stored_deadlines_that_a_reload_could_not_change_are_changed_by_the_next_tick(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: RequestError, refused: str
) -> None:
    parts.scheduler.tick()
    new = schedule_and_change_lead(parts)

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    owner, name = (parts.store, "submit") if refused == "at once" else (sweeps, "recompute_deadlines")
    monkeypatch.setattr(owner, name, refuse)
    parts.scheduler.apply_settings(parts.settings, new)
    assert lead_of_session(parts) == parts.lead
    monkeypatch.undo()
    parts.scheduler.tick()
    assert lead_of_session(parts) == new.lifecycle.lead


def test_a_defect_in_the_change_of_stored_deadlines_is_logged_and_the_next_tick_changes_them(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.scheduler.tick()
    new, submit = schedule_and_change_lead(parts), parts.store.submit

    def fail(job: Callable[[Transaction], Any], *, clock: bool = False) -> Future[Any]:
        return submit(lambda _tx: 1 / 0, clock=clock)

    monkeypatch.setattr(parts.store, "submit", fail)
    with pytest.raises(ZeroDivisionError):
        parts.scheduler.apply_settings(parts.settings, new)
    monkeypatch.undo()
    parts.scheduler.tick()
    assert lead_of_session(parts) == new.lifecycle.lead


def test_the_delay_of_a_sweep_is_observed_only_if_it_made_transitions(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, log_lines: Lines
) -> None:
    parts.scheduler.first_tick()
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    overdue = wall_clock.now() - timedelta(seconds=5)
    parts.put(id="holder", type=SessionType.SUPPORT, status=Status.NEW, pin=100_000, due_at=None, due_trigger=None)
    parts.put(type=SessionType.SUPPORT, start_time=overdue + parts.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    parts.scheduler.tick()
    assert parts.metric("tminus_clock_lag_seconds_count") == 0, "no PIN is free"
    monkeypatch.undo()
    parts.put(id="late", start_time=overdue + parts.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    parts.scheduler.tick()
    assert parts.metric("tminus_clock_lag_seconds_count") == 1
    assert 5 <= parts.metric("tminus_clock_lag_seconds_sum") < 30
    assert [line["cause"] for line in log_lines() if line["event"] == "clock.late"] == ["no PIN free"]


def test_a_heartbeat_has_the_figures_since_the_previous_one(parts: Parts, log_lines: Lines) -> None:
    desk = Webhook.model_validate({"name": "desk", "url": "http://127.0.0.1:9", "secret_file": "s"})
    parts.webhooks.apply(Settings(webhooks=(desk,)), {"desk": (SECRET,)})
    eventually(lambda: parts.store.read(parts.webhooks.endpoint_statuses))
    parts.services.requests = 7
    overdue, tomorrow = wall_clock.now() - timedelta(seconds=5), wall_clock.now() + timedelta(days=1)
    parts.put(id="late", start_time=overdue + parts.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    parts.put(id="next", start_time=tomorrow + parts.lead, due_at=tomorrow, due_trigger=Trigger.OPEN)
    parts.scheduler.tick()
    parts.scheduler._heartbeat()
    parts.scheduler._heartbeat()
    [opened] = parts.store.read(lambda view: view.events(0, 10, EventFilter()))
    first, second = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert first["sessions"] == {"scheduled": 1, "new": 1, "active": 0}
    assert (first["worst_lag_ms"], second["worst_lag_ms"]) == (opened.lag_ms, 0)
    assert (first["requests"], second["requests"]) == (7, 0)
    assert first["oldest_undelivered"] == second["oldest_undelivered"] == timestamps.text(opened.event.ts)
    assert "unreadable" not in first


def test_the_heartbeat_is_logged_with_the_reason_while_the_database_cannot_be_read(
    parts: Parts, log_lines: Lines
) -> None:
    parts.services.requests = 7
    connection = sqlite3.connect(parts.path)
    connection.execute("ALTER TABLE event RENAME TO gone")
    connection.close()
    parts.scheduler._heartbeat()
    [heartbeat] = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert (heartbeat["requests"], heartbeat["worst_lag_ms"], heartbeat["unreadable"]) == (7, 0, "no such table: event")
    assert "sessions" not in heartbeat
    assert "unwritable" not in heartbeat


def test_the_heartbeat_contains_the_damage_of_the_database(
    parts: Parts, log_lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.scheduler._store, "damage", "database disk image is malformed")
    parts.scheduler._heartbeat()
    [heartbeat] = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert heartbeat["message"].endswith("; database damaged (database disk image is malformed)")


def test_the_heartbeat_contains_why_the_database_cannot_be_written(
    parts: Parts, log_lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.store._writer, "failing", "database or disk is full")
    parts.scheduler._heartbeat()
    [heartbeat] = [line for line in log_lines() if line["event"] == "daemon.heartbeat"]
    assert (heartbeat["unwritable"], "sessions" in heartbeat) == ("database or disk is full", True)
