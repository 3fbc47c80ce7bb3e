"""A model of the lifecycle in plain Python, session by session. Tests compare the executor's SQL with it."""

from datetime import datetime
from typing import NamedTuple, assert_never

from tminus.domain.model import Session
from tminus.domain.types import Status, Timeouts, Trigger


class Deadline(NamedTuple):
    """The next transition that time alone causes, and when."""

    at: datetime
    trigger: Trigger


def deadline(session: Session, timeouts: Timeouts) -> Deadline | None:
    """Return a session's deadline; None if it has none."""
    match session.status:
        case Status.SCHEDULED:
            assert session.start_time is not None
            return Deadline(session.start_time - timeouts.lead, Trigger.OPEN)
        case Status.NEW:
            return Deadline(session.expires_at, Trigger.EXPIRE)
        case Status.ACTIVE:
            limits = []
            if session.empty_since is not None:
                limits.append(Deadline(session.empty_since + timeouts.empty, Trigger.IDLE))
            if timeouts.max_active is not None:
                assert session.activated_at is not None
                limits.append(Deadline(session.activated_at + timeouts.max_active, Trigger.TIME_LIMIT))
            return min(limits, key=lambda limit: limit.at, default=None)
        case Status.CLOSED:
            return None
        case other:
            assert_never(other)
