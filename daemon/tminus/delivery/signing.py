"""The headers by which a receiver knows whom a request is from. Pure.

Standard Webhooks (github.com/standard-webhooks/standard-webhooks), and `X-Hub-Signature-256` for receivers that know
no more than that.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook


def headers(secrets: Sequence[str], webhook_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """The signature headers of a request, in the names of the specifications. While a secret is being replaced there
    are several, and the receiver takes whichever it knows; the plain header has room for the first alone. That one is
    keyed with the secret's text as it stands in its file.
    """
    text = body.decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, now, text) for secret in secrets),
        "X-Hub-Signature-256": f"sha256={hmac.digest(secrets[0].encode(), body, hashlib.sha256).hex()}",
    }


def batch_id(database_id: str, seqs: Sequence[int]) -> str:
    """The id of a request with these events: the same for every try, after a restart, and when it is replayed."""
    digest = hashlib.sha256(f"{database_id}:{','.join(map(str, seqs))}".encode()).hexdigest()
    return f"msg_{digest[:32]}"
