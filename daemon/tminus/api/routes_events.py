"""The feed: every committed event, in order, for whoever asks again or waits."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, NamedTuple

from pydantic import Field
from starlette.responses import StreamingResponse

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller, identify
from tminus.api.held import Waiting
from tminus.api.parameters import Header
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import EventTypes, Limit, Place
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.domain.errors import Forbidden, RequestError
from tminus.domain.types import Caller, event_types
from tminus.sessions import queries
from tminus.storage import PAGE_BYTES, EventFilter, Page, View

router = Router("/v3", "events")

KEEP_ALIVE = 15.0
"""Seconds after which a silent stream says that it is still there: what lies between would close it."""

STREAM_BYTES = 256 * 1024
"""What a stream reads at a time: it holds that until its client has taken it, and there may be thousands."""

Wait = Annotated[float, Field(ge=0, le=60, description="Seconds to hold the request until there is an event")]
LastEventId = Annotated[str, Header("Last-Event-ID"), Field(description="Where a stream was cut off")]


@router.get(
    "/events",
    summary="What happened to all sessions, oldest first; as a stream with Accept: text/event-stream",
    answers=schemas.History,
    refusals=refusals(Forbidden),
)
async def feed(
    context: RequestContext,
    caller: CurrentCaller,
    after: Place = 0,
    limit: Limit = 100,
    type: EventTypes = None,
    wait: Wait = 0,
    last_event_id: LastEventId = "",
) -> Answer:
    services, head = context.services, context.head
    only = EventFilter(types=event_types(type) if type else None)
    since = int(last_event_id) if re.fullmatch("[0-9]{1,18}", last_event_id) else after
    if "text/event-stream" in context.header(b"accept"):
        # Refuses while there is still an answer.
        events, since = await _look(services, caller, since, limit, only, STREAM_BYTES)
        # The head of a stream is all that HEAD asks for, and a stream without anybody to read it would never end.
        stream = _nothing() if head else _stream(context, events, since, limit, only)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
    until = clock.monotonic() + (0 if head else wait)
    notification = services.notifier.next_notification()
    events, since = await _look(services, caller, since, limit, only)
    if not events and wait:
        with _place(context) as place:
            while not (events or place.over or services.draining) and (left := until - clock.monotonic()) > 0:
                await place.wait(notification, left)
                notification = services.notifier.next_notification()
                events, since = await _look_again(context, since, limit, only)
    return Json(answers.history([event.json for event in events], since))


class _Sent(NamedTuple):
    """An event as it is sent."""

    seq: int
    type: str
    json: bytes


def _place(context: RequestContext) -> AbstractContextManager[Waiting]:
    """The request as one of those that wait, for as long as it does."""
    services = context.services
    return services.held.place(context.scope, context.actor, context.remote_ip, services.settings.limits)


async def _look(
    services: Services, caller: Caller, since: int | None, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> tuple[list[_Sent], int]:
    """A page of events as they are sent, and where the next one begins."""
    events: list[_Sent] = []
    name = services.store.database_id

    def look(view: View) -> tuple[list[_Sent], Page]:
        page = queries.feed(
            view, caller, since, limit - len(events), only, at_most - sum(len(one.json) for one in events)
        )
        return [
            _Sent(one.event.seq, one.event.type.value, one.json(name, services.actor_names)) for one in page.events
        ], page

    while True:  # each part is a look of its own, so that others have their turn between
        sent, page = await services.query(look)
        events += sent
        since = page.through
        if page.full or not page.more:
            return events, since


async def _look_again(
    context: RequestContext, since: int, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> tuple[list[_Sent], int]:
    """The same for one of the many whom an event wakes; its token may have been revoked meanwhile."""
    services = context.services
    async with services.woken:
        return await _look(services, await identify(context), since, limit, only, at_most)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


async def _stream(
    context: RequestContext, events: list[_Sent], since: int, limit: int, only: EventFilter
) -> AsyncIterator[bytes]:
    """Server-sent events until the client goes, its token is revoked, it gives way, the daemon stops or the database
    fails: clients come back by themselves, and say where they were.
    """
    services = context.services
    with _place(context) as place:
        # An id without data: a client that is cut off before the first event comes back to here, not to a later "now".
        yield b": tminus\n\n" if events else b"id: %d\n: tminus\n\n" % since
        while not (place.over or services.draining):
            for event in events:
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), event.json)
            notification = services.notifier.next_notification()
            try:
                events, since = await _look_again(context, since, limit, only, STREAM_BYTES)
            except RequestError:
                return
            if not events and not await place.wait(notification, KEEP_ALIVE) and not place.over:
                yield b"id: %d\n: still here\n\n" % since
