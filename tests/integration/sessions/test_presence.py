"""Participants in the daemon's own rooms: they enter, lose their connection, resume and leave. On both databases."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.support.factories import HOUR, MINUTE
from tests.support.worlds import World

from tminus.domain.errors import (
    Forbidden,
    OtherPresence,
    TooManyParticipants,
    UnknownParticipant,
    WrongResumeKey,
    WrongStatus,
)
from tminus.domain.model import Session
from tminus.domain.types import EventType, ParticipantRole, Status
from tminus.rooms import commands
from tminus.rooms.commands import Connection, Entered
from tminus.scheduler import sources
from tminus.storage import presence
from tminus.storage.retention import remove_closed

SECOND = timedelta(seconds=1)
HOST, GUEST = ParticipantRole.HOST, ParticipantRole.GUEST


def enter(
    world: World, session: Session, key: str, *, role: ParticipantRole = GUEST, daemon: str = "one", lease: bool = False
) -> Entered:
    connection = Connection(daemon, f"connection of {key}", lease)
    return world.run(lambda tx: commands.enter(tx, world.settings, session.id, role, "Grace", key, connection))


def resume(world: World, session: Session, key: str, connection: str = "later") -> Entered:
    return world.run(
        lambda tx: commands.resume(tx, session.id, key, Connection("one", connection), lambda _session: True)
    )


def lose(world: World, entered: Entered, connection: str) -> None:
    lost = {entered.participant.id: f"connection of {connection}"}
    world.run(lambda tx: presence.set_gone(tx, lost, tx.now + 15 * SECOND))


def run(world: World, command: Callable[..., Any], session: Session, *people: str) -> None:
    world.run(lambda tx: command(tx, world.settings, session.id, *people))


def host_of(world: World, session: Session) -> str:
    return next(one.id for one in world.participants(session) if one.role is HOST)


def lose_for_good(world: World, session: Session, guest: str) -> None:
    lose(world, Entered(next(one for one in world.participants(session) if one.id == guest), 0), "guest")
    world.passes(MINUTE)


WAYS_OUT: dict[str, Callable[[World, Session, str], object]] = {
    "leaves": lambda world, session, guest: run(world, commands.leave, session, guest),
    "is removed by a host": lambda world, session, guest: run(
        world, commands.remove, session, host_of(world, session), guest
    ),
    "is removed over the API": lambda world, session, guest: world.leave(session, guest),
    "loses the connection": lose_for_good,
    "is there when the session is closed": lambda world, session, _guest: world.close(session),
}
WAYS_TO_STOP_WAITING: dict[str, Callable[[World, Session, str], object]] = {
    "is denied by a host": lambda world, session, guest: run(
        world, commands.deny, session, host_of(world, session), guest
    ),
    "is denied over the API": lambda world, session, guest: world.deny(session, guest),
    "gets no answer": lambda world, session, guest: run(world, commands.stop_waiting, session, guest),
    "is there when the session expires": lambda world, _session, _guest: world.passes(HOUR),
}


@pytest.mark.parametrize(
    ("way", "waits"),
    [(way, waits) for waits in (False, True) for way in WAYS_OUT] + [(way, True) for way in WAYS_TO_STOP_WAITING],
)
def test_nothing_is_left_of_the_connection_of_somebody_who(world: World, way: str, *, waits: bool) -> None:
    """The row of whoever stays is not touched, in the same session and in another one."""
    session, other = (world.create(preferences={"knock": waits}) for _ in range(2))
    enter(world, other, "other")
    guest = enter(world, session, "guest").participant.id
    if way != "is there when the session expires":  # a session with a host is active
        enter(world, session, "host", role=HOST)
    (WAYS_OUT | WAYS_TO_STOP_WAITING)[way](world, session, guest)
    stays = 0 if world.stored(session).status is Status.CLOSED else 1
    assert world.store.read(lambda view: presence.count(view, session.id, 10)) == stays
    assert guest not in {one.participant_id for one in world.store.read(lambda view: presence.connections(view, "one"))}
    if way != "is there when the session expires":  # the other one expires too
        assert world.store.read(lambda view: presence.count(view, other.id, 10)) == 1
    with pytest.raises(WrongResumeKey):
        resume(world, session, "guest")


def test_a_participant_without_a_connection_leaves_at_the_deadline_and_not_before(world: World) -> None:
    session = world.create()
    entered = enter(world, session, "a")
    lose(world, entered, "a")
    assert world.store.read(sources.next_due) == world.now + 15 * SECOND
    world.clock.passes(15 * SECOND - timedelta(milliseconds=1))
    assert not world.advance().transitions
    world.clock.passes(timedelta(milliseconds=1))
    assert world.advance().transitions == {"leave": 1}
    assert world.stored(session).participants == 0
    assert world.stored(session).empty_since == world.now
    assert not world.advance().transitions
    with pytest.raises(WrongResumeKey):
        resume(world, session, "a")


def test_a_participant_who_reconnects_in_time_has_not_left(world: World) -> None:
    session = world.create()
    entered = enter(world, session, "a")
    events = world.events(session)
    lose(world, entered, "a")
    world.clock.passes(10 * SECOND)
    back = resume(world, session, "a")
    assert (back.participant, back.previous) == (entered.participant, "connection of a")
    world.clock.passes(HOUR)
    assert world.store.read(presence.next_due) is None
    assert world.events(session) == events


def test_a_replaced_connection_does_not_make_its_person_leave(world: World) -> None:
    session = world.create()
    entered = enter(world, session, "a")
    resume(world, session, "a")
    lose(world, entered, "a")
    assert world.store.read(presence.next_due) is None


def test_participants_leave_in_the_order_of_their_disconnects_and_the_last_one_starts_the_time_out(
    world: World,
) -> None:
    session = world.create()
    people = {key: enter(world, session, key) for key in "abc"}
    for key in "cab":
        lose(world, people[key], key)
        world.clock.passes(SECOND)
    world.clock.passes(MINUTE)
    assert world.advance().transitions == {"leave": 3}
    left = [one.event.participant_id for one in world.events(session) if one.event.type is EventType.LEFT]
    assert left == [people[key].participant.id for key in "cab"]
    world.clock.passes(world.settings.lifecycle.empty_timeout)
    world.advance()
    assert world.stored(session).status is Status.CLOSED


def test_many_participants_without_connections_leave_in_bounded_batches(world: World) -> None:
    session = world.create()
    number = presence.LEAVING * 2 + 1
    for key in range(number):
        enter(world, session, str(key))
    world.run(lambda tx: presence.await_reconnects(tx, "one", tx.now))
    batch = world.run(lambda tx: presence.do_due(tx, world.settings.lifecycle.timeouts, 1000))
    assert (batch.done, batch.more) == ({"leave": presence.LEAVING}, True)
    assert world.advance().transitions == {"leave": presence.LEAVING + 1}
    assert world.stored(session).participants == 0


def test_a_waiting_participant_who_loses_the_connection_stops_waiting(world: World) -> None:
    session = world.create(preferences={"knock": True})
    entered = enter(world, session, "a")
    lose(world, entered, "a")
    world.clock.passes(MINUTE)
    assert world.advance().transitions == {"deny": 1}
    assert world.stored(session).status is Status.NEW


def test_after_a_close_nobody_leaves_and_no_key_is_valid(world: World) -> None:
    session = world.create()
    entered = enter(world, session, "a")
    world.close(session)
    lose(world, entered, "a")
    events = world.events(session)
    with pytest.raises(WrongResumeKey):
        resume(world, session, "a")
    with pytest.raises(WrongStatus):
        enter(world, session, "b")
    world.clock.passes(MINUTE)
    world.advance()
    assert world.store.read(presence.next_due) is None
    assert world.events(session) == events


def test_a_key_works_in_its_own_session_only(world: World) -> None:
    session, other = world.create(), world.create()
    enter(world, session, "a")
    for key, where in (("a", other), ("A", session), ("", session), ("\ud800", session)):
        with pytest.raises(WrongResumeKey):
            resume(world, where, key)


def test_only_a_host_who_is_in_the_room_may_act_as_host(world: World) -> None:
    session, other = world.create(), world.create()
    host = enter(world, session, "h", role=HOST).participant.id
    guest, foreign = enter(world, session, "g").participant.id, enter(world, other, "f").participant.id
    for one in (guest, foreign, "nobody"):
        with pytest.raises(Forbidden):
            world.run(lambda tx, one=one: commands.remove(tx, world.settings, session.id, one, guest))  # type: ignore[misc]
    with pytest.raises(UnknownParticipant):
        world.run(lambda tx: commands.remove(tx, world.settings, session.id, host, foreign))
    world.run(lambda tx: commands.leave(tx, world.settings, session.id, host))
    with pytest.raises(Forbidden):
        world.run(lambda tx: commands.end(tx, world.settings, session.id, host))


def test_a_session_has_one_source_of_presence_at_a_time(world: World) -> None:
    session = world.create()
    reported = world.join(session)
    with pytest.raises(OtherPresence, match="Another system"):
        enter(world, session, "a")
    world.leave(session, reported)
    entered = enter(world, session, "a")
    with pytest.raises(OtherPresence, match="own room"):
        world.join(session)
    also = enter(world, session, "b")
    lose(world, entered, "a")
    lose(world, also, "b")
    world.clock.passes(MINUTE)
    world.advance()
    assert world.join(session) != entered.participant.id


def test_another_source_may_follow_as_soon_as_nobody_is_in_the_room(world: World) -> None:
    session = world.create()
    world.leave(session, enter(world, session, "a").participant.id)
    world.join(session)


def test_the_number_of_waiting_people_is_limited(world: World) -> None:
    session = world.create(preferences={"knock": True})
    world.settings = world.settings.model_copy(
        update={"limits": world.settings.limits.model_copy(update={"participants_per_session": 2})}
    )
    first = enter(world, session, "a").participant.id
    enter(world, session, "b")
    with pytest.raises(TooManyParticipants):
        enter(world, session, "c")
    world.deny(session, first)
    enter(world, session, "c")


def test_the_people_of_a_daemon_without_a_valid_lease_leave(world: World) -> None:
    session = world.create()
    for daemon in ("one", "two", "three"):
        enter(world, session, daemon, daemon=daemon)
    world.run(lambda tx: presence.renew_lease(tx, "one", tx.now + presence.LEASE))
    world.run(lambda tx: presence.renew_lease(tx, "two", tx.now + MINUTE))
    world.clock.passes(presence.LEASE)
    assert world.store.read(lambda view: presence.lost_daemons(view, world.now)) == ["one", "three"]
    for daemon, number in (("one", 1), ("two", None), ("three", 1), ("one", 0)):
        gone = world.now + 15 * SECOND
        found = world.run(lambda tx, daemon=daemon, gone=gone: presence.expire_lease(tx, daemon, gone))  # type: ignore[misc]
        assert found == number
    world.clock.passes(15 * SECOND)
    assert world.advance().transitions == {"leave": 2}
    assert world.stored(session).participants == 1


def test_a_lease_stays_while_somebody_is_connected(world: World) -> None:
    session = world.create()
    entered = enter(world, session, "a")
    world.run(lambda tx: presence.renew_lease(tx, "one", tx.now + presence.LEASE))
    world.run(lambda tx: presence.end_lease(tx, "one"))
    assert world.store.read(lambda view: presence.lost_daemons(view, world.now)) == []
    lose(world, entered, "a")
    world.run(lambda tx: presence.end_lease(tx, "one"))
    assert world.store.read(lambda view: presence.lost_daemons(view, world.now)) == ["one"]


def test_retention_removes_what_is_left_of_a_closed_session(world: World) -> None:
    session = world.create()
    enter(world, session, "a")
    world.close(session)
    world.clock.passes(HOUR)
    world.run(lambda tx: remove_closed(tx, tx.now, 100))
    assert world.store.read(lambda view: presence.connections(view, "one")) == []
