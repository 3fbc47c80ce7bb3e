"""Reminders: each is sent once and on time, moves with its session, and ends with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import update
from tests.support import factories
from tests.support.clocks import NOW
from tests.support.factories import HOUR, MINUTE
from tests.support.plain_lifecycle import PlainReminders, Reminded
from tests.support.worlds import World

from tminus.domain import timestamps
from tminus.domain.errors import WrongStatus
from tminus.domain.model import Session
from tminus.domain.types import REMINDER_EVENTS, EventType, ReminderOutcome, Trigger
from tminus.scheduler import sources, sweeps
from tminus.storage import due, presence
from tminus.storage.tables import SESSIONS

DAY, MS = 24 * HOUR, timedelta(milliseconds=1)
LEAD = 10 * MINUTE

SENT, SKIPPED = ReminderOutcome.SENT, ReminderOutcome.SKIPPED


def reminded(world: World, session: Session) -> list[Reminded]:
    """Return the reminders of a session that were due, from its events."""
    found = []
    for entry in world.events(session):
        event = entry.event
        if event.type in REMINDER_EVENTS:
            assert event.start_time is not None
            assert event.due_at is not None
            sent = event.type is EventType.REMINDER
            found.append(Reminded(event.due_at, event.start_time - event.due_at, sent))
    return found


def test_people_are_reminded_at_each_time_before_the_start_and_not_a_millisecond_earlier(world: World) -> None:
    made = world.schedule(2 * DAY, reminders=(DAY, 15 * MINUTE))

    assert made.reminders == '["1d","15m"]'
    assert not world.passes(DAY - MS).transitions
    assert world.store.read(sources.next_due) == world.now + MS
    assert world.passes(MS).transitions == {SENT: 1}
    assert not world.passes(DAY - 15 * MINUTE - MS).transitions
    assert world.passes(MS).transitions == {SENT: 1}
    assert world.passes(5 * MINUTE).transitions == {Trigger.OPEN: 1}

    [day, quarter] = [entry for entry in world.events(made) if entry.event.type is EventType.REMINDER]
    assert (day.before, day.lag_ms, day.event.actor, day.event.ts) == ("1d", 0, "clock", NOW + DAY)
    assert quarter.before == "15m"
    assert quarter.message == f"Session {made.id} “{made.label}” starts at {timestamps.text(NOW + 2 * DAY)}, in 15m"
    assert world.stored(made).remind_at is None


def test_a_reminder_changes_nothing_that_callers_see(world: World) -> None:
    made = world.schedule(2 * DAY, reminders=(DAY,))
    world.passes(DAY)

    assert world.stored(made) == made.model_copy(update={"remind_at": None})
    world.reschedule(made, world.now + DAY + HOUR, if_match=frozenset({made.version}))


def test_sessions_have_the_reminders_of_the_configuration_unless_the_request_has_others(world: World) -> None:
    world.settings = factories.settings(reminders=["15m", "1d", "1440m"])  # type: ignore[arg-type]
    assert world.schedule(2 * DAY).reminders == '["1d","15m"]'
    assert world.schedule(2 * DAY, reminders=(HOUR,)).reminders == '["1h"]'
    assert world.schedule(2 * DAY, reminders=()).reminders is None
    assert world.create().reminders is None, "a session without a start time has no reminders"


def test_a_changed_configuration_changes_no_session(world: World) -> None:
    world.settings = factories.settings(reminders=["15m"])  # type: ignore[arg-type]
    made = world.schedule(2 * HOUR)
    world.settings = factories.settings(reminders=["1h"])  # type: ignore[arg-type]
    world.reschedule(made, world.now + 3 * HOUR)
    world.passes(3 * HOUR - 15 * MINUTE)
    assert [one.before for one in reminded(world, made)] == [15 * MINUTE]


def test_a_reschedule_reminds_again(world: World) -> None:
    made = world.schedule(2 * HOUR, reminders=(HOUR, 15 * MINUTE))
    world.passes(HOUR)
    moved = world.reschedule(made, world.now + 3 * HOUR)
    world.passes(3 * HOUR)

    begun = NOW + HOUR
    assert reminded(world, moved) == [
        Reminded(begun, HOUR, sent=True),
        Reminded(begun + 2 * HOUR, HOUR, sent=False),
        Reminded(begun + 3 * HOUR - 15 * MINUTE, 15 * MINUTE, sent=False),
    ]


@pytest.mark.parametrize("joined", [False, True])
def test_nobody_is_reminded_of_a_closed_session(world: World, joined: bool) -> None:
    world.settings = factories.settings(lead=2 * HOUR)
    made = world.schedule(3 * HOUR, reminders=(150 * MINUTE, HOUR))
    if joined:
        world.passes(HOUR)
        world.leave(made, world.join(made))
        world.passes(20 * MINUTE)  # the empty time-out closes it
    else:
        world.close(made)

    assert world.stored(made).remind_at is None
    assert world.store.read(sources.next_due) is None
    assert not world.passes(3 * HOUR).transitions


def test_after_downtime_late_reminders_are_sent_unless_the_session_has_opened_meanwhile(world: World) -> None:
    late = world.schedule(10 * HOUR, reminders=(9 * HOUR, 8 * HOUR))
    opened = world.schedule(3 * HOUR, reminders=(HOUR, 5 * MINUTE))
    over = world.schedule(HOUR, reminders=(30 * MINUTE, 5 * MINUTE))

    swept = world.passes(2 * HOUR + 55 * MINUTE)

    assert swept.transitions == {SENT: 3, SKIPPED: 3, Trigger.OPEN: 2, Trigger.EXPIRE: 1}
    assert [one.sent for one in reminded(world, late)] == [True, True]
    assert [one.sent for one in reminded(world, opened)] == [False, True], "the second is on time"
    assert [one.sent for one in reminded(world, over)] == [False, False]
    assert not world.passes(timedelta(0)).transitions, "each reminder is recorded once"


def test_a_session_that_waits_for_a_pin_has_not_opened(world: World) -> None:
    """Its reminders are sent until its start."""
    made = world.schedule(HOUR, reminders=(20 * MINUTE,))
    world.run(lambda tx: tx.execute(update(SESSIONS).values(due_at=NOW + HOUR)))
    world.passes(55 * MINUTE)
    assert [one.sent for one in reminded(world, made)] == [True]


def test_reminders_that_an_earlier_release_has_left_are_dropped(world: World) -> None:
    """A daemon of the previous release closes and moves sessions without these columns."""
    moved = world.schedule(3 * HOUR, reminders=(HOUR,))
    closed = world.schedule(3 * HOUR, reminders=(HOUR,))
    world.close(closed)
    stale = {"remind_at": NOW + MINUTE}
    world.run(lambda tx: tx.execute(update(SESSIONS).values(stale)))

    assert not world.passes(2 * MINUTE).transitions
    assert world.stored(closed).remind_at is None
    assert world.passes(2 * HOUR).transitions == {SENT: 1}
    assert [one.before for one in reminded(world, moved)] == [HOUR]


SPANS = st.integers(1, 40).map(lambda number: number * 5 * MINUTE)
AHEAD = st.integers(0, 60).map(lambda number: number * 5 * MINUTE)
ACTIONS = st.one_of(
    st.tuples(st.just("schedule"), AHEAD, st.lists(SPANS, max_size=4)),
    st.tuples(st.just("reschedule"), AHEAD, st.integers(0, 9)),
    st.tuples(st.just("close"), st.just(None), st.integers(0, 9)),
    st.tuples(st.just("passes"), AHEAD, st.just(None)),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=15), batch=st.integers(1, 4))
def test_whatever_happens_reminders_are_those_of_the_model(
    world: World, actions: list[tuple[str, object, object]], batch: int
) -> None:
    world.clear(NOW)
    made: list[tuple[Session, PlainReminders]] = []
    expected: dict[str, list[Reminded]] = {}

    def tick(span: timedelta) -> None:
        before = world.store.read(lambda view: view.last_seq())
        world.passes(span)
        for session, model in made:
            expected[session.id] += model.due(world.now)
        due_times = [one.event.due_at for one in world.events() if one.event.due_at and one.event.seq > before]
        assert due_times == sorted(due_times), "events have the order of their deadlines"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "FIRST_BATCH", batch)
        patch.setattr(sweeps, "LARGEST_BATCH", batch)
        for action, span, other in actions:
            if action == "schedule":
                session = world.schedule(span, reminders=tuple(other))  # type: ignore[arg-type]
                assert session.start_time is not None
                made.append((session, PlainReminders(other, session.start_time, LEAD, world.now)))  # type: ignore[arg-type]
                expected[session.id] = []
            elif action == "passes":
                tick(span)  # type: ignore[arg-type]
            elif made:
                session, model = made[other % len(made)]  # type: ignore[operator]
                if action == "close":
                    world.close(session)
                    model.close()
                    continue
                try:
                    start = world.now + span  # type: ignore[operator]
                    is_moved = world.stored(session).start_time != start
                    world.reschedule(session, start)
                except WrongStatus:
                    continue
                if is_moved:
                    model.move(start, world.now)
        tick(10 * HOUR)

    assert {session.id: reminded(world, session) for session, _ in made} == expected
    assert all(one.remind_at is None for one in world.all_sessions().values())


@contextmanager
def collected(world: World) -> Iterator[list[str]]:
    """Collect the statements that write transactions execute."""
    found: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    sqlalchemy_event.listen(world.store._writing, "before_cursor_execute", record)
    try:
        yield found
    finally:
        sqlalchemy_event.remove(world.store._writing, "before_cursor_execute", record)


def test_sessions_without_reminders_cost_one_query_per_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query reads the earliest reminder."""

    def statements() -> list[str]:
        world.clear(NOW)
        made = [world.schedule(HOUR) for _ in range(20)]
        with collected(world) as found:
            world.passes(HOUR)
            world.reschedule(world.schedule(2 * HOUR), world.now + 3 * HOUR)
            world.close(made[0])
        return found

    with_reminders = statements()
    monkeypatch.setattr(sources, "SOURCES", (due, presence))
    without = statements()

    more = [one for one in with_reminders if "min(session.remind_at)" in one]
    assert len(with_reminders) - len(without) == len(more) <= 2
