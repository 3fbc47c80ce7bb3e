"""Keep the stored state of agents in memory, so that requests need no query for it.

A change at another daemon on the same PostgreSQL is read within a second. An SQLite database has only one daemon.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

import orjson

from tminus.config import Agent
from tminus.domain.errors import RequestError
from tminus.domain.model import KnownAgent
from tminus.domain.types import Role
from tminus.logs.output import error_fields, log
from tminus.storage import Store, View, agents

POLL_INTERVAL = 1.0
"""Maximum seconds until a change at another daemon is read, if its notification is lost."""

ROWS = 1000
"""Maximum number of agents that are read at a time."""


Query = Callable[[Callable[[View], list[KnownAgent]]], Awaitable[list[KnownAgent]]]


def as_agent(known: KnownAgent, given: frozenset[Role]) -> Agent:
    """Return an agent of the database in the form of a configured one. `given`: the roles that groups give now."""
    stored = orjson.loads(known.roles)
    roles = frozenset(role for role in given if role in stored)
    return Agent.model_construct(
        id=known.id, name=known.name, email=known.email, external_id=known.subject, roles=roles, token_sha256=(),
        expires=None,
    )  # fmt: skip


class KnownAgents:
    """The agents who were ever shut out or whom an issuer has signed in. Others have only their last sign-in stored.

    Parameters
    ----------
    query
        Runs a read on another thread.
    changed
        Called on the event loop after a change.
    """

    def __init__(self, query: Query, changed: Callable[[], None]) -> None:
        self._query = query
        self._changed = changed
        self._through = 0
        """The number of the last change that was read."""
        self._by_number: dict[int, KnownAgent] = {}
        self._shut_out: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        self._reading = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self, store: Store) -> None:
        """Read all of them, before the daemon serves requests. Raises `StoreUnavailable`."""
        while self._apply(store.read(self._read_changes)):
            pass

    def is_shut_out(self, agent_id: int) -> bool:
        return agent_id in self._shut_out

    @property
    def shut_out(self) -> int:
        """The number of agents who are shut out."""
        return len(self._shut_out)

    @property
    def all(self) -> Collection[KnownAgent]:
        return self._by_number.values()

    def wake(self) -> None:
        """Read the changes soon. Called on any thread, after a commit of another daemon."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the daemon has stopped
                self._loop.call_soon_threadsafe(self._wake.set)

    async def refresh(self) -> None:
        """Read the changes now. Raises `StoreUnavailable`."""
        async with self._reading:
            while self._apply(await self._query(self._read_changes)):
                pass

    async def run(self, store: Store) -> None:
        """Follow the changes of other daemons until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        while store.has_peers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.refresh()
            except RequestError:
                pass  # the database is unreachable
            except Exception as error:
                log("agent.failed", **error_fields(error))

    def _read_changes(self, view: View) -> list[KnownAgent]:
        return agents.changed_since(view, self._through, ROWS)

    def _apply(self, rows: list[KnownAgent]) -> bool:
        """Apply changes; return whether there may be more."""
        if not rows:
            return False
        self._by_number = {**self._by_number, **{one.id: one for one in rows}}
        self._shut_out = frozenset(one.id for one in self._by_number.values() if one.shut_out_at is not None)
        self._through = rows[-1].changed
        self._changed()
        return len(rows) == ROWS
