"""JSON in and out, strictly: what comes in is JSON to the letter, what goes out is UTF-8."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


class _StrictRequest(Request):
    """A request whose JSON has no NaN, no lone surrogates and no abyss of brackets. The standard library's parser lets
    all of them pass: they would be stored, and could not be answered.
    """

    async def json(self) -> Any:
        try:
            parsed = pydantic_core.from_json(await self.body(), allow_inf_nan=False)
            orjson.dumps(parsed)  # what comes in must be able to go out: no integer beyond 64 bits
        except (ValueError, TypeError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from None
        return parsed


class StrictRoute(APIRoute):
    """A route that reads its body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict
