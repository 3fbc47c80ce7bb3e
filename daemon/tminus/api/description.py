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
from tminus.api.fixed import Fixed
from tminus.api.links import add_links
from tminus.api.rim import DESCRIPTION, PAGE

_ASSETS = f"{PAGE}/assets"

_SECURITY = {
    "session": {"type": "apiKey", "in": "header", "name": "Session-id"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


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
            if "401" in call["responses"] and "public" not in call["tags"]:
                call["security"] = [{name: []} for name in _SECURITY]
    add_links(schema["paths"])
    components = schema["components"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = _SECURITY
    return schema
