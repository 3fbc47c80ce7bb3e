"""The signature headers, by which a receiver verifies who has sent a request.

They follow Standard Webhooks (github.com/standard-webhooks/standard-webhooks). `X-Hub-Signature-256` is for receivers
that support nothing else.
"""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from standardwebhooks import Webhook


def headers(secrets: Sequence[str], webhook_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """Return the signature headers of a request.

    While a secret is being replaced there are several secrets: `webhook-signature` has a signature for each, and the
    receiver accepts any of them. `X-Hub-Signature-256` has only one, whose key is the text of the first secret.
    """
    text = body.decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(webhook_id, now, text) for secret in secrets),
        "X-Hub-Signature-256": f"sha256={hmac.digest(secrets[0].encode(), body, hashlib.sha256).hex()}",
    }


def batch_id(database_id: str, seqs: Sequence[int]) -> str:
    """Return the id of a request with these events: the same for all attempts, after a restart, and in a replay."""
    digest = hashlib.sha256(f"{database_id}:{','.join(map(str, seqs))}".encode()).hexdigest()
    return f"msg_{digest[:32]}"
