"""The answers to challenges, and the key that makes challenges.

Challenges themselves are not stored: their text follows from their id and the key. So a challenge costs no write, and
every daemon of a database can check what another one has made.
"""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, insert, select

from tminus.domain.model import ChallengeUse
from tminus.storage import meta
from tminus.storage.tables import CHALLENGE_USES
from tminus.storage.transaction import Transaction
from tminus.storage.view import View

_C = CHALLENGE_USES.c

_USED = select(func.count()).select_from(CHALLENGE_USES).where(_C.uuid == bindparam("uuid"))
_GUESSES = (
    select(_C.guessed_at)
    .where(
        _C.guessed_at.is_not(None),
        _C.guessed_at > bindparam("after", type_=_C.guessed_at.type),
        _C.guessed_at <= bindparam("until", type_=_C.guessed_at.type),
    )
    .order_by(_C.guessed_at.desc())
    .offset(bindparam("newer"))
    .limit(1)
)


def key(view: View) -> str | None:
    """Return the key of this database, or None if no daemon has needed one yet."""
    return view.meta(meta.CHALLENGE_KEY)


def make_key(tx: Transaction) -> str:
    """Return the key of this database; make it if there is none."""
    stored = key(tx)
    if stored is None:
        stored = secrets.token_hex(32)
        tx.set_meta(meta.CHALLENGE_KEY, stored)
    return stored


def is_used(view: View, uuid: str) -> bool:
    """Return whether a challenge was answered."""
    return bool(view.scalar(_USED, uuid=uuid))


def use(tx: Transaction, answer: ChallengeUse) -> bool:
    """Store that a challenge was answered; return False if it was answered before."""
    if is_used(tx, answer.uuid):
        return False
    tx.execute(insert(CHALLENGE_USES), answer.model_dump())
    return True


def guesses_limited_until(view: View, now: datetime, count: int, period: timedelta) -> datetime | None:
    """Return when there will be fewer than `count` wrong PINs within the last `period`; None if there are now."""
    # A transaction of another daemon may have read the clock after this one, and committed before it.
    at: datetime | None = view.scalar(_GUESSES, after=now - period, until=now + period, newer=count - 1)
    return None if at is None else at + period


def remove_uses(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` answers whose `kept_until` is before a time; return how many."""
    some = select(_C.uuid).where(_C.kept_until < before).order_by(_C.kept_until).limit(limit)
    return int(tx.execute(delete(CHALLENGE_USES).where(_C.uuid.in_(some))).rowcount)
