"""Decide what each role may do (`docs/api.md`), for HTTP and the local socket alike."""

from tminus.domain.errors import Forbidden
from tminus.domain.model import Session
from tminus.domain.types import Caller, Role
from tminus.storage import Active


def may_see_secrets(caller: Caller, session: Session) -> bool:
    """Return whether the caller may see the host token and the host's URL."""
    return caller.has(Role.SUPERVISOR) or owns(caller, session)


def owns(caller: Caller, session: Session | Active) -> bool:
    """Return whether the session belongs to the caller, who must be an agent."""
    return caller.agent_id == session.agent_id and caller.has(Role.AGENT)


def may_see_all(caller: Caller) -> bool:
    """Return whether the caller may see the sessions of all agents."""
    return caller.has(Role.SUPERVISOR, Role.MONITOR)


def may_see(caller: Caller, session: Session | Active) -> bool:
    """Return whether the caller may see this session."""
    return may_see_all(caller) or owns(caller, session)


def require(allowed: bool, needs: str) -> None:
    """Raise `Forbidden` unless `allowed`. `needs`: the roles that would allow it, for the error message."""
    if not allowed:
        raise Forbidden(needs)
