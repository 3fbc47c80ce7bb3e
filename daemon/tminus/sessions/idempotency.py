"""Make retries safe: a repeated `Idempotency-Key` returns the result of the first request."""

import hashlib
from datetime import timedelta
from typing import Any, NamedTuple

import orjson

from tminus.domain.errors import KeyReused
from tminus.domain.model import IdempotencyRecord
from tminus.domain.types import Caller
from tminus.storage import Transaction

RECORD_LIFETIME = timedelta(hours=24)
"""How long a key is stored."""


class KeyedRequest(NamedTuple):
    """An `Idempotency-Key` with the SHA-256 of its request's body."""

    key: str
    body_sha256: str


def keyed_request(key: str | None, body: Any) -> KeyedRequest | None:
    """Return a key with the hash of a parsed JSON body, None without a key.

    The order of members and white space do not change the hash.
    """
    if key is None:
        return None
    return KeyedRequest(key, hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest())


def find_record(tx: Transaction, caller: Caller, keyed: KeyedRequest) -> IdempotencyRecord | None:
    """Return the record of this key, None if there is none from the last day.

    Raises `KeyReused` if the body of that request was different.
    """
    earlier = tx.idempotency_record(caller.agent_id, keyed.key)
    if earlier is None:
        return None
    if earlier.created_at < tx.now - RECORD_LIFETIME:
        tx.remove_idempotency_record(caller.agent_id, keyed.key)
        return None
    if earlier.body_sha256 != keyed.body_sha256:
        raise KeyReused(earlier.session_id)
    return earlier


def store_record(
    tx: Transaction, caller: Caller, keyed: KeyedRequest, session_id: str, participant_id: str | None = None
) -> None:
    """Store the result for a key, in the transaction that creates the result."""
    tx.add_idempotency_record(
        IdempotencyRecord(
            agent_id=caller.agent_id,
            key=keyed.key,
            body_sha256=keyed.body_sha256,
            session_id=session_id,
            participant_id=participant_id,
            created_at=tx.now,
        )
    )
