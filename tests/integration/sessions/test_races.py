"""Concurrent commands: one wins, the other is refused or has no effect. On both databases."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, text
from tests.support.clocks import SettableClock
from tests.support.databases import Database, PostgresServer
from tests.support.factories import AGENT, HOUR, MINUTE, order, settings
from tests.support.waiting import eventually
from tests.support.worlds import World

from tminus.domain import ids
from tminus.domain.errors import NoPinFree, RequestError, WrongStatus
from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Session
from tminus.domain.types import EventType, SessionType, Status, Trigger
from tminus.scheduler import sweeps
from tminus.sessions import commands
from tminus.sessions.transitions import execute_transition
from tminus.storage import Transaction

ROUNDS = 12


@pytest.fixture
def daemons(database: Database, clock: SettableClock) -> tuple[World, World]:
    """The stores of two daemons on one database."""
    return World(database.open(clock), clock), World(database.open(clock), clock)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run all calls at the same time; return the result of each, or the error that it raised."""
    begin = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number: int, call: Callable[[], Any]) -> None:
        begin.wait()
        try:
            results[number] = call()
        except RequestError as refusal:
            results[number] = refusal

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def check_events(world: World, session: Session) -> Session:
    """Check that each event continues from the previous one, and that the last one has the status of the session."""
    stored, events = world.stored(session), [one.event for one in world.events(session)]
    status: Status | None = None
    for event in events:
        if not (event.type is EventType.JOINED and status is Status.ACTIVE):  # recorded together with session.active
            assert event.previous_status == status, events
        status = event.status
    assert status is stored.status
    changes = [event for event in events if event.type is not EventType.ACTIVE]  # recorded together with the join
    assert stored.version == len(changes)
    assert all(number == 1 for kind, number in Counter(event.type for event in events).items() if kind in ONCE)
    return stored


ONCE = {EventType.CREATED, EventType.SCHEDULED, EventType.READY, EventType.ACTIVE, EventType.CLOSED}


def test_reschedule_against_open_has_one_winner(daemons: tuple[World, World]) -> None:
    one, two = daemons
    outcomes = Counter[str]()
    for _ in range(ROUNDS):
        session = one.schedule(HOUR)
        one.clock.passes(50 * MINUTE)
        later = one.now + 3 * HOUR
        moved, sweep = at_once(partial(one.reschedule, session, later), two.advance)
        stored = check_events(one, session)
        if isinstance(moved, WrongStatus):
            outcomes["open"] += 1
            assert (stored.status, stored.start_time) == (Status.NEW, session.start_time)
            assert sweep.transitions == {Trigger.OPEN: 1}
        else:
            outcomes["reschedule"] += 1
            assert (stored.status, stored.start_time, stored.due_at) == (Status.SCHEDULED, later, later - 10 * MINUTE)
            assert sweep.transitions.total() == 0
        one.close(session)
    assert outcomes.total() == ROUNDS


def test_close_against_join_has_one_winner_or_the_join_came_first(daemons: tuple[World, World]) -> None:
    one, two = daemons
    for _ in range(ROUNDS):
        session = one.create()
        closed, joined = at_once(partial(one.close, session), partial(two.join, session))
        stored = check_events(one, session)
        assert closed is None
        assert (stored.status, stored.participants) == (Status.CLOSED, 0)
        assert [person.id for person in one.participants(session)] == (
            [] if isinstance(joined, WrongStatus) else [joined]
        )
        assert all(person.left_at for person in one.participants(session))


