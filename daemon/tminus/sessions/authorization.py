"""Who may do what: the roles of `docs/api.md`, in one place, whoever the caller came in by."""

from tminus.domain.errors import Forbidden
from tminus.domain.model import Session
from tminus.domain.types import Caller, Role
from tminus.storage import Active


def may_see_secrets(caller: Caller, session: Session) -> bool:
    """Whether the host token and the host's URL are for this caller."""
    return caller.has(Role.SUPERVISOR) or owns(caller, session)


def owns(caller: Caller, session: Session | Active) -> bool:
    """Whether it is the caller's own session."""
    return caller.agent_id == session.agent_id and caller.has(Role.AGENT)


def sees_all(caller: Caller) -> bool:
    """Whether everybody's sessions are for the caller to see."""
    return caller.has(Role.SUPERVISOR, Role.MONITOR)


def sees(caller: Caller, session: Session | Active) -> bool:
    """Whether this session is for the caller to see."""
    return sees_all(caller) or owns(caller, session)


def need(allowed: bool, needs: str) -> None:
    """Raises `Forbidden`, saying what it needs, unless allowed."""
    if not allowed:
        raise Forbidden(needs)
