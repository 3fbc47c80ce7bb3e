"""Routes of the sign-in page. `routes_callers` has the exchange of its codes."""

from collections.abc import Sequence
from math import ceil
from typing import Annotated
from urllib.parse import parse_qs

from pydantic import Field

from tminus import clock
from tminus.api import agent_sessions, authentication, browser_session, oidc_agents
from tminus.api.authentication import BrowserSession, SignedIn
from tminus.api.receivers import Receiver, find_receiver
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response
from tminus.api.routes_oidc import AGENT_PAGE, BACK, oidc_routes, problem_of, redirect_uri
from tminus.api.routing import Answer, Route, Router
from tminus.api.signin_page import SignInPage
from tminus.domain import ids
from tminus.domain.errors import AgentShutOut, NotAuthenticated, TooManyAttempts
from tminus.logs.repeated import REPEATED
from tminus.oidc import attempt as attempts
from tminus.oidc.errors import SignInRefused

_PATH = "/auth/{provider}/goToAuth"
_MAX_TOKEN = 1024
_MAX_FIELDS = 10
_MAX_FORM = 16 * 1024
"""Maximum bytes of the form, whatever `server.max_body` allows: parsing it blocks other requests."""

_SHOWN = 200
"""Maximum characters of a refused URL that the page and the log repeat."""

Provider = Annotated[str, Field(max_length=64)]
Instance = Annotated[str, Field(max_length=255)]


def signin_routes() -> Sequence[Route]:
    """Return the routes of the page. Its files are read now."""
    router, page = Router("/v3", "public"), SignInPage()

    @router.get(_PATH, described=False)
    async def show(
        context: RequestContext, provider: Provider, instance_url: Instance = "", receiver_url: str = "", back: str = ""
    ) -> Answer:
        return await _Visit(page, context, provider, instance_url, receiver_url, back).show()

    @router.post(_PATH, described=False)
    async def submit(
        context: RequestContext, provider: Provider, instance_url: Instance = "", receiver_url: str = "", back: str = ""
    ) -> Answer:
        return await _Visit(page, context, provider, instance_url, receiver_url, back).submit()

    return [*router.routes, *oidc_routes(page)]


