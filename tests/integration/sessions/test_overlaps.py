"""The policy for overlapping appointments, and the busy times of an agent. On both databases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.support.clocks import SettableClock
from tests.support.databases import Database
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MINUTE, OTHER_AGENT, SUPERVISOR, order, settings
from tests.support.moments import KINDS, SINCE, UNTIL, ZONES, moments, near
from tests.support.worlds import World, new_batch

from tminus.config import Settings
from tminus.config.settings import Policy
from tminus.domain.errors import BatchConflict, Overlap
from tminus.domain.intervals import Interval
from tminus.domain.model import Session
from tminus.domain.types import Caller, OverlapPolicy, Status
from tminus.sessions import batches, commands, queries
from tminus.sessions import overlaps as overlaps_module
from tminus.sessions.overlaps import overlaps, refuse_overlap, refused_overlaps

MS = timedelta(milliseconds=1)


def with_policy(policy: OverlapPolicy) -> Settings:
    return settings().model_copy(update={"policy": Policy(overlap=policy)})


@pytest.fixture
def refusing(world: World) -> World:
    world.settings = with_policy(OverlapPolicy.REFUSE)
    return world


def warned(world: World, session: Session, caller: Caller = AGENT) -> list[str]:
    return world.store.read(lambda view: overlaps(view, world.settings, caller, session))


@pytest.mark.parametrize("distance", [timedelta(0), MS, 30 * MINUTE, HOUR - MS])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_appointment_less_than_a_session_away_is_refused(refusing: World, distance: timedelta, sign: int) -> None:
    other = refusing.schedule(5 * HOUR)

    with pytest.raises(Overlap, match=other.id) as refused:
        refusing.schedule(5 * HOUR + sign * distance)

    assert refused.value.refcode == 118409
    assert len(refusing.events()) == 1


def test_back_to_back_is_no_overlap(refusing: World) -> None:
    for hours in (5, 6, 4):
        refusing.schedule(hours * HOUR)


def test_only_open_appointments_of_the_same_agent_count(refusing: World) -> None:
    cancelled = refusing.schedule(5 * HOUR)
    refusing.close(cancelled)
    refusing.schedule(5 * HOUR, by=OTHER_AGENT)
    refusing.create()  # without a start time, so it is no appointment

    refusing.schedule(5 * HOUR)


def test_an_open_session_with_people_still_counts(refusing: World) -> None:
    one = refusing.schedule(5 * MINUTE)
    refusing.join(one)

    with pytest.raises(Overlap):
        refusing.schedule(30 * MINUTE)


def test_a_session_does_not_overlap_with_itself_when_it_is_moved(refusing: World) -> None:
    one, other = refusing.schedule(5 * HOUR), refusing.schedule(8 * HOUR)

    assert refusing.reschedule(one, refusing.now + 5 * HOUR + 20 * MINUTE).version == 2
    with pytest.raises(Overlap, match=other.id):
        refusing.reschedule(one, refusing.now + 8 * HOUR - MINUTE)
    with pytest.raises(Overlap, match=other.id):
        refusing.reschedule(one, refusing.now + 8 * HOUR - MINUTE, by=GROUP_ADMIN)
    assert refusing.stored(one).start_time == refusing.now + 5 * HOUR + 20 * MINUTE


def test_other_policies_refuse_nothing_and_a_warning_names_those_whom_the_caller_may_see(world: World) -> None:
    world.settings = with_policy(OverlapPolicy.WARN)
    one, other, _later = world.schedule(5 * HOUR), world.schedule(5 * HOUR + MINUTE), world.schedule(6 * HOUR + MINUTE)

    assert warned(world, one) == [other.id]
    assert warned(world, other, SUPERVISOR) == [one.id]
    assert warned(world, other, OTHER_AGENT) == []
    assert warned(world, world.create()) == []

    world.settings = with_policy(OverlapPolicy.ALLOW)
    assert world.schedule(5 * HOUR).status is Status.SCHEDULED, "otherwise it raises `Overlap`"


def test_the_answer_hides_a_session_that_the_caller_may_not_see(refusing: World) -> None:
    hidden = refusing.schedule(5 * HOUR)

    with pytest.raises(Overlap) as refused:
        refusing.run(lambda tx: refuse_overlap(tx, refusing.settings, OTHER_AGENT, 7, tx.now + 5 * HOUR))

    assert refused.value.other_id is None
    assert "another session" in refused.value.description
    assert hidden.id not in refused.value.description


def test_of_two_bookings_in_one_transaction_the_second_is_refused(refusing: World) -> None:
    wanted = order(start_time=refusing.now + 5 * HOUR)
    jobs = [refusing.store.submit(lambda tx: commands.create(tx, refusing.settings, AGENT, wanted)) for _ in range(20)]

    results = [job.exception(30) for job in jobs]

    assert [error for error in results if not isinstance(error, Overlap)] == [None]


def test_of_bookings_at_two_daemons_at_the_same_time_one_is_accepted(database: Database, clock: SettableClock) -> None:
    worlds = [World(database.open(clock), clock) for _ in range(2)]
    chosen = with_policy(OverlapPolicy.REFUSE)
    for hours in range(1, 16):
        wanted = order(start_time=clock.time + 2 * hours * HOUR)
        create = partial(commands.create, settings=chosen, caller=AGENT, request=wanted)
        jobs = [world.store.submit(create) for _ in range(3) for world in worlds]
        errors = [job.exception(30) for job in jobs]
        assert [error for error in errors if not isinstance(error, Overlap)] == [None], hours


# --- batches ----------------------------------------------------------------------------------------------------------


def book(world: World, *starts: datetime | None) -> list[str]:
    """Run a dry run of a batch, then create the batch; return the errors, which must be the same for both."""
    requests = [order(start_time=start) for start in starts]
    plan = partial(batches.plan_creation, settings=world.settings, caller=AGENT, requests=requests, now=world.now)
    planned = refused(lambda: world.store.read(plan))
    new = new_batch(world, requests)
    assert refused(lambda: world.run(lambda tx: batches.create(tx, world.settings, AGENT, new))) == planned
    return planned


def refused(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except BatchConflict as conflict:
        return [f"{error.field} {error.message}" for error in conflict.errors]
    return []


def test_a_batch_with_appointments_that_overlap_is_refused_as_a_whole(refusing: World) -> None:
    now = refusing.now
    refusing.schedule(5 * HOUR)

    assert book(refusing, now + 3 * HOUR, None, now + 5 * HOUR - MS, now + 3 * HOUR + MINUTE, now + 9 * HOUR) == [
        "sessions.2.startTime overlaps with another appointment of the agent",
        "sessions.3.startTime overlaps with another session of the batch",
    ]
    assert len(refusing.all_sessions()) == 1

    assert book(refusing, now + 6 * HOUR, now + 4 * HOUR, None, None) == []
    assert len(refusing.all_sessions()) == 5


def test_the_new_starts_of_a_batch_that_is_not_done_yet_count_for_the_agents_of_its_sessions(refusing: World) -> None:
    scheduled = [refusing.schedule((5 + 2 * number) * HOUR) for number in range(batches.PART + 1)]
    targets = batches.Targets("ids", [batches.Target(one.id) for one in scheduled], by=1000 * HOUR)
    find = partial(
        batches.find_moves, settings=refusing.settings, caller=GROUP_ADMIN, targets=targets, now=refusing.now
    )
    moves = refusing.store.read(find)
    refusing.run(lambda tx: batches.reschedule(tx, refusing.settings, GROUP_ADMIN, moves))

    refusing.schedule(1005 * HOUR, by=OTHER_AGENT)
    with pytest.raises(Overlap, match=scheduled[0].id):
        refusing.schedule(1005 * HOUR)


def test_the_appointments_of_a_batch_are_compared_with_more_than_one_page(
    refusing: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlaps_module, "PAGE", 2)
    for hours in range(2, 9):
        refusing.schedule(hours * HOUR)

    assert len(book(refusing, refusing.now + HOUR, refusing.now + 8 * HOUR + MINUTE)) == 1


def test_of_two_appointments_at_one_time_the_one_that_stays_refuses_a_shift(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlaps_module, "PAGE", 2)
    first, moved, _stays = (world.schedule(hours * HOUR) for hours in (2, 5, 5))
    world.settings = with_policy(OverlapPolicy.REFUSE)
    starts = [world.now + 2 * HOUR + MINUTE, world.now + 5 * HOUR + MINUTE]

    found = world.store.read(
        lambda view: refused_overlaps(view, world.settings, 7, starts, [first.start_time, moved.start_time])
    )

    assert [index for index, _ in found] == [1]


# --- busy times -------------------------------------------------------------------------------------------------------

ALL_ZONES = (*ZONES, "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia", "Asia/Tehran")

LOCAL = st.datetimes(SINCE, UNTIL)


@st.composite
def zoned(draw: st.DrawFn) -> tuple[datetime, str]:
    """Draw a local time and its zone. Half of the times are near a change of clocks, the leap day or a month's end."""
    zone = draw(st.sampled_from(ALL_ZONES))
    kinds = [kind for kind in KINDS if moments(zone, kind)]
    return draw(LOCAL | st.sampled_from(kinds).flatmap(lambda kind: near(zone, kind))), zone


@given(
    planned=st.lists(st.tuples(zoned(), st.booleans()), min_size=1, max_size=12),
    before=st.integers(-200, 60 * 24 * 90),
    length=st.integers(1, 300),
    hours=st.integers(1, 366 * 24),
)
@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_busy_times_are_those_of_a_plain_model_in_every_zone(
    world: World, planned: list[tuple[tuple[datetime, str], bool]], before: int, length: int, hours: int
) -> None:
    world.clear(SINCE.replace(tzinfo=UTC) - timedelta(days=3))
    utc = ZoneInfo("UTC")
    starts = []
    for (local, zone), cancelled in planned:
        start = local.replace(microsecond=0, tzinfo=ZoneInfo(zone)).astimezone(utc)
        one = world.create(start_time=start)
        if cancelled:
            world.close(one)
        else:
            starts.append(start)
    first = min(starts, default=SINCE.replace(tzinfo=utc))
    since = first.replace(second=0) - before * MINUTE  # so most ranges contain appointments
    until, span = since + hours * HOUR, length * MINUTE

    found = world.store.read(lambda view: queries.busy_times(view, AGENT.agent_id, since, until, span, world.now))

    def is_busy(at: datetime) -> bool:
        return any(start <= at < start + span for start in starts)

    edges = {edge for start in starts for edge in (start, start + span)} | {since, until}
    points = sorted(edge for edge in edges if since <= edge < until)
    assert [is_busy(at) for at in points] == [any(busy.start <= at < busy.end for busy in found) for at in points]
    for busy in found:
        assert since <= busy.start < busy.end <= until
        assert busy.start == since or is_busy(busy.start)
        assert busy.start == since or not is_busy(busy.start - MS)
        assert busy.end == until or not is_busy(busy.end)


def test_a_session_that_people_are_in_is_busy_until_now(world: World) -> None:
    one = world.create()
    world.clock.passes(minutes=1)
    world.join(one)
    joined = world.now
    world.clock.passes(hours=3)

    found = world.store.read(lambda view: queries.busy_times(view, 7, joined, joined + 9 * HOUR, HOUR, world.now))

    assert found == [Interval(joined, joined + 3 * HOUR)]
