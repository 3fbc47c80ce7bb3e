"""Reminders of the sessions of series: through changes of clocks, over the leap day and the ends of months."""

from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.integration.sessions.test_series import create, wanted
from tests.support.factories import AGENT, HOUR, MINUTE
from tests.support.moments import KINDS, ZONES, near
from tests.support.worlds import World

from tminus.config import Agent
from tminus.domain.recurrence import local_text
from tminus.domain.types import EventType, Role
from tminus.scheduler import sources

DAY = timedelta(days=1)

SPANS = {"2d": 2 * DAY, "1d": DAY, "6h": 6 * HOUR, "15m": 15 * MINUTE, "5m": 5 * MINUTE}
"""How long before the start people are reminded. The default lead time is 10 minutes: 5m is after the opening."""

HORIZON = 9 * DAY


@pytest.fixture
def agents(world: World) -> World:
    """A world whose configuration has the agent of the series."""
    agent = Agent(id=AGENT.agent_id, name="Ada", roles=frozenset({Role.AGENT}))
    world.settings = world.settings.model_copy(update={"agents": (agent,)})
    return world


class Sent(NamedTuple):
    """A reminder that was sent."""

    at: datetime
    start: datetime
    before: str


def sent(world: World, after: int = 0) -> list[Sent]:
    """Return the reminders that were sent on time, in order. Fails if one was late or skipped."""
    found = []
    for entry in world.events():
        event = entry.event
        assert event.type is not EventType.REMINDER_SKIPPED
        if event.seq > after and event.type is EventType.REMINDER:
            assert event.start_time is not None
            assert entry.before is not None
            assert event.due_at == event.ts
            found.append(Sent(event.ts, event.start_time, entry.before))
    return found


def run(world: World, until: datetime) -> None:
    """Let time pass as in a daemon that sleeps until something is due."""
    for _ in range(700):
        due = world.store.read(sources.next_due)
        if due is None or due > until:
            break
        world.clock.time = max(due, world.now)
        world.advance()
    else:
        pytest.fail("the scheduler has no end")
    world.clock.time = until


@pytest.mark.parametrize(
    ("zone", "start", "span", "reminded"),
    [
        ("Europe/Berlin", "2028-03-26T09:00", "1d", "2028-03-25T08:00"),
        ("Europe/Berlin", "2028-10-29T09:00", "1d", "2028-10-28T10:00"),
        ("Europe/Berlin", "2028-03-26T02:30", "15m", "2028-03-26T03:15"),
        ("Europe/Berlin", "2028-03-26T03:10", "15m", "2028-03-26T01:55"),
        ("Australia/Lord_Howe", "2028-10-01T09:00", "1d", "2028-09-30T08:30"),
        ("Antarctica/Troll", "2028-03-26T09:00", "1d", "2028-03-25T07:00"),
        ("America/New_York", "2028-03-01T09:00", "1d", "2028-02-29T09:00"),
        ("America/St_Johns", "2028-02-29T00:10", "15m", "2028-02-28T23:55"),
        ("Pacific/Chatham", "2028-01-01T00:00", "2d", "2027-12-30T00:00"),
    ],
)
def test_a_day_before_the_start_is_24_hours(agents: World, zone: str, start: str, span: str, reminded: str) -> None:
    """So the local time of the reminder differs from that of the start if clocks change in between."""
    agents.clear(datetime.fromisoformat(start).replace(tzinfo=UTC) - 4 * DAY)
    create(agents, wanted(None, start, zone, horizon=HORIZON, reminders=(SPANS[span],)))
    run(agents, agents.now + 6 * DAY)
    assert [f"{one.at.astimezone(ZoneInfo(zone)):%Y-%m-%dT%H:%M}" for one in sent(agents)] == [reminded]


# --- a plain model ----------------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """A series of the model."""

    zone: str
    rule: str
    first: datetime
    """The local time at which it begins."""
    spans: list[str]

    def starts(self) -> list[datetime]:
        """Return the starts of its first sessions: the local time stays the same, whatever clocks do.

        Of a time that occurs twice, the first is meant. A skipped one is later by as much as clocks are set ahead.
        """
        local = islice(RULES[self.rule](self.first), 3)
        return [one.replace(tzinfo=ZoneInfo(self.zone), fold=0).astimezone(UTC) for one in local]


def each_day(first: datetime) -> Iterator[datetime]:
    return (first + number * DAY for number in count())


def each_month(first: datetime) -> Iterator[datetime]:
    """Yield this day of each month that has it."""
    for year, month in months(first):
        if first.day <= monthrange(year, month)[1]:
            yield first.replace(year=year, month=month)


def each_end_of_month(first: datetime) -> Iterator[datetime]:
    return (first.replace(year=year, month=month, day=monthrange(year, month)[1]) for year, month in months(first))


def months(first: datetime) -> Iterator[tuple[int, int]]:
    return ((first.year + number // 12, number % 12 + 1) for number in count(first.month - 1))


RULES = {
    "FREQ=DAILY;COUNT=3": each_day,
    "FREQ=MONTHLY;COUNT=3": each_month,
    "FREQ=MONTHLY;BYMONTHDAY=-1;COUNT=3": each_end_of_month,
}


@st.composite
def one_in_each_zone(draw: st.DrawFn, kind: str) -> list[Planned]:
    """Draw a series for each zone, which begins near a moment of this kind."""
    spans = st.lists(st.sampled_from(sorted(SPANS)), min_size=1, max_size=2, unique=True)
    found = []
    for zone in ZONES:
        first = draw(near(zone, kind)) - draw(st.integers(0, 2)) * DAY
        found.append(Planned(zone, draw(st.sampled_from(sorted(RULES))), first, draw(spans)))
    return found


# No example is made smaller, because that would take minutes.
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), ahead=st.sampled_from([HOUR, 30 * HOUR, 3 * DAY, 20 * DAY]))
@settings(
    max_examples=2, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_reminders_of_series_are_those_of_a_plain_model_in_every_zone(
    agents: World, kind: str, data: st.DataObject, ahead: timedelta
) -> None:
    planned = data.draw(one_in_each_zone(kind))
    starts = {number: one.starts() for number, one in enumerate(planned)}
    begun = min(found[0] for found in starts.values()) - ahead
    agents.clear(begun)
    before = agents.store.read(lambda view: view.last_seq())
    for zone, rule, first, spans in planned:
        reminders = tuple(SPANS[span] for span in spans)
        create(agents, wanted(rule, local_text(first), zone, horizon=HORIZON, reminders=reminders))
    run(agents, max(found[-1] for found in starts.values()))

    expected = [
        Sent(start - SPANS[span], start, span)
        for number, one in enumerate(planned) for start in starts[number] for span in one.spans
        if start - SPANS[span] > begun
    ]  # fmt: skip
    found = sent(agents, before)
    assert sorted(set(expected) ^ set(found)) == []
    assert len(found) == len(expected)
