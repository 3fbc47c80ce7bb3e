"""Several sources of deadlines: the scheduler processes each deadline once, in order, and no source delays another."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from tests.support.factories import HOUR, MINUTE
from tests.support.worlds import World

from tminus.domain.types import EventType, Timeouts
from tminus.scheduler import sources, sweeps
from tminus.storage import Transaction, View, due
from tminus.storage.deadlines import DueBatch
from tminus.storage.due import Recomputed


class Reminders:
    """A second source of deadlines: times in memory, each of which is processed once."""

    def __init__(self, *times: datetime) -> None:
        self.waiting = sorted(times)
        self.processed: list[tuple[datetime, int]] = []
        """Each processed deadline, and the number of events at that time."""

    def next_due(self, _view: View) -> datetime | None:
        return self.waiting[0] if self.waiting else None

    def do_due(self, tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:
        bound = tx.now if until is None else until
        some = [at for at in self.waiting if at <= bound][:limit]
        self.waiting = self.waiting[len(some) :]
        self.processed += [(at, tx.last_seq()) for at in some]
        batch = DueBatch(more=bool(self.waiting) and self.waiting[0] <= bound)
        if some:
            batch.done["remind"] = len(some)
        return batch

    def recompute_deadlines(self, tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:
        self.waiting = [at + timeouts.lead for at in self.waiting]
        return Recomputed(None, len(self.waiting))

    def warm_up(self, tx: Transaction, timeouts: Timeouts) -> None:
        """Do nothing: there are no statements to compile."""


@pytest.fixture
def reminders(world: World, monkeypatch: pytest.MonkeyPatch) -> Reminders:
    made = Reminders()
    found: Sequence[sources.Source] = (due, made)
    monkeypatch.setattr(sources, "SOURCES", found)
    monkeypatch.setattr(sweeps, "SOURCES", found)
    return made


def test_the_next_deadline_is_the_earliest_of_all_sources(world: World, reminders: Reminders) -> None:
    world.schedule(HOUR)
    assert world.store.read(sources.next_due) == world.now + 50 * MINUTE
    reminders.waiting = [world.now + MINUTE]
    assert world.store.read(sources.next_due) == world.now + MINUTE


def test_what_is_due_at_the_same_time_in_another_source_is_done_in_the_same_sweep(
    world: World, reminders: Reminders
) -> None:
    world.schedule(HOUR)
    reminders.waiting = [world.now + MINUTE]

    assert world.passes(50 * MINUTE).transitions == {"remind": 1, "open": 1}


@pytest.mark.parametrize("first", [1, 2, 128])
def test_deadlines_of_two_sources_are_met_in_order_and_once_each(
    world: World, reminders: Reminders, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH", first)
    monkeypatch.setattr(sweeps, "LARGEST_BATCH", first)
    sessions = [world.schedule(10 * MINUTE + number * MINUTE) for number in range(1, 7)]
    begun = len(world.events())
    reminders.waiting = [world.now + span * MINUTE for span in (0.5, 2, 2.5, 2.5, 4.5, 6.5)]
    times = list(reminders.waiting)

    swept = world.passes(10 * MINUTE)

    assert swept.transitions == {"open": 6, "remind": 6}
    assert [at for at, _ in reminders.processed] == times
    opened = [seq - begun for _, seq in reminders.processed]
    assert opened == [0, 2, 2, 2, 4, 6], "of two deadlines at the same time, that of the session comes first"
    for one in sessions:
        assert world.told(one) == [EventType.SCHEDULED, EventType.READY]
    assert not world.passes(MINUTE).transitions


def test_a_herd_of_one_source_does_not_delay_the_other(
    world: World, reminders: Reminders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH", 4)
    monkeypatch.setattr(sweeps, "LARGEST_BATCH", 4)
    for number in range(30):
        world.schedule(20 * MINUTE + number * timedelta(milliseconds=1))
    begun = len(world.events())
    reminders.waiting = [world.now + 10 * MINUTE]

    world.passes(HOUR)

    ((_, seq),) = reminders.processed
    assert seq == begun + 1, "only the session that is due at the same time comes first"


def test_new_timeouts_change_the_deadlines_of_every_source(world: World, reminders: Reminders) -> None:
    scheduled = world.schedule(2 * HOUR)
    reminders.waiting = [world.now]

    assert sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=30 * MINUTE)) == 2

    assert reminders.waiting == [world.now + 30 * MINUTE]
    assert world.stored(scheduled).due_at == world.now + 90 * MINUTE