def test_two_daemons_that_sweep_at_once_make_each_transition_once(
    daemons: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH", 3)
    monkeypatch.setattr(sweeps, "LARGEST_BATCH", 3)
    one, two = daemons
    sessions = [one.schedule(HOUR, kind) for kind in SessionType for _ in range(8)]
    one.clock.passes(days=1)
    swept = at_once(one.advance, two.advance, one.advance, two.advance)
    assert sum((sweep.transitions for sweep in swept), Counter()) == {Trigger.OPEN: 32, Trigger.EXPIRE: 32}
    for session in sessions:
        assert check_events(one, session).status is Status.CLOSED
        assert one.told(session) == [EventType.SCHEDULED, EventType.READY, EventType.CLOSED]


def test_two_reschedules_with_the_same_version_have_one_winner(daemons: tuple[World, World]) -> None:
    one, two = daemons
    for _ in range(ROUNDS):
        session = one.schedule(HOUR)
        results = at_once(
            partial(one.reschedule, session, one.now + 2 * HOUR, if_match=frozenset({1})),
            partial(two.reschedule, session, one.now + 3 * HOUR, if_match=frozenset({1})),
        )
        winners = [result for result in results if isinstance(result, Session)]
        assert len(winners) == 1
        assert check_events(one, session) == winners[0]
        assert winners[0].version == 2


def test_joins_from_two_daemons_are_all_counted_and_one_activates_the_session(daemons: tuple[World, World]) -> None:
    one, two = daemons
    session = one.create()
    people = at_once(*[partial(daemon.join, session) for daemon in daemons * 6])
    stored = check_events(one, session)
    assert stored.participants == len(set(people)) == 12
    at_once(*[partial(two.leave, session, person) for person in people])
    stored = check_events(one, session)
    assert (stored.participants, stored.status) == (0, Status.ACTIVE)
    assert stored.due_trigger is Trigger.IDLE


def test_a_leave_reported_to_two_daemons_is_recorded_once(daemons: tuple[World, World]) -> None:
    one, two = daemons
    for _ in range(ROUNDS):
        session = one.create()
        grace, _ada = one.join(session), one.join(session)
        at_once(partial(one.leave, session, grace), partial(two.leave, session, grace))
        assert check_events(one, session).participants == 1
        assert one.told(session).count(EventType.LEFT) == 1


def test_two_concurrent_closes_record_one_event(daemons: tuple[World, World]) -> None:
    one, two = daemons
    for _ in range(ROUNDS):
        session = one.create()
        assert at_once(partial(one.close, session), partial(two.close, session)) == [None, None]
        assert one.told(session) == [EventType.CREATED, EventType.CLOSED]


def test_two_daemons_never_assign_the_same_pin(daemons: tuple[World, World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_012))
    made = at_once(*[partial(daemon.create, SessionType.SUPPORT) for daemon in daemons * 8])
    pins = [one.pin for one in made if isinstance(one, Session)]
    assert sorted(pins) == list(ids.PINS)
    assert [type(one) for one in made if not isinstance(one, Session)] == [NoPinFree] * 4


def test_a_transition_decided_on_an_outdated_read_is_refused(daemons: tuple[World, World]) -> None:
    one, _ = daemons
    session = one.schedule(HOUR)
    one.reschedule(session, one.now + 2 * HOUR)

    def stale(tx: Transaction) -> None:
        execute_transition(tx, one.settings, session, transition_for(Trigger.OPEN, session.status), AGENT)

    with pytest.raises(WrongStatus, match="status is scheduled"):
        one.run(stale)
    assert one.stored(session).version == 2


def test_a_reader_with_a_cursor_reads_every_event_of_two_daemons_once(daemons: tuple[World, World]) -> None:
    one, two = daemons
    stop = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        while True:
            last = stop.is_set()
            page = one.store.read(lambda view: view.events(seen[-1] if seen else 0, 50))
            seen.extend(entry.event.seq for entry in page)
            if last and not page:
                return

    def make(world: World) -> Iterator[str]:
        futures = [world.store.submit(lambda tx: commands.create(tx, settings(), AGENT, order())) for _ in range(150)]
        return (future.result(30).session.id for future in futures)

    reader = threading.Thread(target=follow)
    reader.start()
    at_once(lambda: list(make(one)), lambda: list(make(two)))
    stop.set()
    reader.join()
    assert seen == [entry.event.seq for entry in one.events()]
    assert len(seen) == len(set(seen)) == 300


def test_a_commit_notifies_the_other_daemons_with_its_deadline(pg_server: PostgresServer) -> None:
    received: list[datetime | None] = []
    with pg_server.database() as database:
        one, two = (
            World(database.open(peer_committed=call), SettableClock()) for call in (lambda _due: None, received.append)
        )
        eventually(lambda: received == [None])  # the store listens
        session = one.schedule(HOUR)
        eventually(lambda: received == [None, session.due_at])
        two.schedule(2 * HOUR)
        one.close(session)
        eventually(lambda: received == [None, session.due_at, None])  # none for its own commits


def test_event_numbers_are_assigned_in_commit_order(pg_server: PostgresServer) -> None:
    """On PostgreSQL two transactions run at once. A transaction must not commit a higher number while another one still
    has to commit a lower number: a reader with a cursor would never see the lower one.
    """
    with pg_server.database() as database:
        one, two = (World(database.open(clock), clock) for clock in (SettableClock(), SettableClock()))
        written, commit = threading.Event(), threading.Event()

        def slow(tx: Transaction) -> None:
            commands.create(tx, settings(), AGENT, order())
            tx.flush()
            written.set()
            assert commit.wait(30)

        def waits_for_the_lock() -> bool:
            ungranted = text("locktype = 'advisory' AND NOT granted")
            count = select(func.count()).select_from(text("pg_locks")).where(ungranted)
            return bool(one.store.read(lambda view: view.scalar(count)))

        first = one.store.submit(slow)
        assert written.wait(30)
        second = two.store.submit(lambda tx: commands.create(tx, settings(), AGENT, order()))
        eventually(lambda: second.done() or waits_for_the_lock())
        seen = [entry.event.seq for entry in one.store.read(lambda view: view.events(0, 10))]
        commit.set()
        first.result(30)
        second.result(30)
        after = seen[-1] if seen else 0
        seen += [entry.event.seq for entry in one.store.read(lambda view: view.events(after, 10))]
        assert seen == [entry.event.seq for entry in one.events()] == [1, 2]
