"""One endpoint: what is due to it is read, sent and recorded, in order, one request at a time.

Nothing is kept here: each step reads from the database how far the endpoint is and what is due, so a restart, a reload,
an operator's command and a step see the same.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import orjson

from tminus import clock
from tminus.config import Webhook
from tminus.delivery import backoff, signing
from tminus.delivery.post import Client, Outcome
from tminus.domain import ids, timestamps
from tminus.domain.errors import RequestError
from tminus.domain.events import NOBODY, ActorNames
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.domain.types import DeliveryKind, PauseReason, SessionType
from tminus.logs.output import error_fields, log
from tminus.storage import EventFilter, Page, Store, Transaction, View, outbox
from tminus.storage.notifier import Notifier, wait_for

T = TypeVar("T")

LOOK = 5.0
"""Seconds after which it looks even if nobody has called: an operator may have asked another daemon to resume it, or
for a replay, and word of that may be lost."""

DEFECT = 60.0
"""Seconds after which it tries again what has failed for a defect of our own."""

AGAIN = 1.0
"""Seconds between two tries to read or write the database."""

ASIDE = 1.0
"""Seconds after which it looks whether the daemon that serves its endpoint is still there."""

BODY_BYTES = 1024 * 1024
"""A batch ends before its JSON is longer than this: what many servers take without being told to. One event alone is
bounded by what the API takes."""

SKIPPED = 1000
"""How many events that do not match are passed over before that is written down, once there are no more."""

SKIPPED_ON_THE_WAY = 100_000
"""The same while there are more."""


Tried = Callable[[str, bool, int], None]
"""Endpoint, whether it was delivered, how many events."""


@dataclass(frozen=True, slots=True)
class Due:
    """What one look at the database says is to be done."""

    state: Endpoint
    replay: Replay | None
    page: Page
    wait: float
    """Seconds until there may be something to do, if there is nothing now."""
    blocked: bool = False
    """Whether new events change nothing: it is paused, or waits to try again."""


class DeliveryWorker:
    """Serves one endpoint, for as long as its configuration stays as it is.

    Parameters
    ----------
    store, webhook
        Where the events are; whom they are for.
    secrets
        Its secrets; the first is the newest.
    client
        With which it sends; closed at the end.
    threads
        Where the database is asked: a call that takes long holds up no other endpoint, and no answer that has come.
    notifier
        Rings when there are new events, or an operator has changed something.
    tried
        Called after each try: endpoint, whether it was delivered, how many events.
    first_pause
        How long it waits after the first failure.
    backlog
        Counts the events that wait for the endpoint.
    names
        Returns the names of actors that the configuration in force knows.
    """

    def __init__(
        self,
        store: Store,
        webhook: Webhook,
        secrets: tuple[str, ...],
        client: Client,
        threads: Executor,
        notifier: Notifier,
        tried: Tried,
        first_pause: timedelta = backoff.FIRST,
        backlog: Callable[[View], outbox.Backlog] = lambda _view: outbox.Backlog(0, None),
        names: Callable[[], ActorNames] = lambda: NOBODY,
    ) -> None:
        self._names = names
        self.webhook = webhook
        self.secrets = secrets
        self._store = store
        self.client = client
        self._threads = threads
        self._notifier = notifier
        self._tried = tried
        self._backlog = backlog
        self._first_pause = first_pause
        self._lock = f"endpoint {webhook.name}"
        self._only = wanted(webhook)
        self._passed_over = 0
        """Nothing matches up to here; not written down for each event, as it can be found again."""
        self._catching_up: tuple[datetime, int] | None = None
        """While events wait that came before the endpoint recovered: since when it had failed, how many were taken."""
        self._replayed = False
        """Whether the last step was a replay's: then it is the turn of new events."""
        self.blocked = False
        """Whether new events need not ring: it waits, and not for them. Any thread."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Sends no more requests; `run` returns when the one on its way is recorded."""
        self._stopping.set()
        self._notifier.ring()

    async def run(self) -> None:
        """Delivers until stopped."""
        async with aclosing(self.client):
            try:
                await self._serve()
            finally:
                await self._aside(lambda: self._store.release(self._lock))

    async def _serve(self) -> None:
        while not self._stopping.is_set():
            ring = self._notifier.next_ring()
            try:
                seconds = await self._step()
            except RequestError:  # the database is away, or overloaded; its own line tells of that
                seconds = AGAIN
            except Exception as error:
                log("webhook.defect", endpoint=self.webhook.name, **error_fields(error))
                seconds = DEFECT
            if seconds and not self._stopping.is_set():
                await wait_for(ring, seconds)

    async def ping(self) -> Delivery:
        """Sends a `ping`, paused or not, and records what became of it."""
        said = {
            "type": "ping",
            "ts": timestamps.text(clock.now()),
            "message": f"A test of endpoint {self.webhook.name}",
        }
        outcome, delivery = await self._send(DeliveryKind.PING, f"msg_{ids.random_hex()}", orjson.dumps([said]))
        delivery.id = await self._write(lambda tx: outbox.note(tx, delivery))
        self._tried(self.webhook.name, outcome.ok, 0)
        return delivery

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _step(self) -> float:
        """Does what is due next; returns the seconds until there may be more, 0 if there may be now."""
        holds, due = await self._aside(self._ask)
        if not holds:
            return ASIDE  # another daemon serves it: should that one end, it is ours
        if due is None:  # the database was away when it was put in force
            await self.register()
            return 0
        was_blocked, self.blocked = self.blocked, due.blocked
        self._replayed = due.replay is not None
        if due.replay is not None:
            await self._replay(due.replay, due.page)
            return 0
        if due.page.told:
            await self._deliver(due.state, due.page)
            return 0
        if self._catching_up is not None and not (due.page.more or due.blocked):
            (since, events), self._catching_up = self._catching_up, None
            log("webhook.caught_up", endpoint=self.webhook.name, events=events, since=timestamps.text(since))
        self._passed_over = max(self._passed_over, due.page.through)
        if due.page.through - due.state.cursor >= (SKIPPED_ON_THE_WAY if due.page.more else SKIPPED):
            await self._write(
                lambda tx: outbox.change(tx, self.webhook.name, due.state.cursor, cursor=due.page.through)
            )
        if due.page.more:
            await asyncio.sleep(0)  # the other endpoints have their turn
            return 0
        return 0 if was_blocked and not due.blocked else due.wait  # what was committed meanwhile did not ring

    async def register(self) -> None:
        """Gives the endpoint its place, if it has none."""
        beginning = self.webhook.from_ == "beginning"
        if await self._write(lambda tx: outbox.register(tx, self.webhook.name, from_beginning=beginning)):
            log("webhook.added", endpoint=self.webhook.name, begins_at=self.webhook.from_)

    def _ask(self) -> tuple[bool, Due | None]:
        """Return whether this daemon serves the endpoint, and if so what is due now. On a thread of `threads`."""
        if not self._store.acquire(self._lock):
            return False, None
        return True, self._store.read(self._look, lane="deliveries")

    def _look(self, view: View) -> Due | None:
        """On a view: what is due now. New events and a replay, if there are both, are sent in turn: a replay may be as
        long as the whole history.
        """
        state = outbox.endpoint(view, self.webhook.name)
        if state is None:
            return None
        now = clock.now()
        replay = outbox.next_replay(view, self.webhook.name)
        waits = [LOOK]
        replays = False
        if replay is not None:
            left = _left(replay.retry_at, now)
            replays = left == 0
            if replays and not self._replayed:
                return self._due_replay(view, state, replay)
            if not replays:
                waits.append(left)
        live = self._due_live(view, state, now, waits)
        if replay is None or not replays or live.page.told:
            return live
        self._passed_over = max(self._passed_over, live.page.through)
        return self._due_replay(view, state, replay)

    def _due_replay(self, view: View, state: Endpoint, replay: Replay) -> Due:
        only = EventFilter(self._only.types, self._only.session_types, replay.session_id, replay.until)
        return Due(state, replay, view.page(replay.cursor, self.webhook.batch, only), 0)

    def _due_live(self, view: View, state: Endpoint, now: datetime, waits: list[float]) -> Due:
        if state.paused_at is None:
            if (left := _left(state.retry_at, now)) == 0:
                after = max(state.cursor, self._passed_over)
                only = EventFilter(self._only.types, self._only.session_types, None, state.batch_until)
                page = view.page(after, self.webhook.batch, only)
                if state.batch_until is not None and not (page.told or page.more):
                    # Retention was here, or the filter is another.
                    page = view.page(after, self.webhook.batch, self._only)
                return Due(state, None, page, min(waits))
            waits.append(left)
        return Due(state, None, Page([], state.cursor), min(waits), blocked=True)

    async def _deliver(self, state: Endpoint, page: Page) -> None:
        """Sends a batch and moves the cursor behind it, or says when it is tried again."""
        name = self.webhook.name
        page, body = self._fitting(page)
        outcome, delivery = await self._send_page(DeliveryKind.EVENTS, page, body)
        # The same events the next time, so that the id is the same: a look from here on finds all of them.
        same_again = {"cursor": page.told[0].event.seq - 1, "batch_until": delivery.last_seq}

        def record(tx: Transaction) -> dict[str, Any]:
            if outcome.ok:
                changes: dict[str, Any] = {
                    "cursor": page.through, "batch_until": None, "failures": 0, "failing_since": None,
                    "retry_at": None, "last_error": None, "delivered_at": delivery.at,
                }  # fmt: skip
            elif outcome.cut_off:
                changes = {**same_again, "retry_at": None}
            else:
                # As it stands now: an operator may have resumed it while the request was on its way.
                changes = self._failed(outbox.endpoint(tx, name) or state, outcome, delivery.at)
                changes |= {**same_again, "last_error": outcome.error}
                if (reason := self._gives_up(outcome, changes, delivery.at)) is not None:
                    changes |= {"paused_at": delivery.at, "pause_reason": reason}
            outbox.change(tx, name, state.cursor, **changes)
            return changes

        changes = await self._record(delivery, record)
        self._tried(name, outcome.ok, len(page.told))
        if outcome.ok and state.failures:
            since = state.failing_since or delivery.at
            what = {"attempts": state.failures + 1, "since": timestamps.text(since), **await self._undelivered()}
            log("webhook.recovered", endpoint=name, **what)
            if what.get("undelivered_events"):
                self._catching_up = since, len(page.told)
        elif outcome.ok and self._catching_up is not None:
            since, events = self._catching_up
            self._catching_up = since, events + len(page.told)
        elif not outcome.ok and not outcome.cut_off:
            await self._tell_failure(delivery, changes)

    async def _replay(self, replay: Replay, page: Page) -> None:
        """The same for events that are told again: the cursor is not touched."""
        name = self.webhook.name
        if not page.told:
            await self._write(lambda tx: _pass_over(tx, replay, page))
            if not page.more:
                log("webhook.replayed", endpoint=name, replay=replay.id)
            return
        page, body = self._fitting(page)
        outcome, delivery = await self._send_page(DeliveryKind.REPLAY, page, body)
        changes: dict[str, Any] = {"cursor": page.through, "failures": 0, "failing_since": None, "retry_at": None}
        ends = False
        if outcome.cut_off:
            changes = {"retry_at": None}
        elif not outcome.ok:
            changes = self._failed(replay, outcome, delivery.at)
            ends = self._gives_up(outcome, changes, delivery.at) is not None

        def record(tx: Transaction) -> None:
            if ends:
                outbox.end_replay(tx, replay)
            else:
                outbox.change_replay(tx, replay, **changes)

        await self._record(delivery, record)
        self._tried(name, outcome.ok, len(page.told))
        if ends:
            log("webhook.replay_ended", endpoint=name, replay=replay.id, error=outcome.error)
        elif not outcome.ok and not outcome.cut_off:
            await self._tell_failure(delivery, changes)

    def _failed(self, state: Endpoint | Replay, outcome: Outcome, begun: datetime) -> dict[str, Any]:
        failures = state.failures + 1
        since = state.failing_since or begun
        ended = begun + timedelta(milliseconds=outcome.ms)
        again = ended + backoff.pause(failures, outcome.asked, self._first_pause)
        # Whatever pause was drawn or asked for, there is a last try before it is given up.
        return {
            "failures": failures,
            "failing_since": since,
            "retry_at": min(again, since + self.webhook.give_up_after),
        }

    def _gives_up(self, outcome: Outcome, changes: dict[str, Any], begun: datetime) -> PauseReason | None:
        if outcome.gone:
            return PauseReason.GONE
        last: datetime = changes["failing_since"] + self.webhook.give_up_after
        return PauseReason.GAVE_UP if begun >= last else None

    async def _tell_failure(self, delivery: Delivery, changes: dict[str, Any]) -> None:
        what = {"endpoint": self.webhook.name, "error": delivery.error, "attempts": changes["failures"]}
        what |= {"since": timestamps.text(changes["failing_since"]), **await self._undelivered()}
        if "paused_at" in changes:
            log("webhook.paused", **what, pause_reason=changes["pause_reason"].value)
        else:
            log("webhook.failed", **what, retry_at=timestamps.text(changes["retry_at"]), code=delivery.status)

    async def _undelivered(self) -> dict[str, Any]:
        """Return how many events wait, and since when, as fields of a line: not on the event loop, where it would hold
        up all endpoints.
        """
        try:
            backlog = await self._aside(lambda: self._store.read(self._backlog))
        except RequestError:
            return {}
        if backlog.oldest is None:
            return {"undelivered_events": backlog.events}
        return {"undelivered_events": backlog.events, "oldest_undelivered": timestamps.text(backlog.oldest)}

    # --- sending and recording ----------------------------------------------------------------------------------------

    def _fitting(self, page: Page) -> tuple[Page, bytes]:
        """As many of a page's events as one request holds, and its body."""
        events: list[bytes] = []
        room = BODY_BYTES - 1  # two brackets, and a comma less than events
        for told in page.told:
            event = told.json(self._store.database_id, self._names())
            room -= len(event) + len(b",")
            if room < 0 and events:
                fitting = page.told[: len(events)]
                page = Page(fitting, fitting[-1].event.seq)
                break
            events.append(event)
        return page, b"[" + b",".join(events) + b"]"

    async def _send_page(self, kind: DeliveryKind, page: Page, body: bytes) -> tuple[Outcome, Delivery]:
        seqs = [told.event.seq for told in page.told]
        outcome, delivery = await self._send(kind, signing.batch_id(self._store.database_id, seqs), body)
        delivery.first_seq, delivery.last_seq, delivery.events = seqs[0], seqs[-1], len(seqs)
        return outcome, delivery

    async def _send(self, kind: DeliveryKind, webhook_id: str, body: bytes) -> tuple[Outcome, Delivery]:
        now = clock.now()
        headers = signing.headers(self.secrets, webhook_id, now, body)
        headers["Content-Type"] = self.webhook.content_type
        outcome = await self.client.post(body, headers, self.webhook.timeout)
        delivery = Delivery(
            endpoint=self.webhook.name, kind=kind, webhook_id=webhook_id, at=now, ok=outcome.ok,
            status=outcome.status, ms=outcome.ms, error=outcome.error, answer=outcome.answer,
        )  # fmt: skip
        return outcome, delivery

    async def _record(self, delivery: Delivery, change: Callable[[Transaction], T]) -> T:
        """Writes down what became of a try, however long the database is away: else it would be made again."""

        def record(tx: Transaction) -> T:
            outbox.note(tx, delivery)
            return change(tx)

        while True:
            try:
                return await self._write(record)
            except RequestError:
                if self._stopping.is_set():
                    raise
                await asyncio.sleep(AGAIN)

    async def _aside(self, call: Callable[[], T]) -> T:
        """Run a call that may wait for the database on a thread of `threads`, and return what it returns.

        Cancelled, it still waits until the call has ended, which the store bounds: a lock that the thread takes after
        `run` has given it back would be held for ever.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            future.exception()  # retrieved, or asyncio logs it
            raise asyncio.CancelledError
        return future.result()

    async def _write(self, job: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._store.submit(job))


def _pass_over(tx: Transaction, replay: Replay, page: Page) -> None:
    """Nothing on this page matches: the replay goes on after it, or is done."""
    if page.more:
        outbox.change_replay(tx, replay, cursor=page.through)
    else:
        outbox.end_replay(tx, replay)


def wanted(webhook: Webhook) -> EventFilter:
    """Which events an endpoint is told."""
    types = None if "*" in webhook.events else webhook.wanted
    return EventFilter(types, frozenset[SessionType](webhook.session_types) or None)


def _left(until: datetime | None, now: datetime) -> float:
    """Seconds until then; 0 if it has come."""
    return max(0.0, (until - now).total_seconds()) if until is not None else 0.0
