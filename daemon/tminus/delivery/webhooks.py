"""Run all delivery workers on a thread and an event loop of their own, and execute the operators' commands.

A slow endpoint delays no other endpoint, no request and not the scheduler.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tminus.config import Settings, Webhook
from tminus.config.addresses import endpoint_text
from tminus.config.mail import MAIL_ENDPOINT
from tminus.delivery import backoff
from tminus.delivery.client import Client
from tminus.delivery.credentials import Secrets, mail_trust, trust_of
from tminus.delivery.sender import MailObserver, Sender, Subscription
from tminus.delivery.tls import Trust
from tminus.delivery.webhook_sender import WebhookSender, subscription
from tminus.delivery.worker import AttemptObserver, DeliveryWorker
from tminus.domain.errors import RequestError, UnknownSession, UnknownWebhook
from tminus.domain.events import NO_NAMES, ActorNames, FeedEvent
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.domain.types import PauseReason, SessionType
from tminus.logs.output import error_fields, log
from tminus.storage import READERS, Store, Transaction, View, mails, outbox
from tminus.storage.notifier import Notifier
from tminus.system.threads import RestartingThread

T = TypeVar("T")

STOP_GRACE = 1.0
"""Seconds that a request in flight may take when the daemon stops, or when its endpoint is changed or removed. Then it
is cancelled, and has the same time again to be recorded. A cancelled request is repeated later with the same events."""

REGISTER_BATCH = 50
"""Endpoints that are registered at a time. They share a transaction, and requests may come between two batches."""


class ConfiguredEndpoint(NamedTuple):
    """An endpoint of the configuration, of any kind."""

    subscription: Subscription
    url: str
    """For an operator: without secrets."""
    events: tuple[str, ...]
    session_types: tuple[SessionType, ...]
    reopen: Callable[[Transaction, int, int, str | None], None] = lambda *_: None
    """Prepares a replay. Its arguments: the transaction, the number that the events are after, the number of the last,
    and the id of a session, or None for all sessions."""

    @property
    def name(self) -> str:
        return self.subscription.name


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a worker is created from. If any of it changes, a new worker replaces the old one."""

    configuration: object
    secrets: tuple[str, ...] = field(repr=False)
    trust: Trust | None
    url: str = field(repr=False)
    """The receiver. If this changes, the failures of the old one say nothing about it."""


class _Wanted(NamedTuple):
    """A worker that a configuration needs."""

    endpoint: ConfiguredEndpoint
    inputs: _Inputs
    sender: Callable[[], Sender]


class _Running(NamedTuple):
    """A worker and its task."""

    worker: DeliveryWorker
    inputs: _Inputs
    task: asyncio.Task[None]


class EndpointStatus(NamedTuple):
    """The state of an endpoint, for an operator."""

    endpoint: ConfiguredEndpoint
    state: Endpoint
    backlog: outbox.Backlog
    replays: int


