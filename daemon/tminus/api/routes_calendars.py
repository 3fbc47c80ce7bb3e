"""Routes of calendars: a session as a file, the calendar of an agent behind an address that can be revoked, and the
times at which an agent is busy.
"""

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

import orjson
from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller, feed_owner, token_digest
from tminus.api.conditions import unchanged
from tminus.api.free_busy_query import time_range
from tminus.api.media_types import listed
from tminus.api.refusals import PUBLIC_REFUSALS, refusals
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Json, Response
from tminus.api.routing import Answer, Router
from tminus.api.tagged_response import TaggedResponse
from tminus.config import Settings
from tminus.domain import ids, timestamps
from tminus.domain.errors import (
    FieldError,
    Forbidden,
    InvalidRequest,
    TooManyAttempts,
    UnknownAgent,
    UnknownCalendar,
    UnknownSession,
)
from tminus.domain.model import CalendarFeed, Session
from tminus.domain.types import Caller, Role
from tminus.logs.output import log
from tminus.new_sessions import Instant
from tminus.sessions import queries
from tminus.sessions.authorization import may_see_all, may_see_secrets, require
from tminus.storage import Transaction, View, calendar_feeds
from tminus.storage.calendar_feeds import Planned

router = Router("/v3", "calendars")
public = Router("/v3", "calendars")

CALENDAR = "text/calendar"
_MEDIA_TYPE = f"{CALENDAR}; charset=utf-8"
_REVALIDATED = (b"cache-control", b"private, no-cache")

PAST = timedelta(days=30)
"""How long past and cancelled sessions stay in the calendar of an agent."""

ENTRIES = 1000
"""Maximum number of entries in the calendar of an agent: half a megabyte, which takes half a second to serialize."""

CACHED = 4 * ENTRIES
"""Number of serialized entries in the cache: about 8 MB. To serialize one takes half a millisecond."""

REFRESH = timedelta(minutes=15)
"""How long programs are asked to wait before they read a calendar again."""

FRESH = timedelta(minutes=1)
"""How long a client may use its copy of a calendar without asking."""

Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
InviteRole = Annotated[
    Literal["guest", "host"],
    Field(description="Whose link the entry has; the link of the host admits everybody who has it as host"),
]


# --- a session --------------------------------------------------------------------------------------------------------


@router.get(
    "/supportsession/{session_id}/invite.ics",
    summary="Show a session as an entry for calendars (iCalendar, RFC 5545)",
    media_type=CALENDAR,
    refusals=refusals(Forbidden, UnknownSession),
)
async def invite(context: RequestContext, caller: CurrentCaller, session_id: str, role: InviteRole = "guest") -> Answer:
    services = context.services

    def look(view: View) -> bytes:
        session = queries.get_session(view, caller, session_id)
        return _file(session, services.settings, _link(session, caller, role))

    content = await services.query(look, session_id)
    headers = [_REVALIDATED, (b"content-disposition", b'attachment; filename="%s.ics"' % session_id.encode())]
    return TaggedResponse(content, _MEDIA_TYPE, headers).answer(context)


def _link(session: Session, caller: Caller, role: str) -> str:
    """Return the link of the host, or of guests as far as the caller may see it. Raises `Forbidden`."""
    if role == "guest":
        return answers.user_link(session, caller)
    require(may_see_secrets(caller, session), "the session's own agent, or the role supervisor")
    return answers.host_link(session)


def _file(session: Session, settings: Settings, link: str) -> bytes:
    from tminus.calendars import entries  # noqa: PLC0415 - takes nine megabytes

    timing = entries.Timing(duration=settings.lifecycle.duration, lead=settings.lifecycle.lead)
    return entries.calendar([entries.entry(session, timing, link)])


# --- the calendar of an agent -----------------------------------------------------------------------------------------


