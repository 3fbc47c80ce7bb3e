"""Series: sessions are created ahead of time, at the local time of the series, and change with it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from tests.support import factories
from tests.support.clocks import NOW
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MONITOR, OTHER_AGENT, SUPERVISOR, order
from tests.support.worlds import World

from tminus.config import Agent
from tminus.domain import recurrence
from tminus.domain.errors import (  # fmt: skip
    Forbidden,
    InvalidRequest,
    KeyReused,
    SeriesEnded,
    StoreUnavailable,
    TooManySeries,
    UnknownSeries,
)
from tminus.domain.model import Series, Session
from tminus.domain.recurrence import CreateSeries, Recurrence, local_text, parse_local, parse_rule
from tminus.domain.types import Caller, OverlapPolicy, Role, Status
from tminus.scheduler import sources
from tminus.sessions import commands, series
from tminus.sessions.idempotency import KeyedRequest
from tminus.storage import Transaction
from tminus.storage import agents as known_agents
from tminus.storage import series as stored
from tminus.storage.tables import SERIES

DAY = timedelta(days=1)

NINE = "2030-01-08T09:00"
"""The first start. `NOW` is 2030-01-07, a Monday."""


@pytest.fixture
def agents(world: World) -> World:
    """A world whose configuration has the agent of the series."""
    agent = Agent(id=AGENT.agent_id, name="Ada", roles=frozenset({Role.AGENT}))
    world.settings = world.settings.model_copy(update={"agents": (agent,)})
    return world


def wanted(
    rule: str | None = "FREQ=DAILY", start: str = NINE, zone: str = "Europe/Berlin", **more: Any
) -> CreateSeries:
    horizon = more.pop("horizon", 3 * DAY)
    fields = {name: more.pop(name) for name in ("excluded", "added") if name in more}
    when = Recurrence(parse_local(start), zone, None if rule is None else parse_rule(rule), **fields)
    return CreateSeries(when, horizon, order(**more), {"type": "live"})


def create(world: World, request: CreateSeries, by: Caller = AGENT, keyed: KeyedRequest | None = None) -> Series:
    return world.run(lambda tx: series.create(tx, world.settings, by, request, keyed)).series


def change(world: World, one: Series, request: CreateSeries, by: Caller = AGENT, since: str | None = None) -> Series:
    local = None if since is None else parse_local(since)
    return world.run(lambda tx: series.change(tx, world.settings, by, one.id, request, local)).series


def end(world: World, one: Series, by: Caller = AGENT, since: str | None = None) -> Series:
    local = None if since is None else parse_local(since)
    return world.run(lambda tx: series.end(tx, world.settings, by, one.id, local))


def made(world: World, one: Series) -> dict[str, Session]:
    """Return the sessions of a series by their local starts."""
    rows = world.store.read(lambda view: stored.made(view, one.id, "", 10_000))
    return {row.local_start: world.stored(row.session_id) for row in rows}


def starts(world: World, one: Series) -> list[str]:
    """Return the starts of the sessions of a series that are scheduled, in UTC."""
    found = (session for session in made(world, one).values() if session.status is Status.SCHEDULED)
    return sorted(f"{session.start_time:%m-%d %H:%M}" for session in found if session.start_time)


def test_sessions_are_made_ahead_and_others_as_time_passes(agents: World) -> None:
    one = create(agents, wanted(label="Stand-up", reminders=(HOUR,)))

    assert starts(agents, one) == ["01-08 08:00", "01-09 08:00", "01-10 08:00"]
    assert {(session.label, session.reminders) for session in made(agents, one).values()} == {("Stand-up", '["1h"]')}
    next_due = agents.store.read(stored.next_due)
    assert next_due == datetime(2030, 1, 8, 8, tzinfo=UTC), "when the fourth occurrence comes within the horizon"
    swept = agents.passes(DAY)
    assert (swept.transitions["occurrence"], swept.worst_lag) == (
        1,
        agents.now - datetime(2030, 1, 8, 8, tzinfo=UTC) + HOUR,
    )
    assert starts(agents, one) == ["01-09 08:00", "01-10 08:00", "01-11 08:00"]


def test_a_session_that_is_made_within_the_lead_time_opens_without_lateness(agents: World) -> None:
    start = local_text((agents.now + timedelta(minutes=5)).astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None))
    one = create(agents, wanted(None, start))

    swept = agents.passes(timedelta(seconds=1))

    [session] = made(agents, one).values()
    assert session.status is Status.NEW
    assert swept.worst_lag == timedelta(seconds=1)


def test_sessions_and_reminders_that_are_due_come_before_the_occurrences_of_series(
    agents: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        create(agents, wanted())
    scheduled = agents.schedule(DAY + HOUR)
    opened_at_creation: list[bool] = []
    create_one = commands.create

    def create_and_look(tx: Transaction, *args: Any, **more: Any) -> Any:
        found = tx.session(scheduled.id)
        opened_at_creation.append(found is not None and found.status is Status.NEW)
        return create_one(tx, *args, **more)

    monkeypatch.setattr(commands, "create", create_and_look)
    agents.passes(DAY + HOUR)
    assert opened_at_creation == [True] * 3


def test_what_should_have_started_while_no_daemon_ran_is_not_made(agents: World) -> None:
    one = create(agents, wanted(horizon=DAY))
    agents.passes(10 * DAY)
    assert len(made(agents, one)) == 2
    assert starts(agents, one) == ["01-18 08:00"]


def test_many_sessions_are_made_in_several_transactions_and_once(agents: World) -> None:
    one = create(agents, wanted("FREQ=DAILY;BYHOUR=9,10,11,12,13;COUNT=300", horizon=60 * DAY))
    assert len(made(agents, one)) == series.AT_ONCE
    agents.advance()
    assert len(made(agents, one)) == 297, "the horizon ends on the last day, before its last three occurrences"
    agents.passes(DAY)
    assert len(made(agents, one)) == 300
    assert agents.store.read(stored.next_due) is None or not agents.passes(40 * DAY).transitions["occurrence"]


def test_an_excluded_day_with_several_sessions_costs_no_others(agents: World) -> None:
    """All sessions within the horizon are made, without one day of 30, and a repeated request adds none."""
    request = wanted(
        "FREQ=DAILY;BYHOUR=8,9,10", "2030-01-08T08:00", horizon=30 * DAY, excluded=frozenset({"2030-01-12"})
    )
    one = create(agents, request)
    agents.advance()
    assert len(starts(agents, one)) == 29 * 3
    change(agents, one, request)
    assert len(starts(agents, one)) == 29 * 3


def test_excluded_days_do_not_delay_the_sessions_after_them(agents: World) -> None:
    """After three excluded days, each session is made as soon as it is within the horizon."""
    days = frozenset({"2030-01-10", "2030-01-11", "2030-01-12"})
    one = create(agents, wanted("FREQ=DAILY;BYHOUR=9,15", horizon=DAY, excluded=days))
    for _ in range(8):
        agents.passes(DAY)
    assert [local[5:13] for local in made(agents, one)] == [
        f"01-{day:02}T{hour:02}" for day in (8, 9, 13, 14, 15, 16) for hour in (9, 15) if (day, hour) != (16, 15)
    ]


def test_two_starts_that_are_the_same_time_are_one_session(agents: World) -> None:
    """When clocks skip 02:30, it is 03:30: the series makes one session, which is not in its own way."""
    agents.clear(datetime(2030, 3, 30, 12, tzinfo=UTC))
    policy = agents.settings.policy.model_copy(update={"overlap": OverlapPolicy.REFUSE})
    agents.settings = agents.settings.model_copy(update={"policy": policy})
    request = wanted("FREQ=DAILY;BYHOUR=2,3;BYMINUTE=30", "2030-03-31T00:00", horizon=2 * DAY)

    one = create(agents, request)
    first = made(agents, one)
    assert starts(agents, one) == ["03-31 01:30", "04-01 00:30", "04-01 01:30"]
    change(agents, one, request)
    assert {local: session.id for local, session in made(agents, one).items()} == {
        local: session.id for local, session in first.items()
    }


@pytest.fixture
def after_the_gap(agents: World) -> tuple[World, Series]:
    """A series with two starts on a day, and the world five minutes after clocks were set ahead from 02:00 to 03:00.

    The start at 03:02 has passed; the one at 02:30, which becomes 03:30, has not.
    """
    agents.clear(datetime(2030, 3, 30, 12, tzinfo=UTC))
    lifecycle = agents.settings.lifecycle.model_copy(update={"lead": timedelta(minutes=1)})
    agents.settings = agents.settings.model_copy(update={"lifecycle": lifecycle})
    added = (parse_local("2030-03-31T03:02"),)
    one = create(agents, wanted("FREQ=DAILY", "2030-03-31T02:30", added=added, horizon=2 * DAY))
    agents.passes(hours=13, minutes=5)
    assert starts(agents, one) == ["03-31 01:30", "04-01 00:30", "04-02 00:30"]
    return agents, one


def test_the_end_of_a_series_cancels_a_session_whose_local_time_clocks_have_skipped(
    after_the_gap: tuple[World, Series],
) -> None:
    """Clocks show 03:05; the session of 02:30 is at 03:30, so it is still to come."""
    world, one = after_the_gap
    end(world, one)
    assert starts(world, one) == []


def test_a_new_series_makes_a_session_whose_local_time_clocks_have_skipped(
    after_the_gap: tuple[World, Series],
) -> None:
    """Clocks show 03:05; a start at 02:45 is at 03:45, so it is still to come; one at 02:04 is past."""
    world, _ = after_the_gap
    one = create(world, wanted("FREQ=DAILY;BYHOUR=2;BYMINUTE=4,45", "2030-03-31T00:00"))
    assert starts(world, one)[:2] == ["03-31 01:45", "04-01 00:04"]


@pytest.mark.parametrize(("start", "expected"), [("02:30", "01:30"), ("02:45", "01:45"), ("05:00", "03:00")])
def test_a_change_moves_a_session_whose_local_time_clocks_have_skipped(
    after_the_gap: tuple[World, Series], start: str, expected: str
) -> None:
    """Clocks show 03:05; the session of 02:30 keeps its id and moves, the one of 03:02 has passed and does not."""
    world, one = after_the_gap
    before = made(world, one)
    change(world, one, wanted("FREQ=DAILY", f"2030-03-31T{start}", horizon=2 * DAY))
    assert starts(world, one)[0] == f"03-31 {expected}"
    after = made(world, one)
    assert after[f"2030-03-31T{start}:00"].id == before["2030-03-31T02:30:00"].id
    passed = before["2030-03-31T03:02:00"]
    assert world.stored(passed).status is not Status.SCHEDULED
    assert world.stored(passed).start_time == passed.start_time


def test_a_change_leaves_a_session_of_the_hour_before_clocks_were_set_back(agents: World) -> None:
    """Clocks show 02:10 again; the session of 02:30 has started, so the day gets another one at its new time."""
    agents.clear(datetime(2030, 10, 26, 12, tzinfo=UTC))
    one = create(agents, wanted("FREQ=DAILY", "2030-10-27T02:30", horizon=2 * DAY))
    agents.passes(hours=13, minutes=10)
    change(agents, one, wanted("FREQ=DAILY", "2030-10-27T05:00", horizon=2 * DAY))
    assert starts(agents, one) == ["10-27 04:00", "10-28 04:00"]


def test_a_series_of_single_times_ends_with_the_last(agents: World) -> None:
    added = (parse_local("2030-01-09T10:00"),)
    one = create(agents, wanted(None, added=added, excluded=frozenset({"2030-01-10"})))
    assert starts(agents, one) == ["01-08 08:00", "01-09 09:00"]
    assert agents.store.read(stored.next_due) is None


def test_a_changed_time_moves_the_sessions_and_keeps_their_links(agents: World) -> None:
    one = create(agents, wanted())
    before = made(agents, one)
    moved, cancelled, untouched = before.values()
    agents.reschedule(moved, moved.start_time + 3 * HOUR)  # type: ignore[operator,arg-type]
    agents.close(cancelled)

    changed = change(agents, one, wanted(start="2030-01-08T10:00"))

    assert (changed.id, changed.version) == (one.id, one.version + 1)
    after = made(agents, one)
    assert list(after) == [f"2030-01-{day:02}T10:00:00" for day in (8, 9, 10)]
    assert [session.id for session in after.values()] == [session.id for session in before.values()]
    assert starts(agents, one) == ["01-08 11:00", "01-10 09:00"], "the first was moved, the second cancelled"
    assert agents.stored(untouched).user_url == untouched.user_url
    agents.passes(2 * DAY)
    assert starts(agents, one)[-1] == "01-12 09:00", "later sessions have the new time"


def test_a_changed_day_cancels_what_is_left_out_and_makes_what_is_new(agents: World) -> None:
    one = create(agents, wanted("FREQ=WEEKLY;BYDAY=TU,TH", horizon=7 * DAY))
    tuesday, thursday = made(agents, one).values()

    change(agents, one, wanted("FREQ=WEEKLY;BYDAY=TH,FR", horizon=7 * DAY))

    assert agents.stored(tuesday).status is Status.CLOSED
    assert made(agents, one)["2030-01-10T09:00:00"].id == thursday.id
    assert starts(agents, one) == ["01-10 08:00", "01-11 08:00"]


def test_what_is_in_the_sessions_can_be_changed(agents: World) -> None:
    one = create(agents, wanted(label="Old"))
    change(agents, one, wanted(label="New"))
    assert [session.label for session in made(agents, one).values()] == ["New"] * 3
    assert len(starts(agents, one)) == 3


def test_a_change_from_here_on_leaves_what_is_before(agents: World) -> None:
    one = create(agents, wanted())
    before = made(agents, one)

    other = change(agents, one, wanted(start="2030-01-08T14:00"), since="2030-01-09T00:00")

    assert (other.follows, other.id != one.id) == (one.id, True)
    assert starts(agents, one) == ["01-08 08:00"]
    assert starts(agents, other) == ["01-09 13:00", "01-10 13:00"]
    assert {session.id for session in made(agents, other).values()} <= {session.id for session in before.values()}
    agents.passes(3 * DAY)
    assert not starts(agents, one)
    assert starts(agents, other) == ["01-11 13:00", "01-12 13:00"] or len(starts(agents, other)) == 3


def test_a_change_from_here_on_counts_as_another_series(agents: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MAX_SERIES", 2)
    one, again = create(agents, wanted()), wanted(label="new")
    following = change(agents, one, again, since="2030-01-09T00:00")
    with pytest.raises(TooManySeries):
        change(agents, following, wanted(label="newest"), since="2030-01-10T00:00")
    assert change(agents, one, again, since="2030-01-09T00:00").id == following.id
    assert change(agents, following, wanted(label="newest")).id == following.id


def test_a_change_from_here_on_that_is_sent_again_does_nothing(agents: World) -> None:
    one = create(agents, wanted())
    request = wanted(start="2030-01-08T14:00")
    other = change(agents, one, request, since="2030-01-09T00:00")
    assert change(agents, one, request, since="2030-01-09T00:00").id == other.id
    with pytest.raises(SeriesEnded):
        change(agents, one, wanted(), since="2030-01-10T00:00")
    third = change(agents, other, wanted(start="2030-01-09T09:00"), since="2030-01-01T00:00")
    agents.clock.passes(seconds=1)
    assert change(agents, other, wanted(start="2030-01-09T09:00"), since="2030-01-01T00:00").id == third.id, (
        "also if `since` is in the past"
    )
    assert len(agents.all_sessions()) == 3


def test_a_change_does_not_make_a_series_go_on_beyond_its_end(agents: World) -> None:
    one = create(agents, wanted())
    other = change(agents, one, wanted(start="2030-01-08T14:00"), since="2030-01-09T00:00")
    changed = change(agents, one, wanted(start="2030-01-08T10:00"))
    assert starts(agents, changed) == ["01-08 09:00"]
    agents.passes(timedelta(hours=1))
    assert starts(agents, other) == ["01-09 13:00", "01-10 13:00"]
    assert len(agents.all_sessions()) == 3


def ends(one: Series) -> str | None:
    found: str | None = orjson.loads(one.definition)["ends"]
    return found


def test_a_series_that_is_divided_twice_has_no_day_twice(agents: World) -> None:
    """The second division is the earlier one: what it creates goes on until the first one."""
    one = create(agents, wanted(horizon=9 * DAY))
    later = change(agents, one, wanted(start="2030-01-08T14:00", horizon=9 * DAY), since="2030-01-14T00:00")
    earlier = change(agents, one, wanted(start="2030-01-08T10:00", horizon=9 * DAY), since="2030-01-11T00:00")
    assert (ends(earlier), ends(later)) == ("2030-01-14T00:00:00", None)
    agents.passes(DAY)
    assert starts(agents, one) == ["01-09 08:00", "01-10 08:00"]
    assert starts(agents, earlier) == ["01-11 09:00", "01-12 09:00", "01-13 09:00"]
    assert starts(agents, later) == ["01-14 13:00", "01-15 13:00", "01-16 13:00"]


def test_each_division_of_a_series_that_is_sent_again_returns_what_it_created(agents: World) -> None:
    """Also if both have the same contents, and if what was created has been divided or got an end since."""
    one, request = create(agents, wanted(horizon=9 * DAY)), wanted(start="2030-01-08T14:00", horizon=9 * DAY)
    days = [f"2030-01-{day}T00:00" for day in (15, 14, 13, 12, 11, 10)]
    found = {day: change(agents, one, request, since=day).id for day in days}
    assert len(set(found.values())) == len(days)
    for day in days:
        assert change(agents, one, request, since=day).id == found[day]
    first = agents.store.read(lambda view: stored.find(view, found[days[0]]))
    assert first is not None
    end(agents, first, since="2030-01-16T00:00")
    assert change(agents, one, request, since=days[0]).id == first.id
    with pytest.raises(SeriesEnded):
        change(agents, one, request, since="2030-01-12T12:00")
    end(agents, first)
    with pytest.raises(SeriesEnded):
        change(agents, one, request, since=days[0])


def test_a_series_of_an_earlier_version_that_continues_another_one_is_found_again(agents: World) -> None:
    one, request = create(agents, wanted()), wanted(start="2030-01-08T14:00")
    other = change(agents, one, request, since="2030-01-09T00:00")
    then = {name: value for name, value in orjson.loads(other.definition).items() if name != "begins"}
    other.definition = orjson.dumps(then).decode()
    agents.run(lambda tx: stored.change(tx, other))
    assert change(agents, one, request, since="2030-01-09T00:00").id == other.id
    assert starts(agents, change(agents, other, wanted(), since="2030-01-10T00:00")) == ["01-10 08:00"]


def test_a_series_that_continues_another_one_gets_no_session_before_its_beginning(agents: World) -> None:
    one = create(agents, wanted())
    other = change(agents, one, wanted(start="2030-01-08T14:00"), since="2030-01-10T00:00")
    change(agents, other, wanted(start="2030-01-08T15:00"))
    assert (starts(agents, one), starts(agents, other)) == (["01-08 08:00", "01-09 08:00"], ["01-10 14:00"])
    request = wanted(start="2030-01-08T16:00")
    third = change(agents, other, request, since="2030-01-08T00:00")
    assert change(agents, other, request, since="2030-01-08T00:00").id == third.id
    agents.passes(hours=1)
    assert starts(agents, one) == ["01-08 08:00", "01-09 08:00"]
    assert (starts(agents, other), starts(agents, third)) == ([], ["01-10 15:00"])


def test_a_change_from_a_start_on_that_is_beyond_the_horizon_makes_the_session_of_this_start(agents: World) -> None:
    one = create(agents, wanted())
    other = change(agents, one, wanted(label="New"), since="2030-01-14T09:00")
    for _ in range(6):
        agents.passes(DAY)
    assert [*made(agents, one)][-1] == "2030-01-13T09:00:00"
    assert next(iter(made(agents, other))) == "2030-01-14T09:00:00"


@pytest.mark.parametrize("rule", ["FREQ=DAILY", "FREQ=DAILY;COUNT=30", "FREQ=DAILY;UNTIL=20300201"])
def test_a_change_from_here_on_does_not_revive_what_has_an_end(agents: World, rule: str) -> None:
    one = create(agents, wanted(horizon=9 * DAY))
    end(agents, one, since="2030-01-13T00:00")
    for since in ("2030-01-13T00:00", "2030-01-14T00:00"):
        with pytest.raises(SeriesEnded):
            change(agents, one, wanted(rule, "2030-01-08T10:00", horizon=9 * DAY), since=since)
    added = (parse_local("2030-01-20T09:00"),)
    other = change(
        agents, one, wanted(rule, "2030-01-08T10:00", horizon=9 * DAY, added=added), since="2030-01-11T00:00"
    )
    assert ends(other) == "2030-01-13T00:00:00"
    agents.passes(2 * DAY)
    assert starts(agents, one) == ["01-10 08:00"]
    assert starts(agents, other) == ["01-11 09:00", "01-12 09:00"]
    shorter = change(agents, other, wanted("FREQ=DAILY;COUNT=3", "2030-01-09T11:00"), since="2030-01-11T00:00")
    assert starts(agents, shorter) == ["01-11 10:00"], "the rule's own end stays in force if it is earlier"


@pytest.mark.parametrize("label", ["Same", "Another"])
@pytest.mark.parametrize("minute", [-15, 30])
def test_sessions_of_a_series_are_not_in_each_others_way_when_they_move(agents: World, minute: int, label: str) -> None:
    policy = agents.settings.policy.model_copy(update={"overlap": OverlapPolicy.REFUSE})
    agents.settings = agents.settings.model_copy(update={"policy": policy})
    one = create(agents, wanted("FREQ=DAILY;COUNT=6;BYHOUR=9,10,11", label="Same"))
    assert len(starts(agents, one)) == 6
    hours = "9,10,11" if minute > 0 else "8,9,10"
    change(
        agents,
        one,
        wanted(f"FREQ=DAILY;COUNT=6;BYHOUR={hours};BYMINUTE={minute % 60}", "2030-01-08T08:00", label=label),
    )
    assert starts(agents, one)[:3] == (
        [f"01-08 {hour:02}:{minute % 60}" for hour in (8, 9, 10)]
        if minute > 0
        else [f"01-08 {hour:02}:45" for hour in (7, 8, 9)]
    )
    assert len(agents.all_sessions()) == (6 if label == "Same" else 12)


def test_a_session_names_its_series_and_its_start_by_it(agents: World) -> None:
    one = create(agents, wanted())
    moved, *_ = made(agents, one).values()
    assert (moved.series_id, moved.series_start) == (one.id, "2030-01-08T09:00:00")
    agents.reschedule(moved, moved.start_time + HOUR)  # type: ignore[operator,arg-type]
    change(agents, one, wanted(start="2030-01-08T10:00"))
    other = change(agents, one, wanted(start="2030-01-08T14:00"), since="2030-01-09T00:00")
    for series_ in (one, other):
        named = {session.series_start: session.series_id for session in made(agents, series_).values()}
        assert named == dict.fromkeys(made(agents, series_), series_.id)
    assert agents.stored(moved).series_start == "2030-01-08T10:00:00"
    assert agents.create().series_id is None


def test_an_ended_series_has_no_sessions_any_more(agents: World) -> None:
    one = create(agents, wanted())
    ended = end(agents, one)
    assert (ended.ended_at, ended.next_at) == (agents.now, None)
    assert not starts(agents, one)
    assert end(agents, one).version == ended.version, "a second end changes nothing"
    with pytest.raises(SeriesEnded):
        change(agents, one, wanted())
    assert not agents.passes(10 * DAY).transitions["occurrence"]


def test_a_series_can_end_from_a_time_on(agents: World) -> None:
    one = create(agents, wanted())
    end(agents, one, since="2030-01-10T00:00")
    assert starts(agents, one) == ["01-08 08:00", "01-09 08:00"]
    agents.passes(DAY)
    assert starts(agents, one) == ["01-09 08:00"]


def test_the_same_key_creates_one_series(agents: World) -> None:
    key = KeyedRequest("k", "0" * 64)
    one = create(agents, wanted(), keyed=key)
    assert create(agents, wanted(), keyed=key).id == one.id
    with pytest.raises(KeyReused, match=f"created series {one.id}"):
        create(agents, wanted(), keyed=KeyedRequest("k", "1" * 64))
    assert len(agents.all_sessions()) == 3


def test_who_may_do_what(agents: World) -> None:
    one = create(agents, wanted())
    with pytest.raises(Forbidden):
        create(agents, wanted(), by=MONITOR)
    with pytest.raises(Forbidden):
        change(agents, one, wanted(), by=SUPERVISOR)
    with pytest.raises(Forbidden):
        end(agents, one, by=OTHER_AGENT)
    with pytest.raises(Forbidden):
        agents.store.read(lambda view: series.load(view, MONITOR, one.id))
    with pytest.raises(UnknownSeries):
        agents.store.read(lambda view: series.load(view, AGENT, "none"))
    changed = change(agents, one, wanted(label="By the admin"), by=GROUP_ADMIN)
    assert {session.agent_id for session in made(agents, changed).values()} == {AGENT.agent_id}
    end(agents, one, by=SUPERVISOR)


def test_a_series_that_began_long_ago_is_refused(agents: World) -> None:
    with pytest.raises(InvalidRequest):
        create(agents, wanted(start="2019-12-01T09:00"))


def test_no_sessions_are_made_for_an_agent_who_is_gone_until_there_is_one_again(agents: World) -> None:
    one = create(agents, wanted())
    configured = agents.settings
    agents.settings = factories.settings()
    agents.passes(2 * DAY)
    assert len(made(agents, one)) == 3
    agents.settings = configured
    agents.passes(series.RETRY)
    assert len(made(agents, one)) == 5


@pytest.fixture(params=["shut out", "removed", "another role"])
def may_act(request: pytest.FixtureRequest, agents: World) -> Callable[[bool], None]:
    """Sets whether the agent of the series may act."""
    configured = agents.settings
    visitor = Agent(id=AGENT.agent_id, name="Ada", roles=frozenset({Role.MONITOR}))

    def set_whether(allowed: bool) -> None:
        if request.param == "shut out":
            command = known_agents.readmit if allowed else known_agents.shut_out
            agents.run(lambda tx: command(tx, AGENT.agent_id))
        else:
            others = () if request.param == "removed" else (visitor,)
            agents.settings = configured if allowed else configured.model_copy(update={"agents": others})

    return set_whether


@pytest.mark.parametrize("since", [None, "2030-01-09T00:00"])
def test_what_an_admin_changes_stays_with_an_agent_who_may_not_act(
    agents: World, may_act: Callable[[bool], None], lines: list[tuple[str, dict[str, Any]]], since: str | None
) -> None:
    """While the agent may not act, no session is made. Afterwards each day has one, except those changed alone."""
    one = create(agents, wanted(horizon=6 * DAY))
    _, _, moved, cancelled, _, _ = made(agents, one).values()
    agents.reschedule(moved, moved.start_time + 3 * HOUR)  # type: ignore[operator,arg-type]
    agents.close(cancelled)
    may_act(False)
    request = wanted(label="New", start="2030-01-08T10:00", horizon=6 * DAY)
    changed = change(agents, one, request, by=GROUP_ADMIN, since=since)
    for _ in range(2):
        agents.advance()
    assert changed.agent_id == AGENT.agent_id
    assert starts(agents, changed) == ["01-10 11:00"]
    assert len(agents.all_sessions()) == 6
    assert [fields["series"] for name, fields in lines if name == "series.failed"] == [changed.id]
    if since is not None:
        assert change(agents, one, request, by=GROUP_ADMIN, since=since).id == changed.id

    may_act(True)
    agents.passes(series.RETRY)
    days = ["01-09 09:00", "01-10 11:00", "01-12 09:00", "01-13 09:00"]
    assert starts(agents, changed) == (["01-08 09:00", *days] if since is None else days)
    assert {session.agent_id for session in agents.all_sessions().values()} == {AGENT.agent_id}
    assert [session.label for session in made(agents, changed).values()].count("New") == len(days) - (since is not None)
    agents.passes(DAY + 6 * HOUR)
    assert starts(agents, changed)[-1] == "01-14 09:00"
    again = change(agents, changed, wanted(label="Newer", start="2030-01-08T11:00"))
    assert starts(agents, again)[:3] == ["01-09 10:00", "01-10 11:00", "01-12 10:00"]
    assert not end(agents, again).next_at
    assert not starts(agents, again)


def test_an_admin_moves_and_cancels_the_sessions_of_an_agent_who_may_not_act(
    agents: World, may_act: Callable[[bool], None], lines: list[tuple[str, dict[str, Any]]]
) -> None:
    one = create(agents, wanted())
    before = [session.id for session in made(agents, one).values()]
    may_act(False)
    change(agents, one, wanted(start="2030-01-09T10:00"), by=GROUP_ADMIN)
    assert starts(agents, one) == ["01-09 09:00", "01-10 09:00"]
    assert [session.id for session in made(agents, one).values()] == before[1:]
    agents.advance()
    assert not lines, "there is nothing to make yet"
    change(agents, one, wanted(start="2030-01-08T10:00"), by=GROUP_ADMIN)
    may_act(True)
    agents.advance()
    assert starts(agents, one) == ["01-08 09:00", "01-09 09:00", "01-10 09:00"]
    assert [session.agent_id for session in agents.all_sessions().values()] == [AGENT.agent_id] * 4


def test_a_series_whose_time_zone_is_gone_holds_up_no_other_deadline(
    agents: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = create(agents, wanted()), create(agents, wanted(zone="UTC"))
    original_zone = recurrence.zone

    def zone(name: str) -> ZoneInfo:
        if name == "Europe/Berlin":
            raise ZoneInfoNotFoundError(name)
        return original_zone(name)

    monkeypatch.setattr(recurrence, "zone", zone)
    opens = agents.schedule(2 * DAY)
    agents.passes(2 * DAY)
    assert agents.stored(opens).status is Status.NEW
    assert (len(made(agents, one)), len(made(agents, other))) == (3, 5)
    assert series.local_now(one, agents.now) == local_text(agents.now.replace(tzinfo=None))
    changed = change(agents, one, wanted(start="2030-01-08T08:30", zone="UTC"))
    assert starts(agents, changed) == ["01-10 08:30", "01-11 08:30", "01-12 08:30"]
    end(agents, create(agents, wanted(zone="UTC")))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The log lines of series, as pairs of a name and its fields."""
    found: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(series, "log", lambda name, **fields: found.append((name, fields)))
    return found


