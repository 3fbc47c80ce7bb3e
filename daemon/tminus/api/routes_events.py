"""Routes of the event feed: every committed event, in order, by polling, long polling or a stream."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from starlette.responses import StreamingResponse

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller, identify
from tminus.api.held import HeldRequest
from tminus.api.media_types import listed
from tminus.api.parameters import Header
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import EventTypes, FeedCursor, Limit
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.domain.errors import Forbidden, RequestError
from tminus.domain.types import Caller, event_types
from tminus.sessions import queries
from tminus.storage import PAGE_BYTES, EventFilter, Page, View

router = Router("/v3", "events")

KEEP_ALIVE = 15.0
"""Seconds between keep-alive comments of a stream without events; proxies close silent connections."""

STREAM_BYTES = 256 * 1024
"""Maximum bytes that a stream reads at a time. Each of thousands of streams may hold that much until it is sent."""

Wait = Annotated[float, Field(ge=0, le=60, description="Seconds to wait for an event if there is none yet")]
LastEventId = Annotated[
    str, Header("Last-Event-ID"), Field(description="`id` of the last event that an interrupted stream received")
]


@router.get(
    "/events",
    summary="List events, oldest first, or stream them with Accept: text/event-stream",
    answers=schemas.History,
    refusals=refusals(Forbidden),
)
async def feed(
    context: RequestContext,
    caller: CurrentCaller,
    after: FeedCursor = 0,
    limit: Limit = 100,
    type: EventTypes = None,
    scope: Literal["mine", "all"] = "all",
    wait: Wait = 0,
    last_event_id: LastEventId = "",
) -> Answer:
    services, head = context.services, context.head
    only = EventFilter(types=event_types(type) if type else None, agent_id=caller.agent_id if scope == "mine" else None)
    since = int(last_event_id) if re.fullmatch("[0-9]{1,18}", last_event_id) else after
    if "text/event-stream" in listed(context.header(b"accept")):
        # The first read comes before the response starts, so that it can still be refused with an error.
        events, since = await read_page(services, caller, since, limit, only, STREAM_BYTES)
        # HEAD needs the headers only; a stream without a reader would never end.
        stream = _nothing() if head else _stream(context, events, since, limit, only)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    until = clock.monotonic() + (0 if head else wait)
    notification = services.notifier.next_notification()
    events, since = await read_page(services, caller, since, limit, only)
    if not events and wait:
        with _waiting(context) as waiting:
            while not (events or waiting.over or services.draining) and (left := until - clock.monotonic()) > 0:
                await waiting.wait(notification, left)
                notification = services.notifier.next_notification()
                events, since = await _read_again(context, since, limit, only)
    return Json(answers.history([event.json for event in events], since))


class _Sent(NamedTuple):
    """An event as JSON, ready to send."""

    seq: int
    type: str
    json: bytes


def _waiting(context: RequestContext) -> AbstractContextManager[HeldRequest]:
    """Return a context manager that counts the request among those that wait for events."""
    services = context.services
    return services.held.register(context.scope, context.actor, context.remote_ip, services.settings.limits)


async def read_page(
    services: Services, caller: Caller, since: int | None, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> tuple[list[_Sent], int]:
    """Return a page of events and the cursor of the next page."""
    events: list[_Sent] = []
    name = services.store.database_id

    def look(view: View) -> tuple[list[_Sent], Page]:
        page = queries.feed(
            view, caller, since, limit - len(events), only, at_most - sum(len(one.json) for one in events)
        )
        return [
            _Sent(one.event.seq, one.event.type.value, one.json(name, services.actor_names)) for one in page.events
        ], page

    while True:  # one read for each part, so that other requests can read in between
        sent, page = await services.query(look)
        events += sent
        since = page.through
        if page.full or not page.more:
            return events, since


async def _read_again(
    context: RequestContext, since: int, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> tuple[list[_Sent], int]:
    """Return the next page after a wait. The caller is authenticated again: its token may have been revoked.

    One event wakes many requests; `services.woken_reads` limits how many of them read at a time.
    """
    services = context.services
    async with services.woken_reads:
        return await read_page(services, await identify(context), since, limit, only, at_most)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _stream(
    context: RequestContext, events: list[_Sent], since: int, limit: int, only: EventFilter
) -> AsyncIterator[bytes]:
    """Yield server-sent events until the stream must end.

    A stream ends when the client disconnects, its token is revoked, a newer stream replaces it, the daemon stops or the
    database fails. Clients reconnect with `Last-Event-ID`.
    """
    services = context.services
    with _waiting(context) as waiting:
        # An id without data: a client that disconnects before the first event resumes here and misses nothing.
        yield b": tminus\n\n" if events else b"id: %d\n: tminus\n\n" % since
        while not (waiting.over or services.draining):
            for event in events:
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), event.json)
            notification = services.notifier.next_notification()
            try:
                events, since = await _read_again(context, since, limit, only, STREAM_BYTES)
            except RequestError:
                return
            if not events and not await waiting.wait(notification, KEEP_ALIVE) and not waiting.over:
                yield b"id: %d\n: still here\n\n" % since
