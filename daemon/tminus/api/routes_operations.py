"""For those who run the daemon: does it live, should it be sent requests."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tminus import schemas
from tminus.api.authentication import CurrentCaller, services_of
from tminus.api.json import Json
from tminus.api.responses import refusals
from tminus.domain.errors import Forbidden
from tminus.domain.types import Role
from tminus.sessions.authorization import need

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="The process lives", response_model=schemas.Health)
async def healthz() -> Response:
    return Json({"status": "ok"})


@router.get(
    "/readyz",
    summary="Requests may come here",
    response_model=schemas.Readiness,
    responses={503: {"model": schemas.Readiness, "description": "They should not, and why"}},
)
async def readyz(request: Request) -> Response:
    services = services_of(request)
    reasons = services.not_ready()
    return Json(
        {"ready": not reasons, "reasons": reasons, "notes": services.notes()}, status_code=503 if reasons else 200
    )


@router.get(
    "/metrics",
    summary="What Prometheus scrapes",
    response_class=Response,
    responses={**refusals(Forbidden), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request, caller: CurrentCaller) -> Response:
    need(caller.has(Role.MONITOR), "the role monitor")
    return Response(services_of(request).metrics.scrape(), media_type=CONTENT_TYPE_LATEST)
