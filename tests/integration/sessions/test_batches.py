"""Batches of new sessions: how many parts one transaction does, and the sessions that it creates. On both databases."""

import threading
from datetime import timedelta
from functools import partial
from itertools import count

import orjson
import pytest
from tests.support.factories import AGENT, HOUR, MINUTE, order
from tests.support.worlds import World

from tminus.api import answers
from tminus.domain import ids
from tminus.domain.types import SessionType
from tminus.sessions import batches
from tminus.sessions.batches import PARTS, NewBatch, Progress
from tminus.storage.batches import session

PART = 2


@pytest.fixture
def batch_id(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an accepted batch of ten parts, none of which is processed yet."""
    monkeypatch.setattr(batches, "PART", PART)
    requests = [order(SessionType.LIVE, start_time=world.now + 5 * HOUR)] * PART
    new = NewBatch()
    for number in range(10):
        content = batches.prepare(new, world.settings, AGENT, requests, world.now)
        world.run(partial(batches.store_parts, batch_id=new.id, first=number, contents=[content]))
        new.stored += 1
    unfinished = world.run(lambda tx: batches.create(tx, world.settings, AGENT, new)).unfinished
    assert unfinished is not None
    return unfinished


def do_next(world: World, batch_id: str) -> Progress:
    return world.run(partial(batches.do_next, settings=world.settings, batch_id=batch_id))


def test_several_parts_are_done_at_once_if_that_delays_nothing(world: World, batch_id: str) -> None:
    world.schedule(5 * HOUR, reminders=(HOUR,))

    assert [do_next(world, batch_id).done for _ in range(4)] == [PART * PARTS, PART * PARTS, PART * 2, 0]
    assert len(world.all_sessions()) == 1 + 10 * PART


@pytest.mark.parametrize("late", [timedelta(milliseconds=-100), timedelta(), MINUTE], ids=["soon", "now", "overdue"])
@pytest.mark.parametrize("reminder", [False, True])
def test_one_part_is_done_at_a_time_while_a_deadline_is_near(
    world: World, batch_id: str, late: timedelta, reminder: bool
) -> None:
    one = world.schedule(2 * HOUR, reminders=(HOUR,) if reminder else ())
    world.clock.passes((HOUR if reminder else 2 * HOUR - 10 * MINUTE) + late)

    assert do_next(world, batch_id).done == PART
    world.close(one)
    assert do_next(world, batch_id).done == PART * PARTS


def test_one_part_is_done_if_another_job_shares_the_transaction(world: World, batch_id: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_tx: object) -> None:
        begun.set()
        assert go_on.wait(30)

    holding = world.store.submit(hold)
    assert begun.wait(30)
    doing = world.store.submit(partial(batches.do_next, settings=world.settings, batch_id=batch_id))
    other = world.store.submit(lambda tx: tx.jobs)
    go_on.set()

    assert (doing.result(30).done, other.result(30)) == (PART, 2)
    holding.result(30)


def test_a_new_session_is_answered_as_it_is_stored(world: World, batch_id: str) -> None:
    made = [session(row) for row in do_next(world, batch_id).created.values()]
    stored = world.all_sessions()

    assert len(made) == PART * PARTS
    for one in made:
        shown = [orjson.dumps(answers.session(each, AGENT, world.now)) for each in (one, stored[one.id])]
        assert shown[0] == shown[1]


def test_no_two_sessions_of_a_batch_get_the_same_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [order(SessionType.SUPPORT, start_time=world.now + HOUR)] * PART
    base62 = ids.base62
    monkeypatch.setattr(ids, "base62", lambda length: "y" if length == 1 else base62(length))
    draws = count()

    def texts(_: ids.Supply, *lengths: int) -> list[str]:
        """Return an id that is taken every second time."""
        return [(base62(length) if next(draws) % 6 > 2 else "x" * length) for length in lengths]

    monkeypatch.setattr(ids.Supply, "texts", texts)
    new = NewBatch()
    for _ in range(2):
        batches.prepare(new, world.settings, AGENT, requests, world.now)

    assert len(new.session_ids) == 2 * PART
    assert "yxxxxx" in new.session_ids
