"""The table of mails: for each invitee of a session, the last event that caused a mail, and what became of the mail.

A mail is claimed before its text is sent, and settled after the server has answered. So after a crash, or at another
daemon, it is known that the mail may have been sent. A second table counts the mails that each agent causes.
"""

from collections.abc import Collection

from sqlalchemy import bindparam, func, insert, select, text, update

from tminus.domain.model import Mail, MailCount
from tminus.domain.types import EventType, MailState
from tminus.storage.tables import EVENTS, MAIL_COUNTS, MAILS
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

_M, _E = MAILS.c, EVENTS.c

_OF_SESSION = select(MAILS).where(_M.session_id == bindparam("session_id"))
_ONE = select(MAILS).where(_M.session_id == bindparam("session_id"), _M.position == bindparam("position"))
_COUNT = select(MAIL_COUNTS).where(MAIL_COUNTS.c.agent_id == bindparam("agent_id"))
_NEWEST = select(func.max(_E.seq)).where(
    _E.session_id == bindparam("session_id"), _E.type.in_(bindparam("types", expanding=True))
)


def of_session(view: View, session_id: str) -> dict[int, Mail]:
    """Return the rows of a session's invitees, by their position in the list of invitees."""
    return {row.position: row for row in view.all(Mail, _OF_SESSION, session_id=session_id)}


def newest(view: View, session_id: str, types: Collection[EventType]) -> int:
    """Return the number of the newest event of a session that has one of these types; 0 if there is none."""
    return int(view.scalar(_NEWEST, session_id=session_id, types=list(types)) or 0)


def claim(tx: Transaction, seen: Mail | None, session_id: str, position: int, seq: int) -> bool:
    """Record that a mail about an event will be sent now; return False if the row has changed since it was `seen`."""
    found = tx.one(Mail, _ONE, session_id=session_id, position=position)
    if found != seen or tx.session(session_id) is None:
        return False
    again = found is not None and found.seq == seq
    unanswered = found.unanswered + 1 if found is not None and again else 1
    _write(tx, found, Mail(session_id=session_id, position=position, seq=seq, state=MailState.SENDING,
                           unanswered=unanswered, sent_seq=found.sent_seq if found else None, at=tx.now))  # fmt: skip
    return True


def settle(tx: Transaction, session_id: str, position: int, seq: int, state: MailState, *, answered: bool) -> None:
    """Record what became of a mail about an event. Does nothing if the row is about a later event, or retention has
    removed the session.
    """
    found = tx.one(Mail, _ONE, session_id=session_id, position=position)
    if (found is not None and found.seq > seq) or tx.session(session_id) is None:
        return
    sent = seq if state is MailState.SENT else found.sent_seq if found else None
    unanswered = 0 if answered or found is None or found.seq != seq else found.unanswered
    _write(tx, found, Mail(session_id=session_id, position=position, seq=seq, state=state, unanswered=unanswered,
                           sent_seq=sent, at=tx.now))  # fmt: skip


def count_of(view: View, agent_id: int) -> MailCount | None:
    """Return the stored count of the mails that an agent has caused; None if there is none."""
    return view.one(MailCount, _COUNT, agent_id=agent_id)


def set_count(tx: Transaction, count: MailCount) -> None:
    """Store the count of the mails that an agent has caused."""
    own = MAIL_COUNTS.c.agent_id == count.agent_id
    if not tx.execute(update(MAIL_COUNTS).where(own).values(since=count.since, mails=count.mails)).rowcount:
        tx.execute(insert(MAIL_COUNTS), count.model_dump())


def reopen(tx: Transaction, after: int, until: int, session_id: str | None) -> None:
    """Mark the failed mails about events after `after` and up to `until`, so that a replay sends them again.

    Failed mails are those that the server refused, and those whose answer was lost.
    """
    # As text: SQLite uses the index of failed mails only if it can see that the condition is the same.
    failed = text("state IN ('refused', 'unknown')")
    chosen = update(MAILS).where(failed, _M.seq > after, _M.seq <= until)
    if session_id is not None:
        chosen = chosen.where(_M.session_id == session_id)
    tx.execute(chosen.values(state=MailState.DEFERRED, unanswered=0))


def _write(tx: Transaction, found: Mail | None, row: Mail) -> None:
    if found is None:
        tx.execute(insert(MAILS), row.model_dump())
    else:
        own = (_M.session_id == row.session_id, _M.position == row.position)
        tx.execute(update(MAILS).where(*own).values(row.model_dump(exclude={"session_id", "position"})))
