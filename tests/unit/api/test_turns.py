"""Turns: what may take long is shared fairly."""

import asyncio

import pytest

from tminus.api import turns
from tminus.api.turns import Turns
from tminus.domain.errors import Overloaded


async def settled() -> None:
    """Returns when every task that can go on has done so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_whoever_wants_one_turn_waits_for_one_of_anybody_elses_at_most() -> None:
    async def run() -> list[str]:
        shared, done, begin = Turns(1), [], asyncio.Event()

        async def take(name: str) -> None:
            async with shared.of(name):
                done.append(name)
                await begin.wait()

        tasks = [asyncio.create_task(take(name)) for name in ("busy",) * 5 + ("one", "another")]
        await settled()
        begin.set()
        await asyncio.gather(*tasks)
        return done

    assert asyncio.run(run()) == ["busy", "busy", "one", "another", "busy", "busy", "busy"]


def test_a_turn_of_somebody_who_has_gone_away_goes_to_the_next() -> None:
    async def run() -> list[str]:
        shared, done = Turns(1), []
        leave = asyncio.Event()

        async def take(name: str) -> None:
            async with shared.of(name):
                done.append(name)
                await leave.wait()

        tasks = {name: asyncio.create_task(take(name)) for name in ("first", "gone", "granted and gone", "last")}
        await settled()
        tasks["gone"].cancel()
        leave.set()
        await asyncio.sleep(0)
        tasks["granted and gone"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with asyncio.timeout(5), shared.of("after them"):  # none is lost
            done.append("after them")
        return done

    done = asyncio.run(run())
    assert (done[0], done[-2:]) == ("first", ["last", "after them"])


def test_one_caller_fills_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST", 2)

    async def run() -> None:
        shared, leave = Turns(1), asyncio.Event()

        async def take(name: str) -> None:
            async with shared.of(name):
                await leave.wait()

        waiting = [asyncio.create_task(take("busy")) for _ in range(3)]
        await settled()
        with pytest.raises(Overloaded):
            await take("busy")
        another = asyncio.create_task(take("another"))
        leave.set()
        await asyncio.gather(*waiting, another)

    asyncio.run(run())
