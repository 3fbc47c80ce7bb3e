"""The event table and the event log: history, order, and log lines. On both databases."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support.clocks import SettableClock
from tests.support.databases import Database
from tests.support.factories import AGENT, HOUR, caller
from tests.support.waiting import eventually
from tests.support.worlds import World

from tminus import clock
from tminus.domain.errors import WrongStatus
from tminus.domain.events import LogEvent
from tminus.domain.types import EventType, Status
from tminus.monitoring import event_log
from tminus.monitoring.event_log import EventLog, WriteLines
from tminus.scheduler import sweeps
from tminus.sessions import queries
from tminus.storage import Transaction
from tminus.storage.log_positions import log_position


def test_event_numbers_increase_in_the_order_of_the_changes(world: World) -> None:
    first, second = world.create(), world.create()
    world.close(first)
    world.join(second)
    events = world.events()
    assert [(entry.event.session_id, entry.event.type) for entry in events] == [
        (first.id, EventType.CREATED),
        (second.id, EventType.CREATED),
        (first.id, EventType.CLOSED),
        (second.id, EventType.ACTIVE),
        (second.id, EventType.JOINED),
    ]
    seqs = [entry.event.seq for entry in events]
    assert seqs == sorted(set(seqs))
    assert world.store.read(lambda view: view.last_seq()) == seqs[-1]


def test_pages_contain_each_event_once(world: World) -> None:
    sessions = [world.create() for _ in range(3)]
    for session in sessions * 4:
        world.join(session)
    every = [entry.event.seq for entry in world.events()]
    pages, after = [], 0
    while page := world.store.read(lambda view: view.events(after, 4)):  # noqa: B023 - called at once
        assert len(page) <= 4
        pages += [entry.event.seq for entry in page]
        after = pages[-1]
    assert pages == every


def test_a_history_has_the_events_of_one_session_after_a_number_in_order(world: World) -> None:
    mine, other = world.create(), world.create()
    world.join(mine)
    world.join(other)
    history = world.store.read(lambda view: queries.session_events(view, AGENT, mine.id, 0, 100)).events
    assert [entry.event.type for entry in history] == [EventType.CREATED, EventType.ACTIVE, EventType.JOINED]
    assert {entry.event.session_id for entry in history} == {mine.id}
    rest = world.store.read(lambda view: queries.session_events(view, AGENT, mine.id, history[0].event.seq, 1)).events
    assert [entry.event for entry in rest] == [history[1].event]


def test_an_event_is_read_with_its_participant_and_the_current_session(world: World) -> None:
    session = world.create()
    grace = world.join(session, "Grace")
    world.close(session)
    created, _, joined, _ = world.events(session)
    assert created.participant is None
    assert joined.participant is not None
    assert (joined.participant.id, joined.participant.name) == (grace, "Grace")
    assert joined.event.status is Status.ACTIVE, "the status at the time of the event"
    stored = world.stored(session)
    assert joined.json("db") == replace(joined, session=stored).json("db"), "the read has all that the JSON needs"
    assert (created.session.activated_at, stored.activated_at) == (joined.event.ts, joined.event.ts), "its state now"


def test_an_event_has_the_id_of_its_request_and_none_if_the_scheduler_caused_it(world: World) -> None:
    session = world.create(by=caller(request_id="r-1"), start_time=world.now + HOUR)
    world.reschedule(session, world.now, by=caller(request_id="r-2"))
    world.create(by=caller(request_id="r-3"), start_time=world.now)
    recorded = [(entry.event.request_id, entry.event.actor) for entry in world.events()]
    assert recorded == [
        ("r-1", "agent:7"), ("r-2", "agent:7"), ("r-2", "clock"), ("r-3", "agent:7"), ("r-3", "clock"),
    ]  # fmt: skip
    world.passes(HOUR)
    assert {entry.event.request_id for entry in world.events()[5:]} == {None}, "the scheduler caused these"


def test_a_refused_command_records_no_event(world: World) -> None:
    session = world.create()
    world.close(session)
    before = world.events()
    for attempt in (lambda: world.join(session), lambda: world.reschedule(session, world.now + HOUR)):
        with pytest.raises(WrongStatus):
            attempt()
    assert world.events() == before


# --- the event log ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "POLL_INTERVAL", 0.02)


def collect(logged: list[LogEvent]) -> WriteLines:
    """Return a function that adds events to a list and reports at once that they were written."""

    def write_lines(page: Sequence[LogEvent], done: Callable[[bool], None]) -> None:
        logged.extend(page)
        done(True)

    return write_lines


@pytest.fixture
def logged(world: World) -> Iterator[list[LogEvent]]:
    """The events that the event log of the world's store has logged so far."""
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    log.start()
    yield logged
    log.stop()


