"""The fair semaphore: callers share a bounded number of slots."""

import asyncio

import pytest

from tminus.api import fair_semaphore
from tminus.api.fair_semaphore import FairSemaphore
from tminus.domain.errors import Overloaded


async def settled() -> None:
    """Return after every task that can continue has continued."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_callers_get_slots_round_robin() -> None:
    async def run() -> list[str]:
        shared, done, begin = FairSemaphore(1), [], asyncio.Event()

        async def take(name: str) -> None:
            async with shared.slot(name):
                done.append(name)
                await begin.wait()

        tasks = [asyncio.create_task(take(name)) for name in ("busy",) * 5 + ("one", "another")]
        await settled()
        begin.set()
        await asyncio.gather(*tasks)
        return done

    assert asyncio.run(run()) == ["busy", "busy", "one", "another", "busy", "busy", "busy"]


def test_the_slot_of_a_cancelled_caller_passes_to_the_next() -> None:
    async def run() -> list[str]:
        shared, done = FairSemaphore(1), []
        leave = asyncio.Event()

        async def take(name: str) -> None:
            async with shared.slot(name):
                done.append(name)
                await leave.wait()

        tasks = {name: asyncio.create_task(take(name)) for name in ("first", "gone", "granted and gone", "last")}
        await settled()
        tasks["gone"].cancel()
        leave.set()
        await asyncio.sleep(0)
        tasks["granted and gone"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        async with asyncio.timeout(5), shared.slot("after them"):  # no slot is lost
            done.append("after them")
        return done

    done = asyncio.run(run())
    assert (done[0], done[-2:]) == ("first", ["last", "after them"])


def test_a_caller_over_its_limit_of_waiting_operations_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_semaphore, "MAX_WAITING", 2)

    async def run() -> None:
        shared, leave = FairSemaphore(1), asyncio.Event()

        async def take(name: str) -> None:
            async with shared.slot(name):
                await leave.wait()

        waiting = [asyncio.create_task(take("busy")) for _ in range(3)]
        await settled()
        with pytest.raises(Overloaded):
            await take("busy")
        another = asyncio.create_task(take("another"))
        leave.set()
        await asyncio.gather(*waiting, another)

    asyncio.run(run())
