"""The Python client of the session API: `ScreenMeet`, and the errors that its methods raise."""

from tminus.client.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    ScreenMeetError,
    Unavailable,
)
from tminus.client.screenmeet import DEFAULT_URL, ScreenMeet, SessionType

__all__ = [
    "DEFAULT_URL",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "NotAuthenticated",
    "NotFound",
    "ScreenMeet",
    "ScreenMeetError",
    "SessionType",
    "Unavailable",
]
