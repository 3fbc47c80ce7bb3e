"""The delivery worker: delivers the events of one endpoint in order, one request at a time, and records each attempt.

It is the same for all kinds of endpoints; a `Sender` sends the events.

Each step reads the endpoint's cursor and what is due from the database, so a restart, a reload and an operator's
command need no special case. What the worker keeps in memory only saves reads and completes log lines.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tminus import clock
from tminus.delivery import backoff
from tminus.delivery.due import Due, find_due
from tminus.delivery.sender import Outcome, Sender, Sent, Subscription
from tminus.domain import timestamps
from tminus.domain.errors import RequestError
from tminus.domain.events import FeedEvent
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.domain.types import DeliveryKind, PauseReason
from tminus.logs.output import error_fields, log
from tminus.storage import Page, Store, Transaction, View, outbox
from tminus.storage.notifier import Notifier, wait_for

T = TypeVar("T")

DEFECT_DELAY = 60.0
"""Seconds to wait after an unexpected exception, which is a defect in tminus."""

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to read or write the database."""

STANDBY_INTERVAL = 1.0
"""Seconds between two attempts to take over the endpoint from another daemon."""

SKIPPED = 1000
"""Number of skipped events after which the cursor is written, if no more events follow."""

SKIPPED_ON_THE_WAY = 100_000
"""Number of skipped events after which the cursor is written while more events follow."""

AttemptObserver = Callable[[str, bool, int], None]
"""Called after each attempt with the endpoint, whether it succeeded, and the number of events."""