@router.post(
    "/agents/{number}/calendar",
    summary="Make an address for the calendar of an agent; an earlier address ends",
    answers=schemas.CalendarAddress,
    refusals=refusals(Forbidden, UnknownAgent),
)
async def make_address(context: RequestContext, caller: CurrentCaller, number: Number) -> Answer:
    services = context.services
    _check_agent(context, caller, number)
    secret = ids.token()

    def store(tx: Transaction) -> datetime:
        feed = CalendarFeed(agent_id=number, secret_sha256=token_digest(secret), created_at=tx.now)
        calendar_feeds.replace(tx, feed)
        return feed.created_at

    created = await services.transact(store)
    log("calendar.address_made", agent=number, **_by(context, caller))
    url = f"{services.settings.server.urls().public}/v3/calendars/{secret}.ics"
    made: schemas.CalendarAddress = {"url": url, "createdAt": timestamps.text(created)}
    return Json(made)


@router.delete(
    "/agents/{number}/calendar",
    summary="Revoke the address of an agent's calendar at once",
    answers=schemas.Success,
    refusals=refusals(Forbidden, UnknownAgent),
)
async def revoke_address(context: RequestContext, caller: CurrentCaller, number: Number) -> Answer:
    _check_agent(context, caller, number)
    if await context.services.transact(lambda tx: calendar_feeds.remove(tx, number)):
        log("calendar.address_revoked", agent=number, **_by(context, caller))
    return Json({"success": True})


def _check_agent(context: RequestContext, caller: Caller, number: int) -> None:
    """Raise `Forbidden` unless the caller is this agent or a group admin, and `UnknownAgent` if there is none."""
    own = caller.agent_id == number and caller.has(Role.AGENT)
    require(own or caller.has(Role.GROUP_ADMIN), "the agent itself, or the role group_admin")
    if context.services.agent(number) is None:
        raise UnknownAgent(number)


def _by(context: RequestContext, caller: Caller) -> dict[str, str]:
    return {"actor": caller.actor, "remote_ip": context.remote_ip, "request_id": context.request_id}


@public.get(
    "/calendars/{secret}.ics",
    summary="Show the calendar of an agent to whoever has its address",
    media_type=CALENDAR,
    refusals=refusals(UnknownCalendar, TooManyAttempts, of=PUBLIC_REFUSALS),
)
async def calendar(context: RequestContext, secret: str) -> Answer:
    services = context.services
    agent = await feed_owner(context, secret)
    since, page = clock.now() - PAST, f"{services.settings.server.urls().public}/agent"
    known = context.header(b"if-none-match") if b"if-none-match" in context.headers else None
    settings = services.settings

    def look(view: View) -> tuple[str, bytes | None]:
        """Return the entity tag, and the calendar or None if the client has it: to serialize it takes the most time."""
        found = calendar_feeds.planned(view, agent.id, since, ENTRIES)
        tag = _tag(found, agent.name, page, settings)
        return tag, None if unchanged(known, tag) else _calendar(found, agent.name, page, settings)

    tag, content = await services.search(agent.id, look)
    cached = b"private, max-age=%d" % FRESH.total_seconds()
    headers: Headers = [(b"etag", tag.encode()), (b"cache-control", cached)]
    if content is None:
        return Response(status_code=304, headers=headers)
    return Response(content, _MEDIA_TYPE, headers=headers)


def _tag(sessions: list[Planned], name: str, page: str, settings: Settings) -> str:
    """Return the entity tag of a calendar: it changes with its sessions and with everything else in it."""
    listed = [(session.id, session.version) for session in sessions]
    shown = repr((name, page, settings.lifecycle.duration, settings.lifecycle.lead, listed))
    return f'"{hashlib.sha256(shown.encode()).hexdigest()[:32]}"'


def _calendar(sessions: list[Planned], name: str, page: str, settings: Settings) -> bytes:
    """Return the calendar of the host.

    Its entries lead to the page for agents, where the host signs in: a calendar is often shared, and the link of the
    host would admit everybody who sees it. The description has the link for guests.
    """
    from tminus.calendars import entries  # noqa: PLC0415 - as above

    length, lead = settings.lifecycle.duration, settings.lifecycle.lead
    made = (_entry(session, length, lead, page) for session in sessions)
    return entries.calendar(made, name=name, refresh=REFRESH)


