"""The OpenAPI document is generated and serialised once for each public URL, not once for each request."""

import asyncio
from typing import Any, cast

import orjson
import pytest

from tminus.api import application, description
from tminus.api.middleware import OPENAPI_PATH
from tminus.api.openapi import document
from tminus.api.request_context import RequestContext
from tminus.api.response import Response
from tminus.api.routing import Route
from tminus.api.services import Services


class Served:
    """The route of the document, and the number of times that the document was generated and serialised."""

    def __init__(self) -> None:
        self.public_url: str | None = None
        self.generated = self.serialised = 0
        routes = [route for router in application._ROUTERS for route in router.routes]
        describing = description.description_routes(routes, lambda: self.public_url)
        [self.route] = [route for route in describing if route.path == OPENAPI_PATH]

    def document(self, routes: list[Route], **about: Any) -> dict[str, Any]:
        self.generated += 1
        return document(routes, **about)

    def dumps(self, value: Any) -> bytes:
        self.serialised += 1
        return orjson.dumps(value)

    async def ask(self, **headers: str) -> Response:
        sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        context = RequestContext(cast("Services", None), "1", local=False, remote_ip="", headers=sent)
        answer = await self.route.respond(context)
        assert isinstance(answer, Response)
        return answer


class Counting:
    """Stands for the module `orjson` where the document is serialised."""

    def __init__(self, served: Served) -> None:
        self.dumps = served.dumps


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    one = Served()
    monkeypatch.setattr(description, "document", one.document)
    monkeypatch.setattr(description, "orjson", Counting(one))
    return one


def test_all_requests_get_the_same_bytes_of_the_document(served: Served) -> None:
    async def ask() -> list[Response]:
        together = await asyncio.gather(*(served.ask() for _ in range(20)))
        return [*together, *[await served.ask() for _ in range(20)]]

    answers = asyncio.run(ask())

    assert (served.generated, served.serialised) == (1, 1)
    assert {id(one.body) for one in answers} == {id(answers[0].body)}
    assert "servers" not in orjson.loads(answers[0].body)


def test_a_client_with_a_current_copy_causes_no_new_document(served: Served) -> None:
    async def ask() -> tuple[Response, Response]:
        first = await served.ask()
        tag = dict(first.headers)[b"etag"].decode()
        return first, await served.ask(if_none_match=tag)

    first, second = asyncio.run(ask())

    assert (first.status_code, second.status_code, second.body) == (200, 304, b"")
    assert (served.generated, served.serialised) == (1, 1)


def test_another_public_url_makes_one_new_document(served: Served) -> None:
    async def ask(url: str) -> set[bytes]:
        served.public_url = url
        return {(await served.ask()).body for _ in range(3)}

    for number, url in enumerate(("https://one.example.com/a", "https://two.example.com"), 1):
        [body] = asyncio.run(ask(url))
        assert orjson.loads(body)["servers"] == [{"url": url}]
        assert (served.generated, served.serialised) == (number, number)
