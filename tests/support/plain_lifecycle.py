"""A model of the lifecycle in plain Python, session by session. Tests compare the executor's SQL with it."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, assert_never

from tminus.domain.model import Session
from tminus.domain.types import Status, Timeouts, Trigger


class Deadline(NamedTuple):
    """The next transition that time alone causes, and its time."""

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


class Reminded(NamedTuple):
    """A reminder that was due."""

    at: datetime
    before: timedelta
    sent: bool
    """Whether it was sent; otherwise it was skipped."""


class PlainReminders:
    """The reminders of one session."""

    def __init__(self, spans: Iterable[timedelta], start: datetime, lead: timedelta, now: datetime) -> None:
        self.spans, self.lead = set(spans), lead
        self.move(start, now)

    def move(self, start: datetime, now: datetime) -> None:
        """Give the session another start."""
        self.start = start
        self.pending = {span for span in self.spans if start - span > now}

    def close(self) -> None:
        """Close the session, which cancels its reminders."""
        self.pending = set()

    def due(self, now: datetime) -> list[Reminded]:
        """Return the reminders that are due, in order, and remove them from those that are pending."""
        opening = self.start - self.lead
        found = []
        for span in sorted(self.pending, reverse=True):
            at = self.start - span
            if at <= now:
                opened_since = at < opening <= now
                found.append(Reminded(at, span, sent=now < self.start and not opened_since))
        self.pending -= {one.before for one in found}
        return found
