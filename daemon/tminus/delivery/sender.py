"""The seam between what is sent and how it is delivered.

A `Sender` turns events into requests of one kind, such as signed JSON for a webhook. The delivery worker does the rest
for all kinds: cursor, order, retries, pause, replays and the delivery log.
"""

from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Protocol

from tminus.domain.model import Delivery
from tminus.domain.types import DeliveryKind
from tminus.storage import EventFilter, Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What the delivery worker uses of an endpoint's configuration."""

    name: str
    events: EventFilter
    """The events that the endpoint receives."""
    batch: int
    """Maximum number of events that the sender gets at a time."""
    give_up_after: timedelta
    """For how long failed attempts are repeated before the endpoint is paused."""
    from_beginning: bool = False
    """Whether a new endpoint receives past events too."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a request. If there was no response, `status` is None and `error` says why."""

    status: int | None
    error: str | None
    answer: str | None
    """The beginning of the response's body."""
    ms: int
    retry_after: timedelta | None = None
    """The pause that the receiver's `Retry-After` requests."""
    cancelled: bool = False
    """Whether tminus cancelled the request before a response arrived. That is not a failure of the receiver."""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299

    @property
    def gone(self) -> bool:
        """Whether the receiver answered 410 Gone, so that it must get no more events."""
        return self.status == HTTPStatus.GONE


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of an attempt to deliver events, or of a ping."""

    outcome: Outcome
    attempt: Delivery
    """The row for the delivery log."""
    page: Page
    """The part of the page that the attempt contained; empty for a ping."""


class Sender(Protocol):
    """Sends events to one endpoint. Its methods do not raise; when they are cancelled, they return what came of it."""

    async def send(self, kind: DeliveryKind, page: Page) -> Sent:
        """Send events, at least the first of the page, which has at least one."""

    async def ping(self) -> Sent:
        """Send a test."""

    async def aclose(self) -> None:
        """Close idle connections."""
