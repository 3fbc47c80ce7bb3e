"""What the API says of itself: `/openapi.json`, and the page at `/docs` that shows it.

Both are made once and answered as bytes, with an entity tag: neither changes while the daemon runs, but for the address
in the description, which a reload may change.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from threading import Lock
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from tminus.api.assets import Assets
from tminus.api.examples import EXAMPLES
from tminus.api.fields import FIELDS, PARAMETERS
from tminus.api.fixed import Fixed
from tminus.api.links import add_links
from tminus.api.middleware import DESCRIPTION, PAGE

_ASSETS = f"{PAGE}/assets"

_SECURITY = {
    "session": {
        "type": "apiKey",
        "in": "header",
        "name": "Session-id",
        "description": "An agent's token, or the `session.id` of `authWithToken`",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same, as `Authorization: Bearer …`"},
}

_BEGINNING = """\
For programs that create support sessions and meetings, and for the rooms in which people meet: a program creates a
session or schedules one, the daemon opens it ten minutes before its start, the room reports who joins and leaves, and
everything that happens is an event.

**Authenticate** with the token of an agent, as `Session-id: <token>` or `Authorization: Bearer <token>`. On the machine
of the daemon `tminus token new` makes one and adds the agent to the configuration. On this page, press *Authorize*.

**A first call**, which answers with who you are:

```sh
curl -H "Session-id: $TMINUS_TOKEN" $TMINUS_URL/v3/me
```

Then create a session with `POST /v3/supportsessions`: its example can be sent as it stands. Success is always 200;
every other answer has the form *Error*, and programs decide by its `refcode`. Send an `Idempotency-Key` with each
`POST`, so that a repeated one makes nothing twice.
"""

_TAGS = [
    {"name": "sessions", "description": "Create, schedule, move and close sessions; report who joins and leaves"},
    {"name": "events", "description": "What happened to all sessions, to ask for or to listen to"},
    {"name": "look-ups", "description": "Find sessions by the record that they belong to, or by their ids"},
    {"name": "callers", "description": "Who calls, and what clients of the original need to build links"},
    {"name": "webhooks", "description": "How far each webhook is, and what to do about it; for the role `group_admin`"},
    {"name": "operations", "description": "For those who run the daemon"},
    {"name": "public", "description": "Calls that need no token"},
]


def add_description(api: FastAPI, public_url: Callable[[], str | None]) -> None:
    """Adds the description, and the page, to an application whose routes are complete.

    `public_url` gives the address in force at which the world reaches the API; None if there is none.
    """
    described: dict[str | None, tuple[dict[str, Any], Fixed]] = {}
    making = Lock()

    def describe() -> tuple[dict[str, Any], Fixed]:
        url = public_url()
        if url not in described:
            described.clear()  # at most one, however often a reload changes the address
            schema = _truthful(
                get_openapi(
                    title=api.title,
                    version=api.version,
                    summary=api.summary,
                    description=_BEGINNING,
                    tags=_TAGS,
                    routes=api.routes,
                    servers=[{"url": url}] if url else None,
                )
            )
            described[url] = schema, Fixed(orjson.dumps(schema), "application/json")
        return described[url]

    api.openapi = lambda: describe()[0]  # type: ignore[method-assign]  # the documented way to change the description

    # Relative to the page: a proxy may have taken a path away that stands before all of them.
    html = get_swagger_ui_html(
        openapi_url=DESCRIPTION.removeprefix("/"),
        title="tminus",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js".removeprefix("/"),
        swagger_css_url=f"{_ASSETS}/swagger-ui.css".removeprefix("/"),
        swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png".removeprefix("/"),
    )
    content = bytes(html.body)
    page = Fixed(content, "text/html", **{"Content-Security-Policy": _policy(content.decode())})

    @api.get(PAGE, include_in_schema=False)
    async def docs(request: Request) -> Response:
        return page.answer(request)

    @api.get(DESCRIPTION, include_in_schema=False)
    def openapi(request: Request) -> Response:
        # In a thread: making it takes some tenths of a second, which no other request should wait for.
        with making:
            return describe()[1].answer(request)

    # The page's scripts come from here: a browser behind a firewall shows it as well.
    api.mount(_ASSETS, Assets("fastapi_swagger", "resources"))


def _policy(page: str) -> str:
    """What a browser lets the page do: run our scripts and its own, which it names by their hashes, and ask us."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *(f"'sha256-{one}'" for one in hashes)]),
            "style-src 'self' 'unsafe-inline'",  # Swagger UI writes styles into what it shows
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _truthful(schema: dict[str, Any]) -> dict[str, Any]:
    """The framework's description, without the 422 that we never answer, with our security, and with links."""
    for path in schema["paths"].values():
        for call in path.values():
            call["responses"].pop("422", None)
            for parameter in call.get("parameters", []):
                parameter.setdefault("description", PARAMETERS.get(parameter["name"], ""))
            if "401" in call["responses"] and "public" not in call["tags"]:
                call["security"] = [{name: []} for name in _SECURITY]
    add_links(schema["paths"])
    components = schema["components"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    for name, described in components["schemas"].items():
        for field, member in described.get("properties", {}).items():
            member.setdefault("description", FIELDS.get(name, {}).get(field, ""))
        if name in EXAMPLES:
            described["examples"] = [EXAMPLES[name]]
    components["securitySchemes"] = _SECURITY
    return schema
