"""Routes for operators of webhooks: state, delivery log, ping, pause, resume and replay."""

from typing import Annotated

import orjson
from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import Limit, ReplayOrder, SampleOrder
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.domain import policy
from tminus.domain.errors import Forbidden, UnknownSession, UnknownWebhook, UnsupportedMediaType
from tminus.domain.samples import SampleSession, sample
from tminus.domain.types import Caller, Role, SessionType
from tminus.sessions.authorization import require
from tminus.sessions.commands import public_agent_session

router = Router("/v3", "webhooks")

REFUSALS = refusals(Forbidden, UnknownWebhook)


def _operator(context: RequestContext, caller: Caller) -> Services:
    """Return the services. Raises `Forbidden` unless the caller is an operator."""
    require(caller.has(Role.GROUP_ADMIN), "the role group_admin")
    return context.services


def _who(context: RequestContext, caller: Caller) -> dict[str, str | None]:
    """Return the fields of a log line that say who did something."""
    return {"actor": caller.actor, "remote_ip": context.remote_ip, "request_id": context.request_id}


async def _webhook(services: Services, name: str) -> Answer:
    found = await services.query(lambda view: services.webhooks.endpoint_status(view, name))
    return Json(answers.webhook(found))


@router.get(
    "/webhooks",
    summary="List webhooks with their delivery state",
    answers=schemas.Webhooks,
    refusals=refusals(Forbidden),
)
async def list_webhooks(context: RequestContext, caller: CurrentCaller) -> Answer:
    services = _operator(context, caller)
    found = await services.search(caller.agent_id, services.webhooks.endpoint_statuses)
    return Json({"webhooks": [answers.webhook(one) for one in found]})


@router.get(
    "/webhooks/{name}", summary="Show a webhook with its delivery state", answers=schemas.Webhook, refusals=REFUSALS
)
async def get_webhook(context: RequestContext, caller: CurrentCaller, name: str) -> Answer:
    return await _webhook(_operator(context, caller), name)


@router.post(
    "/webhooks/{name}/ping",
    summary="Send a test request, even while the webhook is paused, and return the result",
    answers=schemas.Delivery,
    refusals=REFUSALS,
)
async def ping_webhook(context: RequestContext, caller: CurrentCaller, name: str) -> Answer:
    return Json(answers.delivery(await _operator(context, caller).webhooks.ping(name)))


@router.post(
    "/webhooks/{name}/sample",
    summary="Send a sample event of any type, even while the webhook is paused, and return the result",
    answers=schemas.Delivery,
    refusals=refusals(Forbidden, UnknownWebhook, UnsupportedMediaType),
)
async def sample_webhook(context: RequestContext, caller: CurrentCaller, name: str, body: SampleOrder) -> Answer:
    services, now = _operator(context, caller), clock.now()
    settings = services.settings
    modes = settings.policy.modes(SessionType.LIVE)
    session = SampleSession(
        agent_id=caller.agent_id,
        organization_id=settings.organization.id,
        user_description=caller.name,
        created_by=orjson.dumps(public_agent_session(caller, now)).decode(),
        settings=orjson.dumps(policy.effective_settings(SessionType.LIVE, modes, {})).decode(),
    )
    event = sample(body.type, session, now, settings.lifecycle.timeouts, caller.actor)
    return Json(answers.delivery(await services.webhooks.sample(name, event)))


@router.post("/webhooks/{name}/pause", summary="Pause deliveries", answers=schemas.Webhook, refusals=REFUSALS)
async def pause_webhook(context: RequestContext, caller: CurrentCaller, name: str) -> Answer:
    services = _operator(context, caller)
    await services.webhooks.pause(name, **_who(context, caller))
    return await _webhook(services, name)


@router.post(
    "/webhooks/{name}/resume", summary="Resume deliveries immediately", answers=schemas.Webhook, refusals=REFUSALS
)
async def resume_webhook(context: RequestContext, caller: CurrentCaller, name: str) -> Answer:
    services = _operator(context, caller)
    await services.webhooks.resume(name, **_who(context, caller))
    return await _webhook(services, name)


@router.get(
    "/webhooks/{name}/deliveries",
    summary="List delivery attempts, newest first",
    answers=schemas.Deliveries,
    refusals=REFUSALS,
)
async def list_deliveries(
    context: RequestContext,
    caller: CurrentCaller,
    name: str,
    failed: bool = False,
    before: Annotated[int | None, Field(ge=0, le=2**63 - 1, description="`next` of the previous page")] = None,
    limit: Limit = 20,
) -> Answer:
    services = _operator(context, caller)
    found, following = await services.query(
        lambda view: services.webhooks.deliveries(view, name, failed=failed, before=before, limit=limit)
    )
    return Json({"deliveries": [answers.delivery(one) for one in found], "next": following})


@router.post(
    "/webhooks/{name}/replay",
    summary="Send events again: from a sequence number on, since a time, or those of one session",
    answers=schemas.Replay,
    refusals=refusals(Forbidden, UnknownWebhook, UnknownSession, UnsupportedMediaType),
)
async def replay_webhook(context: RequestContext, caller: CurrentCaller, name: str, body: ReplayOrder) -> Answer:
    services = _operator(context, caller)
    queued = await services.webhooks.replay(name, from_seq=body.fromSeq, since=body.since, session=body.session)
    shown: schemas.Replay = {
        "replay": queued.id,
        "fromSeq": queued.cursor + 1,
        "toSeq": queued.until,
        "session": queued.session_id,
    }
    return Json(shown)
