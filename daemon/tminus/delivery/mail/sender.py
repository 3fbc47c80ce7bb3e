"""Send the mails of an event, one invitee after the other, and record what became of each.

A mail is claimed in the database before its text is sent, and settled after the answer. If the process is killed in
between, the next one finds the claim: the mail may have been accepted, so it is not sent again, and that is logged.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from tminus import clock
from tminus.config import Settings
from tminus.config.mail import MAIL_ENDPOINT
from tminus.delivery import backoff
from tminus.delivery.mail import message as messages
from tminus.delivery.mail import plan
from tminus.delivery.mail.message import Message
from tminus.delivery.mail.plan import Plan, Task
from tminus.delivery.mail.smtp import Access, Answer, Connection, Deferred, Refused, Unanswered, Unavailable
from tminus.delivery.mail.templates import BadTemplate, Templates
from tminus.delivery.sender import MailObserver, Outcome, Sent, Subscription
from tminus.domain import ids
from tminus.domain.errors import RequestError
from tminus.domain.model import Delivery, Event, Replay, Session
from tminus.domain.types import DeliveryKind, EventType, MailState
from tminus.logs.event_fields import session_fields
from tminus.logs.output import log
from tminus.storage import EventFilter, Page, Store, Transaction, View, mails, outbox

T = TypeVar("T")

RETRY_INTERVAL = 1.0
"""Seconds between two attempts to write to the database."""

CANCELLED = "cancelled: the daemon was stopping, or the endpoint was changed"

TYPES = plan.TYPES


def subscription(settings: Settings) -> Subscription:
    """Return the part of the configuration of mail that the delivery worker uses."""
    return Subscription(
        name=MAIL_ENDPOINT,
        events=EventFilter(types=plan.TYPES, invited=True),
        batch=1,
        give_up_after=settings.mail.give_up_after,
        replays_in_order=False,
    )


@dataclass(slots=True)
class Attempt:
    """One attempt to send the mails of an event."""

    kind: DeliveryKind
    event: Event
    at: datetime
    begun: float
    deferred: str | None = None
    """The answer to the last mail that the server deferred; None if it has deferred none."""
    code: int | None = None
    """The code of that answer."""


class MailSender:
    """Sends mails to invitees.

    Parameters
    ----------
    store, threads
        The source of sessions, and threads on which it is read.
    settings
        The configuration in force.
    access
        The mail server.
    templates
        The words of the mails.
    on_mail
        Called with what became of each mail.
    first_delay
        How long to wait before a deferred mail is sent again.
    """

    def __init__(
        self,
        store: Store,
        threads: Executor,
        settings: Settings,
        access: Access,
        templates: Templates,
        on_mail: MailObserver = lambda _state: None,
        first_delay: timedelta = backoff.FIRST,
    ) -> None:
        self._store = store
        self._threads = threads
        self._duration = settings.lifecycle.duration
        self._repeat = settings.mail.repeat_unanswered
        self._common = messages.Common(
            settings.mail.from_,
            settings.mail.reply_to,
            settings.organization.name,
            settings.lifecycle.duration,
            settings.lifecycle.lead,
        )
        self._templates = templates
        self._connection = Connection(access)
        self._lock = asyncio.Lock()
        """Held while the connection is used: a ping may come while mails are sent."""
        self._on_mail = on_mail
        self._first_delay = first_delay
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def ping(self) -> Sent:
        return await self._test(DeliveryKind.PING)

    async def _test(self, kind: DeliveryKind) -> Sent:
        """Send a test to the address to which people's replies go."""
        now, begun = clock.now(), clock.monotonic()
        number = ids.random_hex()
        to = self._common.reply_to or self._common.mailbox
        try:
            async with self._in_use():
                test = messages.test(to, self._common, now, number)
                await self._connection.begin(test)
                answer, error = await self._connection.finish(test), None
        except (Unavailable, Refused, Deferred, Unanswered) as failure:
            answer = failure.args[0]
            error = answer.text
        except asyncio.CancelledError:
            answer, error = Answer(None, ""), CANCELLED
        row = self._row(kind, f"msg_{number}", now, begun, answer, error)
        return Sent(Outcome(answer.code, error, None, row.ms), row, Page([], 0))

    async def send(self, kind: DeliveryKind, page: Page) -> Sent:
        if kind is DeliveryKind.SAMPLE:
            return await self._test(kind)  # the event of a sample never happened: no invitee gets a mail
        event = page.events[0].event
        page = Page(page.events[:1], event.seq)
        attempt = Attempt(kind, event, clock.now(), clock.monotonic())
        found = await self._read(partial(self._find, event))
        if found is None:
            return self._done(attempt, page)
        for position in found.lost:
            # From here on no outcome may be lost, so if the database is unreachable, this waits for it.
            await self._settle(attempt, found, position, MailState.UNKNOWN, Answer(None, "no answer is recorded"))
        try:
            async with self._in_use():
                for task in found.tasks:
                    await self._send_one(attempt, found, task)
        except Unavailable as failure:
            answer: Answer = failure.args[0]
            return self._failed(attempt, found, page, answer)
        except asyncio.CancelledError:
            outcome = Outcome(None, CANCELLED, None, self._ms(attempt), cancelled=True)
            return Sent(outcome, self._event_row(attempt, found, Answer(None, ""), CANCELLED), page, is_logged=True)
        return self._done(attempt, page)

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[None]:
        """Lock the connection for use; then keep it open for a while."""
        async with self._lock:
            try:
                yield
            finally:
                self._connection.release()

    # --- one mail -----------------------------------------------------------------------------------------------------

    async def _send_one(self, attempt: Attempt, found: Plan, task: Task) -> None:
        """Send a mail and record what became of it. Raises `Unavailable` if no mail can be sent now."""
        if self._stopping:
            raise asyncio.CancelledError
        settle = partial(self._settle, attempt, found, task.position)
        make = partial(messages.make, attempt.event, found.session, task, self._common, self._templates, clock.now())
        try:
            message = await self._in_thread(make)
            await self._connection.begin(message)
            claim = partial(
                mails.claim, seen=task.seen, session_id=found.session.id, position=task.position, seq=attempt.event.seq
            )
            claimed, cancelled = await self._uninterrupted(self._write(claim))
            if not claimed:
                return  # another daemon has claimed it while this process was suspended
            if cancelled:
                await settle(MailState.DEFERRED, Answer(None, CANCELLED), is_logged=False)
                raise asyncio.CancelledError
            answer = await self._finish(message, task, settle)
        except BadTemplate as failure:  # the samples that are rendered at the start did not show it
            await settle(MailState.REFUSED, Answer(None, f"the template {failure}"))
        except Refused as failure:
            await settle(MailState.REFUSED, failure.args[0])
        except Deferred as failure:
            answer = failure.args[0]
            attempt.deferred, attempt.code = answer.text, answer.code
            await settle(MailState.DEFERRED, answer)
        else:
            await settle(MailState.SENT, answer)

    async def _finish(self, message: Message, task: Task, settle: Callable[..., Awaitable[None]]) -> Answer:
        """Send the text of a mail that was claimed. Raises what `Connection.finish` raises, but not `Unanswered`."""
        try:
            return await self._connection.finish(message)
        except Unavailable as failure:
            await settle(MailState.DEFERRED, failure.args[0], is_logged=False)
            raise
        except (Unanswered, asyncio.CancelledError) as failure:
            is_cancelled = isinstance(failure, asyncio.CancelledError)
            answer = Answer(None, CANCELLED) if is_cancelled else failure.args[0]
            copies = task.seen.unanswered if task.seen is not None and task.seen.state is MailState.SENDING else 0
            if self._repeat and copies + 1 < plan.MAX_COPIES:
                await settle(MailState.SENDING, answer, is_logged=False)
            else:
                await settle(MailState.UNKNOWN, answer)
            # No more mails now: their answers would be lost, too.
            raise (failure if is_cancelled else Unavailable(answer)) from None

    async def _settle(
        self,
        attempt: Attempt,
        found: Plan,
        position: int,
        state: MailState,
        answer: Answer,
        *,
        is_logged: bool = True,
    ) -> None:
        """Record what became of a mail. If the database is unreachable, wait for it, so that the record is not lost."""
        session, event = found.session, attempt.event
        number = f"{session.external_session_object_id}.{event.seq}.{position + 1}"
        error = None if state is MailState.SENT else f"invitee {position + 1} of session {session.id}: {answer.text}"
        row = self._row(attempt.kind, number, attempt.at, attempt.begun, answer, error, event.seq)
        row.ok = state is MailState.SENT

        def record(tx: Transaction) -> None:
            answered = state is not MailState.SENDING and state is not MailState.UNKNOWN
            mails.settle(tx, session.id, position, event.seq, state, answered=answered)
            if is_logged:
                outbox.add_delivery(tx, row)

        while True:
            try:
                _, cancelled = await self._uninterrupted(self._write(record))
                break
            except RequestError:
                if self._stopping:
                    raise
                await asyncio.sleep(RETRY_INTERVAL)
        if is_logged:
            self._on_mail(state)
            _log(state, session, position + 1, event.seq, answer)
        if cancelled:
            raise asyncio.CancelledError

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _done(self, attempt: Attempt, page: Page) -> Sent:
        """Return the outcome of an event with no mail left to try now: each was accepted, refused or deferred."""
        event = attempt.event
        row = self._row(attempt.kind, f"event.{event.seq}", attempt.at, attempt.begun, Answer(250, ""), None, event.seq)
        ok = Outcome(250, None, None, row.ms)
        if attempt.deferred is None:
            return Sent(ok, row, page, is_logged=True)
        if attempt.kind is DeliveryKind.EVENTS:
            # The next events do not wait for these mails, which a replay of this one event sends later.
            retry = Replay(
                endpoint=MAIL_ENDPOINT, cursor=event.seq - 1, until=event.seq, session_id=event.session_id, failures=1,
                failing_since=attempt.at, retry_at=attempt.at + backoff.delay(1, None, self._first_delay),
            )  # fmt: skip
            return Sent(ok, row, page, is_logged=True, also=lambda tx: outbox.add_replay(tx, retry))
        row.ok, row.status, row.error = False, attempt.code, attempt.deferred
        return Sent(Outcome(attempt.code, attempt.deferred, None, row.ms), row, page, is_logged=True)

    def _failed(self, attempt: Attempt, found: Plan, page: Page, answer: Answer) -> Sent:
        """Return the outcome of an event whose mails cannot be sent now."""
        error = answer.text if answer.code is None else f"{answer.code} {answer.text}"
        outcome = Outcome(None, error, None, self._ms(attempt))
        return Sent(outcome, self._event_row(attempt, found, answer, error), page)

    def _event_row(self, attempt: Attempt, found: Plan, answer: Answer, error: str) -> Delivery:
        number = f"{found.session.external_session_object_id}.{attempt.event.seq}"
        return self._row(attempt.kind, number, attempt.at, attempt.begun, answer, error, attempt.event.seq)

    def _row(
        self,
        kind: DeliveryKind,
        number: str,
        at: datetime,
        begun: float,
        answer: Answer,
        error: str | None,
        seq: int | None = None,
    ) -> Delivery:
        """Return a row of the delivery log."""
        ms = round((clock.monotonic() - begun) * 1000)
        return Delivery(
            endpoint=MAIL_ENDPOINT, kind=kind, webhook_id=number, first_seq=seq, last_seq=seq,
            events=0 if seq is None else 1, at=at, ok=error is None, status=answer.code, ms=ms, error=error,
            answer=answer.text or None,
        )  # fmt: skip

    @staticmethod
    def _ms(attempt: Attempt) -> int:
        return round((clock.monotonic() - attempt.begun) * 1000)

    # --- the database -------------------------------------------------------------------------------------------------

    def _find(self, event: Event, view: View) -> Plan | None:
        session = view.session(event.session_id)
        if session is None or session.invitees is None:
            return None  # retention has removed it
        rows = mails.of_session(view, session.id)
        newest = mails.newest(view, session.id, plan.superseded_by(event.type))
        is_reminder = event.type is EventType.REMINDER
        changed = mails.newest(view, session.id, plan.CHANGES) if is_reminder else event.seq
        return plan.make(event, session, rows, newest, changed, clock.now(), self._duration, repeat=self._repeat)

    async def _read(self, question: Callable[[View], T]) -> T:
        return await self._in_thread(lambda: self._store.read(question, lane="deliveries"))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _write(self, job: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self._store.submit(job))

    @staticmethod
    async def _uninterrupted(work: Awaitable[T]) -> tuple[T, bool]:
        """Wait for work even if this task is cancelled; return its result, and whether the task was cancelled."""
        future = asyncio.ensure_future(work)
        cancelled = False
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                cancelled = True
        return future.result(), cancelled


def _log(state: MailState, session: Session, invitee: int, seq: int, answer: Answer) -> None:
    """Log what became of a mail, without the address of the invitee."""
    if state is MailState.SENT:
        log("mail.sent", session_id=session.id, **session_fields(session), invitee=invitee, seq=seq)
        return
    name = "mail.refused" if state is MailState.REFUSED else "mail.unknown"
    if state is MailState.DEFERRED:
        name = "mail.deferred"
    about = session_fields(session)
    log(name, session_id=session.id, **about, invitee=invitee, seq=seq, error=answer.text, smtp_code=answer.code)
