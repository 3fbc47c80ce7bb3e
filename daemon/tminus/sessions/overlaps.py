"""The policy on appointments of an agent that overlap (`policy.overlap`).

An appointment is an open session that was created with a start. It lasts `lifecycle.duration`, so two of them overlap
if less than that is between their starts.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from tminus.config import Settings
from tminus.domain import timestamps
from tminus.domain.errors import Overlap
from tminus.domain.model import Session
from tminus.domain.types import Caller, OverlapPolicy, Status
from tminus.sessions.authorization import may_see
from tminus.storage import Transaction, View, appointments, batches

PAGE = 10_000
"""Number of starts that one query reads."""

MAX_NAMED = 10
"""Maximum number of sessions that a warning names."""


def refuse_overlap(
    tx: Transaction, settings: Settings, caller: Caller, agent_id: int, start: datetime, own: str | None = None
) -> None:
    """Raise `Overlap` if the policy refuses another appointment of the agent at this time.

    `own`: the id of the session that is to be moved.

    Write transactions of a database run one after the other, and each sees everything that was committed before it,
    also by other daemons. So of two simultaneous requests for the same time, the second one is refused.
    """
    if settings.policy.overlap is not OverlapPolicy.REFUSE:
        return
    for other_id in _overlapping(tx, settings, agent_id, start, own, 1):
        other = tx.session(other_id)
        is_shown = other is not None and may_see(caller, other)
        raise Overlap(other_id if is_shown else None)


def refused_overlaps(
    view: View,
    settings: Settings,
    agent_id: int,
    starts: Sequence[datetime | None],
    vacated: Sequence[datetime | None] = (),
) -> list[tuple[int, str]]:
    """Return the appointments of a batch that the policy refuses, each by its index, with the reason.

    `starts`: the start of each; None: it opens at once. `vacated`: the present starts of the sessions that the
    batch moves. Of two appointments of the batch that overlap, the one with the later start is refused.
    """
    wanted = sorted((start, index) for index, start in enumerate(starts) if start is not None)
    if settings.policy.overlap is not OverlapPolicy.REFUSE or not wanted:
        return []
    length = settings.lifecycle.duration
    found = Counter(_starts(view, agent_id, wanted[0][0] - length, wanted[-1][0] + length))
    found.update(start for start, _ in batches.coming(view, agent_id))
    found.subtract(start for start in vacated if start is not None)
    present = sorted(found.elements())
    refused, before = [], None
    for start, index in wanted:
        following = bisect_right(present, start - length)
        if following < len(present) and present[following] < start + length:
            refused.append((index, "overlaps with another appointment of the agent"))
        elif before is not None and start - before < length:
            refused.append((index, "overlaps with another session of the batch"))
        before = start
    return sorted(refused)


def _starts(view: View, agent_id: int, after: datetime, before: datetime) -> list[datetime]:
    """Return the starts of all appointments between two times, each as often as there are appointments."""
    found: list[datetime] = []
    while True:
        page = appointments.starts(view, agent_id, after, before, PAGE)
        if len(page) < PAGE:
            return found + page
        # There may be more appointments with the last start, so the next page begins with it.
        last = page[-1]
        found += [start for start in page if start < last] or page
        after = last if page[0] == last else last - timestamps.MILLISECOND


def overlaps(view: View, settings: Settings, caller: Caller, session: Session) -> list[str]:
    """Return the ids for a warning: of appointments that overlap with this session and that the caller may see."""
    if session.start_time is None or session.status is Status.CLOSED:
        return []
    found = _overlapping(view, settings, session.agent_id, session.start_time, session.id, MAX_NAMED)
    others = [view.session(session_id) for session_id in found]
    return [other.id for other in others if other is not None and may_see(caller, other)]


def _overlapping(
    view: View, settings: Settings, agent_id: int, start: datetime, own: str | None, limit: int
) -> list[str]:
    length = settings.lifecycle.duration
    found = appointments.between(view, agent_id, start - length, start + length, limit + (own is not None))
    coming = [session_id for at, session_id in batches.coming(view, agent_id) if abs(at - start) < length]
    return [session_id for session_id in dict.fromkeys([*found, *coming]) if session_id != own][:limit]
