"""Routes about the caller: agent sessions, the caller's data, and the URLs from which clients build links."""

from typing import Annotated, Any

from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.agent_sessions import exchange_code, sign_in, sign_out
from tminus.api.authentication import CurrentCaller, header_token
from tminus.api.refusals import PUBLIC_REFUSALS, refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import TokenSignIn
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.domain.errors import (
    MethodNotAllowed,
    NotAuthenticated,
    TooManyAttempts,
    UnknownOrganization,
    UnsupportedMediaType,
    WrongCode,
)
from tminus.domain.types import Caller

router = Router("/v3", "callers")
public = Router("/v3", "public")

SignInCode = Annotated[str, Field(min_length=1, max_length=255, description="The code from the fragment of the URL")]
Instance = Annotated[str, Field(max_length=255, description="As it was sent to `goToAuth`")]
ConfigurationType = Annotated[str, Field(max_length=255)]
OrganizationId = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _me(services: Services, caller: Caller, secret: str) -> Answer:
    agent = services.agent(caller.agent_id)
    return Json(answers.me(caller, secret, services.settings, agent.email if agent else "", clock.now()))


@public.post(
    "/auth/{provider}/authWithToken",
    summary="Sign in with a token: start an agent session of one hour",
    answers=schemas.Me,
    refusals=refusals(NotAuthenticated, TooManyAttempts, UnsupportedMediaType, of=PUBLIC_REFUSALS),
)
async def auth_with_token(context: RequestContext, provider: str, body: TokenSignIn) -> Answer:
    caller, secret = await sign_in(context, body.session_token)
    return _me(context.services, caller, secret)


@public.get(
    "/auth/{provider}/exchangeCode",
    summary="Exchange a code of the sign-in page for an agent session of one hour",
    answers=schemas.Me,
    refusals=refusals(WrongCode, TooManyAttempts, of=PUBLIC_REFUSALS),
)
async def exchange(
    context: RequestContext, provider: str, code: SignInCode, instance_url: Instance = "", state: str = ""
) -> Answer:
    if context.head:
        raise MethodNotAllowed("HEAD")  # the answer has the only copy of the new secret
    caller, secret = await exchange_code(context, code, provider, instance_url)
    return _me(context.services, caller, secret)


@router.get("/auth/signout", summary="End the agent session", answers=schemas.Success, refusals=refusals())
async def signout(context: RequestContext, caller: CurrentCaller) -> Answer:
    await sign_out(context, caller)
    return Json({"success": True})


@router.get("/me", summary="Show the caller", answers=schemas.Me, refusals=refusals())
async def get_me(context: RequestContext, caller: CurrentCaller) -> Answer:
    return _me(context.services, caller, header_token(context))


@router.get(
    "/configuration/{type_id}",
    summary="Show a configuration: always an empty object",
    answers=dict[str, Any],
    refusals=refusals(),
)
async def configuration(context: RequestContext, caller: CurrentCaller, type_id: ConfigurationType) -> Answer:
    return Json({})


def _check_organization(services: Services, organization_id: int) -> None:
    if organization_id != services.settings.organization.id:
        raise UnknownOrganization(organization_id)


@router.get(
    "/organization/{organization_id}/remotewidgetconfig",
    summary="Show the URLs from which clients build links",
    answers=schemas.EndpointConfig,
    refusals=refusals(UnknownOrganization),
)
async def remote_widget_config(
    context: RequestContext, caller: CurrentCaller, organization_id: OrganizationId
) -> Answer:
    services = context.services
    _check_organization(services, organization_id)
    return Json(answers.widget_config(services.settings))


@router.get(
    "/organization/{organization_id}/cobrowsedeployments",
    summary="List the sites where users join cobrowse sessions",
    answers=list[schemas.CobrowseDeployment],
    refusals=refusals(UnknownOrganization),
)
async def cobrowse_deployments(
    context: RequestContext, caller: CurrentCaller, organization_id: OrganizationId
) -> Answer:
    services = context.services
    _check_organization(services, organization_id)
    return Json(answers.cobrowse_deployments(services.settings, services.started_at, services.applied_at))