def test_an_unexpected_error_stops_only_its_series_and_leaves_nothing_behind(
    agents: World, monkeypatch: pytest.MonkeyPatch, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    """One of two series fails at its second session of three. Its first one is not stored either."""
    one, other = create(agents, wanted(label="One")), create(agents, wanted(label="Other"))
    opens = agents.schedule(3 * DAY)
    original = series._make_one

    def fail(*arguments: Any) -> Any:
        if arguments[3].id == one.id and f"{arguments[4]:%d}" == "12":
            raise IndexError("list index out of range")
        return original(*arguments)

    monkeypatch.setattr(series, "_make_one", fail)
    swept = agents.passes(3 * DAY)
    assert agents.stored(opens).status is Status.NEW
    assert (len(made(agents, one)), len(made(agents, other))) == (3, 6)
    assert (swept.transitions["series"], swept.transitions["occurrence"]) == (2, 3)
    sessions = {session.id for session in agents.all_sessions().values() if session.label == "One"}
    assert sessions == {session.id for session in made(agents, one).values()}
    assert {event.event.session_id for event in agents.events()} <= agents.all_sessions().keys()
    [(name, fields)] = lines
    assert (name, fields["series"], fields["label"]) == ("series.failed", one.id, "One")
    assert fields["error"] == "IndexError: list index out of range"
    assert fields["traceback"].startswith("fail (")

    monkeypatch.setattr(series, "_make_one", original)
    agents.advance()
    assert len(made(agents, one)) == 3, "the next attempt is later"
    agents.passes(series.RETRY)
    assert len(made(agents, one)) == 6


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [
        ("definition", "FREQ=DAILY", "FREQ=HOURLY"), ("definition", "2030-01-08T09:00", "soon"),
        ("definition", '"rdates":[]', '"rdates":[1]'), ("template", '"live"', '"none"'), ("caller", "{", "["),
    ],
)  # fmt: skip
def test_a_stored_series_that_cannot_be_computed_is_reported_and_can_be_changed_and_ended(
    agents: World, lines: list[tuple[str, dict[str, Any]]], column: str, old: str, new: str
) -> None:
    one, other, ended = (create(agents, wanted()) for _ in range(3))
    text = getattr(one, column)
    assert old in text
    broken = update(SERIES).where(SERIES.c.id.in_([one.id, ended.id])).values({column: text.replace(old, new)})
    agents.run(lambda tx: tx.execute(broken))
    agents.passes(DAY)
    agents.passes(DAY)
    failed = [(fields["series"], "traceback" in fields) for name, fields in lines if name == "series.failed"]
    assert sorted(failed) == sorted([(one.id, True), (ended.id, True)] * 2)
    assert len(made(agents, other)) == 5
    assert end(agents, ended).ended_at == agents.now
    assert not starts(agents, ended)
    assert starts(agents, change(agents, one, wanted(start="2030-01-08T10:00")))[-1] == "01-12 09:00"


