"""The stored state of agents: when they signed in last, and whether they are shut out.

The configuration has the other data of its agents. An agent who signs in through OpenID Connect and is not in the
configuration has all data here, and a number from `FIRST_UNCONFIGURED_ID` on. Rows are never removed, so no number is
used twice.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, insert, select, text, update

from tminus.domain.errors import AgentShutOut
from tminus.domain.model import KnownAgent
from tminus.domain.types import FIRST_UNCONFIGURED_ID
from tminus.storage import calendar_feeds
from tminus.storage.tables import AGENTS
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

_A = AGENTS.c

_BY_NUMBER = select(AGENTS).where(_A.id == bindparam("id"))
_BY_SUBJECT = select(AGENTS).where(
    text("issuer <> ''"),  # the condition of the index
    _A.issuer == bindparam("issuer"),
    _A.subject == bindparam("subject"),
)
_CHANGED = select(AGENTS).where(_A.changed > bindparam("after")).order_by(_A.changed).limit(bindparam("limit"))
_LISTED = select(AGENTS).where(_A.id > bindparam("after")).order_by(_A.id).limit(bindparam("limit"))
_NEWEST_CHANGE = select(func.coalesce(func.max(_A.changed), 0))
_NEWEST_NUMBER = select(func.coalesce(func.max(_A.id), 0)).where(_A.id >= FIRST_UNCONFIGURED_ID)


# --- reading ----------------------------------------------------------------------------------------------------------


def find(view: View, agent_id: int) -> KnownAgent | None:
    """Return the row of an agent; None if the database has none."""
    return view.one(KnownAgent, _BY_NUMBER, id=agent_id)


def changed_since(view: View, after: int, limit: int) -> list[KnownAgent]:
    """Return the rows that were changed after the change with the number `after`, in the order of the changes.

    A sign-in alone is no change.
    """
    return list(view.all(KnownAgent, _CHANGED, after=after, limit=limit))


def listed(view: View, after: int, limit: int) -> list[KnownAgent]:
    """Return the rows of agents whose number is higher than `after`, in the order of their numbers."""
    return list(view.all(KnownAgent, _LISTED, after=after, limit=limit))


# --- writing ----------------------------------------------------------------------------------------------------------


def note_sign_in(tx: Transaction, agent_id: int) -> None:
    """Store that an agent signs in now. Raises `AgentShutOut`."""
    found = find(tx, agent_id)
    if found is None:
        _add(tx, KnownAgent(id=agent_id, signed_in_at=tx.now))
        return
    if found.shut_out_at is not None:
        raise AgentShutOut(agent_id)
    tx.execute(update(AGENTS).where(_A.id == agent_id).values(signed_in_at=tx.now))


class Person(NamedTuple):
    """Somebody whom an issuer has signed in, and who is not in the configuration."""

    issuer: str
    subject: str
    name: str
    email: str
    roles: str
    """A JSON list."""


def find_or_add(tx: Transaction, person: Person) -> KnownAgent | None:
    """Return the agent who is this person, and store the person's present data. A new agent gets the next number.

    A person without roles may not be an agent. A new one is not stored, and the result is None. The agent sessions of a
    known one end.
    """
    found = tx.one(KnownAgent, _BY_SUBJECT, issuer=person.issuer, subject=person.subject)
    if found is None and person.roles == "[]":
        return None
    if found is None:
        number = max(int(tx.scalar(_NEWEST_NUMBER)) + 1, FIRST_UNCONFIGURED_ID)
        found = KnownAgent(id=number, **person._asdict(), changed=_next_change(tx))
        _add(tx, found)
        tx.has_events = True
    elif (found.name, found.email, found.roles) != (person.name, person.email, person.roles):
        _change(tx, found.id, {"name": person.name, "email": person.email, "roles": person.roles})
        found = found.model_copy(update=person._asdict())
    if person.roles == "[]":
        tx.end_agent_sessions_of(found.id)
    return found


def shut_out(tx: Transaction, agent_id: int) -> int | None:
    """Shut an agent out, and end all agent sessions, sign-in codes and the address of the agent's calendar.

    Return how many agent sessions have ended; None if the agent was shut out already.
    """
    found = find(tx, agent_id)
    if found is not None and found.shut_out_at is not None:
        return None
    if found is None:
        _add(tx, KnownAgent(id=agent_id))
    _change(tx, agent_id, {"shut_out_at": tx.now})
    calendar_feeds.remove(tx, agent_id)
    return tx.end_agent_sessions_of(agent_id)


def readmit(tx: Transaction, agent_id: int) -> bool:
    """Let an agent sign in again; return False if the agent was not shut out."""
    found = find(tx, agent_id)
    if found is None or found.shut_out_at is None:
        return False
    _change(tx, agent_id, {"shut_out_at": None})
    return True


def _add(tx: Transaction, agent: KnownAgent) -> None:
    tx.execute(insert(AGENTS), agent.model_dump())


def _change(tx: Transaction, agent_id: int, values: Mapping[str, datetime | str | None]) -> None:
    """Store values that all daemons have to read."""
    numbered: dict[str, Any] = {**values, "changed": _next_change(tx)}
    tx.execute(update(AGENTS).where(_A.id == agent_id).values(numbered))
    tx.has_events = True  # other daemons are notified


def _next_change(tx: Transaction) -> int:
    return int(tx.scalar(_NEWEST_CHANGE)) + 1
