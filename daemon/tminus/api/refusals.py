"""Describe error responses for the OpenAPI document, from the error classes."""

from functools import partial
from typing import Any

from tminus import schemas
from tminus.api.errors import status_of
from tminus.api.examples import refusal
from tminus.api.routing import Refusals
from tminus.domain.errors import (  # fmt: skip
    BodyTooLarge,
    CrossSite,
    Draining,
    InvalidRequest,
    NotAuthenticated,
    Overloaded,
    RequestError,
    RequestTimeout,
    Starting,
    StoreUnavailable,
    TooManyAttempts,
)

PUBLIC_REFUSALS = (
    InvalidRequest,
    CrossSite,
    RequestTimeout,
    BodyTooLarge,
    Overloaded,
    StoreUnavailable,
    Draining,
    Starting,
)
"""Errors of all routes."""

CALLER_REFUSALS = (*PUBLIC_REFUSALS, NotAuthenticated, TooManyAttempts)
"""Errors of all routes with authentication."""


def refusals(*causes: type[RequestError], of: tuple[type[RequestError], ...] = CALLER_REFUSALS) -> Refusals:
    """Return the description of a route's error responses, which is made when somebody reads the OpenAPI document."""
    return partial(_described, (*of, *causes))


def _described(causes: tuple[type[RequestError], ...]) -> dict[int, dict[str, Any]]:
    """Return error responses by status, with the possible refcodes."""
    by_status: dict[int, list[type[RequestError]]] = {}
    for cause in causes:
        by_status.setdefault(status_of(cause), []).append(cause)
    return {
        status: {
            "model": schemas.Error,
            "description": "; ".join(f"{cause.refcode}: {_first_line(cause)}" for cause in dict.fromkeys(some)),
            "content": {
                "application/json": {
                    "examples": {
                        str(cause.refcode): {"value": refusal(cause, _first_line(cause))}
                        for cause in dict.fromkeys(some)
                    }
                }
            },
        }
        for status, some in sorted(by_status.items())
    }


def _first_line(cause: type[RequestError]) -> str:
    return (cause.__doc__ or "").partition("\n")[0].rstrip(".")
