"""Endpoints, for those who run the daemon: how far each is, what became of each try, and what to do about it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from tminus import schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller, services_of
from tminus.api.json import Json
from tminus.api.requests import Limit, ReplayOrder
from tminus.api.responses import refusals
from tminus.api.routing import StrictRoute
from tminus.api.services import Services
from tminus.domain.errors import Forbidden, UnknownSession, UnknownWebhook, UnsupportedMediaType
from tminus.domain.types import Caller, Role
from tminus.sessions.authorization import need

router = APIRouter(prefix="/v3", tags=["webhooks"], route_class=StrictRoute)

REFUSALS = refusals(Forbidden, UnknownWebhook)


def _operator(request: Request, caller: Caller) -> Services:
    need(caller.has(Role.GROUP_ADMIN), "the role group_admin")
    return services_of(request)


async def _shown(services: Services, name: str) -> Response:
    found = await services.query(lambda view: services.webhooks.endpoint_status(view, name))
    return Json(answers.webhook(found))


@router.get(
    "/webhooks",
    summary="All endpoints and how far each is",
    response_model=schemas.Webhooks,
    responses=refusals(Forbidden),
)
async def list_webhooks(request: Request, caller: CurrentCaller) -> Response:
    services = _operator(request, caller)
    found = await services.search(caller, services.webhooks.endpoint_statuses)
    return Json({"webhooks": [answers.webhook(one) for one in found]})


@router.get("/webhooks/{name}", summary="One endpoint", response_model=schemas.Webhook, responses=REFUSALS)
async def get_webhook(request: Request, caller: CurrentCaller, name: str) -> Response:
    return await _shown(_operator(request, caller), name)


@router.post(
    "/webhooks/{name}/ping",
    summary="Send a test, paused or not, and say what became of it",
    response_model=schemas.Delivery,
    responses=REFUSALS,
)
async def ping_webhook(request: Request, caller: CurrentCaller, name: str) -> Response:
    return Json(answers.delivery(await _operator(request, caller).webhooks.ping(name)))


@router.post("/webhooks/{name}/pause", summary="Send nothing more", response_model=schemas.Webhook, responses=REFUSALS)
async def pause_webhook(request: Request, caller: CurrentCaller, name: str) -> Response:
    services = _operator(request, caller)
    await services.webhooks.pause(name)
    return await _shown(services, name)


@router.post("/webhooks/{name}/resume", summary="Go on, at once", response_model=schemas.Webhook, responses=REFUSALS)
async def resume_webhook(request: Request, caller: CurrentCaller, name: str) -> Response:
    services = _operator(request, caller)
    await services.webhooks.resume(name)
    return await _shown(services, name)


@router.get(
    "/webhooks/{name}/deliveries",
    summary="The delivery log, the newest first",
    response_model=schemas.Deliveries,
    responses=REFUSALS,
)
async def list_deliveries(
    request: Request,
    caller: CurrentCaller,
    name: str,
    failed: bool = False,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="The `next` of the page before")] = None,
    limit: Limit = 20,
) -> Response:
    services = _operator(request, caller)
    found, following = await services.query(
        lambda view: services.webhooks.deliveries(view, name, failed=failed, before=before, limit=limit)
    )
    return Json({"deliveries": [answers.delivery(one) for one in found], "next": following})


@router.post(
    "/webhooks/{name}/replay",
    summary="Tell again what happened, paused or not: from an event on, since a time, or to a session",
    response_model=schemas.Replay,
    responses=refusals(Forbidden, UnknownWebhook, UnknownSession, UnsupportedMediaType),
)
async def replay_webhook(request: Request, caller: CurrentCaller, name: str, body: ReplayOrder) -> Response:
    services = _operator(request, caller)
    queued = await services.webhooks.replay(name, from_seq=body.fromSeq, since=body.since, session=body.session)
    shown: schemas.Replay = {
        "replay": queued.id,
        "fromSeq": queued.cursor + 1,
        "toSeq": queued.until,
        "session": queued.session_id,
    }
    return Json(shown)
