"""For those who run the daemon: does it live, should it be sent requests."""

from fastapi import APIRouter, Request, Response

from tminus import wire
from tminus.api.callers import services_of
from tminus.api.json import Json

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="The process lives", response_model=wire.Health)
async def healthz() -> Response:
    return Json({"status": "ok"})


@router.get(
    "/readyz",
    summary="Requests may come here",
    response_model=wire.Readiness,
    responses={503: {"model": wire.Readiness, "description": "They should not, and why"}},
)
def readyz(request: Request) -> Response:
    reasons = services_of(request).not_ready()
    return Json({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)
