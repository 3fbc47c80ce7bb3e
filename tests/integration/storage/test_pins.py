"""The cost of assigning a PIN does not depend on how few are free. On both databases."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import event, text
from tests.support.factories import HOUR, MINUTE
from tests.support.worlds import World

from tminus.domain import ids
from tminus.domain.errors import NoPinFree
from tminus.domain.model import Session
from tminus.domain.types import SessionType, Status
from tminus.storage import Store, pins

ALL = range(100_000, 106_500)
"""The PINs of these tests: so many that a read of all of them exceeds the limits that the tests check."""


@pytest.fixture(autouse=True)
def _fewer_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", ALL)
    # Even on a slow machine, the free PINs are not counted again, and counting does not pause.
    monkeypatch.setattr(pins, "FRESH", 3600.0)
    monkeypatch.setattr(pins, "MAX_COUNTING", 3600.0)


def take_all_but(world: World, left: set[int]) -> Session:
    """Store sessions with all PINs except these; return one of the sessions."""
    while (one := world.create(SessionType.SUPPORT)).pin in left:
        world.close(one)
    columns = {name: f'"{name}"' for name in Session.model_fields} | {"id": "'x' || pins.n", "pin": "pins.n"}
    named = ", ".join(f'"{name}"' for name in columns)
    fill = f"""
        WITH RECURSIVE pins(n) AS (SELECT {ALL.start} UNION ALL SELECT n + 1 FROM pins WHERE n < {ALL.stop - 1})
        INSERT INTO session ({named}) SELECT {", ".join(columns.values())} FROM pins, session
        WHERE session.id = '{one.id}' AND pins.n NOT IN ({", ".join(map(str, left | {one.pin}))})
    """
    world.run(lambda tx: tx.execute(text(fill)))
    return one


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """Collect the statements that the writer sends."""
    sent: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(store._writing, "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(store._writing, "before_cursor_execute", record)


def test_each_of_few_free_pins_is_found_at_the_same_cost_and_without_any_at_no_cost(world: World) -> None:
    left = {ALL.start, ALL.start + 999, ALL.start + 1000, ALL.start + 4321, ALL.stop - 1}
    take_all_but(world, left)
    drawn, queries = [], []
    for _ in left:
        with statements(world.store) as sent:
            drawn.append(world.create(SessionType.SUPPORT).pin)
        queries.append(
            sum("pin" in one and "batch" not in one and one.lstrip().startswith(("SELECT", "WITH")) for one in sent)
        )
    assert sorted(drawn) == sorted(left)
    assert queries == [pins.ROUNDS + 2, 1, 1, 1, 1], "all are counted once; later queries read a block of 1,000"
    with statements(world.store) as sent:
        for _ in range(3):
            with pytest.raises(NoPinFree):
                world.create(SessionType.SUPPORT)
    assert not [one for one in sent if "pin" in one]


def test_many_concurrent_sessions_find_all_free_pins(world: World) -> None:
    left = set(range(ALL.start + 10, ALL.stop, 50))
    world.schedule(HOUR, SessionType.SUPPORT)
    for _ in left:
        world.schedule(HOUR, SessionType.SUPPORT)
    taken = take_all_but(world, left)
    sweep = world.passes(minutes=50)
    assert (sweep.transitions.total(), sweep.without_pin) == (len(left), 1)
    opened = [one for one in world.all_sessions().values() if one.scheduled and one.status is Status.NEW]
    assert {one.pin for one in opened} == left
    world.close(taken)
    assert world.passes(seconds=5).transitions.total() == 1, "the freed PIN is found at once"


def test_a_pin_that_the_scheduler_frees_is_found_at_once_although_free_pins_were_counted(world: World) -> None:
    take_all_but(world, set())
    with pytest.raises(NoPinFree):
        world.create(SessionType.SUPPORT)
    world.run(lambda tx: tx.execute(text("UPDATE session SET due_at = due_at + 3600000 WHERE pin <> 100123")))
    world.passes(hours=1)
    assert world.create(SessionType.SUPPORT).pin == 100_123
    with pytest.raises(NoPinFree):
        world.create(SessionType.SUPPORT)


def test_pins_that_another_daemon_frees_are_found_after_the_next_count(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "FRESH", 0.0)
    monkeypatch.setattr(pins, "SHARE", 0)
    take_all_but(world, set())
    with pytest.raises(NoPinFree):
        world.create(SessionType.SUPPORT)
    world.run(lambda tx: tx.execute(text("UPDATE session SET pin = 0 WHERE pin = 100124")))
    assert world.create(SessionType.SUPPORT).pin == 100_124


def test_counting_pauses_before_it_takes_much_of_the_writers_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "COUNTED", pins.BLOCK)
    monkeypatch.setattr(pins, "MAX_COUNTING", 0.0)
    monkeypatch.setattr(pins, "PAUSE", 1e9)
    take_all_but(world, {ALL.start + number for number in range(0, len(ALL), 2000)})
    with statements(world.store) as sent:
        for _ in range(6):
            with suppress(NoPinFree):
                world.create(SessionType.SUPPORT)
    assert sum("block" in one for one in sent) == 1, "only one block of 1,000 was counted"


def test_pins_that_were_drawn_without_use_can_be_drawn_again(world: World) -> None:
    take_all_but(world, {100_125})

    def fail(tx: object) -> None:
        tx.free_pin()  # type: ignore[attr-defined]
        raise ArithmeticError

    for _ in range(2):
        with pytest.raises(ArithmeticError):
            world.run(fail)
    assert world.create(SessionType.SUPPORT, start_time=world.now + MINUTE).pin == 100_125
