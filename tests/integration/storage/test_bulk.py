"""Bulk transitions: the SQL of the executor gives the same results as the model in Python."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import and_, func, insert, select
from tests.support.clocks import NOW
from tests.support.factories import session
from tests.support.plain_lifecycle import deadline
from tests.support.worlds import World

from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, ParticipantRole, SessionType, Status, Timeouts
from tminus.scheduler import sweeps
from tminus.storage.due import do_due
from tminus.storage.tables import PARTICIPANTS, SESSIONS

MS = timedelta(milliseconds=1)
MINUTE = timedelta(minutes=1)

# Few different spans and times, so that ties are common, and sometimes odd milliseconds.
SPANS = st.one_of(st.integers(0, 12).map(lambda n: n * 10 * MINUTE), st.integers(0, 10**8).map(lambda n: n * MS))
TIMES = SPANS.map(lambda span: NOW - span)
LIMITS = st.none() | SPANS.filter(bool)
TIMEOUTS = st.builds(Timeouts, lead=SPANS, new=st.just(60 * MINUTE), empty=SPANS, max_active=LIMITS)

Fields = dict[str, object]


@st.composite
def fields(draw: st.DrawFn) -> Fields:
    """Generate the fields of a session in some status."""
    status = draw(st.sampled_from(Status))
    start = draw(st.none() | TIMES) if status is not Status.SCHEDULED else draw(TIMES)
    begun = status in {Status.ACTIVE, Status.CLOSED}
    activated = draw(TIMES) if status is Status.ACTIVE else (draw(st.none() | TIMES) if begun else None)
    empty_since = draw(st.none() | TIMES) if activated is not None else None
    return {
        "type": draw(st.sampled_from(SessionType)),
        "status": status,
        "start_time": start,
        "expires_at": (start or draw(TIMES)) + draw(SPANS) + MS,
        "activated_at": activated,
        "empty_since": empty_since,
        "closed_at": draw(TIMES) if status is Status.CLOSED else None,
        "participants": draw(st.integers(1, 3)) if status is Status.ACTIVE and empty_since is None else 0,
    }


def make(some: Iterable[Fields], timeouts: Timeouts) -> list[Session]:
    """Return sessions with these fields, and with the deadlines that follow from the time-outs."""
    sessions = [session(id=f"s{number:02}", **one) for number, one in enumerate(some)]
    for number, one in enumerate(sessions):
        due = deadline(one, timeouts)
        one.due_at, one.due_trigger = (due.at, due.trigger) if due else (None, None)
        if one.type.has_pin and one.status in {Status.NEW, Status.ACTIVE}:
            one.pin = 100_000 + number
    return sessions


PROPERTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(some=st.lists(fields(), max_size=20), before=TIMEOUTS, after=TIMEOUTS)
def test_new_timeouts_change_every_stored_deadline_as_in_the_model(
    world: World, some: list[Fields], before: Timeouts, after: Timeouts
) -> None:
    world.clear(NOW)
    sessions = make(some, before)
    world.put(*sessions)
    expected = {}
    for one in sessions:
        due = deadline(one, after)
        fields = {"due_at": due and due.at, "due_trigger": due and due.trigger}
        # What is overdue only by the new time-outs is late from now on.
        newly_overdue = due is not None and due.at <= NOW and (one.due_at is None or one.due_at > NOW)
        expected[one.id] = one.model_copy(update={**fields, "late_since": NOW if newly_overdue else None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "LARGEST_BATCH", 7)
        changed = sweeps.recompute_deadlines(world.store.submit, after)
    assert world.all_sessions() == expected, "nothing else has changed"
    assert changed == sum(expected[one.id] != one for one in sessions)
    assert world.events() == []


def one_by_one(sessions: list[Session], timeouts: Timeouts, now: datetime) -> tuple[dict[str, Session], list[Event]]:
    """Apply the due transitions to each session separately, with the model in Python."""
    sessions_after = {one.id: one.model_copy() for one in sessions}
    events = []
    while due := [one for one in sessions_after.values() if one.due_at is not None and one.due_at <= now]:
        one = min(due, key=lambda one: (one.due_at, one.id))
        assert one.due_trigger is not None
        row = transition_for(one.due_trigger, one.status)
        closes = row.dest is Status.CLOSED
        events.append(
            Event(
                session_id=one.id, type=row.events[0], ts=now, actor=CLOCK_ACTOR, previous_status=one.status,
                status=row.dest, start_time=one.start_time, expires_at=one.expires_at, due_at=one.due_at,
                reason=row.reason, participants=0,
            )
        )  # fmt: skip
        one.status, one.version, one.updated_at, one.close_reason = row.dest, one.version + 1, now, row.reason
        if closes:
            one.closed_at, one.pin, one.participants = now, 0, 0
        else:
            one.opened_at = now
        following = deadline(one, timeouts)
        one.due_at, one.due_trigger = (following.at, following.trigger) if following else (None, None)
    return sessions_after, events


def too_long(minutes: int) -> Fields:
    """Return the fields of a session with a participant. If its maximum time is an hour, that ended minutes ago."""
    activated = NOW - timedelta(minutes=60 + minutes)
    return {"status": Status.ACTIVE, "activated_at": activated, "expires_at": NOW, "participants": 1}


WAITS: Fields = {"status": Status.SCHEDULED, "start_time": NOW - 3 * MINUTE, "expires_at": NOW + 60 * MINUTE}


@PROPERTY
@given(some=st.lists(fields(), max_size=20), timeouts=TIMEOUTS, limit=st.integers(1, 25))
@example([WAITS, too_long(2), too_long(1)], Timeouts(lead=0 * MS, max_active=60 * MINUTE), 2)
def test_bulk_transitions_leave_the_same_rows_and_events_as_single_ones(
    world: World, some: list[Fields], timeouts: Timeouts, limit: int
) -> None:
    world.clear(NOW)
    sessions = make(some, timeouts)
    world.put(*sessions)
    people = [
        Participant(id=f"{one.id}-{n}", session_id=one.id, role=ParticipantRole.GUEST, name="Grace", joined_at=NOW)
        for one in sessions
        for n in range(one.participants)
    ]

    if people:
        world.run(lambda tx: tx.execute(insert(PARTICIPANTS), [person.model_dump() for person in people]))
    sessions_after, events = one_by_one(sessions, timeouts, NOW)

    is_open = and_(SESSIONS.c.id == PARTICIPANTS.c.session_id, SESSIONS.c.status != Status.CLOSED)
    left_early = select(func.count()).where(PARTICIPANTS.c.left_at.is_not(None), is_open)
    transitions = 0
    for _ in range(100):
        batch = world.run(lambda tx: do_due(tx, timeouts, limit))
        assert batch.done.total() <= limit
        transitions += batch.done.total()
        assert not world.store.read(lambda view: view.scalar(left_early)), "nobody leaves before the session closes"
        if not batch.more:
            break
    assert transitions == len(events)

    stored = world.all_sessions()
    drawn = [one.pin for one in stored.values() if one.pin]
    assert len(drawn) == len(set(drawn))
    for one in stored.values():  # PINs are random: compare only whether there is one
        if sessions_after[one.id].opened_at is not None and one.status is Status.NEW:
            assert (one.pin != 0) is one.type.has_pin
            one.pin = sessions_after[one.id].pin
    assert stored == sessions_after

    recorded = [one.event for one in world.events()]
    assert [event.due_at for event in recorded] == [event.due_at for event in events], "in the order of their deadlines"
    seqs = [event.seq for event in recorded]
    assert seqs == sorted(set(seqs))
    plain = [event.model_copy(update={"seq": 0}) for event in recorded]
    order = ("due_at", "session_id", "type")
    assert sorted(plain, key=lambda event: [str(getattr(event, name)) for name in order]) == sorted(
        events, key=lambda event: [str(getattr(event, name)) for name in order]
    )
    for one in sessions:
        left = {person.left_at for person in world.participants(one)}
        assert left == ({NOW} if sessions_after[one.id].status is Status.CLOSED else {None}) or not left
