"""Errors as answers: the one place where a cause becomes an HTTP status."""

import re
from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from tminus import schemas
from tminus.api.response import Headers, Json, Response
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
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % ceil(error.retry_after)))  # rounded down, clients would come too early
    if code == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Json(body, status_code=code, headers=headers)


def invalid(found: Iterable[Mapping[str, Any]]) -> errors.InvalidRequest:
    """The refusal of a request in which pydantic has found these faults."""
    return errors.InvalidRequest(tuple(_faults(found)))


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