def test_each_committed_event_is_logged_once_in_order_without_a_notification(
    world: World, logged: list[LogEvent]
) -> None:
    session = world.schedule(HOUR)
    world.passes(hours=1)
    world.close(session)
    eventually(lambda: len(logged) == 3)
    assert [entry.event for entry in logged] == [entry.event for entry in world.events()]


def test_the_event_log_starts_at_the_newest_event_and_logs_the_rest_before_it_stops(
    database: Database, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "PAGE", 3)
    world = World(database.open(clock), clock)
    world.create()
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    log.start()
    sessions = [world.create() for _ in range(10)]
    log.stop()
    assert [one.event.session_id for one in logged] == [session.id for session in sessions]


def test_the_event_log_includes_events_of_other_daemons(database: Database, clock: SettableClock) -> None:
    here, there = World(database.open(clock), clock), World(database.open(clock), clock)
    called = threading.Event()
    log = EventLog(here.store, lambda _page, _done: called.set())
    log.start()
    there.create()
    assert called.wait(10)
    log.stop()


def test_events_passed_in_memory_are_logged_without_a_read(world: World) -> None:
    logged: list[LogEvent] = []
    logged_before = []
    log = EventLog(world.store, collect(logged), lambda: logged_before.append(len(logged)))
    for _ in range(3):
        world.create()
    handed_over = world.store.read(lambda view: view.log_events(0, 10))
    log.wake(handed_over)
    log.start()
    log.stop()
    assert all(one is other for one, other in zip(logged, handed_over, strict=True))
    assert logged_before == [0]


def test_a_throttled_log_continues_when_the_last_block_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "POLL_INTERVAL", 60.0)
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    log.start()
    with log.throttled():
        with log.throttled():
            world.create()
            log.wake()
        time.sleep(0.2)  # nothing signals that a line is not written
        assert logged == []
    assert eventually(lambda: logged)
    log.stop()


def test_a_throttled_log_holds_back_a_limited_number_of_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "POLL_INTERVAL", 60.0)
    monkeypatch.setattr(event_log, "MAX_HELD_BACK", 1)
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    log.start()
    with log.throttled():
        world.create()
        log.wake(newest=world.store.read(lambda view: view.last_seq()))
        assert eventually(lambda: logged)
    log.stop()


def test_each_commit_of_this_process_is_announced_once_before_it_is_logged(
    database: Database, clock: SettableClock
) -> None:
    logged: list[LogEvent] = []
    logged_before: list[int] = []
    commits: list[int | None] = []

    def committed(tx: Transaction) -> None:
        commits.append(tx.newest_seq)
        if tx.newest_seq is not None:
            log.wake(tx.recorded, tx.newest_seq)

    world = World(database.open(clock, committed=committed), clock)
    log = EventLog(world.store, collect(logged), lambda: logged_before.append(len(logged)))
    later = [world.schedule(HOUR) for _ in range(2)]
    world.create()
    world.store.submit(lambda tx: tx.set_meta("a", "b")).result(30)
    world.passes(hours=1)
    with_events = [seq for seq in commits if seq is not None]
    assert with_events[:3] == [1, 2, 3]
    assert with_events[-1] == 6, "the scheduler opened two sessions and expired one"
    assert logged_before == [0] * len(with_events)
    log.start()
    eventually(lambda: len(logged) == 6)
    log.stop()
    assert len(logged_before) == len(with_events)
    assert {world.stored(session).status for session in later} == {Status.NEW}


