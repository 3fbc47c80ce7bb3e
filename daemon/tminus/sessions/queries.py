"""Queries: functions that only read. The first argument is a view, one snapshot of the database."""

from collections import Counter
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from tminus.domain.distribution import Summary, by_hour, summary
from tminus.domain.errors import FieldError, InvalidRequest, UnknownSession
from tminus.domain.intervals import Interval, merged
from tminus.domain.model import Session
from tminus.domain.types import Caller, Role
from tminus.sessions.authorization import may_see, may_see_all, require
from tminus.storage import PAGE_BYTES, Active, EventFilter, Page, SessionFilter, View, appointments, reports

MOST_REPORTED = 2_000_000
"""Maximum number of sessions in a report. On a busy machine, such a report takes up to a minute."""

PART = 50_000
"""Number of sessions that one read of a report counts. On a busy machine, this takes about a second."""

MOST_APPOINTMENTS = 10_000
"""Maximum number of appointments in a range for which `busy_times` is called."""


def load_session(view: View, session_id: str) -> Session:
    """Return a session, without a check of permission. Raises `UnknownSession`."""
    session = view.session(session_id)
    if session is None:
        raise UnknownSession(session_id)
    return session


def get_session(view: View, caller: Caller, session_id: str) -> Session:
    """Return a session that the caller may see. Raises `UnknownSession`, `Forbidden`."""
    session = load_session(view, session_id)
    require(may_see(caller, session), "the session's own agent, or the role supervisor or monitor")
    return session


def session_events(view: View, caller: Caller, session_id: str, after: int, limit: int) -> Page:
    """Return events of one session, oldest first, after a sequence number.

    `Page.through` is the number of the last event on the page.
    """
    get_session(view, caller, session_id)
    events = view.page(after, limit, EventFilter(session_id=session_id)).events
    return Page(events, events[-1].event.seq if events else after)


def feed(
    view: View, caller: Caller, after: int | None, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> Page:
    """Return the events after a sequence number; None means future events only.

    If `only.agent_id` is None, the events of all sessions match.

    `Page.through` is the cursor of the next page: the last event that was examined, even if it did not match.
    """
    _require_list_permission(caller, only.agent_id)
    return Page([], view.last_seq()) if after is None else view.page(after, limit, only, at_most)


def list_sessions(view: View, caller: Caller, wanted: SessionFilter) -> tuple[int, list[Session]]:
    """Return the number of matching sessions, and one page of them.

    If `wanted.agent_id` is None, the sessions of all agents match.
    """
    _require_list_permission(caller, wanted.agent_id)
    return view.sessions(wanted)


def search_sessions(view: View, caller: Caller, wanted: SessionFilter, words: str) -> tuple[list[Session], int | None]:
    """Return one page of the matching sessions whose label or external record contains `words`, and the next offset.

    The offset is None at the end.
    """
    _require_list_permission(caller, wanted.agent_id)
    return view.search(wanted, words)


def _require_list_permission(caller: Caller, agent_id: int | None) -> None:
    """Raise `Forbidden` unless the caller may list the sessions of this agent, or of all agents if it is None."""
    if agent_id is None:
        require(may_see_all(caller), "the role supervisor or monitor")
    else:
        require(caller.has(Role.AGENT, Role.SUPERVISOR, Role.MONITOR), "the role agent, supervisor or monitor")


class Report(NamedTuple):
    """What happened in a period: the sessions that closed in it."""

    groups: list[reports.Group]
    waiting_seconds: Summary
    """How long sessions were open before the first person joined."""
    length_seconds: Summary
    """The time from the first person's joining to the close."""
    lag_ms: Summary
    """How late the scheduler was with what it did in the period."""
    by_hour: list[int]
    """In how many sessions the first person joined, by the hour of the day."""


class ReportInParts:
    """Counts, part by part, what happened in a period: each read is short, and other requests run in between.

    If `period.agent_id` is None, the sessions of all agents count. Raises `Forbidden`.
    """

    def __init__(self, caller: Caller, period: reports.Period) -> None:
        _require_list_permission(caller, period.agent_id)
        self._left = period
        self._is_first = True
        self._groups: Counter[reports.Group] = Counter()
        self._waiting: Counter[int] = Counter()
        self._lengths: Counter[int] = Counter()
        self._lags: Counter[int] = Counter()
        self._beginnings: Counter[datetime] = Counter()

    def count(self, view: View) -> bool:
        """Count the next part; return whether another is left. Raises `InvalidRequest` for too many sessions."""
        if self._is_first and reports.size(view, self._left, MOST_REPORTED + 1) > MOST_REPORTED:
            problem = f"begins a period in which more than {MOST_REPORTED} sessions closed: choose a shorter one"
            raise InvalidRequest([FieldError("since", problem)])
        self._is_first = False
        part = reports.first_part(view, self._left, PART)
        for group in reports.groups(view, part):
            self._groups[group._replace(sessions=0)] += group.sessions
        for counted, found in (
            (self._waiting, reports.waiting_seconds(view, part)),
            (self._lengths, reports.length_seconds(view, part)),
            (self._lags, reports.lags_ms(view, part)),
        ):
            for number, times in found:
                counted[number] += times
        for at, times in reports.beginnings(view, part):
            self._beginnings[at] += times
        self._left = self._left._replace(since=part.until)
        return part.until < self._left.until

    def report(self, zone: tzinfo) -> Report:
        """Return the report; the hours of the day are those of `zone`."""
        return Report(
            [group._replace(sessions=sessions) for group, sessions in self._groups.items()],
            summary(self._waiting.items()),
            summary(self._lengths.items()),
            summary(self._lags.items()),
            by_hour(self._beginnings.items(), zone),
        )


def sessions_of_parent(view: View, caller: Caller, external_mapping: str, limit: int) -> list[Session]:
    """Return the open sessions of a parent object that the caller may see, newest first."""
    owner = None if may_see_all(caller) else caller.agent_id
    return list_sessions(view, caller, SessionFilter(agent_id=owner, external_mapping=external_mapping, limit=limit))[1]


def active_sessions(view: View, caller: Caller, ids: list[str]) -> list[Active]:
    """Return the active sessions among these ids that the caller may see."""
    return [session for session in view.active_among(ids) if may_see(caller, session)]


def session_by_pin(view: View, pin: int) -> Session:
    """Return the open session with this PIN. Everybody who has the PIN may see it. Raises `UnknownSession`."""
    session = view.open_session_by_pin(pin)
    if session is None:
        raise UnknownSession(str(pin))
    return session


def busy_times(
    view: View, agent_id: int, start: datetime, end: datetime, length: timedelta, now: datetime
) -> list[Interval]:
    """Return the times between `start` and `end` at which an agent is busy, merged and in order.

    An agent is busy during each appointment, which lasts `length`, and during each session that is active: from its
    start or the first join, whichever is earlier, for `length` and at least until `now`. Raises `InvalidRequest` if
    there are too many appointments.
    """
    first = appointments.starts(view, agent_id, start - length, end, MOST_APPOINTMENTS + 1)
    if len(first) > MOST_APPOINTMENTS:
        problem = f"must be earlier: there are more than {MOST_APPOINTMENTS} appointments in the range"
        raise InvalidRequest([FieldError("end", problem)])
    found = [Interval(one, one + length) for one in first]
    for one in appointments.active(view, agent_id, MOST_APPOINTMENTS):
        begun = one.activated_at if one.start_time is None else min(one.start_time, one.activated_at)
        found.append(Interval(begun, max(begun + length, now)))
    return merged(found, start, end)
