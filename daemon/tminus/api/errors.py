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
"""Beginnings of pydantic's messages, which are removed: the API's messages follow the name of a field."""


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
        "errors": [{"field": fault.field, "message": fault.message} for fault in error.errors],
    }
    headers: Headers = []
    if error.retry_after is not None:
        # Rounded up, so that clients do not retry too early.
        headers.append((b"retry-after", b"%d" % ceil(error.retry_after)))
    if code == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Json(body, status_code=code, headers=headers)


def invalid(found: Iterable[Mapping[str, Any]]) -> errors.InvalidRequest:
    """Return the refusal of a request with these faults, which pydantic found."""
    return errors.InvalidRequest(tuple(faults(found)))


def faults(found: Iterable[Mapping[str, Any]]) -> Iterable[FieldError]:
    """Yield these faults as errors of fields, in words."""
    for fault in found:
        where = [str(part) for part in fault["loc"]]
        # The first part is only the place: body, query, path or header.
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
