"""The executor: transitions of one session, of several and of all that are due, and the deadlines that it stores."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from tests.support.clocks import NOW
from tests.support.factories import AGENT, HOUR, MINUTE, session
from tests.support.plain_lifecycle import Deadline, deadline
from tests.support.worlds import World

from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Session
from tminus.domain.types import CloseReason, EventType, SessionType, Status, Timeouts, Trigger
from tminus.storage.deadlines import stored_deadline
from tminus.storage.transitions import Cause, Named, Requested, execute

TIMEOUTS = Timeouts(lead=10 * MINUTE, new=60 * MINUTE, empty=15 * MINUTE, max_active=120 * MINUTE)
UNLIMITED = Timeouts(lead=10 * MINUTE, new=60 * MINUTE, empty=15 * MINUTE, max_active=None)
MS = timedelta(milliseconds=1)


def _requested(sessions: Sequence[Session]) -> list[Requested]:
    return [Requested(one.model_copy(), Cause(AGENT.actor)) for one in sessions]


# --- a list of sessions -----------------------------------------------------------------------------------------------


def test_several_sessions_in_different_statuses_are_closed_by_one_call(world: World) -> None:
    scheduled, new, active = world.schedule(2 * HOUR), world.create(SessionType.SUPPORT), world.create()
    world.join(active)
    before = [world.stored(one) for one in (scheduled, new, active)]
    rows = tuple(transition_for(Trigger.CLOSE, one.status) for one in before)

    closed = world.run(lambda tx: execute(tx, Named(rows, _requested(before)), TIMEOUTS))

    assert {one.id: one for one in closed} == world.all_sessions()
    reasons = {one.id: one.close_reason for one in closed}
    assert reasons == {
        scheduled.id: CloseReason.CANCELLED,
        new.id: CloseReason.CLOSED,
        active.id: CloseReason.CLOSED,
    }
    for was, now in ((was, world.stored(was)) for was in before):
        assert (now.status, now.version, now.pin, now.participants) == (Status.CLOSED, was.version + 1, 0, 0)
        assert (now.closed_at, now.due_at, now.due_trigger) == (world.now, None, None)
        assert world.told(was)[-1] is EventType.CLOSED
        assert world.events(was)[-1].event.previous_status is was.status
    assert [one.left_at for one in world.participants(active)] == [world.now]


def test_sessions_that_have_changed_meanwhile_are_skipped(world: World) -> None:
    one, other = world.create(), world.create()
    before = [world.stored(one), world.stored(other)]
    world.join(other)

    closed = world.run(
        lambda tx: execute(tx, Named((transition_for(Trigger.CLOSE, Status.NEW),), _requested(before)), TIMEOUTS)
    )

    assert [found.id for found in closed] == [one.id]
    assert world.stored(other).status is Status.ACTIVE
    assert EventType.CLOSED not in world.told(other)


# --- deadlines --------------------------------------------------------------------------------------------------------


def _computed(world: World, timeouts: Timeouts) -> Deadline | None:
    """Return the deadline that the database computes for the only session."""
    at, trigger = world.run(lambda tx: tx.execute(select(*stored_deadline(timeouts))).one())
    found = None if at is None else Deadline(NOW + (at - int(NOW.timestamp() * 1000)) * MS, Trigger(trigger))
    (stored,) = world.all_sessions().values()
    assert found == deadline(stored, timeouts), "the model in Python computes the same deadline"
    return found


def _active(world: World, activated: datetime, empty_since: datetime | None, timeouts: Timeouts) -> Deadline | None:
    world.put(session(status=Status.ACTIVE, activated_at=activated, empty_since=empty_since))
    return _computed(world, timeouts)


def test_a_scheduled_session_opens_lead_before_its_start(world: World) -> None:
    world.put(session(start_time=NOW))
    assert _computed(world, TIMEOUTS) == Deadline(NOW - 10 * MINUTE, Trigger.OPEN)


def test_a_new_session_expires_at_expires_at_with_any_timeouts(world: World) -> None:
    world.put(session(status=Status.NEW, start_time=NOW, expires_at=NOW + 7 * MINUTE))
    assert _computed(world, TIMEOUTS) == Deadline(NOW + 7 * MINUTE, Trigger.EXPIRE)


def test_an_active_session_with_participants_has_only_the_time_limit(world: World) -> None:
    assert _active(world, NOW, None, TIMEOUTS) == Deadline(NOW + 120 * MINUTE, Trigger.TIME_LIMIT)


def test_an_active_session_with_participants_and_without_a_time_limit_has_no_deadline(world: World) -> None:
    assert _active(world, NOW, None, UNLIMITED) is None


def test_an_empty_session_is_closed_empty_timeout_after_the_last_leave(world: World) -> None:
    assert _active(world, NOW, NOW + MINUTE, UNLIMITED) == Deadline(NOW + 16 * MINUTE, Trigger.IDLE)


@pytest.mark.parametrize(
    ("emptied_after", "trigger"),
    [
        (timedelta(0), Trigger.IDLE),
        (105 * MINUTE - MS, Trigger.IDLE),
        (105 * MINUTE, Trigger.IDLE),
        (105 * MINUTE + MS, Trigger.TIME_LIMIT),
        (119 * MINUTE, Trigger.TIME_LIMIT),
    ],
)
def test_the_earlier_of_both_deadlines_is_used_and_idle_in_a_tie(
    world: World, emptied_after: timedelta, trigger: Trigger
) -> None:
    found = _active(world, NOW, NOW + emptied_after, TIMEOUTS)
    assert found == Deadline(min(NOW + emptied_after + 15 * MINUTE, NOW + 120 * MINUTE), trigger)


def test_a_closed_session_has_no_deadline(world: World) -> None:
    world.put(session(status=Status.CLOSED, activated_at=NOW, empty_since=NOW, closed_at=NOW))
    assert _computed(world, TIMEOUTS) is None
