"""The end of a sign-in by OpenID Connect: the page to which the issuer sends the browser back."""

from typing import Annotated
from urllib.parse import quote, urlencode

from pydantic import Field

from tminus import clock
from tminus.api import agent_sessions, authentication, browser_session, oidc_agents
from tminus.api.receivers import Receiver, find_receiver
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response
from tminus.api.routing import Answer, Route, Router
from tminus.api.signin_page import SignInPage
from tminus.domain import ids
from tminus.domain.errors import AgentShutOut, MethodNotAllowed, Overloaded, TooManyAttempts
from tminus.oidc import attempt as attempts
from tminus.oidc.attempt import Attempt
from tminus.oidc.errors import Refusal, SignInRefused

PATH = "/auth/oidc/callback"

AGENT_PAGE = "../../../agent"
"""The agents' page, relative to `PATH` and to the sign-in page, since a proxy may remove a path prefix."""

BACK = "agent"
"""The value of `back` with which a sign-in leads to the agents' page. Other pages are receivers."""

PROBLEMS: dict[Refusal, str] = {
    "state": "oidc_state",
    "cancelled": "oidc_cancelled",
    "issuer": "oidc_issuer",
    "roles": "oidc_roles",
    "shut_out": "shut_out",
}
"""The page's text for a refusal; the others are `oidc_refused`."""

_BUSY = 10
"""Seconds that the page asks people to wait if too many sign-ins of their address are queued."""

Text = Annotated[str, Field(max_length=4096)]


def oidc_routes(page: SignInPage) -> list[Route]:
    """Return the route to which the issuer sends browsers back."""
    router = Router("/v3", "public")

    @router.get(PATH, described=False)
    async def callback(
        context: RequestContext, code: Text = "", state: Text = "", iss: Text | None = None, error: Text = ""
    ) -> Answer:
        if context.head:
            raise MethodNotAllowed("HEAD")  # it would use up the code
        return await _Return(page, context).finish(code, state, iss, error)

    return list(router.routes)


def redirect_uri(context: RequestContext) -> str:
    """Return the URL to which the issuer sends browsers back. It is registered there."""
    return f"{context.services.settings.server.urls().public}/v3{PATH}"


def problem_of(refusal: Refusal) -> str:
    """Return the name of the page's text for a refusal."""
    return PROBLEMS.get(refusal, "oidc_refused")


class _Return:
    """One browser that the issuer has sent back."""

    def __init__(self, page: SignInPage, context: RequestContext) -> None:
        self._page = page
        self._context = context
        self._settings = context.services.settings
        self._issuer = context.services.issuer
        self._attempt: Attempt | None = None
        """None until the browser has proven that it began a sign-in here."""

    async def finish(self, code: str, state: str, iss: str | None, error: str) -> Response:
        context, services = self._context, self._context.services
        try:
            attempt = self._own_attempt(state)
            if services.failed_tokens.retry_after(context.remote_ip) is None:
                value, signed_in = await self._sign_in(attempt, code, iss, error)
            else:
                # Not refused: a neighbour, or a page of another site, can cause any number of wrong returns.
                async with services.oidc_queue.turn(context.remote_ip):
                    value, signed_in = await self._sign_in(attempt, code, iss, error)
        except SignInRefused as refusal:
            oidc_agents.note_refusal(context, refusal)
            status = 503 if refusal.refusal == "issuer" else 403
            return self._form(problem=problem_of(refusal.refusal), status=status)
        except AgentShutOut:
            return self._form(problem="shut_out", status=403)
        except TooManyAttempts as limited:
            return self._form(problem="limited", status=429, seconds=int(limited.retry_after) + 1)
        except Overloaded:  # too many sign-ins of this address are queued
            return self._form(problem="limited", status=503, seconds=_BUSY)
        cookies = [browser_session.set_session(self._settings, value), browser_session.remove_attempt(self._settings)]
        receiver = self._receiver
        if receiver is not None:
            token = authentication.page_token(value)
            added = await agent_sessions.add_code(
                context, signed_in, token, receiver.url, attempt.provider, attempt.instance
            )
            return _see_other(receiver.accepted(added) if added else self._sign_in_page(), cookies)
        return _see_other(AGENT_PAGE if attempt.back == BACK else self._sign_in_page(), cookies)

    def _own_attempt(self, state: str) -> Attempt:
        """Return the attempt that this browser began. Raises `SignInRefused`, `TooManyAttempts`."""
        issuer = self._issuer.name if self._issuer else ""
        found = attempts.parse(browser_session.attempt(self._context), clock.now(), issuer)
        if found is None or not found.is_state(state):
            authentication.check_attempts(self._context, "oidc")
            raise SignInRefused("state", "the browser has no attempt with this state")
        self._attempt = found
        return found

    async def _sign_in(
        self, attempt: Attempt, code: str, iss: str | None, error: str
    ) -> tuple[str, authentication.SignedIn]:
        """Return the secret of a new agent session. Raises `SignInRefused`, `AgentShutOut`."""
        context, issuer = self._context, self._issuer
        if issuer is None:
            raise SignInRefused("issuer", "no issuer is configured any more")
        if error or not code:
            raise SignInRefused("cancelled", f"the issuer reports {error or 'no code'}")
        claims = await issuer.claims(attempt, code, iss, redirect_uri(context))
        if context.services.settings.signin.oidc != issuer.access.settings:
            # Otherwise the claims of one issuer could find an agent of another one.
            raise SignInRefused("issuer", "the configuration has changed meanwhile")
        signed_in = await oidc_agents.agent_of(context, claims)
        before = await authentication.caller_of_page(context)
        token = before.token if before else ""
        return await agent_sessions.start_in_browser(context, signed_in, token, "oidc"), signed_in

    @property
    def _receiver(self) -> Receiver | None:
        if self._attempt is None or not self._attempt.receiver_url:
            return None
        return find_receiver(self._attempt.receiver_url, self._settings.signin.receivers)

    def _sign_in_page(self) -> str:
        """Return the address of the sign-in page with which the attempt began, relative to `PATH`."""
        attempt = self._attempt
        if attempt is None:
            return "../oidc/goToAuth"
        values = {"instance_url": attempt.instance, "receiver_url": attempt.receiver_url, "back": attempt.back}
        query = urlencode({name: value for name, value in values.items() if value})
        return f"../{quote(attempt.provider, safe='')}/goToAuth{'?' if query else ''}{query}"

    def _form(self, *, problem: str, status: int, seconds: int = 0) -> Response:
        """Return the sign-in page with a problem. An attempt that the browser has proven to be its own is over."""
        context, headers = self._context, []
        # A foreign state ends no attempt: it comes from another tab, or from a page of another site.
        if self._attempt is not None:
            headers.append(browser_session.remove_attempt(self._settings))
        sent = browser_session.secret(context) or browser_session.visitor(context)
        if not sent:
            sent = ids.token()
            headers.append(browser_session.set_visitor(self._settings, sent))
        html = self._page.form(
            context.header(b"accept-language"), self._settings.organization.name, browser_session.key_of(sent),
            receiver=self._receiver, problem=problem, oidc=context.services.issuer is not None,
            target=self._sign_in_page(), seconds=seconds,
        )  # fmt: skip
        return self._page.answer(html, status, self._receiver, headers)


def _see_other(url: str, headers: Headers) -> Response:
    return Response(status_code=303, headers=[(b"location", url.encode("latin-1")), *headers])