class Webhooks:
    """The endpoints of the configuration in force: the webhooks, and mail.

    Parameters
    ----------
    store
        The source of the events.
    state_directory
        The directory of relative paths in the configuration.
    on_attempt
        Called after each attempt, on the webhooks' thread.
    first_delay
        How long to wait after the first failure of an endpoint.
    on_mail
        Called with what became of each mail, on the webhooks' thread.
    """

    def __init__(
        self,
        store: Store,
        state_directory: Path,
        on_attempt: AttemptObserver = lambda _endpoint, _ok, _events: None,
        first_delay: timedelta = backoff.FIRST,
        on_mail: MailObserver = lambda _state: None,
    ) -> None:
        self._store = store
        self._state = state_directory
        self._on_attempt = on_attempt
        self._first_delay = first_delay
        self._on_mail = on_mail
        self._backlogs = outbox.Backlogs()
        self._loop = asyncio.new_event_loop()
        self._thread = RestartingThread("webhooks", self._run)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="webhooks-database")
        """Threads on which workers read the database: as many as there are connections for it."""
        self._notifiers: dict[str, Notifier] = {}
        self._workers: dict[str, _Running] = {}
        self._endpoints: dict[str, ConfiguredEndpoint] = {}
        self._names: ActorNames = NO_NAMES

    def start(self) -> None:
        self._thread.start()

    def wake(self, *, also_blocked: bool = False) -> None:
        """Wake the workers, as there are new events; with `also_blocked`, also those that are paused or wait to retry.

        Any thread may call this.
        """
        for name, notifier in tuple(self._notifiers.items()):
            entry = self._workers.get(name)
            if also_blocked or entry is None or not entry.worker.blocked:
                notifier.notify()

    def retry_all_now(self) -> None:
        """Let all endpoints that wait to retry do so now. Otherwise, after the wall clock was set back by an hour, a
        delay of seconds would last an hour longer.

        Any thread but the writer's may call this. Raises `StoreUnavailable`, `Overloaded`.
        """
        self._store.submit(outbox.retry_now).result()
        self.wake(also_blocked=True)

    def drain(self) -> None:
        """Begin no more requests. Any thread may call this."""

        def drain() -> None:
            for running in self._workers.values():
                running.worker.stop()

        self._loop.call_soon_threadsafe(drain)

    def stop(self) -> None:
        """Stop all workers; return when the requests in flight are recorded or cancelled."""
        if self._thread.is_alive():
            self._call(self._end(list(self._workers))).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._threads.shutdown()
        self._loop.close()

    def use_names(self, names: ActorNames) -> None:
        """Use these names of actors in the events of later requests. Any thread may call this."""
        self._names = names

    def apply(self, settings: Settings, secrets: Secrets) -> None:
        """Put the endpoints of a configuration in force. The workers of unchanged endpoints are not restarted."""
        wanted = [self._webhook(webhook, secrets[webhook.name]) for webhook in settings.webhooks]
        if settings.mail.host:
            wanted.append(self._mail(settings, secrets[MAIL_ENDPOINT]))
        for one in wanted:
            self._notifiers.setdefault(one.endpoint.name, Notifier())
        self._call(self._apply(wanted)).result()
        self._endpoints = {one.endpoint.name: one.endpoint for one in wanted}

    def _mail(self, settings: Settings, secrets: tuple[str, ...]) -> _Wanted:
        # Without mail, neither `aiosmtplib` nor `icalendar` is loaded.
        from tminus.delivery.mail import sender, smtp, templates  # noqa: PLC0415

        mail = settings.mail
        trust = mail_trust(mail, self._state)
        read = templates.read(self._state / mail.templates if mail.templates else None)
        words = templates.Templates(read, mail.language, mail.timezone)
        access = smtp.Access(mail, secrets[0], trust)
        used = (mail, settings.lifecycle, settings.organization, templates.digest(read))
        subscribed = sender.subscription(settings)
        scheme = "smtps" if mail.security == "tls" else "smtp"
        host = f"[{mail.host}]" if ":" in mail.host else mail.host
        url = f"{scheme}://{host}:{mail.server_port}"
        endpoint = ConfiguredEndpoint(subscribed, url, tuple(sorted(sender.TYPES)), (), mails.reopen)
        return _Wanted(
            endpoint,
            _Inputs(used, secrets, trust, url),
            lambda: sender.MailSender(
                self._store, self._threads, settings, access, words, self._on_mail, self._first_delay
            ),
        )

    def _webhook(self, webhook: Webhook, secrets: tuple[str, ...]) -> _Wanted:
        trust = trust_of(webhook, self._state)

        def sender() -> Sender:
            client = Client(webhook.url, trust, link_local=webhook.allow_link_local)
            return WebhookSender(webhook, secrets, client, self._store.database_id, lambda: self._names)

        return _Wanted(configured(webhook), _Inputs(webhook, secrets, trust, webhook.url), sender)

    # --- for operators ------------------------------------------------------------------------------------------------

    def endpoint_statuses(self, view: View) -> list[EndpointStatus]:
        """Return the status of all endpoints, in the order of the configuration."""
        return self._statuses(view, tuple(self._endpoints.values()))

    def endpoint_status(self, view: View, name: str) -> EndpointStatus:
        """Return the status of one endpoint. Raises `UnknownWebhook`."""
        found = self._statuses(view, (self._named(name),))
        if not found:  # it is not registered yet, since a reload is in progress
            raise UnknownWebhook(name)
        return found[0]

    def _statuses(self, view: View, endpoints: Sequence[ConfiguredEndpoint]) -> list[EndpointStatus]:
        """Return the status of each of these endpoints that is registered."""
        found = [(one, state) for one in endpoints if (state := outbox.endpoint(view, one.name)) is not None]
        wanted = [(one.name, state.cursor, one.subscription.events) for one, state in found]
        backlogs = self._backlogs.count(view, wanted)
        return [
            EndpointStatus(endpoint, state, backlog, outbox.replays(view, endpoint.name))
            for (endpoint, state), backlog in zip(found, backlogs, strict=True)
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
        return await asyncio.wrap_future(self._call(entry.worker.ping()))

    async def sample(self, name: str, event: FeedEvent) -> Delivery:
        """Send a sample event, whatever the endpoint subscribes to; return the outcome. Raises `UnknownWebhook`."""
        self._named(name)
        if (entry := self._workers.get(name)) is None:  # likewise
            raise UnknownWebhook(name)
        return await asyncio.wrap_future(self._call(entry.worker.sample(event)))

    async def pause(self, name: str, **by: str | None) -> None:
        """Stop sending to an endpoint until it is resumed. Its events wait. Raises `UnknownWebhook`.

        `by`: the fields of the log line that say who did it.
        """
        self._named(name)
        if await self._store.transact(lambda tx: _pause(tx, name)):
            log("webhook.paused", endpoint=name, pause_reason=PauseReason.OPERATOR.value, **by)

    async def resume(self, name: str, **by: str | None) -> None:
        """Continue to send to an endpoint at its cursor, at once. Raises `UnknownWebhook`. `by`: as for `pause`."""
        self._named(name)
        healthy = {**outbox.NO_FAILURE, "paused_at": None, "pause_reason": None}
        if await self._store.transact(lambda tx: _resume(tx, name, healthy)):
            log("webhook.resumed", endpoint=name, **by)
        self._notifiers[name].notify()

    async def replay(self, name: str, *, from_seq: int | None, since: datetime | None, session: str | None) -> Replay:
        """Queue a replay of past events: those from a number on, since a time, or of a session. Return the replay.

        Raises `UnknownWebhook`, `UnknownSession`.
        """
        endpoint = self._named(name)
        before = 0
        if since is not None:  # not in the writer: it reads an index entry for each event since then
            before = await asyncio.to_thread(self._store.read, lambda view: outbox.seq_before(view, since))

        def queue(tx: Transaction) -> Replay:
            if session is not None and tx.session(session) is None:
                raise UnknownSession(session)
            after = from_seq - 1 if from_seq else before
            replay = Replay(endpoint=name, cursor=after, until=tx.last_seq(), session_id=session)
            endpoint.reopen(tx, after, replay.until, session)
            replay.id = outbox.add_replay(tx, replay)
            tx.has_events = True  # notify other daemons, one of which may serve the endpoint
            return replay

        queued = await self._store.transact(queue)
        self._notifiers[name].notify()
        return queued

    def _named(self, name: str) -> ConfiguredEndpoint:
        if name not in self._endpoints:
            raise UnknownWebhook(name)
        return self._endpoints[name]

    # --- on the webhooks' thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _apply(self, wanted: list[_Wanted]) -> None:
        unchanged = {
            one.endpoint.name
            for one in wanted
            if one.endpoint.name in self._workers and self._workers[one.endpoint.name].inputs == one.inputs
        }
        # Create the new workers first: if that fails, the running ones continue.
        new = [(one.inputs, self._worker(one)) for one in wanted if one.endpoint.name not in unchanged]
        old = {name: running.inputs for name, running in self._workers.items()}
        await self._end([name for name in self._workers if name not in unchanged])
        names = {one.endpoint.name for one in wanted}
        moved = {one.endpoint.name for one in wanted if old.get(one.endpoint.name, one.inputs).url != one.inputs.url}
        with suppress(RequestError):  # the database is unreachable; then the failures stay as they are
            forget = partial(outbox.forget_failures, moved=moved, configured=names)
            await asyncio.wrap_future(self._store.submit(forget))
        for start in range(0, len(new), REGISTER_BATCH):
            await asyncio.gather(*(_register(worker) for _, worker in new[start : start + REGISTER_BATCH]))
        for inputs, worker in new:
            self._workers[worker.name] = _Running(worker, inputs, asyncio.create_task(worker.run()))
            if old.get(worker.name, inputs).secrets != inputs.secrets:
                # `config.changed` does not report a new secret in the same file, since no setting has changed.
                log("webhook.secret", endpoint=worker.name)

    def _worker(self, wanted: _Wanted) -> DeliveryWorker:
        endpoint = wanted.endpoint

        def backlog(view: View) -> outbox.Backlog:
            return next((one.backlog for one in self._statuses(view, (endpoint,))), outbox.Backlog(0, None))

        return DeliveryWorker(
            self._store,
            endpoint.subscription,
            wanted.sender(),
            self._threads,
            self._notifiers[endpoint.name],
            self._on_attempt,
            self._first_delay,
            backlog,
        )

    async def _end(self, names: list[str]) -> None:
        ending = [self._workers.pop(name) for name in names]
        for one in ending:
            one.worker.stop()
        running = {one.task for one in ending}
        for _ in range(2):  # first wait for the response, then until the cancelled request is recorded
            if running:
                _, running = await asyncio.wait(running, timeout=STOP_GRACE)
            for task in running:
                task.cancel()
        for one in ending:
            try:
                await one.task
            except asyncio.CancelledError:
                pass
            except Exception as error:
                log("webhook.defect", endpoint=one.worker.name, **error_fields(error))


def configured(webhook: Webhook) -> ConfiguredEndpoint:
    """Return a webhook as an endpoint."""
    return ConfiguredEndpoint(
        subscription(webhook), endpoint_text(webhook.url), tuple(webhook.events), webhook.session_types
    )


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
