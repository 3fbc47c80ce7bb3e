"""Those who are told: a reader of the feed that follows from daemon to daemon, and a receiver in all its moods."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from tests.acceptance.daemons import token_of
from tests.support.receivers import SECRET, Answer, Handler, Received, Receiver, hang_up, status, trickle

LONG = 60.0
"""Seconds for which a receiver is in one mood now and then: several tries long."""

LONG_SHARE = 0.03

Told = tuple[int, str, str]
"""Number, session and type of an event."""


class FeedReader(threading.Thread):
    """Reads the feed from its beginning, each page at whichever daemon answers."""

    def __init__(self, name: str, url: Callable[[], str]) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self.told: list[Told] = []
        self.after = 0
        self.trouble: list[str] = []
        self.again = 0
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
                    self.trouble.append(f"the feed answered {answer.status_code}: {answer.text[:300]}")
                    self._wait()
                    continue
                page = answer.json()
                self.told += [(event["seq"], event["id"], event["type"]) for event in page["events"]]
                self.after = page["next"]

    def _wait(self) -> None:
        self.again += 1
        self.stopping.wait(0.2)


def late(seconds: float, code: int = 200) -> Answer:
    """Takes its time."""

    def answer(handler: Handler) -> None:
        if not handler.receiver.closing.wait(seconds):
            status(code)(handler)

    return answer


class Sink(Receiver):
    """A receiver that keeps what it has answered with 200, as a receiver should, and nothing else; `mood` is how it
    answers. What it is sent again it drops by number.
    """

    MOODS = ("well", "slow", "failing", "down", "never ending", "picky")

    def __init__(self, dice: random.Random) -> None:
        self.told: list[int] = []
        """The numbers of all events, each the first time only."""
        self.high = 0
        self.repeats = 0
        self.deliveries: Counter[str] = Counter()
        """By what it answered."""
        self.trouble: list[str] = []
        self.mood = "well"
        self._dice = dice
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()
        super().__init__()

    def took(self, received: Received) -> Answer:
        with self._lock:
            if len(received.body) < int(received.headers["content-length"]):
                self.deliveries["cut off"] += 1  # its sender was killed
                return hang_up
            mood = self.mood if self.mood != "picky" else self._dice.choice(("well", "failing"))
            self._verify(received)
            if mood not in ("well", "slow"):
                self.deliveries["refused"] += 1
                return {"failing": status(500), "down": hang_up, "never ending": trickle}[mood]
            self._keep(received)
            return late(self._dice.uniform(0.2, 2.5)) if mood == "slow" else status(200)

    def _verify(self, received: Received) -> None:
        webhook_id, sent = received.headers["webhook-id"], int(received.headers["webhook-timestamp"])
        try:
            if abs(sent - time.time()) < 240:
                received.verify()
                return
            # Sent while its clock was set: the library would say that it is too old, and only that.
            signed = Webhook(SECRET).sign(webhook_id, datetime.fromtimestamp(sent, UTC), received.body.decode())
            if signed not in received.headers["webhook-signature"].split():
                raise ValueError("another signature")
        except Exception as error:
            self.trouble.append(f"a delivery {webhook_id} is not signed well: {error!r}")

    def _keep(self, received: Received) -> None:
        self.deliveries["taken"] += 1
        seqs, webhook_id = received.seqs, received.headers["webhook-id"]
        if self._ids.setdefault(webhook_id, hash(tuple(seqs))) != hash(tuple(seqs)):
            self.trouble.append(f"request {webhook_id} had other events before")
        for seq in seqs:
            if seq > self.high:
                self.told.append(seq)
                self.high = seq
            else:
                self.repeats += 1
        if seqs != sorted(set(seqs)):
            self.trouble.append(f"request {webhook_id} is out of order: {seqs}")


class Moods(threading.Thread):
    """Changes how a receiver answers, now and then, until stopped; well more often than not."""

    def __init__(self, name: str, sink: Sink, dice: random.Random) -> None:
        super().__init__(name=f"{name} moods", daemon=True)
        self.say: Callable[[str], None] = print
        self._receiver = name
        self.stopping = threading.Event()
        self.counted: Counter[str] = Counter()
        self._sink = sink
        self._dice = dice

    def run(self) -> None:
        while not self.stopping.wait(self._dice.uniform(3, 12)):
            mood = self._sink.mood = self._dice.choice(Sink.MOODS[1:])
            seconds = self._dice.uniform(1, 5) if self._dice.random() > LONG_SHARE else LONG
            self.counted[f"receiver {mood}"] += 1
            self.say(f"receiver {mood} {self._receiver} for {seconds:.1f} s")
            self.stopping.wait(seconds)
            self._sink.mood = "well"
        self._sink.mood = "well"
