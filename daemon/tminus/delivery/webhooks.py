"""All endpoints, on a thread and an event loop of their own: a slow one holds up no other, no request and no clock."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tminus import config
from tminus.config import ConfigError, ConfigProblem, Settings, Webhook, actor_names
from tminus.delivery import backoff
from tminus.delivery.endpoint import DeliveryWorker, Tried, wanted
from tminus.delivery.post import Client
from tminus.delivery.trust import Trust
from tminus.domain.errors import RequestError, UnknownSession, UnknownWebhook
from tminus.domain.events import NOBODY, ActorNames
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.domain.types import PauseReason
from tminus.logs.output import error_fields, log
from tminus.storage import READERS, Store, Transaction, View, outbox
from tminus.storage.notifier import Notifier
from tminus.system.threads import RestartingThread

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a request which is on its way has left when the daemon stops, or its endpoint goes or changes. One that
is cut off then is made again, with the same events: it has as long again to be recorded."""


TOGETHER = 50
"""Endpoints that are registered at a time: they share a transaction, and leave room for requests."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An endpoint as an operator sees it."""

    webhook: Webhook
    state: Endpoint
    backlog: outbox.Backlog
    replays: int


Secrets = Mapping[str, tuple[str, ...]]
"""By endpoint, its secrets."""


def read_secrets(settings: Settings, state_directory: Path, environ: Mapping[str, str]) -> Secrets:
    """The secrets of all endpoints, and a look at their files of authorities. Raises `ConfigError` with all faults."""
    found: dict[str, tuple[str, ...]] = {}
    problems: list[ConfigProblem] = []
    for webhook in settings.webhooks:
        try:
            found[webhook.name] = config.secrets(webhook, state_directory, environ)
        except ConfigError as error:
            problems += error.problems
        try:
            _trust(webhook, state_directory)
        except OSError as error:
            key = f"webhooks[{webhook.name}].ca_file"
            problems.append(ConfigProblem("", key, f"names no file of certificates: {error.strerror or error}"))
    if problems:
        raise ConfigError(tuple(problems))
    return found


def _trust(webhook: Webhook, state_directory: Path) -> Trust | None:
    """Whom its TLS trusts, if it has any. Raises `OSError` if its file of authorities cannot be read."""
    trust = Trust.of(state_directory / webhook.ca_file) if webhook.ca_file else None
    return trust or (Trust.of(None) if webhook.url.startswith("https:") else None)


