"""The periodic checks of the hub."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tminus.rooms import hub
from tminus.rooms.hub import Hub


class Queries:
    """The queries of a hub. The first one raises an unexpected error."""

    def __init__(self) -> None:
        self.number = 0
        self.repeated = asyncio.Event()

    async def query(self, _query: Any, _session_id: str | None = None) -> Any:
        self.number += 1
        if self.number == 1:
            raise ValueError("a defect")
        if self.number == 3:
            self.repeated.set()
        return []


def test_a_defect_ends_neither_the_lease_nor_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first query fails. The second one is that of the connections again, and the third one that of the lease."""
    logged: list[str] = []
    monkeypatch.setattr(hub, "CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(hub, "log", lambda name, **_fields: logged.append(name))

    async def check() -> None:
        queries = Queries()
        metrics = SimpleNamespace(room_connections={})
        dependencies: Any = SimpleNamespace(draining=False, metrics=metrics, query=queries.query)
        task = asyncio.create_task(Hub(dependencies)._keep_checking())
        await asyncio.wait_for(queries.repeated.wait(), 10)
        task.cancel()

    asyncio.run(check())
    assert logged == ["room.failed"]
