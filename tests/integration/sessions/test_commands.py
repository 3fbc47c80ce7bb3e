"""The commands: create, schedule, reschedule, join, leave, close. On both databases."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import update
from tests.support.factories import AGENT, HOUR, MINUTE, caller, settings
from tests.support.worlds import World

from tminus.domain import ids
from tminus.domain.errors import (  # fmt: skip
    BadStartTime,
    NoKnocking,
    NoPinFree,
    StaleVersion,
    TooManyParticipants,
    TooManySessions,
    UnknownParticipant,
    UnknownSession,
    WrongStatus,
)  # fmt: skip
from tminus.domain.model import Session
from tminus.domain.types import CloseReason, EventType, ParticipantRole, Role, SessionType, Status, Trigger
from tminus.sessions import participants, queries
from tminus.storage.tables import PARTICIPANTS

MS = timedelta(milliseconds=1)
SECOND = timedelta(seconds=1)

WITH_PIN = [SessionType.SUPPORT, SessionType.COBROWSE]
WITHOUT_PIN = [SessionType.LIVE, SessionType.REPLAY]


def by_pin(world: World, pin: int) -> Session:
    return world.store.read(lambda view: queries.session_by_pin(view, pin))


# --- create and schedule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_type", SessionType)
def test_a_session_created_to_start_now_is_new_and_expires_after_new_timeout(
    world: World, session_type: SessionType
) -> None:
    session = world.create(session_type)
    assert (session.status, session.scheduled, session.start_time) == (Status.NEW, False, None)
    assert session.expires_at == session.due_at == world.now + HOUR
    assert session.due_trigger is Trigger.EXPIRE
    assert session.created_at == session.updated_at == session.opened_at == world.now
    assert (session.activated_at, session.closed_at, session.close_reason) == (None, None, None)
    assert world.told(session) == [EventType.CREATED]


@pytest.mark.parametrize("session_type", SessionType)
def test_a_scheduled_session_has_no_pin_and_opens_lead_before_its_start(
    world: World, session_type: SessionType
) -> None:
    session = world.schedule(HOUR, session_type)
    assert (session.status, session.scheduled, session.start_time) == (Status.SCHEDULED, True, world.now + HOUR)
    assert (session.due_at, session.due_trigger) == (world.now + 50 * MINUTE, Trigger.OPEN)
    assert session.expires_at == world.now + 2 * HOUR
    assert (session.pin, session.opened_at) == (0, None)
    assert world.told(session) == [EventType.SCHEDULED]


def test_the_returned_session_equals_the_stored_one(world: World) -> None:
    parent = {"id": "1", "app": "servicenow", "type": "incident", "name": "Ada ✓", "sync": True}
    session = world.schedule(
        HOUR, label="Zürich “one”", user_description="", preferences={"record": True}, external_mapping="INC0010001",
        parent_object=parent, meta_data={"deep": [1, None, {"ü": 2.5}]},
    )  # fmt: skip
    assert world.stored(session) == session
    assert orjson.loads(session.parent_object or "") == parent
    assert orjson.loads(session.meta_data or "") == {"deep": [1, None, {"ü": 2.5}]}
    assert session.user_description == AGENT.name, "an empty description is replaced by the agent's name"
    assert orjson.loads(session.settings)["recording"] is True


def test_without_a_parent_or_meta_data_both_are_null(world: World) -> None:
    session = world.stored(world.create())
    assert (session.parent_object, session.meta_data, session.external_mapping) == (None, None, None)


@pytest.mark.parametrize(("session_type", "length"), [("live", 12), ("support", 6), ("cobrowse", 6), ("replay", 6)])
def test_an_id_has_12_characters_for_live_and_6_for_the_others(world: World, session_type: str, length: int) -> None:
    assert len(world.create(SessionType(session_type)).id) == length


def test_tokens_have_32_characters_each_and_differ(world: World) -> None:
    session = world.create()
    secrets = {session.host_auth_token, session.host_key, session.external_session_object_id}
    assert {len(secret) for secret in secrets} == {32}
    assert len(secrets) == 3


@pytest.mark.parametrize("session_type", WITH_PIN)
def test_the_users_url_of_an_open_pin_session_ends_in_its_pin(world: World, session_type: SessionType) -> None:
    session = world.create(session_type)
    assert session.user_url == f"http://127.0.0.1:8710/{session.pin}"
    assert session.host_url == f"http://127.0.0.1:8710/?{session.id}"


@pytest.mark.parametrize("session_type", SessionType)
def test_the_users_url_of_a_scheduled_session_always_ends_in_its_id(world: World, session_type: SessionType) -> None:
    session = world.schedule(HOUR, session_type)
    world.passes(minutes=50)
    opened = world.stored(session)
    assert opened.status is Status.NEW
    assert opened.user_url == session.user_url == f"http://127.0.0.1:8710/?{session.id}"


def test_created_by_never_changes_and_contains_no_secret(world: World) -> None:
    by = caller(
        Role.AGENT, Role.API, agent_id=7, sid=5, provider="servicenow", external_id="6816f79c", user_agent="Jakarta",
        client_app="service-now-backend", remote_ip="149.96.6.12", started_at=world.now - MINUTE,
        expires_at=world.now + 59 * MINUTE,
    )  # fmt: skip
    session = world.create(by=by)
    world.close(session, by=caller(agent_id=7, client_app="another"))
    assert orjson.loads(world.stored(session).created_by) == {
        "sid": 5,
        "roles": {"api": True, "agent": True, "supervisor": False, "group_admin": False},
        "features": None,
        "providerExternalId": "6816f79c",
        "provider": "servicenow",
        "startedAt": "2030-01-07T08:59:00.000Z",
        "expiresAt": "2030-01-07T09:59:00.000Z",
        "clientApp": "service-now-backend",
        "userAgent": "Jakarta",
        "remoteIp": "149.96.6.12",
    }


@pytest.mark.parametrize("back", [timedelta(0), 30 * SECOND, 60 * SECOND])
def test_a_start_up_to_60_seconds_ago_is_accepted_and_the_session_is_open(world: World, back: timedelta) -> None:
    session = world.schedule(-back)
    assert (session.status, session.start_time) == (Status.NEW, world.now - back)


def test_an_earlier_start_is_refused_and_records_nothing(world: World) -> None:
    with pytest.raises(BadStartTime, match=r"startTime 2030-01-07T08:58:59\.999Z is in the past"):
        world.schedule(-60 * SECOND - MS)
    assert world.all_sessions() == {}


def test_a_start_at_the_horizon_is_accepted_and_one_beyond_it_refused(world: World) -> None:
    world.settings = settings(horizon=timedelta(days=2))
    assert world.schedule(timedelta(days=2)).status is Status.SCHEDULED
    with pytest.raises(BadStartTime, match=r"too far away: the latest start allowed now is 2030-01-09T09:00:00\.000Z"):
        world.schedule(timedelta(days=2) + MS)


@pytest.mark.parametrize("session_type", SessionType)
@pytest.mark.parametrize("ahead", [timedelta(0), 5 * MINUTE, 10 * MINUTE])
def test_a_start_within_lead_is_scheduled_and_opened_at_once_with_both_events(
    world: World, session_type: SessionType, ahead: timedelta
) -> None:
    session = world.schedule(ahead, session_type)
    assert (session.status, session.scheduled, session.opened_at) == (Status.NEW, True, world.now)
    assert (session.due_at, session.due_trigger) == (world.now + ahead + HOUR, Trigger.EXPIRE)
    assert (session.pin in ids.PINS) is session_type.has_pin
    assert world.stored(session) == session
    scheduled, ready = world.events(session)
    assert [scheduled.event.type, ready.event.type] == [EventType.SCHEDULED, EventType.READY]
    assert (ready.event.previous_status, ready.event.status) == (Status.SCHEDULED, Status.NEW)
    assert (scheduled.event.actor, ready.event.actor) == ("agent:7", "clock")
    assert (scheduled.lag_ms, ready.lag_ms) == (None, 0)


def test_a_start_a_millisecond_beyond_lead_stays_scheduled(world: World) -> None:
    assert world.schedule(10 * MINUTE + MS).status is Status.SCHEDULED


def test_an_agent_at_its_limit_of_open_sessions_can_create_one_after_a_close(world: World) -> None:
    world.settings = settings(sessions_per_agent=2)
    world.schedule(HOUR)
    second = world.create()
    with pytest.raises(TooManySessions, match="2 open sessions"):
        world.create()
    assert world.create(by=caller(agent_id=8)).status is Status.NEW, "each agent has its own limit"
    world.close(second)
    assert world.create().status is Status.NEW


def test_a_session_at_its_limit_of_participants_accepts_one_after_a_leave(world: World) -> None:
    world.settings = settings(participants_per_session=2)
    session = world.create(preferences={"knock": True})
    knocking = world.knock(session)
    first, _second = world.join(session), world.join(session)
    for refused in (world.join, world.knock, lambda session: world.admit(session, knocking)):
        with pytest.raises(TooManyParticipants, match="2 participants, the maximum at once"):
            refused(session)
    world.leave(session, first)
    world.admit(session, knocking)
    assert world.stored(session).participants == 2


def test_the_number_of_participants_in_the_life_of_a_session_is_limited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participants, "MAX_TOTAL", 5)
    session = world.create(preferences={"knock": True})
    for number in range(5):
        if number % 2:
            world.deny(session, world.knock(session))
        else:
            world.leave(session, world.join(session))
    for refused in (world.join, world.knock):
        with pytest.raises(TooManyParticipants, match="has had 5 participants"):
            refused(session)
    world.close(session)
    assert world.stored(session).status is Status.CLOSED


# --- PINs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_type", WITH_PIN)
def test_a_pin_session_has_a_pin_while_it_is_open_and_active_and_none_when_it_is_closed(
    world: World, session_type: SessionType
) -> None:
    session = world.create(session_type)
    assert session.pin in ids.PINS
    world.join(session)
    assert by_pin(world, session.pin).id == session.id
    world.close(session)
    assert world.stored(session).pin == 0
    with pytest.raises(UnknownSession):
        by_pin(world, session.pin)


@pytest.mark.parametrize("session_type", WITHOUT_PIN)
def test_sessions_of_other_types_have_no_pin(world: World, session_type: SessionType) -> None:
    assert world.create(session_type).pin == 0


def test_the_pin_0_finds_no_session(world: World) -> None:
    world.create(SessionType.LIVE)
    world.schedule(HOUR, SessionType.SUPPORT)
    with pytest.raises(UnknownSession):
        by_pin(world, 0)


def test_no_two_open_sessions_have_the_same_pin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_020))
    pins = [world.create(SessionType.SUPPORT).pin for _ in range(20)]
    assert sorted(pins) == list(ids.PINS)


def test_when_all_pins_are_in_use_nothing_is_created_partly(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_002))
    taken = [world.create(SessionType.SUPPORT), world.create(SessionType.COBROWSE)]
    for ahead in (None, MINUTE):
        with pytest.raises(NoPinFree):
            world.create(SessionType.SUPPORT, start_time=ahead and world.now + ahead)
    assert set(world.all_sessions()) == {session.id for session in taken}
    assert world.told() == [EventType.CREATED] * 2
    assert world.create(SessionType.LIVE).pin == 0, "a session without a PIN is created"
    assert world.schedule(HOUR, SessionType.SUPPORT).pin == 0, "a scheduled session needs its PIN later"


def test_a_pin_is_free_again_when_its_session_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    first = world.create(SessionType.SUPPORT)
    world.close(first)
    second = world.create(SessionType.SUPPORT)
    assert second.pin == first.pin
    assert by_pin(world, 100_000).id == second.id


def test_a_pin_is_free_again_when_its_session_has_expired(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    world.create(SessionType.SUPPORT)
    world.passes(HOUR)
    assert world.create(SessionType.SUPPORT).pin == 100_000


def test_a_reschedule_into_lead_changes_nothing_if_no_pin_is_free(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    world.create(SessionType.SUPPORT)
    later = world.schedule(HOUR, SessionType.SUPPORT)
    with pytest.raises(NoPinFree):
        world.reschedule(later, world.now)
    assert world.stored(later) == later
    assert world.told(later) == [EventType.SCHEDULED]


# --- reschedule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [30 * MINUTE, 3 * HOUR, timedelta(days=400)])
def test_a_reschedule_changes_start_expiry_deadline_and_version_together(world: World, ahead: timedelta) -> None:
    session = world.schedule(HOUR)
    world.clock.passes(minutes=1)
    start = world.now + ahead
    moved = world.reschedule(session, start)
    assert world.stored(session) == moved
    assert (moved.start_time, moved.expires_at, moved.due_at) == (start, start + HOUR, start - 10 * MINUTE)
    assert (moved.status, moved.version, moved.updated_at) == (Status.SCHEDULED, session.version + 1, world.now)
    assert moved.created_at == session.created_at
    event = world.events(session)[-1].event
    assert (event.type, event.start_time, event.previous_start_time) == (
        EventType.RESCHEDULED,
        start,
        session.start_time,
    )


def test_id_urls_tokens_and_settings_of_a_session_never_change(world: World) -> None:
    session = world.schedule(HOUR, SessionType.SUPPORT, preferences={"record": True})
    world.reschedule(session, world.now + 2 * HOUR)
    world.passes(minutes=110)
    world.join(session)
    world.close(session)
    kept = (
        "id", "type", "label", "scheduled", "user_url", "host_url", "host_auth_token", "host_key",
        "external_session_object_id", "settings", "created_by", "created_at", "agent_id", "organization_id",
    )  # fmt: skip
    closed = world.stored(session)
    assert closed.status is Status.CLOSED
    assert {name: getattr(closed, name) for name in kept} == {name: getattr(session, name) for name in kept}


def test_a_reschedule_to_the_same_start_records_nothing(world: World) -> None:
    session = world.schedule(HOUR)
    assert session.start_time is not None
    world.clock.passes(minutes=1)
    assert world.reschedule(session, session.start_time) == session
    assert world.stored(session) == session
    assert world.told(session) == [EventType.SCHEDULED]


def test_a_reschedule_into_lead_opens_the_session_at_once(world: World) -> None:
    session = world.schedule(HOUR, SessionType.SUPPORT)
    opened = world.reschedule(session, world.now + MINUTE)
    assert world.stored(session) == opened
    assert (opened.status, opened.version) == (Status.NEW, session.version + 2)
    assert opened.pin in ids.PINS
    assert (opened.expires_at, opened.due_at) == (world.now + MINUTE + HOUR,) * 2
    assert world.told(session) == [EventType.SCHEDULED, EventType.RESCHEDULED, EventType.READY]


@pytest.mark.parametrize("status", ["new", "active", "closed"])
def test_only_a_scheduled_session_can_be_rescheduled_and_the_error_contains_the_status(
    world: World, status: str
) -> None:
    session = world.create()
    if status != "new":
        world.join(session)
    if status == "closed":
        world.close(session)
    before = world.stored(session)
    with pytest.raises(WrongStatus, match=f"Cannot reschedule while the session's status is {status}"):
        world.reschedule(session, world.now + HOUR)
    assert world.stored(session) == before


@pytest.mark.parametrize(("ahead", "problem"), [(-2 * MINUTE, "in the past"), (timedelta(days=731), "too far away")])
def test_a_reschedule_to_a_bad_start_is_refused(world: World, ahead: timedelta, problem: str) -> None:
    session = world.schedule(HOUR)
    with pytest.raises(BadStartTime, match=problem):
        world.reschedule(session, world.now + ahead)
    assert world.stored(session) == session


def test_a_reschedule_succeeds_if_one_of_the_given_versions_is_current(world: World) -> None:
    session = world.schedule(HOUR)
    moved = world.reschedule(session, world.now + 2 * HOUR, if_match=frozenset({1}))
    assert moved.version == 2
    assert world.reschedule(session, world.now + 3 * HOUR, if_match=frozenset({1, 2})).version == 3


def test_a_stale_version_is_refused_even_if_nothing_would_change(world: World) -> None:
    session = world.schedule(HOUR)
    moved = world.reschedule(session, world.now + 2 * HOUR)
    for start in (world.now + 3 * HOUR, moved.start_time):
        assert start is not None
        with pytest.raises(StaleVersion, match='at version "2" now'):
            world.reschedule(session, start, if_match=frozenset({1}))
    assert world.stored(session) == moved


# --- join and leave ---------------------------------------------------------------------------------------------------


def test_the_first_join_makes_a_session_active_and_records_two_events(world: World) -> None:
    session = world.create()
    world.clock.passes(minutes=3)
    grace = world.join(session, "Grace", role=ParticipantRole.HOST)
    active = world.stored(session)
    assert (active.status, active.activated_at, active.participants) == (Status.ACTIVE, world.now, 1)
    assert (active.due_at, active.due_trigger, active.empty_since) == (None, None, None)
    _, became, joined = world.events(session)
    assert [became.event.type, joined.event.type] == [EventType.ACTIVE, EventType.JOINED]
    for entry in (became, joined):
        assert entry.participant is not None
        assert (entry.participant.id, entry.participant.name, entry.participant.role) == (grace, "Grace", "host")
        assert (entry.event.previous_status, entry.event.status) == (Status.NEW, Status.ACTIVE)
        assert (entry.event.actor, entry.event.participants) == ("room:30", 1)


def test_each_later_join_records_one_event_and_changes_only_the_count(world: World) -> None:
    session = world.create()
    world.join(session)
    activated = world.stored(session).activated_at
    world.clock.passes(minutes=1)
    world.join(session)
    active = world.stored(session)
    assert (active.participants, active.activated_at, active.updated_at) == (2, activated, world.now)
    assert world.told(session)[-2:] == [EventType.JOINED] * 2


def test_the_last_leave_starts_the_empty_timeout_and_a_join_ends_it(world: World) -> None:
    session = world.create()
    grace, ada = world.join(session), world.join(session)
    world.leave(session, grace)
    assert (world.stored(session).empty_since, world.stored(session).due_at) == (None, None)
    world.clock.passes(minutes=2)
    world.leave(session, ada)
    empty = world.stored(session)
    assert (empty.status, empty.participants, empty.empty_since) == (Status.ACTIVE, 0, world.now)
    assert (empty.due_at, empty.due_trigger) == (world.now + 15 * MINUTE, Trigger.IDLE)
    world.clock.passes(minutes=14)
    world.join(session)
    again = world.stored(session)
    assert (again.status, again.empty_since, again.due_at, again.due_trigger) == (Status.ACTIVE, None, None, None)
    assert world.told(session)[-3:] == [EventType.LEFT, EventType.LEFT, EventType.JOINED]


def test_a_leave_reported_repeatedly_is_recorded_once(world: World) -> None:
    session = world.create()
    grace = world.join(session)
    world.join(session)
    world.leave(session, grace)
    after = world.stored(session)
    world.leave(session, grace)
    assert world.stored(session) == after
    assert world.told(session).count(EventType.LEFT) == 1


def test_a_participant_who_never_joined_cannot_leave(world: World) -> None:
    session, other = world.create(), world.create()
    elsewhere = world.join(other)
    world.join(session)
    for unknown in ("nobody", elsewhere):
        with pytest.raises(UnknownParticipant, match=unknown):
            world.leave(session, unknown)
    assert world.stored(session).participants == 1


def test_a_late_leave_from_a_closed_session_changes_nothing(world: World) -> None:
    session = world.create()
    grace = world.join(session)
    world.close(session)
    closed = world.stored(session)
    world.leave(session, grace)
    assert world.stored(session) == closed


@pytest.mark.parametrize("status", ["scheduled", "closed"])
def test_a_join_of_a_session_that_is_not_open_is_refused(world: World, status: str) -> None:
    session = world.schedule(HOUR)
    if status == "closed":
        world.close(session)
    with pytest.raises(WrongStatus, match=f"Cannot join while the session's status is {status}"):
        world.join(session)
    assert world.participants(session) == []


def test_the_time_limit_max_active_begins_with_the_first_join(world: World) -> None:
    world.settings = settings(max_active=2 * HOUR)
    session = world.create()
    grace = world.join(session)
    limit = world.now + 2 * HOUR
    assert (world.stored(session).due_at, world.stored(session).due_trigger) == (limit, Trigger.TIME_LIMIT)
    world.leave(session, grace)
    assert world.stored(session).due_trigger is Trigger.IDLE
    world.clock.passes(minutes=110)
    world.join(session)
    assert (world.stored(session).due_at, world.stored(session).due_trigger) == (limit, Trigger.TIME_LIMIT)


# --- knock ------------------------------------------------------------------------------------------------------------


def with_knock(world: World) -> Session:
    return world.create(preferences={"knock": True})


def test_a_knock_records_an_event_and_the_participant_is_not_in_the_session(world: World) -> None:
    session = with_knock(world)
    world.clock.passes(minutes=3)
    grace = world.knock(session, "Grace")
    waiting = world.stored(session)
    assert (waiting.status, waiting.participants, waiting.activated_at) == (Status.NEW, 0, None)
    assert (waiting.due_at, waiting.due_trigger) == (session.due_at, session.due_trigger)
    assert (waiting.version, waiting.updated_at) == (2, world.now)
    _, knocked = world.events(session)
    assert knocked.participant is not None
    assert (knocked.event.type, knocked.participant.id, knocked.event.actor) == (EventType.KNOCKED, grace, "room:30")


def test_an_admitted_participant_has_joined_from_that_time_on(world: World) -> None:
    session = with_knock(world)
    grace, ada = world.knock(session, "Grace"), world.knock(session, "Ada")
    world.clock.passes(minutes=2)
    world.admit(session, grace)
    active = world.stored(session)
    assert (active.status, active.activated_at, active.participants) == (Status.ACTIVE, world.now, 1)
    assert world.told(session)[-3:] == [EventType.ACTIVE, EventType.ADMITTED, EventType.JOINED]
    world.admit(session, ada)
    assert world.stored(session).participants == 2
    assert world.told(session)[-2:] == [EventType.ADMITTED, EventType.JOINED]
    assert {person.joined_at for person in world.participants(session)} == {world.now}
    world.leave(session, grace)
    assert (world.stored(session).participants, world.told(session)[-1]) == (1, EventType.LEFT)


@pytest.mark.parametrize("command", [World.deny, World.leave])
def test_a_denied_or_leaving_participant_was_never_in_the_session(
    world: World, command: Callable[[World, Session, str], None]
) -> None:
    session = with_knock(world)
    grace = world.knock(session)
    command(world, session, grace)
    after = world.stored(session)
    assert (after.status, after.participants) == (Status.NEW, 0)
    assert world.told(session)[-1] == EventType.DENIED
    command(world, session, grace)
    assert world.stored(session) == after
    with pytest.raises(NoKnocking, match="they would have to knock again"):
        world.admit(session, grace)


@pytest.mark.parametrize("others_inside", [False, True])
@pytest.mark.parametrize("closed_by", ["agent", "clock", "clock, with others"])
def test_every_close_ends_the_waiting_of_participants_who_knocked(
    world: World, closed_by: str, others_inside: bool
) -> None:
    world.settings = settings(max_active=timedelta(hours=2))
    session, other = with_knock(world), with_knock(world)
    grace = world.knock(session)
    if others_inside:
        world.join(session, "Ada")
    if closed_by == "clock, with others":
        world.join(other, "Ben")  # the same batch closes both sessions, and one must not affect the other
    if closed_by == "agent":
        world.close(session)
    else:
        world.passes(hours=2)
    assert world.stored(session).status is Status.CLOSED
    assert all(one.left_at == world.now for one in world.participants(session))
    before = world.told(session)
    world.deny(session, grace)
    world.leave(session, grace)
    with pytest.raises(WrongStatus):
        world.admit(session, grace)
    assert world.told(session) == before, "nothing is recorded after the close"


@pytest.mark.parametrize("command", ["deny", "leave"])
def test_participants_of_a_session_that_an_older_release_closed_no_longer_wait(world: World, command: str) -> None:
    session = with_knock(world)
    grace = world.knock(session)
    world.close(session)
    world.run(lambda tx: tx.execute(update(PARTICIPANTS).values(left_at=None)))
    getattr(world, command)(session, grace)
    with pytest.raises(WrongStatus):
        world.admit(session, grace)
    assert world.told(session)[-1] is EventType.CLOSED


def test_a_repeated_decision_about_a_knock_records_no_event(world: World) -> None:
    session = with_knock(world)
    grace = world.knock(session)
    world.admit(session, grace)
    after = world.stored(session)
    world.admit(session, grace)
    with pytest.raises(NoKnocking, match="they have joined"):
        world.deny(session, grace)
    with pytest.raises(UnknownParticipant):
        world.admit(session, "nobody")
    assert world.stored(session) == after


def test_a_knock_is_refused_if_the_setting_is_off(world: World) -> None:
    session = world.create()
    with pytest.raises(NoKnocking, match="its setting knock is off"):
        world.knock(session)
    assert world.participants(session) == []


@pytest.mark.parametrize("status", ["scheduled", "closed"])
def test_a_knock_at_a_session_that_is_not_open_is_refused(world: World, status: str) -> None:
    session = world.schedule(HOUR, preferences={"knock": True})
    if status == "closed":
        world.close(session)
    with pytest.raises(WrongStatus, match=f"Cannot knock while the session's status is {status}"):
        world.knock(session)


@pytest.mark.parametrize("closed_by", [World.close, lambda world, _: world.passes(hours=1)])
def test_a_closed_session_admits_nobody_and_a_denial_succeeds(
    world: World, closed_by: Callable[[World, Session], None]
) -> None:
    session = with_knock(world)
    grace = world.knock(session)
    closed_by(world, session)
    closed = world.stored(session)
    with pytest.raises(WrongStatus):
        world.admit(session, grace)
    for command in (world.deny, world.leave):
        command(session, grace)  # no effect: the wait has already ended
    assert world.stored(session) == closed
    assert closed.status is Status.CLOSED


# --- close ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("scheduled", CloseReason.CANCELLED),
        ("new", CloseReason.CLOSED),
        ("active", CloseReason.CLOSED),
    ],
)
def test_a_session_is_closed_from_every_status_with_its_reason(world: World, status: str, reason: CloseReason) -> None:
    session = world.schedule(HOUR) if status == "scheduled" else world.create()
    if status == "active":
        world.join(session)
        world.join(session)
    world.clock.passes(minutes=1)
    world.close(session)
    closed = world.stored(session)
    assert (closed.status, closed.close_reason, closed.closed_at) == (Status.CLOSED, reason, world.now)
    assert (closed.due_at, closed.due_trigger, closed.pin, closed.participants) == (None, None, 0, 0)
    event = world.events(session)[-1].event
    assert (event.type, event.reason, event.previous_status) == (EventType.CLOSED, reason, Status(status))
    assert event.due_at is None, "a close by a person has no lag"


def test_a_close_disconnects_all_participants(world: World) -> None:
    session = world.create()
    gone = world.join(session)
    left_at = world.clock.passes(minutes=1)
    world.leave(session, gone)
    world.join(session)
    closed_at = world.clock.passes(minutes=1)
    world.close(session)
    assert [participant.left_at for participant in world.participants(session)] == [left_at, closed_at]


def test_a_close_of_a_closed_session_records_nothing(world: World) -> None:
    session = world.create()
    world.close(session)
    closed = world.stored(session)
    world.clock.passes(minutes=1)
    world.close(session)
    assert world.stored(session) == closed
    assert world.told(session) == [EventType.CREATED, EventType.CLOSED]


def test_every_command_on_an_unknown_session_is_refused(world: World) -> None:
    unknown = world.create().model_copy(update={"id": "nobody"})
    attempts: list[tuple[str, Any]] = [
        ("close", lambda: world.close(unknown)),
        ("reschedule", lambda: world.reschedule(unknown, world.now + HOUR)),
        ("join", lambda: world.join(unknown)),
        ("leave", lambda: world.leave(unknown, "p")),
        ("show", lambda: world.store.read(lambda view: queries.get_session(view, AGENT, "nobody"))),
        ("history", lambda: world.store.read(lambda view: queries.session_events(view, AGENT, "nobody", 0, 10))),
    ]
    for name, attempt in attempts:
        with pytest.raises(UnknownSession, match="Session not found nobody"):
            attempt()
        assert name


def test_every_recorded_change_increases_version_and_updated_at(world: World) -> None:
    session = world.schedule(HOUR)
    states: list[tuple[int, datetime]] = [(session.version, session.updated_at)]

    def record() -> None:
        stored = world.stored(session)
        states.append((stored.version, stored.updated_at))
        world.clock.passes(seconds=1)

    world.clock.passes(seconds=1)
    world.reschedule(session, world.now + 20 * MINUTE)
    record()
    world.passes(minutes=15)
    record()
    grace = world.join(session)
    record()
    world.leave(session, grace)
    record()
    world.close(session)
    record()
    assert [version for version, _ in states] == [1, 2, 3, 4, 5, 6]
    assert states == sorted(states)
    assert len({at for _, at in states}) == 6
