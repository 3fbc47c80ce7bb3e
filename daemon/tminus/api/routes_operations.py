"""Routes for operations: liveness, readiness and metrics."""

import asyncio

import orjson
from prometheus_client import CONTENT_TYPE_LATEST

from tminus import clock, schemas
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.response import Json, Response
from tminus.api.routing import Answer, Router
from tminus.domain import timestamps
from tminus.domain.errors import Forbidden
from tminus.domain.types import Role
from tminus.sessions.authorization import require

router = Router("", "operations")

_HEALTHY = orjson.dumps({"status": "ok"})


@router.get("/healthz", summary="Liveness: the process answers", answers=schemas.Health)
async def healthz(context: RequestContext) -> Answer:
    if context.services.clock.test_clock is not None:
        return Json({"status": "ok", "testClock": timestamps.text(clock.now())})
    return Json(_HEALTHY)


@router.get(
    "/readyz",
    summary="Readiness: the daemon can serve requests",
    answers=schemas.Readiness,
    refusals=lambda: {
        503: {"model": schemas.Readiness, "description": "The daemon is not ready; `reasons` lists the causes"}
    },
)
async def readyz(context: RequestContext) -> Answer:
    services = context.services
    reasons = services.not_ready()
    return Json(
        {"ready": not reasons, "reasons": reasons, "notes": services.notes()}, status_code=503 if reasons else 200
    )


@router.get("/metrics", summary="Metrics for Prometheus", refusals=refusals(Forbidden))
async def metrics(context: RequestContext, caller: CurrentCaller) -> Answer:
    require(caller.has(Role.MONITOR), "the role monitor")
    return Response(await asyncio.to_thread(context.services.metrics.scrape), CONTENT_TYPE_LATEST)
