"""The errors that the client raises.

::

    ScreenMeetError                the call failed: code, refcode, description, errors
    ├── InvalidRequest        4xx  the same request will fail again; also 429 if it alone exceeds a limit
    ├── NotAuthenticated      401  no token, or the token is unknown, expired or revoked
    ├── Forbidden             403
    ├── NotFound              404
    ├── Conflict              409  also 412: the session's status or version has changed
    └── Unavailable           5xx  also 429, or no response at all: the same call may succeed later
"""

import json
from collections.abc import Mapping, Sequence

from tminus.client import validation
from tminus.client.transport import Response

RETRIED = frozenset({429, 502, 503, 504})
"""Statuses after which the same request may succeed."""

NOT_EXECUTED = frozenset({429, 503})
"""Statuses that mean that the daemon has not executed the request. With the others of `RETRIED`, a proxy may have lost
the daemon's response.
"""

PERHAPS_EXECUTED = frozenset({107503, 108503})
"""Refcodes of a 503 after which the request may have been executed: the database failed, perhaps at the commit, or the
daemon stopped.
"""


class ScreenMeetError(Exception):
    """A call failed. `code` is the HTTP status, or 0 if there was no response. Decide by `refcode`."""

    def __init__(
        self, description: str, code: int = 0, refcode: int = 0, errors: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(description)
        self.description = description
        self.code = code
        self.refcode = refcode
        self.errors = list(errors)
        """Every wrong field of the request: `{"field": …, "message": …}`."""
        self.retried = False
        """Whether this is the response to a retry, so that an earlier attempt may have been executed."""
        self.permanent = False
        """Whether there was no response for a reason that does not go away, such as a socket's permissions."""


class InvalidRequest(ScreenMeetError):
    """The request itself is wrong."""


class NotAuthenticated(ScreenMeetError):
    """There is no valid token."""


class Forbidden(ScreenMeetError):
    """The caller may not do this."""


class NotFound(ScreenMeetError):
    """There is no such session, or no such object of another kind."""


class Conflict(ScreenMeetError):
    """The session's status or version does not allow this."""


class Unavailable(ScreenMeetError):
    """There was no response, or a response that allows a later retry. The client's own retries, if any, have failed."""


_ERRORS = {401: NotAuthenticated, 403: Forbidden, 404: NotFound, 409: Conflict, 412: Conflict}

_check_error = validation.shape(
    {
        "description": validation.text,
        "refcode": validation.number,
        "errors": validation.list_of(validation.shape({"field": validation.text, "message": validation.text})),
    }
)


def error_of(response: Response) -> ScreenMeetError:
    """Return the error for a response of the daemon, or of a proxy in front of it."""
    code = response.status
    error_class = _ERRORS.get(code, Unavailable if code in RETRIED or code >= 500 else InvalidRequest)
    try:
        body = json.loads(response.body)
    except (ValueError, RecursionError):
        body = None
    if _check_error(body):
        return error_class(f"HTTP {code} {response.reason}".rstrip(), code)
    if code == 429 and "retry-after" not in response.headers:
        error_class = InvalidRequest  # the request alone exceeds a limit of the daemon
    return error_class(body["description"], code, body["refcode"], body["errors"])
