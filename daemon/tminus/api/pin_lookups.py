"""Find a session by its PIN, for callers without a token. All look-ups of PINs go through here and are limited.

An address may send `limits.pin_lookups` wrong PINs. Then it waits, each time for twice as long, or sends the answer to
a challenge with the PIN. An answer is worth one look-up. Right PINs do not count.
"""

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from tminus import clock
from tminus.api import challenges
from tminus.api.request_context import RequestContext
from tminus.domain.errors import ChallengeNeeded, TooManyGuesses, UnknownSession
from tminus.domain.ids import PINS
from tminus.domain.model import ChallengeUse, Session
from tminus.logs.event_fields import session_fields
from tminus.logs.repeated import REPEATED
from tminus.sessions import queries
from tminus.storage import Transaction
from tminus.storage.challenges import guesses_limited_until, is_used, use

GUESS_KEPT = timedelta(hours=2)
"""How long a wrong PIN with an answer is kept, to be counted: longer than the longest window of a limit."""

_USED = "was used before"

MAX_ANSWER = 64
"""Maximum characters of an answer and of a challenge's id."""


class Answered(NamedTuple):
    """An answer to a challenge, as the caller sent it. Both fields are empty if the request has none."""

    challenge: str
    answer: str


async def session_of_pin(context: RequestContext, pin: str, answered: Answered) -> Session:
    """Return the open session with this PIN. Raises `UnknownSession`, `ChallengeNeeded`, `TooManyGuesses`."""
    services, address = context.services, context.remote_ip
    number = int(pin) if pin.isascii() and pin.isdigit() and len(pin) == len(str(PINS.start)) else 0
    wait = services.pin_lookups.begin(address)
    if wait is not None:
        if not answered.challenge:
            raise _limited(context, ChallengeNeeded(wait))
        return _found(context, await _with_answer(context, pin, number, answered, wait))
    failed = True
    try:
        session = await services.query(lambda view: queries.session_by_pin(view, number))
        failed = False
    except UnknownSession:
        raise _unknown(context, pin) from None
    finally:
        services.pin_lookups.end(address, failed=failed)
    return _found(context, session)


async def _with_answer(context: RequestContext, pin: str, number: int, answered: Answered, wait: float) -> Session:
    """Return the session with this PIN, for an address that has to wait `wait` seconds without a valid answer."""
    services, address = context.services, context.remote_ip
    uuid = await _answered_challenge(context, answered, wait)
    guess_wait = services.challenge_guesses.begin(address)
    if guess_wait is not None:
        raise _limited(context, TooManyGuesses(guess_wait))
    limit = services.settings.limits.challenge_guesses_in_all

    def look_up(tx: Transaction) -> Session | None:
        """Use up the answer; return the session with this PIN, or None. If it raises, the answer is not used up."""
        if limit is not None:
            # Also for a right PIN: otherwise one answer could try all PINs while the limit is reached.
            until = guesses_limited_until(tx, tx.now, limit.count, timedelta(seconds=limit.seconds))
            if until is not None:
                raise TooManyGuesses(max(1.0, (until - tx.now).total_seconds()))
        session = tx.open_session_by_pin(number)
        guessed_at = tx.now if session is None else None
        if not use(tx, ChallengeUse(uuid=str(uuid), guessed_at=guessed_at, kept_until=tx.now + GUESS_KEPT)):
            raise ChallengeNeeded(wait, _USED)
        return session

    failed = False
    try:
        session = await services.transact(look_up)
        failed = session is None
    except ChallengeNeeded:
        raise _refused(context, wait, _USED) from None
    except TooManyGuesses as error:
        raise _limited(context, error) from None
    finally:
        services.challenge_guesses.end(address, failed=failed)
    services.metrics.challenges["solved"].inc()
    if session is None:
        raise _unknown(context, pin)
    return session


async def _answered_challenge(context: RequestContext, answered: Answered, wait: float) -> UUID:
    """Return the challenge to which the answer is right. A wrong answer uses it up. Raises `ChallengeNeeded`."""
    services = context.services
    key = await services.challenges.key()
    uuid = _uuid(answered.challenge)
    if uuid is None or not challenges.is_ours(key, uuid):
        raise _refused(context, wait, "belongs to no challenge of this server")
    if not challenges.is_valid(uuid, clock.now()):
        raise _refused(context, wait, "came too late")
    # Reading first: an answer that is sent again and again costs no writes.
    if await services.query(lambda view: is_used(view, str(uuid))):
        raise _refused(context, wait, _USED)
    if not challenges.is_right(key, uuid, answered.answer):
        mark = ChallengeUse(uuid=str(uuid), kept_until=challenges.made_at(uuid) + 2 * challenges.LIFETIME)
        await services.transact(lambda tx: use(tx, mark))
        raise _refused(context, wait, "is wrong")
    return uuid


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _found(context: RequestContext, session: Session) -> Session:
    """Return the session; log it if its address has sent unknown PINs before, as a guess may have been right."""
    address = context.remote_ip
    wrong = REPEATED.recent("pin.unknown", address)
    if wrong:
        REPEATED.log(
            "pin.found",
            address,
            session.id,
            session_id=session.id,
            **session_fields(session),
            wrong=wrong,
            remote_ip=address,
            request_id=context.request_id,
        )
    return session


def _unknown(context: RequestContext, pin: str) -> UnknownSession:
    address = context.remote_ip
    _count(context, "wrong")
    REPEATED.log("pin.unknown", address, remote_ip=address, request_id=context.request_id)
    return UnknownSession(pin)


def _limited(context: RequestContext, error: ChallengeNeeded | TooManyGuesses) -> ChallengeNeeded | TooManyGuesses:
    address = context.remote_ip
    _count(context, "limited")
    REPEATED.log("pin.limited", address, remote_ip=address, request_id=context.request_id)
    return error


def _refused(context: RequestContext, wait: float, problem: str) -> ChallengeNeeded:
    address = context.remote_ip
    _count(context, "limited")
    context.services.metrics.challenges["refused"].inc()
    REPEATED.log("pin.challenge_refused", address, remote_ip=address, request_id=context.request_id)
    return ChallengeNeeded(wait, problem)


def _count(context: RequestContext, outcome: str) -> None:
    """Count a look-up that found nothing. The caller logs it."""
    context.logged = True
    context.services.metrics.guessed("pin", outcome)
