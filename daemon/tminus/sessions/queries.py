"""Queries: functions that only read. The first argument of each is a view."""

from tminus.domain.errors import UnknownSession
from tminus.domain.model import Session
from tminus.domain.types import Caller, Role
from tminus.sessions.authorization import need, sees, sees_all
from tminus.storage import PAGE_BYTES, Active, EventFilter, Page, SessionFilter, View


def found(view: View, session_id: str) -> Session:
    """Return a session, without a check of permission. Raises `UnknownSession`."""
    session = view.session(session_id)
    if session is None:
        raise UnknownSession(session_id)
    return session


def show(view: View, caller: Caller, session_id: str) -> Session:
    """Return a session that the caller may see. Raises `UnknownSession`, `Forbidden`."""
    session = found(view, session_id)
    need(sees(caller, session), "the session's own agent, or the role supervisor or monitor")
    return session


def history(view: View, caller: Caller, session_id: str, after: int, limit: int) -> Page:
    """Return the events of one session, oldest first. `Page.through` is the number of the last event."""
    show(view, caller, session_id)
    events = view.page(after, limit, EventFilter(session_id=session_id)).events
    return Page(events, events[-1].event.seq if events else after)


def feed(
    view: View, caller: Caller, after: int | None, limit: int, only: EventFilter, at_most: int = PAGE_BYTES
) -> Page:
    """Return the events of all sessions after a sequence number; None means future events only.

    `Page.through` is the cursor of the next page: the last event that was examined, even if it did not match.
    """
    need(caller.has(Role.MONITOR), "the role monitor")
    return Page([], view.last_seq()) if after is None else view.page(after, limit, only, at_most)


def listing(view: View, caller: Caller, wanted: SessionFilter) -> tuple[int, list[Session]]:
    """Return the number of matching sessions, and one page of them. `wanted.agent_id` None means all agents."""
    _need_to_list(caller, wanted)
    return view.sessions(wanted)


def search(view: View, caller: Caller, wanted: SessionFilter, words: str) -> tuple[list[Session], int | None]:
    """Return the sessions of a list whose label or record contains these words, and the next offset."""
    _need_to_list(caller, wanted)
    return view.search(wanted, words)


def _need_to_list(caller: Caller, wanted: SessionFilter) -> None:
    if wanted.agent_id is None:
        need(sees_all(caller), "the role supervisor or monitor")
    else:
        need(caller.has(Role.AGENT, Role.SUPERVISOR, Role.MONITOR), "the role agent, supervisor or monitor")


def of_parent(view: View, caller: Caller, external_mapping: str, limit: int) -> list[Session]:
    """Return the open sessions of a parent object that the caller may see, newest first."""
    owner = None if sees_all(caller) else caller.agent_id
    return listing(view, caller, SessionFilter(agent_id=owner, external_mapping=external_mapping, limit=limit))[1]


def active_among(view: View, caller: Caller, ids: list[str]) -> list[Active]:
    """Return the active sessions among these ids that the caller may see."""
    return [session for session in view.active_among(ids) if sees(caller, session)]


def by_pin(view: View, pin: int) -> Session:
    """Return the open session with this PIN; the PIN is the permission. Raises `UnknownSession`."""
    session = view.open_session_by_pin(pin)
    if session is None:
        raise UnknownSession(str(pin))
    return session
