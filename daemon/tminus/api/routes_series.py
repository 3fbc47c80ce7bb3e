"""Routes of series: create, list, show, change and end them."""

from typing import Annotated, Literal

import orjson
from pydantic import Field

from tminus import clock, schemas
from tminus.api.authentication import CurrentCaller
from tminus.api.conditions import versions
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import IdempotencyKey, IfMatchHeader, Limit, NewSeries
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.domain import timestamps
from tminus.domain.errors import (  # fmt: skip
    BadStartTime,
    Forbidden,
    KeyReused,
    NoPinFree,
    SeriesConfigured,
    SeriesEnded,
    StaleSeries,
    TooManyMails,
    TooManySeries,
    TooManySessions,
    UnknownSeries,
    UnsupportedMediaType,
    WrongStatus,
)
from tminus.domain.model import Series
from tminus.domain.types import Role
from tminus.new_sessions import LocalTime
from tminus.sessions import series
from tminus.sessions.authorization import require
from tminus.sessions.idempotency import keyed_request
from tminus.storage import View
from tminus.storage import series as stored

router = Router("/v3", "series")

SHOWN = 100
"""Maximum number of occurrences in an answer."""

AfterId = Annotated[str, Field(max_length=12, description="`next` of the previous page")]
FromHere = Annotated[
    LocalTime | None, Field(description="Only the sessions from this local time of the series on; by default from now")
]


@router.post(
    "/series",
    summary="Create a series of sessions",
    answers=schemas.Series,
    refusals=refusals(
        Forbidden,
        BadStartTime,
        KeyReused,
        TooManySeries,
        TooManySessions,
        TooManyMails,
        NoPinFree,
        UnsupportedMediaType,
    ),
)
async def create_series(
    context: RequestContext, caller: CurrentCaller, body: NewSeries, idempotency_key: IdempotencyKey = None
) -> Answer:
    services, request = context.services, body.create_series()
    keyed = None
    if idempotency_key is not None:
        keyed = keyed_request(idempotency_key, body.model_dump(mode="json", exclude_unset=True))
    done = await services.transact(lambda tx: series.create(tx, services.settings, caller, request, keyed))
    context.replayed = done.replayed
    return await _answer(context, done.series, replayed=done.replayed)


@router.get(
    "/series",
    summary="List series",
    answers=schemas.SeriesList,
    refusals=refusals(Forbidden),
)
async def list_series(
    context: RequestContext,
    caller: CurrentCaller,
    scope: Literal["mine", "all"] = "mine",
    after: AfterId = "",
    limit: Limit = 100,
) -> Answer:
    require(scope == "mine" or caller.has(Role.SUPERVISOR), "the role supervisor")
    agent_id = caller.agent_id if scope == "mine" else None
    found, more = await context.services.query(lambda view: stored.listed(view, agent_id, after, limit))
    following = found[-1].id if more else None
    return Json({"series": [_shown(one) for one in found], "next": following})


@router.get(
    "/series/{series_id}",
    summary="Show a series and its next sessions",
    answers=schemas.Series,
    refusals=refusals(Forbidden, UnknownSeries),
)
async def get_series(context: RequestContext, caller: CurrentCaller, series_id: str) -> Answer:
    found = await context.services.query(lambda view: series.load(view, caller, series_id))
    return await _answer(context, found)


@router.put(
    "/series/{series_id}",
    summary="Change a series, from now on or from a local time on",
    answers=schemas.Series,
    refusals=refusals(
        Forbidden,
        UnknownSeries,
        SeriesConfigured,
        SeriesEnded,
        StaleSeries,
        BadStartTime,
        WrongStatus,
        TooManySeries,
        TooManySessions,
        TooManyMails,
        NoPinFree,
        UnsupportedMediaType,
    ),
)
async def change_series(
    context: RequestContext,
    caller: CurrentCaller,
    series_id: str,
    body: NewSeries,
    fromHere: FromHere = None,
    if_match: IfMatchHeader = None,
) -> Answer:
    services, request, seen = context.services, body.create_series(), versions(if_match)
    done = await services.transact(
        lambda tx: series.change(tx, services.settings, caller, series_id, request, fromHere, seen)
    )
    return await _answer(context, done.series)


@router.delete(
    "/series/{series_id}",
    summary="End a series, and cancel its sessions, from now on or from a local time on",
    answers=schemas.Series,
    refusals=refusals(Forbidden, UnknownSeries, SeriesConfigured, StaleSeries),
)
async def end_series(
    context: RequestContext,
    caller: CurrentCaller,
    series_id: str,
    fromHere: FromHere = None,
    if_match: IfMatchHeader = None,
) -> Answer:
    services, seen = context.services, versions(if_match)
    ended = await services.transact(lambda tx: series.end(tx, services.settings, caller, series_id, fromHere, seen))
    return await _answer(context, ended)


async def _answer(context: RequestContext, found: Series, *, replayed: bool = False) -> Answer:
    def look(view: View) -> list[stored.MadeOccurrence]:
        return stored.made(view, found.id, series.local_now(found, clock.now()), SHOWN)

    shown = _shown(found)
    shown["occurrences"] = [_occurrence(one) for one in await context.services.query(look)]
    headers = [(b"etag", b'"%d"' % found.version)]
    return Json(shown, headers=[*headers, (b"idempotency-replayed", b"true")] if replayed else headers)


def _occurrence(made: stored.MadeOccurrence) -> schemas.Occurrence:
    return {
        "localStart": made.local_start,
        "session": made.session_id,
        "startTime": timestamps.text(made.start_time),
        "status": made.status.value,
        "moved": made.start_time != made.given,
    }


def _shown(found: Series) -> schemas.Series:
    text, definition = timestamps.text, orjson.loads(found.definition)
    return {
        "id": found.id,
        "rrule": definition["rrule"],
        "dtstart": definition["dtstart"],
        "timezone": definition["timezone"],
        "exdates": definition["exdates"],
        "rdates": definition["rdates"],
        "horizon": definition["horizon"],
        "session": definition["session"],
        "ends": definition["ends"],
        "ExternalUserId": found.agent_id,
        "version": found.version,
        "createdAt": text(found.created_at),
        "updatedAt": text(found.updated_at),
        "endedAt": None if found.ended_at is None else text(found.ended_at),
        "follows": found.follows,
        "entry": found.entry,
    }