class DeliveryWorker:
    """Serves one endpoint until its configuration changes.

    Parameters
    ----------
    store, subscription
        The source of the events, and the endpoint that receives them.
    sender
        Sends the events; closed at the end.
    threads
        Threads for calls to the database, so that a slow call delays no other endpoint and no response.
    notifier
        Notified when there are new events, or an operator has changed something.
    on_attempt
        Called after each attempt.
    first_delay
        How long to wait after the first failure.
    backlog
        Counts the events that wait for the endpoint.
    """

    def __init__(
        self,
        store: Store,
        subscription: Subscription,
        sender: Sender,
        threads: Executor,
        notifier: Notifier,
        on_attempt: AttemptObserver,
        first_delay: timedelta = backoff.FIRST,
        backlog: Callable[[View], outbox.Backlog] = lambda _view: outbox.Backlog(0, None),
    ) -> None:
        self.name = subscription.name
        self._subscription = subscription
        self._sender = sender
        self._store = store
        self._threads = threads
        self._notifier = notifier
        self._on_attempt = on_attempt
        self._backlog = backlog
        self._first_delay = first_delay
        self._lock = f"endpoint {self.name}"
        self._skipped_through = 0
        """No event up to this number matches. It is rarely written to the database, since it can be found again."""
        self._catching_up: tuple[datetime, int] | None = None
        """While the endpoint catches up after a failure: when the failure began, and the events delivered since."""
        self._was_replay = False
        """Whether the last step sent a page of a replay: then new events are next."""
        self.blocked = False
        """Whether new events make no difference: the endpoint is paused, or waits to retry. Any thread may read it."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Send no more requests; `run` returns when the request in flight is recorded."""
        self._stopping.set()
        self._sender.stop()
        self._notifier.notify()

    async def run(self) -> None:
        """Deliver events until stopped."""
        async with aclosing(self._sender):
            try:
                await self._serve()
            finally:
                await self._in_thread(lambda: self._store.release(self._lock))

    async def _serve(self) -> None:
        while not self._stopping.is_set():
            notification = self._notifier.next_notification()
            try:
                seconds = await self._step()
            except RequestError:  # the database is unreachable or overloaded, which is logged elsewhere
                seconds = RETRY_INTERVAL
            except Exception as error:
                log("webhook.defect", endpoint=self.name, **error_fields(error))
                seconds = DEFECT_DELAY
            if seconds and not self._stopping.is_set():
                await wait_for(notification, seconds)

    async def ping(self) -> Delivery:
        """Send a `ping`, also to a paused endpoint, and record the attempt."""
        return await self._record_test(await self._sender.ping())

    async def sample(self, event: FeedEvent) -> Delivery:
        """Send a sample event, also to a paused endpoint, and record the attempt. No cursor moves."""
        return await self._record_test(await self._sender.send(DeliveryKind.SAMPLE, Page([event], 0)))

    async def _record_test(self, sent: Sent) -> Delivery:
        sent.attempt.id = await self._write(lambda tx: outbox.add_delivery(tx, sent.attempt))
        self._on_attempt(self.name, sent.outcome.ok, 0)
        return sent.attempt

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _step(self) -> float:
        """Send what is due next; return the seconds until more may be due, 0 if more may be due now."""
        is_ours, due = await self._in_thread(self._acquire_and_find)
        if not is_ours:
            return STANDBY_INTERVAL  # another daemon serves the endpoint; when that ends, this one takes over
        if due is None:  # the database was unreachable when the configuration came into force
            await self.register()
            return 0
        was_blocked, self.blocked = self.blocked, due.blocked
        self._was_replay = due.replay is not None
        self._skipped_through = max(self._skipped_through, due.skipped_through)
        if await self._send(due):
            return 0
        if self._catching_up is not None and not (due.page.more or due.blocked):
            (since, events), self._catching_up = self._catching_up, None
            log("webhook.caught_up", endpoint=self.name, events=events, since=timestamps.text(since))
        self._skipped_through = max(self._skipped_through, due.page.through)
        if due.page.through - due.state.cursor >= (SKIPPED_ON_THE_WAY if due.page.more else SKIPPED):
            await self._write(
                lambda tx: outbox.update_endpoint(tx, self.name, due.state.cursor, cursor=due.page.through)
            )
        if due.page.more:
            await asyncio.sleep(0)  # let the other endpoints run
            return 0
        # While it was blocked, commits did not notify it, so there may be new events already.
        return 0 if was_blocked and not due.blocked else due.wait

    async def _send(self, due: Due) -> bool:
        """Send what is due; return False if nothing is."""
        if due.replay is not None:
            await self._replay(due.replay, due.page)
        elif due.batch_is_gone:  # so the next attempt, with other events, is a first one
            anew = {**outbox.NO_FAILURE, "batch_until": None}
            await self._write(lambda tx: outbox.update_endpoint(tx, self.name, due.state.cursor, **anew))
        elif due.page.events:
            await self._deliver(due.state, due.page)
        else:
            return False
        return True

    async def register(self) -> None:
        """Add the endpoint to the database with its first cursor, if it is not there yet."""
        beginning = self._subscription.from_beginning
        if await self._write(lambda tx: outbox.register(tx, self.name, from_beginning=beginning)):
            log("webhook.added", endpoint=self.name, begins_at="beginning" if beginning else "now")

    def _acquire_and_find(self) -> tuple[bool, Due | None]:
        """Return whether this daemon serves the endpoint, and if so, what is due. Runs on one of `threads`."""
        if not self._store.acquire(self._lock):
            return False, None
        return True, self._store.read(self._find_due, lane="deliveries")

    def _find_due(self, view: View) -> Due | None:
        return find_due(view, self._subscription, skipped_through=self._skipped_through, was_replay=self._was_replay)

    async def _deliver(self, state: Endpoint, page: Page) -> None:
        """Send a batch; then move the cursor past it, or schedule a retry."""
        name = self.name
        sent = await self._sender.send(DeliveryKind.EVENTS, page)
        outcome, delivery, page = sent.outcome, sent.attempt, sent.page
        # A retry must send the same events, so that the request has the same id.
        same_batch = {"cursor": page.events[0].event.seq - 1, "batch_until": delivery.last_seq}

        def record(tx: Transaction) -> dict[str, Any]:
            if outcome.ok:
                changes: dict[str, Any] = {
                    **outbox.NO_FAILURE, "cursor": page.through, "batch_until": None, "last_error": None,
                    "delivered_at": delivery.at,
                }  # fmt: skip
            elif outcome.cancelled:
                changes = {**same_batch, "retry_at": None}
            else:
                # Read again: an operator may have resumed the endpoint while the request was in flight.
                changes = self._failed(outbox.endpoint(tx, name) or state, outcome, delivery.at)
                changes |= {**same_batch, "last_error": outcome.error}
                if (reason := self._pause_reason(outcome, changes, delivery.at)) is not None:
                    changes |= {"paused_at": delivery.at, "pause_reason": reason}
            outbox.update_endpoint(tx, name, state.cursor, **changes)
            return changes

        changes = await self._record(sent, record)
        self._on_attempt(name, outcome.ok, len(page.events))
        if outcome.ok and state.failures:
            since = state.failing_since or delivery.at
            fields = {"attempts": state.failures + 1, "since": timestamps.text(since), **await self._undelivered()}
            log("webhook.recovered", endpoint=name, **fields)
            if fields.get("undelivered_events"):
                self._catching_up = since, len(page.events)
        elif outcome.ok and self._catching_up is not None:
            since, events = self._catching_up
            self._catching_up = since, events + len(page.events)
        elif not outcome.ok and not outcome.cancelled:
            await self._log_failure(delivery, changes)

    async def _replay(self, replay: Replay, page: Page) -> None:
        """Send a batch of a replay; move the replay's cursor, and not the endpoint's."""
        name = self.name
        if not page.events:
            await self._write(lambda tx: _skip(tx, replay, page))
            if not page.more:
                log("webhook.replayed", endpoint=name, replay=replay.id)
            return
        sent = await self._sender.send(DeliveryKind.REPLAY, page)
        outcome, delivery, page = sent.outcome, sent.attempt, sent.page
        changes: dict[str, Any] = {**outbox.NO_FAILURE, "cursor": page.through}
        ends = False
        if outcome.cancelled:
            changes = {"retry_at": None}
        elif not outcome.ok:
            changes = self._failed(replay, outcome, delivery.at)
            ends = self._pause_reason(outcome, changes, delivery.at) is not None

        def record(tx: Transaction) -> None:
            if ends:
                outbox.end_replay(tx, replay)
            else:
                outbox.update_replay(tx, replay, **changes)

        await self._record(sent, record)
        self._on_attempt(name, outcome.ok, len(page.events))
        if ends:
            log("webhook.replay_ended", endpoint=name, replay=replay.id, error=outcome.error)
        elif not outcome.ok and not outcome.cancelled:
            await self._log_failure(delivery, changes)

    def _failed(self, state: Endpoint | Replay, outcome: Outcome, begun: datetime) -> dict[str, Any]:
        """Return the changes of an endpoint or a replay after one more failure."""
        failures = state.failures + 1
        since = state.failing_since or begun
        # Not from `begun`: if the clock was set back meanwhile, that would be an hour or more ahead.
        retry_at = clock.now() + backoff.delay(failures, outcome.retry_after, self._first_delay)
        # However long the delay is, one last attempt is made before giving up.
        return {
            "failures": failures,
            "failing_since": since,
            "retry_at": min(retry_at, since + self._subscription.give_up_after),
        }

    def _pause_reason(self, outcome: Outcome, changes: dict[str, Any], begun: datetime) -> PauseReason | None:
        """Return why the endpoint must be paused after this failure; None to keep trying."""
        if outcome.gone:
            return PauseReason.GONE
        last: datetime = changes["failing_since"] + self._subscription.give_up_after
        return PauseReason.GAVE_UP if begun >= last else None

    async def _log_failure(self, delivery: Delivery, changes: dict[str, Any]) -> None:
        fields = {"endpoint": self.name, "error": delivery.error, "attempts": changes["failures"]}
        fields |= {"since": timestamps.text(changes["failing_since"]), **await self._undelivered()}
        if "paused_at" in changes:
            log("webhook.paused", **fields, pause_reason=changes["pause_reason"].value)
        else:
            log("webhook.failed", **fields, retry_at=timestamps.text(changes["retry_at"]), code=delivery.status)

    async def _undelivered(self) -> dict[str, Any]:
        """Return the number of waiting events and the time of the oldest, as log fields."""
        try:
            backlog = await self._in_thread(lambda: self._store.read(self._backlog))
        except RequestError:
            return {}
        if backlog.oldest is None:
            return {"undelivered_events": backlog.events}
        return {"undelivered_events": backlog.events, "oldest_undelivered": timestamps.text(backlog.oldest)}

    # --- sending and recording ----------------------------------------------------------------------------------------

    async def _record(self, sent: Sent, change: Callable[[Transaction], T]) -> T:
        """Record an attempt. If the database is unreachable, wait for it: otherwise the attempt would be repeated."""

        def record(tx: Transaction) -> T:
            if not sent.is_logged:
                outbox.add_delivery(tx, sent.attempt)
            sent.also(tx)
            return change(tx)

        while True:
            try:
                return await self._write(record)
            except RequestError:
                if self._stopping.is_set():
                    raise
                await asyncio.sleep(RETRY_INTERVAL)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Run a call that may wait for the database on one of `threads`, and return its result.

        A cancelled caller also waits until the call has ended; the store limits how long that takes. Otherwise the
        thread could acquire the lock after `run` has released it, and keep it for ever.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            future.exception()  # retrieve it, or asyncio logs it
            raise asyncio.CancelledError
        return future.result()

    async def _write(self, job: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._store.submit(job))


def _skip(tx: Transaction, replay: Replay, page: Page) -> None:
    """Move a replay past a page without matching events; end it after the last page."""
    if page.more:
        outbox.update_replay(tx, replay, cursor=page.through)
    else:
        outbox.end_replay(tx, replay)
