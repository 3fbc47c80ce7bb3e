"""The interface between the delivery worker and what sends events.

A `Sender` sends events in one way, such as signed JSON to a webhook. The delivery worker does the rest, the same for
every way: cursor, order, retries, pause, replays and the delivery log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import NamedTuple, Protocol

from tminus.domain.model import Delivery
from tminus.domain.types import DeliveryKind, MailState
from tminus.storage import EventFilter, Page, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The part of an endpoint's configuration that the delivery worker uses."""

    name: str
    events: EventFilter
    """The events that the endpoint receives."""
    batch: int
    """Maximum number of events that the sender gets at a time."""
    give_up_after: timedelta
    """For how long failed attempts are repeated before the endpoint is paused."""
    from_beginning: bool = False
    """Whether a new endpoint receives past events too."""
    replays_in_order: bool = True
    """Whether a replay that waits for a retry holds up later ones."""


class Outcome(NamedTuple):
    """The outcome of a request. If there was no response, `status` is None, and `error` has the reason."""

    status: int | None
    error: str | None
    answer: str | None
    """The beginning of the response's body."""
    ms: int
    retry_after: timedelta | None = None
    """The delay that the receiver's `Retry-After` requests."""
    cancelled: bool = False
    """Whether tminus cancelled the request before a response arrived. That is not a failure of the receiver."""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299

    @property
    def gone(self) -> bool:
        """Whether the receiver answered 410 Gone, so that it must get no more events."""
        return self.status == HTTPStatus.GONE


class Sent(NamedTuple):
    """The outcome of an attempt to deliver events, or of a ping."""

    outcome: Outcome
    attempt: Delivery
    """The row for the delivery log."""
    page: Page
    """The part of the page that the attempt contained; empty for a ping."""
    is_logged: bool = False
    """Whether the delivery log needs no row: the sender has written its own, or sent nothing."""
    also: Callable[[Transaction], object] = lambda _tx: None
    """What else to write in the transaction that records the attempt."""


MailObserver = Callable[[MailState], None]
"""Called with what became of a mail."""


class Sender(Protocol):
    """Sends events to one endpoint. A method that is cancelled while it sends returns the outcome so far.

    The only error raised is `RequestError`, if the database is unreachable before anything was sent.
    """

    async def send(self, kind: DeliveryKind, page: Page) -> Sent:
        """Send events, at least the first of the page, which has at least one."""

    async def ping(self) -> Sent:
        """Send a test."""

    def stop(self) -> None:
        """Begin nothing more. A call of `send` returns soon."""

    async def aclose(self) -> None:
        """Close idle connections."""