class Webhooks:
    """The endpoints of the configuration in force.

    Parameters
    ----------
    store
        Where the events are.
    state_directory
        Where paths in the configuration begin.
    tried
        Called after each try, on the webhooks' thread.
    first_pause
        How long an endpoint is left alone after its first failure.
    """

    def __init__(
        self,
        store: Store,
        state_directory: Path,
        tried: Tried = lambda _endpoint, _ok, _events: None,
        first_pause: timedelta = backoff.FIRST,
    ) -> None:
        self._store = store
        self._state = state_directory
        self._tried = tried
        self._first_pause = first_pause
        self._backlogs = outbox.Backlogs()
        self._loop = asyncio.new_event_loop()
        self._thread = RestartingThread("webhooks", self._run)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="webhooks-database")
        """On which endpoints ask the database: as many as there are connections for it."""
        self._bells: dict[str, Notifier] = {}
        self._workers: dict[str, tuple[DeliveryWorker, asyncio.Task[None]]] = {}
        self._settings: dict[str, Webhook] = {}
        self._names: ActorNames = NOBODY

    def start(self) -> None:
        self._thread.start()

    def wake(self, *, also_blocked: bool = False) -> None:
        """There are new events; `also_blocked`: or what those wait for that are paused, or wait to try again. Any
        thread.
        """
        for name, notifier in tuple(self._bells.items()):
            served = self._workers.get(name)
            if also_blocked or served is None or not served[0].blocked:
                notifier.ring()

    def try_all_again(self) -> None:
        """Nobody waits any longer before trying again: when the wall clock is set back by an hour, a pause of seconds
        would take that hour, too. Any thread but the writer's. Raises `StoreUnavailable`, `Overloaded`.
        """
        self._store.submit(outbox.wait_no_more).result()
        self.wake(also_blocked=True)

    def drain(self) -> None:
        """Begins no more requests. Any thread."""

        def drain() -> None:
            for worker, _ in self._workers.values():
                worker.stop()

        self._loop.call_soon_threadsafe(drain)

    def stop(self) -> None:
        """Returns when the requests on their way are recorded, or were cut off."""
        if self._thread.is_alive():
            self._call(self._apply((), {})).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._threads.shutdown()
        self._loop.close()

    def apply(self, settings: Settings, secrets: Secrets) -> None:
        """Puts the endpoints of a configuration in force; those that have not changed go on undisturbed."""
        self._names = actor_names(settings)
        for webhook in settings.webhooks:
            self._bells.setdefault(webhook.name, Notifier())
        self._call(self._apply(settings.webhooks, secrets)).result()
        self._settings = {webhook.name: webhook for webhook in settings.webhooks}

    # --- for operators ------------------------------------------------------------------------------------------------

    def endpoint_statuses(self, view: View) -> list[EndpointStatus]:
        """Every endpoint with how far it is, in the order of the configuration."""
        return self._statuses(view, tuple(self._settings.values()))

    def endpoint_status(self, view: View, name: str) -> EndpointStatus:
        """One endpoint. Raises `UnknownWebhook`."""
        found = self._statuses(view, (self._named(name),))
        if not found:  # it is being put in force this very moment
            raise UnknownWebhook(name)
        return found[0]

    def _statuses(self, view: View, webhooks: Sequence[Webhook]) -> list[EndpointStatus]:
        """Those of them that have a place yet."""
        placed = [(one, state) for one in webhooks if (state := outbox.endpoint(view, one.name)) is not None]
        backlogs = self._backlogs.look(view, [(one.name, state.cursor, wanted(one)) for one, state in placed])
        return [
            EndpointStatus(webhook, state, backlog, outbox.replays(view, webhook.name))
            for (webhook, state), backlog in zip(placed, backlogs, strict=True)
        ]

    def deliveries(
        self, view: View, name: str, *, failed: bool, before: int | None, limit: int
    ) -> tuple[list[Delivery], int | None]:
        """The delivery log, the newest first. Raises `UnknownWebhook`."""
        self._named(name)
        return outbox.deliveries(view, name, failed=failed, before=before, limit=limit)

    async def ping(self, name: str) -> Delivery:
        """Sends a `ping` and returns what became of it. Raises `UnknownWebhook`."""
        self._named(name)
        if (served := self._workers.get(name)) is None:  # it is being put in force this very moment
            raise UnknownWebhook(name)
        return await asyncio.wrap_future(self._call(served[0].ping()))

    async def pause(self, name: str) -> None:
        """Sends nothing more until it is resumed; nothing is lost meanwhile. Raises `UnknownWebhook`."""
        self._named(name)
        if await self._store.transact(lambda tx: _pause(tx, name)):
            log("webhook.paused", endpoint=name, pause_reason=PauseReason.OPERATOR.value)

    async def resume(self, name: str) -> None:
        """Goes on where it was, at once. Raises `UnknownWebhook`."""
        self._named(name)
        begin = {"paused_at": None, "pause_reason": None, "failures": 0, "failing_since": None, "retry_at": None}
        if await self._store.transact(lambda tx: _resume(tx, name, begin)):
            log("webhook.resumed", endpoint=name)
        self._bells[name].ring()

    async def replay(self, name: str, *, from_seq: int | None, since: datetime | None, session: str | None) -> Replay:
        """Tells again what happened from an event on, since a time, or to a session; up to now. Returns the replay.

        Raises `UnknownWebhook`, `UnknownSession`.
        """
        self._named(name)
        before = 0
        if since is not None:  # not in the writer: it reads an entry for each event since then
            before = await asyncio.to_thread(self._store.read, lambda view: outbox.seq_before(view, since))

        def queue(tx: Transaction) -> Replay:
            if session is not None and tx.session(session) is None:
                raise UnknownSession(session)
            after = from_seq - 1 if from_seq else before
            replay = Replay(endpoint=name, cursor=after, until=tx.last_seq(), session_id=session)
            replay.id = outbox.add_replay(tx, replay)
            tx.has_events = True  # another daemon may serve the endpoint
            return replay

        queued = await self._store.transact(queue)
        self._bells[name].ring()
        return queued

    def _named(self, name: str) -> Webhook:
        if name not in self._settings:
            raise UnknownWebhook(name)
        return self._settings[name]

    # --- on the webhooks' thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _apply(self, webhooks: tuple[Webhook, ...], secrets: Secrets) -> None:
        trusts = {webhook.name: _trust(webhook, self._state) for webhook in webhooks}
        stays = {
            webhook.name
            for webhook in webhooks
            if webhook.name in self._workers
            and self._workers[webhook.name][0].webhook == webhook
            and self._workers[webhook.name][0].secrets == secrets[webhook.name]
            and self._workers[webhook.name][0].client.trust == trusts[webhook.name]
        }
        # What can fail comes first: an endpoint is ended only for one that begins.
        begins = [
            self._worker(webhook, secrets[webhook.name], trusts[webhook.name])
            for webhook in webhooks
            if webhook.name not in stays
        ]
        had = {name: worker.secrets for name, (worker, _) in self._workers.items()}
        await self._end([name for name in self._workers if name not in stays])
        for start in range(0, len(begins), TOGETHER):
            await asyncio.gather(*(_enlist(worker) for worker in begins[start : start + TOGETHER]))
        for worker in begins:
            self._workers[worker.webhook.name] = worker, asyncio.create_task(worker.run())
            if had.get(worker.webhook.name, worker.secrets) != worker.secrets:
                # Nothing else tells it: the setting may be the same, and the file another.
                log("webhook.secret", endpoint=worker.webhook.name)

    def _worker(self, webhook: Webhook, secrets: tuple[str, ...], trust: Trust | None) -> DeliveryWorker:
        client = Client(webhook.url, trust, link_local=webhook.allow_link_local)
        notifier = self._bells[webhook.name]

        def backlog(view: View) -> outbox.Backlog:
            return next((one.backlog for one in self._statuses(view, (webhook,))), outbox.Backlog(0, None))

        return DeliveryWorker(
            self._store,
            webhook,
            secrets,
            client,
            self._threads,
            notifier,
            self._tried,
            self._first_pause,
            backlog,
            lambda: self._names,
        )

    async def _end(self, names: list[str]) -> None:
        ending = [self._workers.pop(name) for name in names]
        for worker, _ in ending:
            worker.stop()
        left = {task for _, task in ending}
        for _ in ("for its answer", "cut off, to be recorded"):
            if left:
                _, left = await asyncio.wait(left, timeout=GRACE)
            for task in left:
                task.cancel()
        for worker, task in ending:
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception as error:
                log("webhook.defect", endpoint=worker.webhook.name, **error_fields(error))


async def _enlist(worker: DeliveryWorker) -> None:
    with suppress(RequestError):  # the database is away: it tries again by itself
        await worker.register()


def _pause(tx: Transaction, name: str) -> bool:
    state = outbox.endpoint(tx, name)
    if state is None or state.paused_at is not None:
        return False
    outbox.change(tx, name, paused_at=tx.now, pause_reason=PauseReason.OPERATOR)
    return True


def _resume(tx: Transaction, name: str, begin: dict[str, Any]) -> bool:
    state = outbox.endpoint(tx, name)
    outbox.change(tx, name, **begin)
    tx.has_events = True  # another daemon may serve the endpoint
    return state is not None and (state.paused_at is not None or state.failures > 0)
