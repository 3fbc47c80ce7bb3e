"""Agents and their sessions; what the organization offers."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller, presented, services_of, sign_in, sign_out
from tminus.api.json import Json
from tminus.api.request_context import context_of
from tminus.api.requests import TokenSignIn
from tminus.api.responses import PUBLIC_REFUSALS, refusals
from tminus.api.routing import StrictRoute
from tminus.api.services import Services
from tminus.domain.errors import NotAuthenticated, TooManyAttempts, UnknownOrganization, UnsupportedMediaType
from tminus.domain.types import Caller

router = APIRouter(prefix="/v3", tags=["callers"], route_class=StrictRoute)
public = APIRouter(prefix="/v3", tags=["public"], route_class=StrictRoute)

OrganizationId = Annotated[int, Path(ge=1, le=2**31 - 1)]


def _me(services: Services, caller: Caller, secret: str) -> Response:
    agent = services.agents.get(caller.agent_id)
    return Json(answers.me(caller, secret, services.settings, agent.email if agent else "", clock.now()))


@public.post(
    "/auth/{provider}/authWithToken",
    summary="Turn a token into an agent session of one hour",
    response_model=schemas.Me,
    responses=refusals(NotAuthenticated, TooManyAttempts, UnsupportedMediaType, of=PUBLIC_REFUSALS),
)
async def auth_with_token(request: Request, provider: str, body: TokenSignIn) -> Response:
    caller, secret = await sign_in(context_of(request), body.session_token)
    return _me(services_of(request), caller, secret)


@router.get("/auth/signout", summary="End the agent session", response_model=schemas.Success, responses=refusals())
async def signout(request: Request, caller: CurrentCaller) -> Response:
    await sign_out(context_of(request), caller)
    return Json({"success": True})


@router.get("/me", summary="Who the caller is", response_model=schemas.Me, responses=refusals())
async def get_me(request: Request, caller: CurrentCaller) -> Response:
    return _me(services_of(request), caller, presented(context_of(request)))


def _check_organization(services: Services, organization_id: int) -> None:
    if organization_id != services.settings.organization.id:
        raise UnknownOrganization(organization_id)


@router.get(
    "/organization/{organization_id}/remotewidgetconfig",
    summary="The URLs from which clients build links",
    response_model=schemas.EndpointConfig,
    responses=refusals(UnknownOrganization),
)
async def remote_widget_config(request: Request, caller: CurrentCaller, organization_id: OrganizationId) -> Response:
    services = services_of(request)
    _check_organization(services, organization_id)
    return Json(answers.widget_config(services.settings))


@router.get(
    "/organization/{organization_id}/cobrowsedeployments",
    summary="Where cobrowse sessions are joined",
    response_model=list[schemas.CobrowseDeployment],
    responses=refusals(UnknownOrganization),
)
async def cobrowse_deployments(request: Request, caller: CurrentCaller, organization_id: OrganizationId) -> Response:
    services = services_of(request)
    _check_organization(services, organization_id)
    return Json(answers.cobrowse_deployments(services.settings, services.started_at, services.applied_at))
