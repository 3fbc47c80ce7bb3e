"""Run all delivery workers on a thread and an event loop of their own, and execute the operators' commands.

A slow endpoint delays no other endpoint, no request and not the scheduler.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tminus.config import Settings, Webhook
from tminus.delivery import backoff
from tminus.delivery.client import Client
from tminus.delivery.credentials import Secrets, trust_of
from tminus.delivery.due import subscription
from tminus.delivery.tls import Trust
from tminus.delivery.worker import AttemptObserver, DeliveryWorker
from tminus.domain.errors import RequestError, UnknownSession, UnknownWebhook
from tminus.domain.events import NO_NAMES, ActorNames
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.domain.types import PauseReason
from tminus.logs.output import error_fields, log
from tminus.storage import READERS, Store, Transaction, View, outbox
from tminus.storage.notifier import Notifier
from tminus.system.threads import RestartingThread

T = TypeVar("T")

STOP_GRACE = 1.0
"""Seconds that a request in flight may take when the daemon stops, or when its endpoint is changed or removed. Then it
is cancelled, and has the same time again to be recorded. A cancelled request is repeated later with the same events."""


REGISTER_BATCH = 50
"""Endpoints that are registered at a time. They share a transaction, and requests may come between two batches."""


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """The state of an endpoint, for an operator."""

    webhook: Webhook
    state: Endpoint
    backlog: outbox.Backlog
    replays: int


class Webhooks:
    """The endpoints of the configuration in force.

    Parameters
    ----------
    store
        The source of the events.
    state_directory
        The directory of relative paths in the configuration.
    on_attempt
        Called after each attempt, on the webhooks' thread.
    first_pause
        How long to wait after the first failure of an endpoint.
    """

    def __init__(
        self,
        store: Store,
        state_directory: Path,
        on_attempt: AttemptObserver = lambda _endpoint, _ok, _events: None,
        first_pause: timedelta = backoff.FIRST,
    ) -> None:
        self._store = store
        self._state = state_directory
        self._on_attempt = on_attempt
        self._first_pause = first_pause
        self._backlogs = outbox.Backlogs()
        self._loop = asyncio.new_event_loop()
        self._thread = RestartingThread("webhooks", self._run)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="webhooks-database")
        """Threads on which workers read the database: as many as there are connections for it."""
        self._notifiers: dict[str, Notifier] = {}
        self._workers: dict[str, tuple[DeliveryWorker, asyncio.Task[None]]] = {}
        self._settings: dict[str, Webhook] = {}
        self._names: ActorNames = NO_NAMES

    def start(self) -> None:
        self._thread.start()

    def wake(self, *, also_blocked: bool = False) -> None:
        """Wake the workers, as there are new events; with `also_blocked`, also those that are paused or wait to retry.

        Any thread may call this.
        """
        for name, notifier in tuple(self._notifiers.items()):
            entry = self._workers.get(name)
            if also_blocked or entry is None or not entry[0].blocked:
                notifier.notify()

    def retry_all_now(self) -> None:
        """End all pauses before a retry. If the wall clock is set back by an hour, a pause of seconds would otherwise
        take that hour, too.

        Any thread but the writer's may call this. Raises `StoreUnavailable`, `Overloaded`.
        """
        self._store.submit(outbox.retry_now).result()
        self.wake(also_blocked=True)

    def drain(self) -> None:
        """Begin no more requests. Any thread may call this."""

        def drain() -> None:
            for worker, _ in self._workers.values():
                worker.stop()

        self._loop.call_soon_threadsafe(drain)

    def stop(self) -> None:
        """Stop all workers; return when the requests in flight are recorded or cancelled."""
        if self._thread.is_alive():
            self._call(self._apply((), {})).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._threads.shutdown()
        self._loop.close()

    def use_names(self, names: ActorNames) -> None:
        """Use these names of actors in the events of later requests. Any thread may call this."""
        self._names = names

    def apply(self, settings: Settings, secrets: Secrets) -> None:
        """Put the endpoints of a configuration in force. The workers of unchanged endpoints are not restarted."""
        for webhook in settings.webhooks:
            self._notifiers.setdefault(webhook.name, Notifier())
        self._call(self._apply(settings.webhooks, secrets)).result()
        self._settings = {webhook.name: webhook for webhook in settings.webhooks}

    # --- for operators ------------------------------------------------------------------------------------------------

    def endpoint_statuses(self, view: View) -> list[EndpointStatus]:
        """Return the status of all endpoints, in the order of the configuration."""
        return self._statuses(view, tuple(self._settings.values()))

    def endpoint_status(self, view: View, name: str) -> EndpointStatus:
        """Return the status of one endpoint. Raises `UnknownWebhook`."""
        found = self._statuses(view, (self._named(name),))
        if not found:  # it is not registered yet, since a reload is in progress
            raise UnknownWebhook(name)
        return found[0]

    def _statuses(self, view: View, webhooks: Sequence[Webhook]) -> list[EndpointStatus]:
        """Return the status of each of these webhooks that is registered."""
        found = [(one, state) for one in webhooks if (state := outbox.endpoint(view, one.name)) is not None]
        backlogs = self._backlogs.count(view, [(one.name, state.cursor, subscription(one)) for one, state in found])
        return [
            EndpointStatus(webhook, state, backlog, outbox.replays(view, webhook.name))
            for (webhook, state), backlog in zip(found, backlogs, strict=True)
        ]

    def deliveries(
        self, view: View, name: str, *, failed: bool, before: int | None, limit: int
    ) -> tuple[list[Delivery], int | None]:
        """Return a page of the delivery log, the newest first, and where the next begins. Raises `UnknownWebhook`."""
        self._named(name)
        return outbox.deliveries(view, name, failed=failed, before=before, limit=limit)

    async def ping(self, name: str) -> Delivery:
        """Send a `ping` and return the outcome. Raises `UnknownWebhook`."""
        self._named(name)
        if (entry := self._workers.get(name)) is None:  # its worker is not running yet, since a reload is in progress
            raise UnknownWebhook(name)
        return await asyncio.wrap_future(self._call(entry[0].ping()))

    async def pause(self, name: str) -> None:
        """Stop sending to an endpoint until it is resumed. Its events wait. Raises `UnknownWebhook`."""
        self._named(name)
        if await self._store.transact(lambda tx: _pause(tx, name)):
            log("webhook.paused", endpoint=name, pause_reason=PauseReason.OPERATOR.value)

    async def resume(self, name: str) -> None:
        """Continue to send to an endpoint at its cursor, at once. Raises `UnknownWebhook`."""
        self._named(name)
        healthy = {"paused_at": None, "pause_reason": None, "failures": 0, "failing_since": None, "retry_at": None}
        if await self._store.transact(lambda tx: _resume(tx, name, healthy)):
            log("webhook.resumed", endpoint=name)
        self._notifiers[name].notify()

    async def replay(self, name: str, *, from_seq: int | None, since: datetime | None, session: str | None) -> Replay:
        """Queue a replay of the events from a number on, since a time, or of a session, until now; return the replay.

        Raises `UnknownWebhook`, `UnknownSession`.
        """
        self._named(name)
        before = 0
        if since is not None:  # not in the writer: it reads an index entry for each event since then
            before = await asyncio.to_thread(self._store.read, lambda view: outbox.seq_before(view, since))

        def queue(tx: Transaction) -> Replay:
            if session is not None and tx.session(session) is None:
                raise UnknownSession(session)
            after = from_seq - 1 if from_seq else before
            replay = Replay(endpoint=name, cursor=after, until=tx.last_seq(), session_id=session)
            replay.id = outbox.add_replay(tx, replay)
            tx.has_events = True  # notify other daemons, one of which may serve the endpoint
            return replay

        queued = await self._store.transact(queue)
        self._notifiers[name].notify()
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
        trusts = {webhook.name: trust_of(webhook, self._state) for webhook in webhooks}
        unchanged = {
            webhook.name
            for webhook in webhooks
            if webhook.name in self._workers
            and self._workers[webhook.name][0].webhook == webhook
            and self._workers[webhook.name][0].secrets == secrets[webhook.name]
            and self._workers[webhook.name][0].client.trust == trusts[webhook.name]
        }
        # What can fail comes first, so that a failure stops no worker that is running.
        new = [
            self._worker(webhook, secrets[webhook.name], trusts[webhook.name])
            for webhook in webhooks
            if webhook.name not in unchanged
        ]
        old_secrets = {name: worker.secrets for name, (worker, _) in self._workers.items()}
        await self._end([name for name in self._workers if name not in unchanged])
        for start in range(0, len(new), REGISTER_BATCH):
            await asyncio.gather(*(_register(worker) for worker in new[start : start + REGISTER_BATCH]))
        for worker in new:
            self._workers[worker.webhook.name] = worker, asyncio.create_task(worker.run())
            if old_secrets.get(worker.webhook.name, worker.secrets) != worker.secrets:
                # `config.changed` does not report it if the file has changed and the setting has not.
                log("webhook.secret", endpoint=worker.webhook.name)

    def _worker(self, webhook: Webhook, secrets: tuple[str, ...], trust: Trust | None) -> DeliveryWorker:
        client = Client(webhook.url, trust, link_local=webhook.allow_link_local)
        notifier = self._notifiers[webhook.name]

        def backlog(view: View) -> outbox.Backlog:
            return next((one.backlog for one in self._statuses(view, (webhook,))), outbox.Backlog(0, None))

        return DeliveryWorker(
            self._store,
            webhook,
            secrets,
            client,
            self._threads,
            notifier,
            self._on_attempt,
            self._first_pause,
            backlog,
            lambda: self._names,
        )

    async def _end(self, names: list[str]) -> None:
        ending = [self._workers.pop(name) for name in names]
        for worker, _ in ending:
            worker.stop()
        running = {task for _, task in ending}
        for _ in ("wait for the response", "wait until the cancelled request is recorded"):
            if running:
                _, running = await asyncio.wait(running, timeout=STOP_GRACE)
            for task in running:
                task.cancel()
        for worker, task in ending:
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception as error:
                log("webhook.defect", endpoint=worker.webhook.name, **error_fields(error))


async def _register(worker: DeliveryWorker) -> None:
    with suppress(RequestError):  # the database is unreachable; the worker tries again by itself
        await worker.register()


def _pause(tx: Transaction, name: str) -> bool:
    state = outbox.endpoint(tx, name)
    if state is None or state.paused_at is not None:
        return False
    outbox.update_endpoint(tx, name, paused_at=tx.now, pause_reason=PauseReason.OPERATOR)
    return True


def _resume(tx: Transaction, name: str, healthy: dict[str, Any]) -> bool:
    state = outbox.endpoint(tx, name)
    outbox.update_endpoint(tx, name, **healthy)
    tx.has_events = True  # notify other daemons, one of which may serve the endpoint
    return state is not None and (state.paused_at is not None or state.failures > 0)
