"""A defect ends neither the hub nor its checks."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tminus.domain.errors import StoreUnavailable
from tminus.rooms import hub
from tminus.rooms.hub import Hub
from tminus.storage.notifier import Notifier


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


class Host:
    """A connection of a host. Whoever ends it gets an unexpected error if it is broken."""

    def __init__(self, *, broken: bool) -> None:
        self.connection = self.participant_id = self.state_name = "x"
        self._broken = broken
        self.revoked = False

    def revoke_host(self) -> None:
        if self._broken:
            raise ValueError("a defect")
        self.revoked = True


def test_a_defect_in_one_room_does_not_end_the_hub_and_hosts_of_other_rooms_are_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(hub, "log", lambda name, **_fields: logged.append(name))

    async def check() -> None:
        read = asyncio.Event()

        async def query(_query: Any, _session_id: str | None = None) -> Any:
            read.set()
            raise StoreUnavailable

        dependencies: Any = SimpleNamespace(
            metrics=SimpleNamespace(room_connections={}), query=query, notifier=Notifier(), may_act=lambda _agent: False
        )
        rooms = Hub(dependencies)
        hosts: list[Any] = [Host(broken=True), Host(broken=False)]
        with rooms.connected("1", hosts[0]) as first, rooms.connected("2", hosts[1]) as second:
            first.state = second.state = cast("Any", SimpleNamespace(session=SimpleNamespace(agent_id=1)))
            task = asyncio.create_task(rooms.run())
            await asyncio.wait_for(read.wait(), 10)
            assert not task.done()
            task.cancel()
        assert hosts[1].revoked

    asyncio.run(check())
    assert logged == ["room.failed"]
