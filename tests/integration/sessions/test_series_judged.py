"""Reminders and busy times of series compared with `recurring_ical_events`, which computes when the sessions start."""

from datetime import datetime, timedelta

from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from tests.integration.sessions.test_series import create, wanted
from tests.support.factories import AGENT, HOUR, MINUTE
from tests.support.moments import KINDS, ZONES, near
from tests.support.worlds import World
from tests.unit.domain import test_recurrence_judged as judged

from tminus.config import Agent
from tminus.domain.intervals import Interval
from tminus.domain.recurrence import MAX_IN_MONTH, Recurrence, instant, local_text, parse_stored_rule
from tminus.domain.types import REMINDER_EVENTS, Role
from tminus.sessions import queries

pytestmark = judged.pytestmark
oracle = judged.oracle

DAY = timedelta(days=1)


def touching(starts: list[datetime], length: timedelta) -> list[Interval]:
    """Return the intervals that begin at these sorted starts. Those that overlap or touch are one."""
    found: list[Interval] = []
    for start in starts:
        begins = start
        if found and found[-1].end >= start:
            begins = found.pop().start
        found.append(Interval(begins, start + length))
    return found


@given(
    rule=judged.rules(), near_to=st.tuples(st.sampled_from(ZONES), st.sampled_from(KINDS)), data=st.data(),
    spans=st.sets(st.sampled_from([7 * DAY, DAY, 6 * HOUR, 15 * MINUTE]), min_size=1, max_size=3),
    length=st.integers(1, 36).map(lambda number: number * 15 * MINUTE),
)  # fmt: skip
@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_series_has_the_reminders_and_busy_times_of_the_occurrences_that_another_library_finds(
    world: World, oracle: judged.Oracle, rule: str, near_to: tuple[str, str], data: st.DataObject,
    spans: set[timedelta], length: timedelta,
) -> None:  # fmt: skip
    zone, kind = near_to
    begin = data.draw(near(zone, kind))
    parsed = parse_stored_rule(rule)
    assume(not parsed.is_of_months or all(abs(number) <= MAX_IN_MONTH for _, number in parsed.days))
    # The other library always counts DTSTART as an occurrence.
    firsts = Recurrence(begin, zone, parsed).between(begin - DAY, begin + 400 * DAY, 1)
    assume(firsts)
    start = instant(firsts[0], zone)
    begun = start - 2 * DAY
    until = start + 40 * DAY
    calendar = judged.calendar(firsts[0], zone, rule, [], [])
    starts = [one for one in oracle(calendar, start - HOUR, until + 9 * DAY) if one < until + 8 * DAY]

    agent = Agent(id=AGENT.agent_id, name="Ada", roles=frozenset({Role.AGENT}))
    world.settings = world.settings.model_copy(update={"agents": (agent,)})
    world.clear(begun)
    before = world.store.read(lambda view: view.last_seq())
    create(world, wanted(rule, local_text(firsts[0]), zone, horizon=60 * DAY, reminders=tuple(spans)))
    world.advance()
    busy = world.store.read(
        lambda view: queries.busy_times(view, AGENT.agent_id, begun, until + 8 * DAY, length, world.now)
    )
    assert busy == [Interval(one.start, min(one.end, until + 8 * DAY)) for one in touching(starts, length)]

    world.passes(until - begun)
    found = sorted(
        (entry.event.due_at, entry.event.start_time)
        for entry in world.events()
        if entry.event.seq > before and entry.event.type in REMINDER_EVENTS
    )
    assert found == sorted((one - span, one) for one in starts for span in spans if begun < one - span <= until)
