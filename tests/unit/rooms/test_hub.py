"""The checks that the hub repeats."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tminus.rooms import hub
from tminus.rooms.hub import Hub


class Reads:
    """The queries of a hub, of which the first one fails as no query ever should."""

    def __init__(self) -> None:
        self.number = 0
        self.repeated = asyncio.Event()

    async def query(self, _look: Any, _session_id: str | None = None) -> Any:
        self.number += 1
        if self.number == 1:
            raise ValueError("a defect")
        self.repeated.set()
        return []


def test_a_defect_ends_neither_the_lease_nor_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(hub, "CHECK_INTERVAL", 0.0)
    monkeypatch.setattr(hub, "log", lambda name, **_fields: logged.append(name))

    async def check() -> None:
        reads = Reads()
        metrics = SimpleNamespace(room_connections={})
        dependencies: Any = SimpleNamespace(draining=False, metrics=metrics, query=reads.query)
        keeping = asyncio.create_task(Hub(dependencies)._keep_checking())
        await asyncio.wait_for(reads.repeated.wait(), 10)
        keeping.cancel()

    asyncio.run(check())
    assert logged == ["room.failed"]
