"""Routes that find sessions by their parent object, or by a list of ids."""

from typing import Annotated

import orjson
from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.domain.errors import Forbidden, UnknownPath
from tminus.sessions import queries
from tminus.storage import View

router = Router("/v3", "look-ups")
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

    return Json(await context.services.search(caller.agent_id, look))


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
