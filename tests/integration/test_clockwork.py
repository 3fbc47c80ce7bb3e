"""What time does in a daemon: its clockwork, on a real database."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.databases import Database, SqliteServer
from tests.support.factories import session

from tminus import clock as wall_clock
from tminus import draws, logs
from tminus.announcer import Announcer
from tminus.api import Services
from tminus.clockwork import Clockwork
from tminus.config import Settings
from tminus.delivery import Webhooks
from tminus.sessions import sweeps
from tminus.vocabulary import SessionType, Status, Trigger


class Works:
    """A clockwork whose timers stand still: the test says when it ticks."""

    def __init__(self, database: Database, folder: Path, opened: ExitStack) -> None:
        self.store = database.open(wall_clock.now)
        self.settings = Settings()
        webhooks = Webhooks(self.store, folder)
        webhooks.start()
        opened.callback(webhooks.stop)
        self.services = Services(self.store, self.settings, webhooks, list, "a test")
        opened.callback(self.services.close)
        announcer = Announcer(self.store, logs.say_event)
        self.clockwork = Clockwork(self.services, announcer, threading.Event(), lambda: None, None)
        self.lead = self.settings.lifecycle.timeouts.lead

    def put(self, **fields: Any) -> None:
        """Stores a session as it is."""
        self.store.submit(lambda tx: tx.add(session(**fields))).result(30)

    def metric(self, name: str) -> float:
        scrape = self.services.metrics.scrape().decode()
        return next(float(line.split()[1]) for line in scrape.splitlines() if line.startswith(f"{name} "))


@pytest.fixture
def works(sqlite_server: SqliteServer, tmp_path: Path) -> Iterator[Works]:
    with sqlite_server.database() as database, ExitStack() as opened:
        yield Works(database, tmp_path, opened)


def test_a_reload_and_the_timers_never_tick_at_once(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    met: list[int] = []

    def meet(*_arguments: Any, **_named: Any) -> int:
        try:
            met.append(both.wait(0.3))
        except threading.BrokenBarrierError:
            both.reset()
        return 0

    monkeypatch.setattr(sweeps, "follow_timeouts", meet)
    ticking = threading.Thread(target=works.clockwork.tick)
    ticking.start()
    works.clockwork.follow(works.settings, works.settings)
    ticking.join()
    assert met == []


def test_how_late_the_clock_was_is_observed_when_it_has_moved_something(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "PINS", range(100_000, 100_001))
    overdue = wall_clock.now() - timedelta(seconds=5)
    works.put(id="holder", type=SessionType.SUPPORT, status=Status.NEW, pin=100_000, due_at=None, due_trigger=None)
    works.put(type=SessionType.SUPPORT, start_time=overdue + works.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    works.clockwork.tick()
    assert works.metric("tminus_clock_lag_seconds_count") == 0, "there was no PIN"
    monkeypatch.undo()
    works.put(id="late", start_time=overdue + works.lead, due_at=overdue, due_trigger=Trigger.OPEN)
    works.clockwork.tick()
    assert works.metric("tminus_clock_lag_seconds_count") == 1
    assert 5 <= works.metric("tminus_clock_lag_seconds_sum") < 30
