"""Send events to a webhook: signed JSON in one request."""

from collections.abc import Callable

import orjson

from tminus import clock
from tminus.config import Webhook
from tminus.delivery import signing
from tminus.delivery.client import Client
from tminus.delivery.sender import Sent, Subscription
from tminus.domain import ids, timestamps
from tminus.domain.events import NO_NAMES, ActorNames
from tminus.domain.model import Delivery
from tminus.domain.types import DeliveryKind, SessionType
from tminus.storage import EventFilter, Page

BODY_BYTES = 1024 * 1024
"""Maximum size of a request's JSON: many servers accept this much by default. A single event may be larger; the API
limits its size."""

_EMPTY_PAGE = Page([], 0)


def subscription(webhook: Webhook) -> Subscription:
    """Return the part of a webhook's configuration that the delivery worker uses."""
    types = None if "*" in webhook.events else webhook.subscribed_types
    return Subscription(
        name=webhook.name,
        events=EventFilter(types=types, session_types=frozenset[SessionType](webhook.session_types) or None),
        batch=webhook.batch,
        give_up_after=webhook.give_up_after,
        from_beginning=webhook.from_ == "beginning",
    )


class WebhookSender:
    """Sends signed requests to one webhook.

    Parameters
    ----------
    webhook
        The endpoint.
    secrets
        Its secrets, the newest first.
    client
        Sends the requests.
    database_id
        The id of the database, which is part of the ids of events.
    names
        Returns the names of the actors in the configuration in force.
    """

    def __init__(
        self,
        webhook: Webhook,
        secrets: tuple[str, ...],
        client: Client,
        database_id: str,
        names: Callable[[], ActorNames] = lambda: NO_NAMES,
    ) -> None:
        self._webhook = webhook
        self._secrets = secrets
        self._client = client
        self._database_id = database_id
        self._names = names

    async def aclose(self) -> None:
        await self._client.aclose()

    def stop(self) -> None:
        pass

    async def ping(self) -> Sent:
        event = {
            "type": "ping",
            "ts": timestamps.text(clock.now()),
            "message": f"A test of endpoint {self._webhook.name}",
        }
        return await self._post(DeliveryKind.PING, f"msg_{ids.random_hex()}", orjson.dumps([event]), _EMPTY_PAGE)

    async def send(self, kind: DeliveryKind, page: Page) -> Sent:
        if kind is DeliveryKind.SAMPLE:
            return await self._post(kind, f"msg_{ids.random_hex()}", self._sample_body(page), _EMPTY_PAGE)
        page, body = self._one_request(page)
        seqs = [recorded.event.seq for recorded in page.events]
        sent = await self._post(kind, signing.batch_id(self._database_id, seqs), body, page)
        sent.attempt.first_seq, sent.attempt.last_seq, sent.attempt.events = seqs[0], seqs[-1], len(seqs)
        return sent

    def _sample_body(self, page: Page) -> bytes:
        """Return events that are marked as samples: receivers must neither count nor process them."""
        events = []
        for recorded in page.events:
            mark = {"eventId": f"{self._database_id}-sample-{ids.random_hex()}", "sample": True}
            events.append(recorded.payload(self._database_id, self._names()) | mark)
        return orjson.dumps(events)

    def _one_request(self, page: Page) -> tuple[Page, bytes]:
        """Return the first events of a page that fit into one request, and its body."""
        events: list[bytes] = []
        bytes_left = BODY_BYTES - 1  # two brackets, and one comma fewer than events
        for recorded in page.events:
            event = recorded.json(self._database_id, self._names())
            bytes_left -= len(event) + len(b",")
            if bytes_left < 0 and events:
                fitting = page.events[: len(events)]
                page = Page(fitting, fitting[-1].event.seq)
                break
            events.append(event)
        return page, b"[" + b",".join(events) + b"]"

    async def _post(self, kind: DeliveryKind, webhook_id: str, body: bytes, page: Page) -> Sent:
        now = clock.now()
        # The receiver compares the time with its own clock, so this is never that of a test clock.
        headers = signing.headers(self._secrets, webhook_id, clock.outside(), body)
        headers["Content-Type"] = self._webhook.content_type
        outcome = await self._client.post(body, headers, self._webhook.timeout)
        attempt = Delivery(
            endpoint=self._webhook.name, kind=kind, webhook_id=webhook_id, at=now, ok=outcome.ok,
            status=outcome.status, ms=outcome.ms, error=outcome.error, answer=outcome.answer,
        )  # fmt: skip
        return Sent(outcome, attempt, page)
