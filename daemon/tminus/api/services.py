"""What the routes use: the store, the settings in force, rate limits, metrics. Built by `service.daemon`."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tminus import clock
from tminus.api.challenges import Challenges
from tminus.api.fair_semaphore import FairSemaphore
from tminus.api.held import HeldRequests
from tminus.api.id_guesses import IdGuesses
from tminus.api.kept_answers import KeptAnswers
from tminus.api.known_agents import KnownAgents, as_agent
from tminus.api.paced_queue import PacedQueue
from tminus.api.rate_limit import GrowingPause, RateLimiter
from tminus.api.readers import Readers
from tminus.clock import Move
from tminus.config import Agent, Limits, Settings, actor_names
from tminus.delivery import Webhooks
from tminus.domain.events import ActorNames
from tminus.domain.types import LOCAL_AGENT_ID, actor_of
from tminus.monitoring.metrics import Metrics
from tminus.rooms import Hub
from tminus.storage import Store, View
from tminus.storage.notifier import Notifier

if TYPE_CHECKING:
    from tminus.oidc.issuer import Issuer

T = TypeVar("T")

_CHALLENGE_PACE = 0.1
"""Seconds between two challenges for addresses beyond `limits.challenges`. All these addresses share one queue."""

_OIDC_PACE = 0.2
"""Seconds between two codes sent to the issuer for addresses beyond `limits.failed_tokens`, which share one queue."""

_READERS = 4
"""Threads for short reads."""

_SEARCHERS = 2
"""Threads for reads that may take long."""

_BATCHES = 4
"""Batches that are received or executed at a time. Each may need memory of several times its size."""

_REVOKED = 10_000
"""Maximum number of revoked tokens in memory, so that the log can distinguish them from unknown ones."""


class TestClock(Protocol):
    """The test clock of a daemon that has one."""

    def move(self, target: Callable[[datetime, datetime | None], datetime]) -> Move:
        """Move the clock to the time that `target` returns; it is called with the clock's time and the next deadline.

        It blocks for at most some seconds. Raises what `target` raises, `StoreUnavailable`, `Overloaded`.
        """

    def remove_old(self) -> object:
        """Remove what is older than its retention."""


class ClockServices:
    """What the routes of the clock use. `service.daemon` sets the first two attributes."""

    def __init__(self) -> None:
        self.test_clock: TestClock | None = None
        """The test clock; None if the daemon runs on the real one."""
        self.next_due: Callable[[View], datetime | None] = View.next_due
        """Returns the earliest deadline of all."""
        self.moves = asyncio.Lock()
        """Held by the request that moves the test clock."""


class Services:
    """The parts of the daemon that the routes use.

    Parameters
    ----------
    store
        The database.
    settings
        The settings in force; `apply` replaces them.
    webhooks
        The webhook endpoints and their deliveries.
    not_ready
        Returns the reasons why the daemon is not ready; an empty list if it is ready.
    instance
        The id of this process, for `/discovery`.
    notes
        Returns warnings for operators; they do not affect readiness.
    """

    throttle_log: Callable[[], AbstractContextManager[None]] = nullcontext
    """Holds back the log of events within a `with` block. `service.daemon` sets it."""

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
        self.transact, self.transact_then = store.transact, store.transact_then
        self.not_ready, self.notes = not_ready, notes
        self.instance = instance
        self.draining = False
        """Whether the daemon is stopping; new requests are refused."""
        self.requests = 0
        """Requests answered since the last heartbeat, without operations such as `/healthz`."""
        self.unavailable = 0
        """Requests refused because the database could not be written or read."""
        self.metrics = Metrics(store, webhooks.endpoint_statuses)
        self.notifier = Notifier()
        """Wakes requests that wait, after new events and when the daemon begins to stop."""
        self.suspect_lookup = asyncio.Lock()
        """Held while a token is looked up for an address that has sent too many wrong ones."""
        self.challenge_queue = PacedQueue(_CHALLENGE_PACE)
        """The queue for challenges of addresses beyond `limits.challenges`."""
        self.oidc_queue = PacedQueue(_OIDC_PACE)
        """The queue for sign-ins that return from the issuer to an address beyond `limits.failed_tokens`."""
        self.held = HeldRequests()
        """Requests that wait for events."""
        self.woken_reads = asyncio.Semaphore(_READERS)
        """Limits the reads of requests that wait for events. One event wakes all of them; without this limit they would
        fill the queue of reads, and other requests would be refused.
        """
        self.kept = KeptAnswers(store.version)
        """Responses to reads of sessions."""
        self._readers = Readers(store, _READERS)
        self._searchers = ThreadPoolExecutor(max_workers=_SEARCHERS, thread_name_prefix="search")
        self._search_slots = FairSemaphore(_SEARCHERS)
        self.batch_slots = FairSemaphore(_BATCHES)
        self._batches = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._limits: Limits | None = None
        self.agent_of_token: dict[str, Agent] = {}
        self._by_issuer: dict[int, Agent] = {}
        """The agents of the current issuer who are not in the configuration, and have a role."""
        self.actor_names: ActorNames = {}
        """The names of the agents by actor, for events."""
        self.clock = ClockServices()
        self.issuer: Issuer | None = None
        """The OpenID Connect issuer, which `service` sets; None: no issuer."""
        self.revoked: frozenset[str] = frozenset()
        """SHA-256 of tokens that a reload has removed from the configuration."""
        self.challenges = Challenges(store)
        self.rooms = Hub(self)
        """The daemon's own rooms. `service.daemon` runs it, and sets its name."""
        self.known_agents = KnownAgents(self.query, self._agents_changed)
        self.metrics.agents_shut_out.set_function(lambda: self.known_agents.shut_out)
        self.started_at = clock.now()
        self.apply(settings)
        self.known_agents.load(store)

    def apply(self, settings: Settings) -> None:
        """Apply settings from the next request on. The counts of limits that have not changed are kept."""
        self.agents: dict[int, Agent] = {agent.id: agent for agent in settings.agents}
        tokens = {digest: agent for agent in settings.agents for digest in agent.token_sha256}
        gone = [digest for digest in (*self.revoked, *self.agent_of_token) if digest not in tokens]
        self.agent_of_token = tokens
        self.revoked = frozenset(gone[-_REVOKED:])
        if self._limits != settings.limits:
            self._limits = settings.limits
            self.failed_tokens = RateLimiter(settings.limits.failed_tokens)
            self.pin_lookups = GrowingPause(settings.limits.pin_lookups)
            self.challenges_made = RateLimiter(settings.limits.challenges)
            self.challenge_guesses = GrowingPause(settings.limits.challenge_guesses)
            self.id_guesses = IdGuesses(settings.limits.failed_tokens)
        self.settings = settings
        self.applied_at = clock.now()
        self._agents_changed()

    def _agents_changed(self) -> None:
        """Look up again who may act. Disconnect all others from the rooms that they host, streams and held requests."""
        issuer, roles = self.settings.signin.oidc.issuer, self.settings.signin.oidc.roles.given
        present = [as_agent(one, roles) for one in self.known_agents.all if issuer and one.issuer == issuer]
        self._by_issuer = {one.id: one for one in present if one.roles and one.id not in self.agents}
        names = {actor_of(agent.id, agent.roles): agent.name for agent in self._by_issuer.values()}
        self.actor_names = {**actor_names(self.settings), **names}
        self.webhooks.use_names(self.actor_names)
        self.rooms.agents_changed()
        self.notifier.notify()  # each stream authenticates its caller again

    def may_act(self, agent_id: int) -> bool:
        """Return whether an agent could sign in now: by a token that has not expired, or by the issuer.

        If not, nobody can act for the agent, so nobody is host of the agent's sessions.
        """
        if agent_id == LOCAL_AGENT_ID:
            return True
        if self.known_agents.is_shut_out(agent_id):
            return False
        agent = self.agents.get(agent_id)
        if agent is None:
            return agent_id in self._by_issuer
        can_sign_in = bool(agent.token_sha256) or self.settings.signin.oidc.can_find(agent)
        return can_sign_in and not agent.has_expired(clock.now())

    def agent(self, agent_id: int) -> Agent | None:
        """Return an agent of the configuration, or of the issuer."""
        return self.agents.get(agent_id) or self._by_issuer.get(agent_id)

    def agent_of_issuer(self, agent_id: int, issuer: str, identity: str) -> Agent | None:
        """Return an agent whom an issuer has signed in; None if the issuer or the agent is not valid any more.

        `identity`: what identified a configured agent at the sign-in; "" for an agent of the issuer. A configured agent
        with another identity now is somebody else, to whom a reload has given the number.
        """
        oidc = self.settings.signin.oidc
        if issuer != oidc.issuer:
            return None
        agent = self.agents.get(agent_id) if identity else self._by_issuer.get(agent_id)
        if agent is not None and identity and oidc.identity_of(agent) != identity:
            return None
        return None if agent is None or agent.has_expired(clock.now()) else agent

    def query(self, look: Callable[[View], T], session_id: str | None = None) -> Coroutine[Any, Any, T]:
        """Run `look` on one snapshot, on a thread; return its result. Raises `StoreUnavailable`.

        `session_id`: the session that `look` will read, if it is known.
        """
        return self._readers.query(look, session_id)

    async def search(self, agent_id: int, look: Callable[[View], T]) -> T:
        """Run `look` as `query` does, if it may take long, such as a list with its count.

        Such reads have threads and connections of their own, so that other reads do not wait for them. Agents share
        the threads fairly; `agent_id` is the agent to whom the read counts.
        """
        async with self._search_slots.slot(agent_id):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._searchers, partial(self.store.read, look, lane="search"))

    async def prepare(self, work: Callable[[], T]) -> T:
        """Run a step of a batch outside the writer, on the thread of batches, and return its result.

        There is one such thread: more would only compete for the interpreter lock.
        """
        return await asyncio.get_running_loop().run_in_executor(self._batches, work)

    def take_requests(self) -> int:
        """Return the number of requests answered since the last call, without operations, and begin to count again."""
        answered, self.requests = self.requests, 0
        return answered

    def waiting(self, method: str) -> int:
        """Return how many requests are queued before one with this method. Reads and writes have separate queues."""
        return self._readers.unfinished if method in ("GET", "HEAD") else self.store.waiting

    def close(self) -> None:
        """Wait for the running reads, and end the threads."""
        self._readers.close()
        self._searchers.shutdown()
        self._batches.shutdown()
        self.challenges.close()