@lru_cache(maxsize=CACHED)
def _entry(session: Planned, length: timedelta, lead: timedelta, page: str) -> bytes:
    """Return an entry. Cached, since a change of one session changes the calendar, and programs read it again."""
    from tminus.calendars import entries  # noqa: PLC0415 - as above

    timing = entries.Timing(duration=length, lead=lead)
    content: bytes = entries.entry(session, timing, page, notes=(session.user_url,)).to_ical()
    return content


# --- free or busy -----------------------------------------------------------------------------------------------------

RANGE = timedelta(days=42)
"""The range if a request has no end."""

LONGEST = timedelta(days=366)
"""The longest range."""

FIRST_YEAR, LAST_YEAR = 1970, 9990
"""The years in which a range may begin, so that no time that is computed from it is beyond Python's `datetime`."""

_BY_ACCEPT = (b"vary", b"accept")

BusyFrom = Annotated[Instant | None, Field(description="Beginning of the range; by default now")]
BusyUntil = Annotated[
    Instant | None, Field(description="End of the range; by default 42 days after its beginning, at most 366")
]
BusyFormat = Annotated[
    Literal["application/json", "text/calendar"] | None,
    Field(description="Media type of the answer; by default that of the header `Accept`, or JSON"),
]


@router.get(
    "/agents/{number}/freebusy",
    summary="Show when an agent is busy, as JSON or as a calendar with a VFREEBUSY",
    answers=schemas.FreeBusy,
    refusals=refusals(Forbidden, UnknownAgent),
)
async def free_busy(
    context: RequestContext,
    caller: CurrentCaller,
    number: Number,
    start: BusyFrom = None,
    end: BusyUntil = None,
    format: BusyFormat = None,
) -> Answer:
    start = start or clock.now()
    as_calendar = format == CALENDAR or (format is None and CALENDAR in listed(context.header(b"accept")))
    return await _free_busy(context, caller, number, start, end, as_calendar=as_calendar)


@router.route("REPORT", "/agents/{number}/freebusy", described=False)
async def free_busy_query(context: RequestContext, caller: CurrentCaller, number: Number) -> Answer:
    """Answer a CalDAV client."""
    start, end = time_range(context.body)
    return await _free_busy(context, caller, number, start, end, as_calendar=True)


async def _free_busy(
    context: RequestContext, caller: Caller, number: int, start: datetime, end: datetime | None, *, as_calendar: bool
) -> Answer:
    own = caller.agent_id == number and caller.has(Role.AGENT)
    require(own or may_see_all(caller), "the agent itself, or the role supervisor or monitor")
    services, now = context.services, clock.now()
    agent = services.agent(number)
    if agent is None:
        raise UnknownAgent(number)
    if not FIRST_YEAR <= start.year <= LAST_YEAR:
        raise InvalidRequest([FieldError("start", f"must be in the years {FIRST_YEAR} to {LAST_YEAR}")])
    until = start + RANGE if end is None else end
    if not start < until <= start + LONGEST:
        raise InvalidRequest([FieldError("end", "must be after start, and at most 366 days after it")])
    length = services.settings.lifecycle.duration
    url = f"{services.settings.server.urls().public}/v3/agents/{number}/freebusy"

    def look(view: View) -> bytes:
        busy = queries.busy_times(view, number, start, until, length, now)
        if not as_calendar:
            return orjson.dumps(answers.free_busy(number, busy, start, until))
        from tminus.calendars import entries, vfreebusy  # noqa: PLC0415 - as above

        person = entries.Person(email=agent.email, name=agent.name) if agent.email else None
        return vfreebusy.calendar(busy, start, until, now=now, agent=person, url=url)

    content = await services.search(caller.agent_id, look)
    return Response(content, _MEDIA_TYPE if as_calendar else "application/json", headers=[_BY_ACCEPT])
