"""Routes that find sessions by their parent object, by a list of ids, or by PIN."""

from typing import Annotated

import orjson
from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import PUBLIC_REFUSALS, refusals
from tminus.api.request_context import RequestContext
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.domain.errors import Forbidden, TooManyAttempts, UnknownPath, UnknownSession
from tminus.domain.ids import PINS
from tminus.logs.repeated import REPEATED
from tminus.sessions import queries
from tminus.storage import View

router = Router("/v3", "look-ups")
public = Router("/v3", "public")

OF_PARENT = 1000
"""Maximum number of sessions of a parent object in a response, newest first; fewer if they are very long."""

DISCOVERED = 1000
"""Maximum number of ids in one discovery request; clients poll with the ids of all their sessions."""


@router.get(
    "/crmlookup/{key:path}",
    summary="List the open sessions of a parent object",
    answers=list[schemas.Session],
    refusals=refusals(Forbidden, UnknownPath),  # a key with a line end matches no route
)
async def crm_lookup(context: RequestContext, caller: CurrentCaller, key: str) -> Answer:
    now = clock.now()

    def look(view: View) -> bytes:
        found = queries.sessions_of_parent(view, caller, key, OF_PARENT)
        return orjson.dumps([answers.session(session, caller, now) for session in found])

    return Json(await context.services.search(caller, look))


@router.get(
    "/discovery",
    summary="Show which of the given sessions are active, and their server",
    answers=dict[str, schemas.Discovered],
    refusals=refusals(),
)
async def discovery(
    context: RequestContext,
    caller: CurrentCaller,
    ids: Annotated[str, Field(description="Session ids, separated by commas")] = "",
) -> Answer:
    services = context.services
    wanted = [part.strip() for part in ids.split(",") if part.strip()][:DISCOVERED]
    found = await services.query(lambda view: queries.active_sessions(view, caller, wanted))
    now = clock.now()
    return Json(
        {session.id: answers.discovered(session, services.settings, services.instance, now) for session in found}
    )


@public.get(
    "/support/{pin}/meta",
    summary="Show the public data of a session by its PIN",
    answers=schemas.PinMeta,
    refusals=refusals(UnknownSession, TooManyAttempts, of=PUBLIC_REFUSALS),
)
async def pin_meta(context: RequestContext, pin: str) -> Answer:
    services, address = context.services, context.remote_ip
    wait = services.pin_lookups.retry_after(address)
    if wait is not None:
        context.logged = True
        services.metrics.guessed("pin", "limited")
        REPEATED.log("pin.limited", address, remote_ip=address, request_id=context.request_id)
        raise TooManyAttempts("PIN look-ups", wait)
    services.pin_lookups.count(address)
    number = int(pin) if pin.isascii() and pin.isdigit() and len(pin) == len(str(PINS.start)) else 0
    try:
        session = await services.query(lambda view: queries.session_by_pin(view, number))
    except UnknownSession:
        context.logged = True
        services.metrics.guessed("pin", "wrong")
        REPEATED.log("pin.unknown", address, remote_ip=address, request_id=context.request_id)
        raise UnknownSession(pin) from None
    return Json(answers.pin_meta(session))
