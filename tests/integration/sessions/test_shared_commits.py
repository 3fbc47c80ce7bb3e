"""Commands that share one transaction: each has the result that it would have alone."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from tests.support.factories import AGENT, HOUR, MINUTE, OTHER_AGENT
from tests.support.worlds import World

from tminus.domain.errors import Forbidden, UnknownSession, WrongStatus
from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Session
from tminus.domain.types import CloseReason, EventType, SessionType, Status, Trigger
from tminus.sessions import commands
from tminus.sessions.transitions import execute_transition
from tminus.storage import Transaction

Job = Callable[[Transaction], Any]


def together(world: World, jobs: Sequence[tuple[str | None, Job]]) -> list[Any]:
    """Run jobs, each with the id of its session, in one transaction; return their results or errors."""
    jobs_per_transaction: list[int] = []

    async def run() -> list[Any]:
        def record(tx: Transaction, job: Job) -> Any:
            jobs_per_transaction.append(tx.jobs)
            return job(tx)

        waiting = [world.store.transact(partial(record, job=job), session_id) for session_id, job in jobs]
        return await asyncio.gather(*waiting, return_exceptions=True)

    results = asyncio.run(run())
    assert jobs_per_transaction[0] == len(jobs), "all jobs shared one transaction"
    return results


def reschedule(world: World, session: Session, ahead: timedelta) -> tuple[str, Job]:
    start = world.now + ahead
    return session.id, lambda tx: commands.reschedule(tx, world.settings, AGENT, session.id, start)


def close(world: World, session: Session) -> tuple[str, Job]:
    return session.id, lambda tx: commands.close(tx, world.settings, AGENT, session.id)


def test_each_session_gets_its_own_start_and_one_event(world: World) -> None:
    sessions = [world.schedule(5 * HOUR) for _ in range(20)]
    results = together(
        world, [reschedule(world, one, 6 * HOUR + number * MINUTE) for number, one in enumerate(sessions)]
    )

    for number, (session, result) in enumerate(zip(sessions, results, strict=True)):
        start = world.now + 6 * HOUR + number * MINUTE
        assert result == world.stored(session)
        assert (result.start_time, result.due_at, result.version) == (start, start - 10 * MINUTE, 2)
        created, moved = world.events(session)
        assert (moved.event.type, moved.event.start_time) == (EventType.RESCHEDULED, start)
        assert (moved.event.previous_start_time, moved.event.actor) == (session.start_time, AGENT.actor)
        assert created.event.seq is not None
    numbers = [entry.event.seq for entry in world.events()]
    assert numbers == sorted(set(numbers))


def test_commands_on_the_same_session_see_the_effects_of_those_before(world: World) -> None:
    session, other = world.schedule(5 * HOUR), world.schedule(5 * HOUR)
    first, second, unaffected, closed, late = together(
        world,
        [
            reschedule(world, session, 6 * HOUR),
            reschedule(world, session, 7 * HOUR),
            reschedule(world, other, 8 * HOUR),
            close(world, session),
            reschedule(world, session, 9 * HOUR),
        ],
    )

    assert (first.version, second.version, closed) == (2, 3, None)
    assert unaffected == world.stored(other)
    assert isinstance(late, WrongStatus)
    stored = world.stored(session)
    assert (stored.status, stored.close_reason, stored.version) == (Status.CLOSED, CloseReason.CANCELLED, 4)
    assert stored.start_time == world.now + 7 * HOUR
    assert world.told(session) == [
        EventType.SCHEDULED,
        EventType.RESCHEDULED,
        EventType.RESCHEDULED,
        EventType.CLOSED,
    ]


def test_different_commands_and_refusals_do_not_affect_each_other(world: World) -> None:
    moved, soon, closed, foreign = (world.schedule(5 * HOUR, SessionType.SUPPORT) for _ in range(4))
    results = together(
        world,
        [
            reschedule(world, moved, 6 * HOUR),
            ("unknown", lambda tx: commands.close(tx, world.settings, AGENT, "unknown")),
            reschedule(world, soon, 5 * MINUTE),
            close(world, closed),
            (foreign.id, lambda tx: commands.close(tx, world.settings, OTHER_AGENT, foreign.id)),
        ],
    )

    assert [type(one) for one in results] == [Session, UnknownSession, Session, type(None), Forbidden]
    assert world.stored(moved) == results[0]
    assert world.stored(soon) == results[2]
    assert (results[2].status, results[2].opened_at, bool(results[2].pin)) == (Status.NEW, world.now, True)
    assert world.stored(closed).status is Status.CLOSED
    assert world.stored(foreign) == foreign


def test_a_command_that_decided_on_an_outdated_state_is_refused_alone(world: World) -> None:
    session, other, third = (world.schedule(5 * HOUR) for _ in range(3))
    world.reschedule(session, world.now + 6 * HOUR)

    def stale(tx: Transaction) -> None:
        execute_transition(
            tx, world.settings, session.model_copy(), transition_for(Trigger.CLOSE, session.status), AGENT
        )

    results = together(world, [reschedule(world, other, 6 * HOUR), (None, stale), reschedule(world, third, 6 * HOUR)])

    assert isinstance(results[1], WrongStatus)
    assert [world.stored(one).version for one in (session, other, third)] == [2, 2, 2]
    assert [results[0], results[2]] == [world.stored(other), world.stored(third)]
