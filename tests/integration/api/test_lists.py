"""Lists and other long reads: callers share their threads fairly, and short reads have threads of their own."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.factories import AGENT, OTHER_AGENT
from tests.support.worlds import World

from tminus.api.fair_semaphore import MAX_WAITING
from tminus.api.services import Services
from tminus.delivery import Webhooks
from tminus.domain.errors import Overloaded
from tminus.storage import SessionFilter, View

DEADLINE = 20
"""Seconds after which a test fails."""


@pytest.fixture
def services(world: World, tmp_path: Path) -> Iterator[Services]:
    webhooks = Webhooks(world.store, tmp_path)
    webhooks.start()
    made = Services(world.store, world.settings, webhooks, list, "a test")
    yield made
    made.close()
    webhooks.stop()


class SlowLists:
    """Lists of one agent on the store, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.done = 0

    def look(self, view: View) -> int:
        self.begun.release()
        assert self.go_on.acquire(timeout=DEADLINE)
        self.done += 1
        return view.sessions(SessionFilter(AGENT.agent_id))[0]


async def _begun(slow: SlowLists, number: int) -> None:
    for _ in range(number):
        assert await asyncio.to_thread(slow.begun.acquire, timeout=DEADLINE)


def test_a_list_is_answered_before_the_queue_of_another_agents_slow_lists(world: World, services: Services) -> None:
    """An agent's list is answered after a list or two of another agent, who has filled the queue with slow ones."""
    world.create()
    world.create(by=OTHER_AGENT)
    slow = SlowLists()
    threads = services._searchers._max_workers

    async def ask() -> None:
        queued = [
            asyncio.ensure_future(services.search(AGENT.agent_id, slow.look)) for _ in range(threads + MAX_WAITING)
        ]
        await _begun(slow, threads)
        with pytest.raises(Overloaded):
            await services.search(AGENT.agent_id, slow.look)

        short = await services.query(lambda view: view.sessions(SessionFilter(OTHER_AGENT.agent_id))[0])
        assert (short, slow.done) == (1, 0), "a short read waits for no list"

        other = asyncio.ensure_future(
            services.search(OTHER_AGENT.agent_id, lambda view: view.sessions(SessionFilter(OTHER_AGENT.agent_id))[0])
        )
        await asyncio.sleep(0)  # it queues
        slow.go_on.release(2)  # the first agent's next list was queued before
        assert await other == 1
        assert slow.done == 2

        slow.go_on.release(len(queued))
        assert set(await asyncio.gather(*queued)) == {1}

    asyncio.run(asyncio.wait_for(ask(), DEADLINE))


def test_two_agents_with_full_queues_have_equal_shares(services: Services) -> None:
    """Of two agents who both queue slow lists, each has a list answered for each one of the other."""
    order: list[int] = []
    lists = {agent: SlowLists() for agent in (AGENT.agent_id, OTHER_AGENT.agent_id)}

    async def one(agent: int) -> None:
        await services.search(agent, lists[agent].look)
        order.append(agent)

    async def ask() -> None:
        first, second = lists
        busy = [asyncio.ensure_future(one(first)) for _ in range(40)]
        await _begun(lists[first], services._searchers._max_workers)
        late = [asyncio.ensure_future(one(second)) for _ in range(40)]
        await asyncio.sleep(0)  # they queue
        for slow in lists.values():
            slow.go_on.release(40)
        await asyncio.gather(*busy, *late)

    asyncio.run(asyncio.wait_for(ask(), DEADLINE))
    for number in range(10, 80, 10):
        first, second = (order[:number].count(agent) for agent in lists)
        assert abs(first - second) <= 4, order[:number]
