"""Errors as answers: the one place where a cause becomes an HTTP status."""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tminus import schemas
from tminus.api.json import Json
from tminus.api.request_context import context_of
from tminus.domain import errors
from tminus.domain.errors import FieldError, RequestError

_SHOULD = re.compile("^(Input|String|Value|Number|List|Dictionary) should")
"""How pydantic begins its sentences; ours follow the field's name."""


def status_of(cause: type[RequestError]) -> int:
    """The HTTP status of a cause: its refcode ends in it."""
    return cause.refcode % 1000


def answer(error: RequestError) -> Response:
    """The answer to a request that is not done, in the one shape that all errors have."""
    code = status_of(type(error))
    body: schemas.Error = {
        "code": code,
        "refcode": error.refcode,
        "description": error.description,
        "errors": [{"field": fault.field, "message": fault.message} for fault in error.errors],
    }
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(ceil(error.retry_after))  # rounded down, it would have clients come too early
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(body, status_code=code, headers=headers)


async def on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    context_of(request).refcode = error.refcode
    return answer(error)


async def on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await on_request_error(request, invalid(error.errors()))


def invalid(found: Iterable[Mapping[str, Any]]) -> errors.InvalidRequest:
    """The refusal of a request in which pydantic has found these faults."""
    return errors.InvalidRequest(tuple(_faults(found)))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths and methods, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    told: RequestError
    if error.status_code == 405:
        told = errors.MethodNotAllowed(request.method)
    elif error.status_code == 404:
        told = errors.UnknownPath()
    else:
        told = errors.InvalidRequest((FieldError("body", "is not JSON"),))
    response = await on_request_error(request, told)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        # What the description does not have, the page and what it loads, is only read.
        response.headers["Allow"] = ", ".join(_methods(request) or ("GET", "HEAD"))
    return response


async def on_defect(request: Request, _error: Exception) -> Response:
    """Whatever else is raised; the rim, which it reaches after this, says in the log what it was."""
    return await on_request_error(request, errors.InternalError(context_of(request).request_id))


def _methods(request: Request) -> list[str]:
    """Every method that the path has: the framework's own error names only those of the first route with this path."""
    template = getattr(request.scope.get("route"), "path", None)
    found: set[str] = request.app.state.methods.get(template, set())
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _faults(found: Iterable[Mapping[str, Any]]) -> Iterable[FieldError]:
    for fault in found:
        where = [str(part) for part in fault["loc"]]
        # The first part says only whether it was in the body, the query or a header.
        field = ".".join(where[1:]) if len(where) > 1 and fault["type"] != "json_invalid" else where[0]
        if fault["type"] == "json_invalid":
            yield FieldError("body", f"is not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}")
        elif fault["type"] == "missing":
            yield FieldError(field, "is missing")
        elif fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
            yield FieldError(field, "must be an object")
        elif fault["type"] == "value_error":
            yield FieldError(field, fault["msg"].removeprefix("Value error, "))
        else:
            yield FieldError(field, _SHOULD.sub("must", fault["msg"]))