def test_a_stored_number_that_no_month_has_makes_no_sessions(agents: World) -> None:
    """An earlier version accepted such rules. Its series are not in the way of anything."""
    one = create(agents, wanted("FREQ=MONTHLY;INTERVAL=10"))
    definition = one.definition.replace("INTERVAL=10", "INTERVAL=10;BYDAY=53MO,-53TU")
    agents.run(lambda tx: stored.change(tx, one.model_copy(update={"definition": definition, "next_at": tx.now})))
    assert agents.advance().transitions["series"] == 1
    assert agents.store.read(stored.next_due) == agents.now + series.LOOK_AGAIN
    assert starts(agents, change(agents, one, wanted())) == ["01-08 08:00", "01-09 08:00", "01-10 08:00"]


def test_an_error_of_the_database_is_not_taken_for_one_of_a_series(
    agents: World, monkeypatch: pytest.MonkeyPatch, lines: list[tuple[str, dict[str, Any]]]
) -> None:
    create(agents, wanted())

    def unavailable(*_arguments: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(stored, "add_occurrences", unavailable)
    with pytest.raises(StoreUnavailable):
        agents.passes(DAY)
    monkeypatch.undo()
    agents.advance()
    assert not [name for name, _ in lines if name == "series.failed"]


def test_after_a_change_of_the_time_zone_database_a_repeated_request_moves_what_was_made(
    agents: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = create(agents, wanted())
    before = {session.id for session in made(agents, one).values()}
    monkeypatch.setattr(recurrence, "zone", lambda _name: ZoneInfo("Etc/GMT-2"))  # summer time all year
    change(agents, one, wanted())
    assert starts(agents, one) == ["01-08 07:00", "01-09 07:00", "01-10 07:00"]
    assert {session.id for session in made(agents, one).values()} == before
    agents.passes(DAY)
    assert starts(agents, one)[-1] == "01-11 07:00"


def test_what_was_made_before_one_is_refused_stays(agents: World) -> None:
    one = create(agents, wanted(horizon=DAY))
    limits = agents.settings.limits.model_copy(update={"sessions_per_agent": 3})
    configured = agents.settings
    agents.settings = configured.model_copy(update={"limits": limits})
    change(agents, one, wanted(horizon=DAY))
    agents.run(
        lambda tx: stored.change(
            tx, one.model_copy(update={"definition": one.definition.replace("1d", "9d"), "next_at": tx.now})
        )
    )
    agents.advance()
    assert len(made(agents, one)) == 3
    agents.settings = configured
    agents.passes(series.RETRY)
    assert len(made(agents, one)) == 9
    assert len(agents.all_sessions()) == 9, "none was made twice"


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Africa/Casablanca")
STEPS = st.one_of(
    st.tuples(st.just("passes"), st.integers(1, 20)),
    st.tuples(st.just("move"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("change"), st.integers(0, 23)),
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=6), zone=st.sampled_from(ZONES), begun=st.sampled_from([NOW, NOW + 70 * DAY]))
@example([("passes", 1), ("move", 0), ("passes", 3), ("change", 11)], "Europe/Berlin", NOW)
def test_whatever_happens_there_is_one_session_a_day_but_for_those_that_were_changed_alone(
    agents: World, steps: list[tuple[str, int]], zone: str, begun: datetime
) -> None:
    agents.clear(begun)
    first = begun.date() + DAY
    hour = 9
    one = create(agents, wanted(start=f"{first}T09:00", zone=zone, horizon=5 * DAY))
    edited: Mapping[str, datetime | None] = {}
    for step, number in steps:
        soon = agents.now + HOUR
        unchanged = [
            (local, session) for local, session in made(agents, one).items()
            if session.status is Status.SCHEDULED and (session.start_time or soon) > soon and local[:10] not in edited
        ]  # fmt: skip
        if step == "passes":
            agents.passes(number * 6 * HOUR)
        elif step == "change":
            # A past occurrence is not changed, and the new rule may have another occurrence on the same day.
            now = local_text(series._Plan(one).local(agents.now))
            to_come = {local[:10] for local in made(agents, one) if local > now}
            edited = {day: start for day, start in edited.items() if day in to_come}
            hour = number
            change(agents, one, wanted(start=f"{first}T{hour:02}:00", zone=zone, horizon=5 * DAY))
        elif unchanged:
            local, session = unchanged[number % len(unchanged)]
            if step == "cancel":
                agents.close(session)
                edited = {**edited, local[:10]: None}
            else:
                start = agents.now + HOUR + number * timedelta(minutes=1) + timedelta(seconds=7)
                agents.reschedule(session, start)
                edited = {**edited, local[:10]: start}

    now = local_text(series._Plan(one).local(agents.now))
    coming = {local: session for local, session in made(agents, one).items() if local > now}
    days = [local[:10] for local in coming]
    assert len(days) == len(set(days))
    for local, session in coming.items():
        expected = series._Plan(one).instant(parse_local(local))
        if local[:10] in edited:
            given = edited[local[:10]]
            assert (session.status is Status.CLOSED) if given is None else (session.start_time == given)
        elif session.status is Status.SCHEDULED:
            assert session.start_time == expected
            assert local[11:] == f"{hour:02}:00:00"
    assert agents.store.read(sources.next_due) is not None