def test_recorded_events_have_the_numbers_that_the_database_assigned(database: Database, clock: SettableClock) -> None:
    recorded: list[LogEvent] = []
    store = database.open(clock, committed=lambda tx: recorded.extend(tx.recorded))
    world = World(store, clock)
    for _ in range(3):
        world.join(world.create())  # records two events in one transaction
    assert [entry.event for entry in recorded] == [entry.event for entry in world.events()]
    stored = store.read(lambda view: view.log_events(0, 100))
    assert [entry.message for entry in recorded] == [entry.message for entry in stored]


@pytest.mark.parametrize("handed_over", [[1], [0, 2], [0, 1, 4], [3, 4], [2, 3, 0, 1, 4]])
def test_the_event_log_reads_events_that_are_missing_among_those_passed_in_memory(
    world: World, handed_over: list[int]
) -> None:
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    for _ in range(5):
        world.create()
    stored = world.store.read(lambda view: view.log_events(0, 10))
    log.wake([stored[number] for number in handed_over])
    log.start()
    eventually(lambda: len(logged) == 5)
    log.stop()
    assert [one.event for one in logged] == [one.event for one in stored]


def test_before_it_stops_the_event_log_reads_events_after_those_passed_in_memory(world: World) -> None:
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    for _ in range(7):
        world.create()
    stored = world.store.read(lambda view: view.log_events(0, 10))
    log.wake([*stored[:2], *stored[3:4]])
    log.start()
    assert log.stop() == 0
    assert [one.event for one in logged] == [one.event for one in stored]


def test_a_stop_does_not_wait_for_the_event_log_and_the_next_start_continues_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "PAGE", 2)
    monkeypatch.setattr(event_log, "STOP_SECONDS", 0.0)
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    for _ in range(7):
        world.create()
    log.start()
    assert log.stop() == 7 - len(logged) > 0
    next_log = EventLog(world.store, collect(logged))
    monkeypatch.setattr(event_log, "STOP_SECONDS", 30.0)
    next_log.start()
    assert next_log.stop() == 0
    assert [one.event for one in logged] == [one.event for one in world.events()]
    assert EventLog(world.store, collect(logged)).seq == 7, "the stored position is that of the last event"


def test_a_page_in_progress_at_the_end_of_the_stop_time_is_not_logged_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "PAGE", 1)
    logged: list[LogEvent] = []
    over = threading.Event()

    def write_lines(page: Sequence[LogEvent], done: Callable[[bool], None]) -> None:
        def write() -> None:
            over.wait(30)
            eventually(lambda: clock.monotonic() > log._until)
            done(True)

        logged.extend(page)
        threading.Thread(target=write).start()

    log = EventLog(world.store, write_lines)
    for _ in range(3):
        world.create()
    log.start()
    eventually(lambda: logged)
    over.set()
    left = log.stop()
    assert [one.event.seq for one in logged] == list(range(1, 4 - left))
    assert EventLog(world.store, write_lines).seq == logged[-1].event.seq


def test_events_that_retention_removed_are_not_logged(world: World) -> None:
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    world.close(world.create())
    world.clock.passes(hours=2)
    sweeps.remove_old(world.store.submit, HOUR)
    kept = world.create()
    log.start()
    log.stop()
    assert [one.event.session_id for one in logged] == [kept.id]