class _Visit:
    """One request for the page, and what the page answers."""

    def __init__(
        self, page: SignInPage, context: RequestContext, provider: str, instance: str, receiver_url: str, back: str
    ) -> None:
        self._page = page
        self._context = context
        self._provider = provider
        self._instance = instance
        self._receiver_url = receiver_url
        self._back = back
        self._settings = context.services.settings
        self._language = context.header(b"accept-language")
        self._receiver: Receiver | None = None
        """None if the caller names none, or one that is not listed."""
        if receiver_url:
            self._receiver = find_receiver(receiver_url, self._settings.signin.receivers)

    @property
    def _is_refused(self) -> bool:
        return bool(self._receiver_url) and self._receiver is None

    async def show(self) -> Response:
        if self._is_refused:
            return self._refuse()
        found = await authentication.caller_of_page(self._context)
        return self._form(agent=found.caller.name if found else "")

    async def submit(self) -> Response:
        if self._is_refused:
            return self._refuse()
        fields = _fields(self._context)
        if not self._is_genuine(fields.get("key", "")):
            return self._forged()
        found = await authentication.caller_of_page(self._context)
        if fields.get("action") == "oidc":
            return await self._leave()
        if fields.get("action", "sign_in") == "sign_in":
            return await self._sign_in(fields.get("token", "").strip(), found)
        if found is None:
            return self._form(problem="ended", status=403)
        return await self._act(fields["action"], found)

    async def _act(self, action: str, found: BrowserSession) -> Response:
        """Do what an agent who is signed in has chosen."""
        if action == "continue" and self._receiver is not None:
            return await self._go_back(self._receiver, found.signed_in, found.token)
        if action == "sign_out":
            await agent_sessions.end_agent_session(self._context, found.caller, found.token, "page")
            return self._show_again(browser_session.remove_session(self._settings))
        if action == "sign_out_everywhere":
            await agent_sessions.sign_out_everywhere(self._context, found.caller)
            return self._show_again(browser_session.remove_session(self._settings))
        return self._form(agent=found.caller.name)

    def _refuse(self) -> Response:
        """Return the page for a receiver that is not listed. It names `signin.receivers`, and has no link."""
        context, shown = self._context, self._receiver_url.partition("?")[0][:_SHOWN]
        shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
        context.logged = True
        REPEATED.log(
            "auth.receiver_refused",
            context.remote_ip,
            receiver=shown,
            remote_ip=context.remote_ip,
            request_id=context.request_id,
        )
        return self._page.answer(self._page.refused(self._language, shown), 400, None, [])

    def _form(
        self, *, agent: str = "", problem: str = "", status: int = 200, headers: Headers | None = None, seconds: int = 0
    ) -> Response:
        """Return the page with its form, whose key belongs to the cookie that the browser has or gets."""
        sent, set_cookies = self._cookie(), list(headers or ())
        if not sent:
            sent = ids.token()
            set_cookies.append(browser_session.set_visitor(self._settings, sent))
        html = self._page.form(
            self._language, self._settings.organization.name, browser_session.key_of(sent),
            receiver=self._receiver, agent=agent, problem=problem, oidc=self._context.services.issuer is not None,
            seconds=seconds,
        )  # fmt: skip
        return self._page.answer(html, status, self._receiver, set_cookies)

    def _is_genuine(self, key: str) -> bool:
        """Return whether the form comes from this page, in this browser."""
        sent = self._cookie()
        return bool(sent) and browser_session.is_key(key, sent) and browser_session.is_own_page(self._context)

    def _forged(self) -> Response:
        context = self._context
        context.logged = True
        REPEATED.log(
            "auth.forgery_refused", context.remote_ip, remote_ip=context.remote_ip, request_id=context.request_id
        )
        return self._form(problem="forged", status=403)

    async def _sign_in(self, token: str, before: BrowserSession | None) -> Response:
        """Start an agent session in the browser, in place of the present one, and return to the receiver."""
        context = self._context
        try:
            signed_in = authentication.agent_of_token(context, token[:_MAX_TOKEN])
        except NotAuthenticated:
            return self._form(problem="wrong", status=403)
        except AgentShutOut:
            return self._form(problem="shut_out", status=403)
        except TooManyAttempts as refusal:
            seconds = ceil(refusal.retry_after)
            headers: Headers = [(b"retry-after", b"%d" % seconds)]
            return self._form(problem="limited", status=429, headers=headers, seconds=seconds)
        try:
            value = await agent_sessions.start_in_browser(context, signed_in, before.token if before else "")
        except AgentShutOut:
            return self._form(problem="shut_out", status=403)
        cookie = browser_session.set_session(self._settings, value)
        if self._receiver is None:
            return _see_other(AGENT_PAGE, cookie) if self._back == BACK else self._show_again(cookie)
        return await self._go_back(self._receiver, signed_in, authentication.page_token(value), cookie)

    async def _leave(self) -> Response:
        """Send the browser to the OpenID Connect issuer, with a cookie for its return."""
        context, issuer = self._context, self._context.services.issuer
        if issuer is None:
            return self._form()
        back = self._back if self._back == BACK else ""
        try:
            attempt = attempts.begin(clock.now(), issuer.name, self._provider, self._instance, self._receiver_url, back)
            url = await issuer.authorization_url(attempt, redirect_uri(context))
        except SignInRefused as refusal:
            oidc_agents.note_refusal(context, refusal)
            return self._form(problem=problem_of(refusal.refusal), status=503)
        cookie = browser_session.set_attempt(self._settings, attempt.cookie())
        return self._page.answer(self._page.leaving(self._language, url), 200, None, [cookie])

    async def _go_back(
        self, receiver: Receiver, signed_in: SignedIn, token: str, *headers: tuple[bytes, bytes]
    ) -> Response:
        """Redirect to the receiver with a code. `token` is that of the browser's agent session."""
        code = await agent_sessions.add_code(
            self._context, signed_in, token, receiver.url, self._provider, self._instance
        )
        return (
            self._form(problem="ended", status=403) if code is None else _see_other(receiver.accepted(code), *headers)
        )

    def _show_again(self, *headers: tuple[bytes, bytes]) -> Response:
        """Redirect to this page. The address is relative, since a proxy may remove a path prefix."""
        query = self._context.scope["query_string"].decode("latin-1")
        return _see_other(f"goToAuth?{query}" if query else "goToAuth", *headers)

    def _cookie(self) -> str:
        """Return the value of the cookie to which the form's key belongs, or ""."""
        return browser_session.secret(self._context) or browser_session.visitor(self._context)


def _see_other(url: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(status_code=303, headers=[(b"location", url.encode("latin-1")), *headers])


def _fields(context: RequestContext) -> dict[str, str]:
    """Return the fields of the form; none if the body is not a form, or too large for one."""
    if len(context.body) > _MAX_FORM or not context.header(b"content-type").lower().startswith(
        "application/x-www-form-urlencoded"
    ):
        return {}
    try:
        found = parse_qs(context.body.decode(), max_num_fields=_MAX_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}
