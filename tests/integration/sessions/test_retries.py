"""Retries are safe: one key creates one session or participant. On both databases."""

import threading
from datetime import timedelta
from functools import partial

import pytest
from tests.support.databases import Database
from tests.support.factories import AGENT, HOUR, OTHER_AGENT, ROOM, order, settings
from tests.support.worlds import World

from tminus.domain.errors import BadStartTime, KeyReused, TooManySessions
from tminus.domain.types import EventType, Status
from tminus.scheduler import sweeps
from tminus.sessions import commands
from tminus.sessions.idempotency import keyed_request
from tminus.sessions.transitions import CreateResult

BODY = {"type": "live", "label": "Ada"}
KEY = keyed_request("key-1", BODY)


def test_two_bodies_are_equal_whatever_the_order_of_their_members() -> None:
    assert keyed_request("k", {"a": 1, "b": {"d": 2, "c": 3}}) == keyed_request("k", {"b": {"c": 3, "d": 2}, "a": 1})
    bodies = [{}, {"a": 1}, {"a": "1"}, {"a": None}, {"a": [1]}, ["a", 1]]
    keys = {key.body_sha256 for body in bodies if (key := keyed_request("k", body))}
    assert len(keys) == len(bodies)


def test_without_a_key_no_idempotency_record_is_stored(world: World) -> None:
    assert keyed_request(None, BODY) is None
    first, second = world.make(), world.make()
    assert first.session.id != second.session.id
    assert not first.replayed
    assert not second.replayed


def test_a_repeated_request_returns_the_first_session_in_its_current_state(world: World) -> None:
    first = world.make(keyed=KEY)
    world.join(first.session)
    again = world.make(keyed=KEY)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.session == world.stored(first.session)
    assert again.session.status is Status.ACTIVE
    assert world.told(first.session) == [EventType.CREATED, EventType.ACTIVE, EventType.JOINED]
    assert len(world.all_sessions()) == 1


def test_a_repeated_request_returns_a_session_that_was_closed(world: World) -> None:
    first = world.make(keyed=KEY)
    world.close(first.session)
    assert world.make(keyed=KEY).session.status is Status.CLOSED


def test_the_same_key_with_another_body_is_refused_with_the_id_of_the_session(world: World) -> None:
    made = world.make(keyed=KEY)
    with pytest.raises(KeyReused, match=f"created session {made.session.id} from another body"):
        world.make(keyed=keyed_request("key-1", BODY | {"label": "Grace"}))
    assert len(world.all_sessions()) == 1


def test_keys_of_different_agents_are_independent(world: World) -> None:
    mine, other = world.make(keyed=KEY), world.make(keyed=KEY, by=OTHER_AGENT)
    assert mine.session.id != other.session.id
    assert not other.replayed


def test_a_key_is_stored_for_24_hours(world: World) -> None:
    first = world.make(keyed=KEY)
    world.clock.passes(days=1)
    assert world.make(keyed=KEY).session.id == first.session.id
    world.clock.passes(milliseconds=1)
    second = world.make(keyed=KEY)
    assert not second.replayed
    assert second.session.id != first.session.id
    world.clock.passes(days=1)
    assert world.make(keyed=KEY).session.id == second.session.id, "the key now belongs to the second session"


def test_after_24_hours_a_key_may_be_used_with_another_body(world: World) -> None:
    world.make(keyed=KEY)
    world.clock.passes(days=1, milliseconds=1)
    assert not world.make(keyed=keyed_request("key-1", {})).replayed


def test_a_refused_request_does_not_use_its_key(world: World) -> None:
    with pytest.raises(BadStartTime):
        world.make(keyed=KEY, start_time=world.now - HOUR)
    assert not world.make(keyed=KEY).replayed


def test_a_retry_succeeds_although_the_agent_is_at_its_limit(world: World) -> None:
    world.settings = settings(sessions_per_agent=1)
    first = world.make(keyed=KEY)
    assert world.make(keyed=KEY).session.id == first.session.id
    with pytest.raises(TooManySessions):
        world.make(keyed=keyed_request("key-2", BODY))


def test_a_retry_of_a_schedule_succeeds_although_its_start_has_passed(world: World) -> None:
    start = world.now + HOUR
    first = world.make(keyed=KEY, start_time=start)
    world.passes(hours=5)
    again = world.make(keyed=KEY, start_time=start)
    assert (again.session.id, again.replayed, again.session.status) == (first.session.id, True, Status.CLOSED)


def test_concurrent_requests_with_one_key_create_one_session(world: World) -> None:
    results: list[CreateResult] = []
    begin = threading.Barrier(16)

    def request() -> None:
        begin.wait()
        results.append(world.make(keyed=KEY))

    threads = [threading.Thread(target=request) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.session.id for one in results}) == 1
    assert sorted(one.replayed for one in results) == [False] + [True] * 15
    assert world.told() == [EventType.CREATED]


def test_concurrent_requests_with_one_key_to_two_daemons_create_one_session(database: Database) -> None:
    stores = [database.open(), database.open()]
    for n in range(10):
        key = keyed_request(f"key-{n}", BODY)
        job = partial(commands.create, settings=settings(), caller=AGENT, request=order(), keyed=key)
        futures = [store.submit(job) for store in stores * 3]
        results = [future.result(30) for future in futures]
        assert len({one.session.id for one in results}) == 1
        assert sorted(one.replayed for one in results) == [False] + [True] * 5
    assert len(stores[0].read(lambda view: view.events(0, 100))) == 10


def test_a_key_is_stored_across_a_restart(database: Database) -> None:
    before, after = database.open(), database.open()
    first = before.submit(lambda tx: commands.create(tx, settings(), AGENT, order(), KEY)).result(30)
    before.close()
    again = after.submit(lambda tx: commands.create(tx, settings(), AGENT, order(), KEY)).result(30)
    assert (again.session.id, again.replayed) == (first.session.id, True)


def test_a_repeated_join_returns_the_participant_of_the_first(world: World) -> None:
    session = world.create()
    key = keyed_request("join-1", [session.id, {"role": "guest", "name": "Grace"}])
    first, again = world.join(session, keyed=key), world.join(session, keyed=key)
    assert first == again
    assert (world.stored(session).participants, len(world.participants(session))) == (1, 1)
    assert world.told(session) == [EventType.CREATED, EventType.ACTIVE, EventType.JOINED]


def test_a_repeated_join_succeeds_although_the_session_is_closed(world: World) -> None:
    session = world.create()
    key = keyed_request("join-1", [session.id])
    grace = world.join(session, keyed=key)
    world.close(session)
    assert world.join(session, keyed=key) == grace


def test_keys_are_removed_with_their_session(world: World) -> None:
    made = world.make(keyed=KEY)
    world.close(made.session)
    world.clock.passes(hours=2)
    assert sweeps.remove_old(world.store.submit, timedelta(hours=1)) == 1
    again = world.make(keyed=KEY)
    assert not again.replayed
    assert again.session.status is Status.NEW


def test_a_key_of_a_room_is_not_a_key_of_an_agent(world: World) -> None:
    made = world.make(keyed=KEY)
    assert ROOM.agent_id != AGENT.agent_id
    world.join(made.session, keyed=KEY)
    assert world.stored(made.session).participants == 1
