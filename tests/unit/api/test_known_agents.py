"""A defect does not end the task that follows the changes of agents."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tminus.api import known_agents
from tminus.api.known_agents import KnownAgents
from tminus.domain.types import Role


def _known(number: int) -> Any:
    return SimpleNamespace(id=number, changed=number, shut_out_at=None, roles=[Role.AGENT])


def test_a_failed_query_or_observer_is_logged_and_the_next_changes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(known_agents, "POLL_INTERVAL", 0.0)
    monkeypatch.setattr(known_agents, "log", lambda name, **_fields: logged.append(name))
    pages = iter([ValueError("a defect"), TimeoutError("a defect"), [_known(1)], [_known(2)]])
    observed = iter([ValueError("a defect"), None])

    async def check() -> None:
        done = asyncio.Event()

        async def query(_look: Any) -> Any:
            page = next(pages, [])
            if isinstance(page, Exception):
                raise page
            return page

        def changed() -> None:
            if (error := next(observed)) is not None:
                raise error
            done.set()

        agents = KnownAgents(query, changed)
        store: Any = SimpleNamespace(has_peers=True)
        task = asyncio.create_task(agents.run(store))
        await asyncio.wait_for(done.wait(), 10)
        assert not task.done()
        task.cancel()
        assert [one.id for one in agents.all] == [1, 2]

    asyncio.run(check())
    assert logged == ["agent.failed"] * 3
