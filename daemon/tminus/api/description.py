"""Serve the OpenAPI document at `/openapi.json` and the page `/docs` that shows it.

Both are generated once and served as bytes with an entity tag. While the daemon runs, only the public URL in the
document can change, by a reload.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import orjson

from tminus import __version__
from tminus.api.assets import SwaggerUi
from tminus.api.examples import EXAMPLES
from tminus.api.fields import FIELDS, PARAMETERS
from tminus.api.links import add_links
from tminus.api.middleware import DOCS_PATH, OPENAPI_PATH
from tminus.api.openapi import document
from tminus.api.request_context import RequestContext
from tminus.api.routing import Answer, Route, Router
from tminus.api.tagged_response import TaggedResponse
from tminus.domain.errors import UnknownPath

_SECURITY = {
    "session": {
        "type": "apiKey",
        "in": "header",
        "name": "Session-id",
        "description": "An agent's token, or the `session.id` that `authWithToken` returned",
    },
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same token, as `Authorization: Bearer …`"},
}

_INTRODUCTION = """\
This API is for programs that create support sessions and meetings, and for the rooms in which people meet. A program
creates a session, or schedules one. The daemon opens a scheduled session ten minutes before its start. The room reports
who joins and who leaves. Everything that happens is an event.

**Authenticate** with the token of an agent, as `Session-id: <token>` or `Authorization: Bearer <token>`. On the
daemon's machine, `tminus token new` creates a token and adds the agent to the configuration. On this page, press
*Authorize*.

**Make a first call**, which shows your agent:

```sh
curl -H "Session-id: $TMINUS_TOKEN" $TMINUS_URL/v3/me
```

Then create a session with `POST /v3/supportsessions`; you can send its example unchanged. The status of a successful
request is always 200. Every other response has the schema *Error*; programs decide by its `refcode`. Send an
`Idempotency-Key` with each `POST` that creates something, so that you can safely repeat it.
"""

_INFO = {
    "title": "tminus",
    "summary": "Remote-support and meeting sessions: scheduled, opened on time, closed.",
    "description": _INTRODUCTION,
    "version": __version__,
}

_TAGS = [
    {"name": "sessions", "description": "Create, schedule, reschedule and close sessions; report who joins and leaves"},
    {"name": "events", "description": "Events of all sessions, by polling or as a stream"},
    {"name": "series", "description": "Sessions that recur, made ahead"},
    {"name": "look-ups", "description": "Find sessions by their parent object or by their ids"},
    {"name": "callers", "description": "The caller's identity, and the URLs from which clients build links"},
    {"name": "calendars", "description": "Sessions as entries of calendars (iCalendar)"},
    {"name": "clock", "description": "Move the clock of `tminus run --test-clock`"},
    {"name": "agents", "description": "List agents, shut them out and readmit them; needs the role `group_admin`"},
    {"name": "webhooks", "description": "Show, test, pause, resume and replay webhooks; needs the role `group_admin`"},
    {"name": "operations", "description": "Health checks and metrics, for operators"},
    {"name": "public", "description": "Calls that need no token"},
]


_PAGE = """\
<!DOCTYPE html>
<html>
<head>
<meta name="viewport" content="width=device-width, initial-scale=1.0">
<link type="text/css" rel="stylesheet" href="docs/assets/swagger-ui.css">
<link rel="shortcut icon" href="docs/assets/favicon-32x32.png">
<title>tminus</title>
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset]
})
</script>
</body>
</html>
"""
"""The links are relative, since a proxy may serve the API under a path prefix that it removes."""


def description_routes(routes: Sequence[Route], public_url: Callable[[], str | None]) -> Sequence[Route]:
    """Return the routes that serve the OpenAPI document of `routes`, and the page that shows it.

    `public_url` returns the current public URL of the API; None if none is configured.
    """
    router = Router("", "description")
    described: dict[str | None, TaggedResponse] = {}
    generating = Lock()

    def describe() -> TaggedResponse:
        url = public_url()
        with generating:
            if url not in described:
                described.clear()  # keep one document only, however often a reload changes the URL
                servers = {"servers": [{"url": url}]} if url else {}
                schema = _completed(document(routes, info=_INFO, tags=_TAGS, **servers))
                described[url] = TaggedResponse(orjson.dumps(schema), "application/json")
            return described[url]

    policy = (b"content-security-policy", _policy(_PAGE).encode())
    page = TaggedResponse(_PAGE.encode(), "text/html; charset=utf-8", [policy])

    # The daemon serves the page's scripts itself: the page also works without access to the internet.
    assets = SwaggerUi()

    @router.get(DOCS_PATH, described=False)
    async def docs(context: RequestContext) -> Answer:
        return page.answer(context)

    @router.get(OPENAPI_PATH, described=False)
    async def openapi(context: RequestContext) -> Answer:
        # In a thread: generating it takes some tenths of a second, which would block all other requests.
        return (await asyncio.to_thread(describe)).answer(context)

    @router.get(f"{DOCS_PATH}/assets/{{name:path}}", described=False)
    async def asset(context: RequestContext, name: str) -> Answer:
        if (file := await assets.get(name)) is None:
            raise UnknownPath
        return file.answer(context)

    return router.routes


def _policy(page: str) -> str:
    """Return the content security policy of the page: scripts of the daemon, and its inline scripts by hash."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *(f"'sha256-{one}'" for one in hashes)]),
            "style-src 'self' 'unsafe-inline'",  # Swagger UI uses inline styles
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    """Add descriptions of fields, examples, security and links to a document, and return it."""
    for path in schema["paths"].values():
        for call in path.values():
            for parameter in call.get("parameters", []):
                parameter.setdefault("description", PARAMETERS.get(parameter["name"], ""))
            if "401" in call["responses"] and "public" not in call["tags"]:
                call["security"] = [{name: []} for name in _SECURITY]
    add_links(schema["paths"])
    components = schema["components"]
    for name, described in components["schemas"].items():
        for field, member in described.get("properties", {}).items():
            member.setdefault("description", FIELDS.get(name, {}).get(field, ""))
        if name in EXAMPLES:
            described["examples"] = [EXAMPLES[name]]
    components["securitySchemes"] = _SECURITY
    return schema
