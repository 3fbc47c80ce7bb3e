"""Convert errors to responses. No other module maps errors to HTTP statuses."""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from tminus import schemas
from tminus.api.response import Headers, Json, Response
from tminus.domain import errors
from tminus.domain.errors import FieldError, RequestError

_SHOULD = re.compile("^(Input|String|Value|Number|List|Dictionary) should")
"""Beginnings of pydantic's messages. "must" replaces them, since the API's messages follow the name of a field."""


def status_of(cause: type[RequestError]) -> int:
    """Return the HTTP status of an error: the last three digits of its refcode."""
    return cause.refcode % 1000


def answer(error: RequestError) -> Response:
    """Return the response to a refused request, in the format that all errors share."""
    code = status_of(type(error))
    body: schemas.Error = {
        "code": code,
        "refcode": error.refcode,
        "description": error.description,
        "errors": [{"field": one.field, "message": one.message} for one in error.errors],
    }
    headers: Headers = []
    if error.retry_after is not None:
        # Rounded up, so that clients do not retry too early.
        headers.append((b"retry-after", b"%d" % ceil(error.retry_after)))
    if code == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Json(body, status_code=code, headers=headers)


def invalid(problems: Iterable[Mapping[str, Any]]) -> errors.InvalidRequest:
    """Return the refusal of a request with these problems, which are in the form of pydantic's errors."""
    return errors.InvalidRequest(tuple(field_errors(problems)))


def field_errors(problems: Iterable[Mapping[str, Any]]) -> Iterable[FieldError]:
    """Yield problems in the form of pydantic's errors as the API's errors of fields."""
    for problem in problems:
        where = [str(part) for part in problem["loc"]]
        # The first part is only the place: body, query, path or header.
        field = ".".join(where[1:]) if len(where) > 1 and problem["type"] != "json_invalid" else where[0]
        if problem["type"] == "json_invalid":
            yield FieldError("body", f"is not JSON: {problem.get('ctx', {}).get('error', problem['msg'])}")
        elif problem["type"] == "missing":
            yield FieldError(field, "is missing")
        elif problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
            yield FieldError(field, "must be an object")
        elif problem["type"] == "value_error":
            yield FieldError(field, problem["msg"].removeprefix("Value error, "))
        else:
            yield FieldError(field, _SHOULD.sub("must", problem["msg"]))
