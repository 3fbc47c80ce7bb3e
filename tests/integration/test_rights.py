"""Who may do what: every verb against every kind of caller, from a table."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MONITOR, OTHER_AGENT, ROOM, SUPERVISOR, caller
from tests.support.worlds import World

from tminus.errors import Forbidden
from tminus.model import Session
from tminus.sessions import reads, rights
from tminus.storage import SessionFilter
from tminus.vocabulary import LOCAL_AGENT_ID, Caller, Role, SessionType

CALLERS = {
    "owner": AGENT,
    "other agent": OTHER_AGENT,
    "supervisor": SUPERVISOR,
    "monitor": MONITOR,
    "room": ROOM,
    "group_admin": GROUP_ADMIN,
    "api": caller(Role.API, agent_id=40),
    "local operator": caller(Role.GROUP_ADMIN, agent_id=LOCAL_AGENT_ID),
    "owner who is no agent any more": caller(Role.MONITOR, agent_id=AGENT.agent_id),
}
ADMINS = {"group_admin", "local operator"}
SEE_ALL = ADMINS | {"supervisor", "monitor", "owner who is no agent any more"}

Attempt = Callable[[World, Caller, Session], Any]


def _read(look: Callable[[Any, Caller, Session], Any]) -> Attempt:
    return lambda world, by, session: world.store.read(lambda view: look(view, by, session))


VERBS: dict[str, tuple[Attempt, set[str]]] = {
    "create": (lambda world, by, _: world.create(by=by), ADMINS | {"owner", "other agent"}),
    "schedule": (lambda world, by, _: world.schedule(HOUR, by=by), ADMINS | {"owner", "other agent"}),
    "reschedule": (
        lambda world, by, session: world.reschedule(session, world.now + 2 * HOUR, by=by),
        ADMINS | {"owner"},
    ),
    "close": (lambda world, by, session: world.close(session, by=by), ADMINS | {"owner", "supervisor"}),
    "join": (
        lambda world, by, _: world.join(world.create(), by=by),
        ADMINS | {"room"},
    ),
    "leave": (
        lambda world, by, _: world.leave((new := world.create()), world.join(new), by=by),
        ADMINS | {"room"},
    ),
    "show": (_read(lambda view, by, session: reads.show(view, by, session.id)), SEE_ALL | {"owner"}),
    "history": (_read(lambda view, by, session: reads.history(view, by, session.id, 0, 9)), SEE_ALL | {"owner"}),
    "list mine": (
        _read(lambda view, by, _: reads.listing(view, by, SessionFilter(agent_id=by.agent_id))),
        SEE_ALL | {"owner", "other agent"},
    ),
    "list all": (_read(lambda view, by, _: reads.listing(view, by, SessionFilter())), SEE_ALL),
}


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_caller_may_do_what_the_table_says_and_whatever_else_is_forbidden_and_changes_nothing(
    world: World, verb: str, who: str
) -> None:
    session = world.schedule(HOUR)
    attempt, allowed = VERBS[verb]
    if who in allowed:
        attempt(world, CALLERS[who], session)
        return
    with pytest.raises(Forbidden, match="Not allowed: this needs the "):
        attempt(world, CALLERS[who], session)
    assert world.stored(session) == session
    assert world.events(session)[1:] == []


@pytest.mark.parametrize("who", CALLERS)
def test_the_host_token_and_the_hosts_url_are_for_the_owner_a_supervisor_or_an_admin(world: World, who: str) -> None:
    session = world.schedule(HOUR)
    assert rights.may_see_secrets(CALLERS[who], session) is (who in ADMINS | {"owner", "supervisor"})


@pytest.mark.parametrize("who", CALLERS)
def test_of_many_sessions_a_caller_finds_those_that_are_for_him(world: World, who: str) -> None:
    own = world.create(by=AGENT, external_mapping="INC1")
    others = world.create(by=OTHER_AGENT, external_mapping="INC1")
    world.join(own)
    world.join(others)
    seen = {
        "owner": {own.id},
        "other agent": {others.id},
    }.get(who, {own.id, others.id} if who in SEE_ALL else set())
    by = CALLERS[who]
    active = world.store.read(lambda view: reads.active_among(view, by, [own.id, others.id, "nobody"]))
    assert {session.id for session in active} == seen
    if who in {"room", "api"}:
        with pytest.raises(Forbidden):
            world.store.read(lambda view: reads.of_parent(view, by, "INC1", 10))
    else:
        found = world.store.read(lambda view: reads.of_parent(view, by, "INC1", 10))
        assert {session.id for session in found} == seen


def test_a_pin_is_enough_to_look_a_session_up(world: World) -> None:
    session = world.create(SessionType.SUPPORT)
    assert world.store.read(lambda view: reads.by_pin(view, session.pin)).id == session.id


def test_what_the_local_operator_makes_belongs_to_agent_0_and_is_told_as_local(world: World) -> None:
    session = world.create(by=CALLERS["local operator"])
    assert session.agent_id == 0
    assert [told.event.actor for told in world.events(session)] == ["local"]


@pytest.mark.parametrize(
    ("by", "actor"),
    [
        (AGENT, "agent:7"),
        (SUPERVISOR, "agent:20"),
        (ROOM, "room:30"),
        (caller(Role.ROOM, Role.AGENT, agent_id=9), "agent:9"),
        (caller(Role.ROOM, Role.API, agent_id=9), "room:9"),
    ],
)
def test_an_event_names_its_caller_by_kind_and_number(by: Caller, actor: str) -> None:
    assert by.actor == actor