def test_an_event_that_cannot_be_logged_is_the_only_one_that_is_missing(
    world: World, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    logged: list[str] = []

    def write_lines(page: Sequence[LogEvent], done: Callable[[bool], None]) -> None:
        ids = [one.event.session_id for one in page]
        if second.id in ids:
            raise ZeroDivisionError
        logged.extend(ids)
        done(True)

    log = EventLog(world.store, write_lines)
    first, second, third = world.create(), world.create(), world.create()
    log.start()
    eventually(lambda: len(logged) == 2)
    log.stop()
    assert logged == [first.id, third.id]
    assert ["ZeroDivisionError" in line["error"] for line in log_lines()] == [True]


# --- the position of the log ------------------------------------------------------------------------------------------


def logged_seqs(world: World, name: str = "") -> list[int]:
    """Return the numbers of the events that a daemon logs from its start to a clean stop."""
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged), name=name)
    log.start()
    assert log.stop() == 0
    return [one.event.seq for one in logged]


def test_after_a_kill_the_next_start_logs_committed_events_that_were_not_logged(world: World) -> None:
    EventLog(world.store, collect([]))  # killed before it logs anything
    world.create()
    world.create()
    assert logged_seqs(world) == [1, 2]
    assert logged_seqs(world) == []


def test_the_position_of_the_log_is_stored_while_the_daemon_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "SAVE_INTERVAL", 0.0)
    logged: list[LogEvent] = []
    log = EventLog(world.store, collect(logged))
    log.start()
    world.create()
    eventually(lambda: world.store.read(lambda view: log_position(view, "")) == 1)
    world.create()
    eventually(lambda: world.store.read(lambda view: log_position(view, "")) == 2)
    log.stop()


def test_each_of_several_daemons_logs_every_event_once_from_its_own_position(world: World) -> None:
    for name in ("one", "two"):
        assert logged_seqs(world, name) == []
    world.create()
    assert logged_seqs(world, "one") == [1]
    world.create()
    assert logged_seqs(world, "one") == [2]
    assert logged_seqs(world, "two") == [1, 2]


def test_a_daemon_without_a_position_starts_at_that_of_the_most_advanced_log(world: World) -> None:
    EventLog(world.store, collect([]), name="killed")
    world.create()
    world.create()
    assert logged_seqs(world, "another container") == [1, 2], "they are in no other log"
    assert logged_seqs(world, "one more") == []


def test_on_a_database_without_positions_the_log_starts_with_new_events(world: World) -> None:
    world.create()
    assert logged_seqs(world) == []
    world.create()
    assert logged_seqs(world) == [2]


def test_events_that_the_previous_release_did_not_log_are_logged(world: World) -> None:
    for _ in range(3):
        world.create()
    world.run(lambda tx: tx.set_meta("log_left_at", "1"))
    assert logged_seqs(world) == [2, 3]
    assert world.store.read(lambda view: view.meta("log_left_at")) == ""


def test_positions_that_have_not_changed_for_long_are_removed(world: World) -> None:
    logged_seqs(world, "long ago")
    world.clock.passes(days=31)
    logged_seqs(world, "now")
    assert list(world.store.read(lambda view: view.metas("log_at:"))) == ["log_at:now"]


def test_a_blocked_log_does_not_delay_the_feed_and_continues_at_its_position(
    world: World,
) -> None:
    logged: list[int] = []
    pages: list[list[int]] = []
    noticed = threading.Semaphore(0)
    blocked = threading.Event()
    blocked.set()

    def write_lines(page: Sequence[LogEvent], done: Callable[[bool], None]) -> None:
        pages.append([one.event.seq for one in page])
        if not blocked.is_set():
            logged.extend(pages[-1])
        done(not blocked.is_set())

    log = EventLog(world.store, write_lines, noticed.release)
    log.start()
    for _ in range(3):
        world.create()
        assert noticed.acquire(timeout=10)
    eventually(lambda: len(pages) > 3)
    assert all(page[0] == 1 for page in pages), "no event is logged before the first one"
    blocked.clear()
    eventually(lambda: logged == [1, 2, 3])
    log.stop()


def test_events_not_logged_at_a_stop_with_a_blocked_log_are_logged_at_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "STOP_SECONDS", 0.05)
    log = EventLog(world.store, lambda _page, _done: None)  # a pipe that nobody reads
    world.create()
    log.start()
    assert log.stop() == 1
    assert logged_seqs(world) == [1]
