"""Retries are safe: what an `Idempotency-Key` made is answered again, not made again."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from tminus.domain.errors import KeyReused
from tminus.domain.model import Retry
from tminus.domain.types import Caller
from tminus.storage import Transaction

RETRY_MEMORY = timedelta(hours=24)
"""How long a key is remembered."""


@dataclass(frozen=True, slots=True)
class RetryKey:
    """An `Idempotency-Key` with the SHA-256 of the body that came with it."""

    key: str
    body_sha256: str


def retry_key(key: str | None, body: Any) -> RetryKey | None:
    """The key for a parsed JSON body; the order of its members and its white space do not matter."""
    if key is None:
        return None
    return RetryKey(key, hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest())


def made_before(tx: Transaction, caller: Caller, retry: RetryKey) -> Retry | None:
    """What this key made within the last day. Raises `KeyReused` if it came with another body."""
    earlier = tx.retry(caller.agent_id, retry.key)
    if earlier is None:
        return None
    if earlier.created_at < tx.now - RETRY_MEMORY:
        tx.forget_retry(caller.agent_id, retry.key)
        return None
    if earlier.body_sha256 != retry.body_sha256:
        raise KeyReused(earlier.session_id)
    return earlier


def remember(
    tx: Transaction, caller: Caller, retry: RetryKey, session_id: str, participant_id: str | None = None
) -> None:
    """Remembers what a key has made, in the transaction that made it."""
    tx.add_retry(
        Retry(
            agent_id=caller.agent_id,
            key=retry.key,
            body_sha256=retry.body_sha256,
            session_id=session_id,
            participant_id=participant_id,
            created_at=tx.now,
        )
    )
