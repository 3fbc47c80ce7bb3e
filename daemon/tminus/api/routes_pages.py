"""Serve the page for people who were invited, the page for agents, and the files that they load.

The first page is the same for all sessions: its script reads the link, finds the session through the API, and connects
to the room. So loading it needs no query and is not a PIN look-up, and it contains no link.
"""

from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote, urlsplit

from tminus import pages
from tminus.api import authentication, browser_session
from tminus.api.media_types import listed
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response
from tminus.api.routing import Answer, Route, Router
from tminus.api.tagged_response import TaggedResponse
from tminus.config import Settings
from tminus.domain.errors import UnknownPath

_DEFAULT_ORGANIZATION = Settings().organization.name
"""A name that nobody has configured is not shown."""

_FOR_EVER = (b"cache-control", b"public, max-age=31536000, immutable")
_REVALIDATED = (b"cache-control", b"no-cache")
_VARIES = (b"vary", b"Accept-Language")


def page_routes() -> Sequence[Route]:
    """Return the routes of the page and its files."""
    router = Router("", "pages")
    current = {name: TaggedResponse(one.content, one.media_type, [_FOR_EVER]) for name, one in pages.ASSETS.items()}
    other = {name: TaggedResponse(one.content, one.media_type, [_REVALIDATED]) for name, one in pages.ASSETS.items()}

    @router.get("/", described=False)
    async def room(context: RequestContext) -> Answer:
        return _page(context, pages.Start.LINK).answer(context)

    @router.get("/{pin:pin}", described=False)
    async def room_of_pin(context: RequestContext, pin: str) -> Answer:
        return _page(context, pages.Start.LINK).answer(context)

    @router.get("/agent", described=False)
    async def agent(context: RequestContext) -> Answer:
        return await _agent_page(context)

    @router.get("/assets/{version}/{name}", described=False)
    async def asset(context: RequestContext, version: str, name: str) -> Answer:
        # During an upgrade, a daemon of another release may have sent the page. It gets the files of this release, but
        # caches must revalidate them.
        found = (current if version == pages.VERSION else other).get(name)
        if found is None:
            raise UnknownPath
        return found.answer(context)

    return router.routes


async def _agent_page(context: RequestContext) -> Answer:
    """Return the page for the agent who is signed in in this browser, or a redirect to the sign-in page."""
    settings = context.services.settings
    if await authentication.caller_of_page(context) is None:
        # Relative, since a proxy may remove a path prefix.
        where = f"v3/auth/{quote(settings.organization.provider, safe='')}/goToAuth?back=agent"
        return Response(status_code=303, headers=[(b"location", where.encode())])
    language = pages.best_language(context.header(b"accept-language"))
    key = browser_session.key_of(browser_session.secret(context))
    headers: Headers = [
        (b"content-security-policy", _policy(frozenset()).encode()),
        (b"content-language", language.encode()),
        # A page that opens this one gets no access to its window, so it cannot replace what the agent sees.
        (b"cross-origin-opener-policy", b"same-origin"),
    ]
    page = pages.render_agent_page(language, _shown_name(settings), key)
    return Response(page, "text/html; charset=utf-8", headers=headers)


def missing_page(context: RequestContext) -> Answer | None:
    """Return the page for a path without a route, if it has one segment and the client prefers HTML; otherwise None.

    A link that a mail program has cut, or to which it has added a full stop, leads here. If `user_url` or `host_url`
    names a file, such as `index.html`, its path has the page for links: a proxy removes only what is before the file.
    """
    path: str = context.scope["path"]
    if path.count("/") != 1:
        return None
    if path[1:] in _files(context.services.settings):
        context.route, context.refcode, context.error = path, None, None
        return _page(context, pages.Start.LINK).answer(context)
    if not _prefers_html(context.header(b"accept")):
        return None
    page = _page(context, pages.Start.MISSING)
    return Response(page.content, page.media_type, 404, [*page.headers])


def _files(settings: Settings) -> frozenset[str]:
    """Return the names of the files that the URLs of the pages end with."""
    urls = settings.server.urls()
    paths = (urlsplit(url).path for url in (urls.user_page, urls.host_page))
    return frozenset(name for path in paths if (name := path.rpartition("/")[2]))


def _page(context: RequestContext, start: pages.Start) -> TaggedResponse:
    settings = context.services.settings
    urls = settings.server.urls()
    return _rendered(
        pages.best_language(context.header(b"accept-language")),
        _shown_name(settings),
        start,
        settings.limits.participant_name,
        frozenset({_websocket_origin(url) for url in (urls.public, urls.user, urls.host)}),
    )


def _shown_name(settings: Settings) -> str:
    """Return the name of the organization, or "" if it is not configured."""
    name = settings.organization.name
    return "" if name == _DEFAULT_ORGANIZATION else name


@lru_cache(maxsize=16)
def _rendered(
    language: str, organization: str, start: pages.Start, name_length: int, websockets: frozenset[str]
) -> TaggedResponse:
    """Return the page with its headers. Cached: only a reload can change it."""
    headers: Headers = [
        (b"content-security-policy", _policy(websockets).encode()),
        (b"content-language", language.encode()),
        _REVALIDATED,
        _VARIES,
    ]
    return TaggedResponse(pages.render(language, organization, start, name_length), "text/html; charset=utf-8", headers)


def _policy(websockets: frozenset[str]) -> str:
    """Return the content security policy of the page: only files of the daemon, and nothing inline.

    `websockets` are needed for browsers in which `'self'` does not include WebSockets.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob:",  # the picture of a challenge, which a script has received as text
            " ".join(["connect-src 'self'", *sorted(websockets)]),
            "base-uri 'none'",
            "require-trusted-types-for 'script'",  # no script can make markup or code of a text
            "trusted-types 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def _websocket_origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"


def _prefers_html(accept: str) -> bool:
    """Return whether a client lists HTML, as browsers do, and not JSON."""
    accepted = listed(accept)
    return "text/html" in accepted and "application/json" not in accepted
