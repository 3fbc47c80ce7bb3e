"""The model of the callers: what they requested, and whether it was acknowledged, refused, or not answered."""

import random
import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Fact:
    """A finding: a violation of a guarantee. `kind` is `loss`, `duplicate` or `other`."""

    kind: str
    text: str
    session: str | None = None


@dataclass
class Known:
    """A session as the caller who created it knows it. Its label is its idempotency key."""

    label: str
    type: str
    id: str | None = None
    """None: there was no answer, so it may have been created."""
    starts: list[str] = field(default_factory=list)
    """The acknowledged starts, in order."""
    unconfirmed: set[str] = field(default_factory=set)
    """Starts of requests without an answer, which may be executed now or later."""
    close_requested: bool = False
    closed: bool = False
    closed_at: float = 0.0
    """When its close was acknowledged, on the monotonic clock."""
    reminders: list[str] | None = None
    """None: those of the configuration at that time."""
    invitees: list[str] = field(default_factory=list)
    """The addresses of the people who are invited."""
    requested_joins: set[str] = field(default_factory=set)
    """Names of participants whose join was requested."""
    joined: dict[str, str] = field(default_factory=dict)
    """Name -> the acknowledged participant id."""
    left: set[str] = field(default_factory=set)
    """Ids of participants whose leave was acknowledged."""
    pin: int = 0


@dataclass
class KnownBatch:
    """A batch of sessions as its caller knows it. The label of a session is that of the batch and its number."""

    label: str
    starts: list[str]
    ids: list[str] = field(default_factory=list)
    """Empty: there was no answer, so it may have been created."""
    shifts: int = 0
    """The number of acknowledged shifts."""
    unconfirmed: int = 0
    """The number of shifts without an answer."""
    close_requested: bool = False
    closed: bool = False


@dataclass
class KnownSeries:
    """A series as its caller knows it. All its sessions have its label."""

    label: str
    zone: str
    rdates: list[str]
    id: str | None = None
    exdates: list[str] = field(default_factory=list)
    """The acknowledged exceptions."""
    unconfirmed: list[str] = field(default_factory=list)
    """Exceptions of requests without an answer."""
    end_requested: bool = False
    ended: bool = False


class Model:
    """All sessions of the callers of one stage, and the problems that they found. Any thread."""

    def __init__(self) -> None:
        self.known: list[Known] = []
        self.batches: list[KnownBatch] = []
        self.series: list[KnownSeries] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        """(call, outcome) -> number. Outcomes: `acknowledged`, `refused`, `unknown`, and `retried` for each retry."""
        self.problems: list[str] = []
        self._lock = threading.Lock()

    def count(self, call: str, outcome: str, number: int = 1) -> None:
        with self._lock:
            self.calls[call, outcome] += number

    def add(self, one: Known) -> None:
        with self._lock:
            self.known.append(one)

    def add_problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)

    def some(self, randomness: random.Random) -> Known | None:
        """Return a random acknowledged session, usually a recent one; None if there is none."""
        with self._lock:
            recent = self.known[-60:] if randomness.random() < 0.9 else self.known
            one = randomness.choice(recent) if recent else None
        return one if one is not None and one.id else None
