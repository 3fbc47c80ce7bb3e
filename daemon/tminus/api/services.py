"""What the routes work with: the store, the settings in force, who may knock how often. Built by `daemon`."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from tminus import clock
from tminus.api.held import Held
from tminus.api.rate_limit import Attempts
from tminus.api.readers import Readers
from tminus.api.turns import Turns
from tminus.config import Agent, Limits, Settings, actor_names
from tminus.delivery import Webhooks
from tminus.domain.types import Caller
from tminus.monitoring.metrics import Metrics
from tminus.storage import Store, View
from tminus.storage.notifier import Notifier

T = TypeVar("T")

_READERS = 4
"""Threads that read."""

_SEARCHERS = 2
"""Threads for reads that may take long."""

_REVOKED = 10_000
"""Revoked tokens that are remembered."""


class Services:
    """The daemon as the routes see it.

    Parameters
    ----------
    store
        Where everything is.
    settings
        Those in force; `apply` replaces them.
    not_ready
        Says why requests should not come here; empty if they may.
    webhooks
        The endpoints.
    instance
        A name for this process, for `/discovery`.
    notes
        Says what an operator should look at, although requests may come here.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        webhooks: Webhooks,
        not_ready: Callable[[], list[str]],
        instance: str,
        notes: Callable[[], list[str]] = list,
    ) -> None:
        self.store = store
        self.webhooks = webhooks
        self.transact = store.transact
        self.not_ready = not_ready
        self.notes = notes
        self.instance = instance
        self.draining = False
        """Set when the daemon was told to stop: what still comes in is refused."""
        self.requests = 0
        """Answered since the last heartbeat, operations aside."""
        self.unavailable = 0
        """Requests refused because the database did not take writes or could not be read."""
        self.metrics = Metrics(store, webhooks.endpoint_statuses)
        self.notifier = Notifier()
        """Rings when there are new events, and when the daemon begins to stop."""
        self.doubtful = asyncio.Lock()
        """Held while a token is looked up that comes from an address that has sent too many wrong ones."""
        self.held = Held()
        """Requests that wait for events."""
        self.woken = asyncio.Semaphore(_READERS)
        """Held by who listens or waits for events and looks again: one event wakes them all, and were they all counted
        as requests before another one, whoever asks just then would be refused for being one too many.
        """
        self._reads = 0
        self._readers = Readers(store, _READERS)
        self._searchers = ThreadPoolExecutor(max_workers=_SEARCHERS, thread_name_prefix="search")
        self._turns = Turns(_SEARCHERS)
        self._limits: Limits | None = None
        self.agent_of_token: dict[str, Agent] = {}
        self.revoked: frozenset[str] = frozenset()
        """SHA-256 of tokens that a reload has taken out of the configuration."""
        self.started_at = clock.now()
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Puts settings in force, from the next request on. A limit that has not changed goes on counting."""
        self.agents: dict[int, Agent] = {agent.id: agent for agent in settings.agents}
        self.actor_names = actor_names(settings)
        """The names of the actors that the configuration knows, for those who read what they have done."""
        tokens = {digest: agent for agent in settings.agents for digest in agent.token_sha256}
        gone = [digest for digest in (*self.revoked, *self.agent_of_token) if digest not in tokens]
        self.agent_of_token = tokens
        self.revoked = frozenset(gone[-_REVOKED:])
        if self._limits != settings.limits:
            self._limits = settings.limits
            self.failed_tokens = Attempts(settings.limits.failed_tokens)
            self.pin_lookups = Attempts(settings.limits.pin_lookups)
        self.settings = settings
        self.applied_at = clock.now()

    async def query(self, look: Callable[[View], T]) -> T:
        """Run `look` on one consistent view, on a thread; return what it returned. Raises `StoreUnavailable`."""
        self._reads += 1
        try:
            return await self._readers.query(look)
        finally:
            self._reads -= 1

    async def search(self, caller: Caller, look: Callable[[View], T]) -> T:
        """The same for a read that may take long, such as a list and its count: on threads and connections of its own,
        so that no other read, no new session and no tick waits for it, and with a fair share for each agent.
        """
        async with self._turns.of(caller.agent_id):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._searchers, partial(self.store.read, look, lane="search"))

    def take_requests(self) -> int:
        """Return how many requests were answered since the last call, operations aside."""
        answered, self.requests = self.requests, 0
        return answered

    def waiting(self, method: str) -> int:
        """How many requests are before one with this method. Readers and writers do not wait for each other."""
        return self._reads if method in ("GET", "HEAD") else self.store.waiting

    def close(self) -> None:
        self._readers.close()
        self._searchers.shutdown()
