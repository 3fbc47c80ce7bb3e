"""A reader of the feed that uses all daemons in turn, and a receiver of webhooks with changing behaviour."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Protocol

import httpx
from standardwebhooks import Webhook

from tests.acceptance.daemons import token_of
from tests.support.receivers import SECRET, Answer, Handler, Received, Receiver, hang_up, status, trickle

LONG = 60.0
"""Seconds of a long fault of a receiver, which includes several attempts."""

LONG_SHARE = 0.03
"""The share of the receiver's faults that are long."""

ReadEvent = tuple[int, str, str]
"""Number, session and type of an event."""


class FeedReader(threading.Thread):
    """Reads the feed from its beginning, each page from a random daemon."""

    def __init__(self, name: str, url: Callable[[], str]) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self.received: list[ReadEvent] = []
        self.after = 0
        self.problems: list[str] = []
        self.retries = 0
        self._url = url

    def run(self) -> None:
        with httpx.Client(timeout=8, headers={"Session-id": token_of("monitor")}) as http:
            while not self.stopping.is_set():
                try:
                    answer = http.get(f"{self._url()}/v3/events?after={self.after}&wait=2&limit=200")
                except (httpx.TransportError, httpx.InvalidURL):
                    self._wait()
                    continue
                if answer.status_code == 503:
                    self._wait()
                    continue
                if answer.status_code != 200:
                    self.problems.append(f"the feed was answered with {answer.status_code}: {answer.text[:300]}")
                    self._wait()
                    continue
                page = answer.json()
                self.received += [(event["seq"], event["id"], event["type"]) for event in page["events"]]
                self.after = page["next"]

    def _wait(self) -> None:
        self.retries += 1
        self.stopping.wait(0.2)


def late(seconds: float, code: int = 200) -> Answer:
    """Return an answer that is sent late."""

    def answer(handler: Handler) -> None:
        if not handler.receiver.closing.wait(seconds):
            status(code)(handler)

    return answer


class Sink(Receiver):
    """A receiver that stores the events of the requests that it answers with 200, and ignores repeated events.

    `mood` determines how it answers.
    """

    MOODS: ClassVar[Sequence[str]] = ("well", "slow", "failing", "down", "never ending", "picky")

    def __init__(self, randomness: random.Random) -> None:
        self.received: list[int] = []
        """The numbers of the received events, without repetitions."""
        self.high = 0
        self.repeats = 0
        self.deliveries: Counter[str] = Counter()
        """Outcome -> number of requests."""
        self.problems: list[str] = []
        self.mood = "well"
        self._random = randomness
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()
        super().__init__()

    def took(self, received: Received) -> Answer:
        with self._lock:
            if len(received.body) < int(received.headers["content-length"]):
                self.deliveries["cut off"] += 1  # the daemon was killed while it sent the request
                return hang_up
            mood = self.mood if self.mood != "picky" else self._random.choice(("well", "failing"))
            self._verify(received)
            if mood not in ("well", "slow"):
                self.deliveries["refused"] += 1
                return {"failing": status(500), "down": hang_up, "never ending": trickle}[mood]
            self._store(received)
            return late(self._random.uniform(0.2, 2.5)) if mood == "slow" else status(200)

    def _verify(self, received: Received) -> None:
        webhook_id, sent = received.headers["webhook-id"], int(received.headers["webhook-timestamp"])
        try:
            if abs(sent - time.time()) < 240:
                received.verify()
                return
            # The daemon's clock was wrong when it sent the request, so the library would refuse the time.
            signed = Webhook(SECRET).sign(webhook_id, datetime.fromtimestamp(sent, UTC), received.body.decode())
            if signed not in received.headers["webhook-signature"].split():
                raise ValueError("another signature")
        except Exception as error:
            self.problems.append(f"the signature of delivery {webhook_id} is wrong: {error!r}")

    def _store(self, received: Received) -> None:
        self.deliveries["taken"] += 1
        seqs, webhook_id = received.seqs, received.headers["webhook-id"]
        if self._ids.setdefault(webhook_id, hash(tuple(seqs))) != hash(tuple(seqs)):
            self.problems.append(f"request {webhook_id} contained other events in an earlier attempt")
        for seq in seqs:
            if seq > self.high:
                self.received.append(seq)
                self.high = seq
            else:
                self.repeats += 1
        if seqs != sorted(set(seqs)):
            self.problems.append(f"request {webhook_id} is out of order: {seqs}")


class Moody(Protocol):
    """A receiver whose behaviour changes."""

    MOODS: ClassVar[Sequence[str]]
    mood: str


class Moods(threading.Thread):
    """Changes the mood of a receiver at random until it is stopped. Between two faults the receiver works well."""

    def __init__(self, name: str, receiver: Moody, randomness: random.Random) -> None:
        super().__init__(name=f"{name} moods", daemon=True)
        self.log: Callable[[str], None] = print
        self._name = name
        self.stopping = threading.Event()
        self.counted: Counter[str] = Counter()
        self._receiver = receiver
        self._random = randomness

    def run(self) -> None:
        while not self.stopping.wait(self._random.uniform(3, 12)):
            mood = self._receiver.mood = self._random.choice(self._receiver.MOODS[1:])
            seconds = self._random.uniform(1, 5) if self._random.random() > LONG_SHARE else LONG
            self.counted[f"receiver {mood}"] += 1
            self.log(f"receiver {mood} {self._name} for {seconds:.1f} s")
            self.stopping.wait(seconds)
            self._receiver.mood = "well"
        self._receiver.mood = "well"
