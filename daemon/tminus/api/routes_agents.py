"""Routes for operators: list agents with their last sign-in, shut an agent out, readmit one."""

from typing import Annotated

import orjson
from pydantic import Field

from tminus import schemas
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import Limit
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.config import Agent
from tminus.domain import timestamps
from tminus.domain.errors import Forbidden, UnknownAgent
from tminus.domain.model import KnownAgent
from tminus.domain.types import Caller, Role
from tminus.logs.output import log
from tminus.sessions.authorization import require
from tminus.storage import agents

router = Router("/v3", "agents")

REFUSALS = refusals(Forbidden, UnknownAgent)

Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
AfterNumber = Annotated[int, Field(ge=0, le=2**31 - 1, description="`next` of the previous page")]


def _operator(context: RequestContext, caller: Caller) -> Services:
    """Return the services. Raises `Forbidden` unless the caller is an operator."""
    require(caller.has(Role.GROUP_ADMIN), "the role group_admin")
    return context.services


@router.get(
    "/agents",
    summary="List agents in the order of their numbers",
    answers=schemas.Agents,
    refusals=refusals(Forbidden),
)
async def list_agents(
    context: RequestContext, caller: CurrentCaller, after: AfterNumber = 0, limit: Limit = 100
) -> Answer:
    services = _operator(context, caller)
    stored = await services.query(lambda view: agents.listed(view, after, limit))
    known = {one.id: one for one in stored}
    configured = sorted(number for number in services.agents if number > after)[:limit]
    numbers = sorted({*known, *configured})[:limit]
    following = numbers[-1] if len(numbers) == limit else None
    shown = [_shown(number, services.agents.get(number), known.get(number)) for number in numbers]
    return Json({"agents": [one for one in shown if one is not None], "next": following})


@router.post(
    "/agents/{number}/shutOut",
    summary="Shut an agent out: end its agent sessions, streams and rooms, and refuse its tokens and sign-ins",
    answers=schemas.Agent,
    refusals=REFUSALS,
)
async def shut_out(context: RequestContext, caller: CurrentCaller, number: Number) -> Answer:
    services = _operator(context, caller)
    name = (await _find(services, number))["name"]
    ended = await services.transact(lambda tx: agents.shut_out(tx, number))
    if ended is not None:
        await services.known_agents.refresh()
        where = {"remote_ip": context.remote_ip, "request_id": context.request_id}
        log("agent.shut_out", agent=number, agent_name=name, actor=caller.actor, agent_sessions=ended, **where)
    return Json(await _find(services, number))


@router.post(
    "/agents/{number}/readmit",
    summary="Let an agent who was shut out sign in again",
    answers=schemas.Agent,
    refusals=REFUSALS,
)
async def readmit(context: RequestContext, caller: CurrentCaller, number: Number) -> Answer:
    services = _operator(context, caller)
    name = (await _find(services, number))["name"]
    if await services.transact(lambda tx: agents.readmit(tx, number)):
        await services.known_agents.refresh()
        where = {"remote_ip": context.remote_ip, "request_id": context.request_id}
        log("agent.readmitted", agent=number, agent_name=name, actor=caller.actor, **where)
    return Json(await _find(services, number))


async def _find(services: Services, number: int) -> schemas.Agent:
    """Return an agent. Raises `UnknownAgent`."""
    known = await services.query(lambda view: agents.find(view, number))
    shown = _shown(number, services.agents.get(number), known)
    if shown is None:
        raise UnknownAgent(number)
    return shown


def _shown(number: int, configured: Agent | None, known: KnownAgent | None) -> schemas.Agent | None:
    """Return an agent for operators; None if the agent is neither configured, nor of an issuer, nor shut out."""
    source: schemas.AgentSource = "configuration"
    if configured is not None:
        name, email, roles = configured.name, configured.email, sorted(role.value for role in configured.roles)
    elif known is not None and known.issuer:
        source, name, email, roles = "oidc", known.name, known.email, orjson.loads(known.roles)
    elif known is not None and known.shut_out_at is not None:
        source, name, email, roles = "removed", "", "", []
    else:
        return None
    return {
        "id": number,
        "name": name,
        "email": email,
        "roles": roles,
        "source": source,
        "issuer": (known.issuer if known else "") or None,
        "subject": (known.subject if known else "") or None,
        "signedInAt": timestamps.text(known.signed_in_at) if known and known.signed_in_at else None,
        "shutOutAt": timestamps.text(known.shut_out_at) if known and known.shut_out_at else None,
    }
