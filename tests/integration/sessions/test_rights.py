"""Authorization in cases without an API call of their own: former agents, and lists of many sessions.

Every call by every role is in tests/acceptance/test_rights.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MONITOR, OTHER_AGENT, ROOM, SUPERVISOR, caller
from tests.support.worlds import World

from tminus.domain.errors import Forbidden
from tminus.domain.model import Session
from tminus.domain.types import LOCAL_AGENT_ID, Caller, Role, SessionType
from tminus.sessions import authorization, queries
from tminus.storage import SessionFilter

ON_SQLITE = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
FORMER = caller(Role.ROOM, agent_id=AGENT.agent_id)

REFUSED: dict[str, Callable[[World, Session], Any]] = {
    "create": lambda world, _: world.create(by=FORMER),
    "reschedule": lambda world, session: world.reschedule(session, world.now + 2 * HOUR, by=FORMER),
    "close": lambda world, session: world.close(session, by=FORMER),
    "show": lambda world, session: world.store.read(lambda view: queries.get_session(view, FORMER, session.id)),
    "history": lambda world, session: world.store.read(
        lambda view: queries.session_events(view, FORMER, session.id, 0, 9)
    ),
    "list": lambda world, _: world.store.read(
        lambda view: queries.list_sessions(view, FORMER, SessionFilter(agent_id=FORMER.agent_id))
    ),
}


@ON_SQLITE
def test_an_owner_without_the_role_agent_has_no_access_to_own_sessions(world: World) -> None:
    session = world.schedule(HOUR, by=AGENT)
    for attempt in REFUSED.values():
        with pytest.raises(Forbidden, match="Not allowed: this needs the "):
            attempt(world, session)
    assert not authorization.may_see_secrets(FORMER, session)
    assert world.stored(session) == session
    assert world.events(session)[1:] == []


def test_a_list_contains_only_sessions_that_the_caller_may_see(world: World) -> None:
    own = world.create(by=AGENT, external_mapping="INC1")
    others = world.create(by=OTHER_AGENT, external_mapping="INC1")
    world.join(own)
    world.join(others)

    def found(by: Caller) -> set[str]:
        active = world.store.read(lambda view: queries.active_sessions(view, by, [own.id, others.id, "nobody"]))
        related = world.store.read(lambda view: queries.sessions_of_parent(view, by, "INC1", 10))
        assert {session.id for session in active} == {session.id for session in related}
        return {session.id for session in active}

    assert found(AGENT) == {own.id}
    assert found(OTHER_AGENT) == {others.id}
    for by in (SUPERVISOR, MONITOR, GROUP_ADMIN, caller(Role.MONITOR, agent_id=AGENT.agent_id)):
        assert found(by) == {own.id, others.id}
    with pytest.raises(Forbidden):
        found(ROOM)


def test_a_session_can_be_looked_up_by_its_pin_alone(world: World) -> None:
    session = world.create(SessionType.SUPPORT)
    assert world.store.read(lambda view: queries.session_by_pin(view, session.pin)).id == session.id


@ON_SQLITE
def test_sessions_of_the_local_operator_belong_to_agent_0_and_events_have_the_actor_local(world: World) -> None:
    session = world.create(by=caller(Role.GROUP_ADMIN, agent_id=LOCAL_AGENT_ID))
    assert session.agent_id == 0
    assert [entry.event.actor for entry in world.events(session)] == ["local"]


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
def test_the_actor_of_an_event_is_the_kind_and_number_of_the_caller(by: Caller, actor: str) -> None:
    assert by.actor == actor
