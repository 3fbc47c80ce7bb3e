"""What callers know of what they asked for: it was acknowledged, it was refused, or nobody told them."""

import random
import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Known:
    """A session as its maker knows it. Its label is its idempotency key."""

    label: str
    type: str
    id: str | None = None
    """None: it may have been made, but nobody said so."""
    starts: list[str] = field(default_factory=list)
    """Those that were acknowledged, in order."""
    unsure: set[str] = field(default_factory=set)
    """Starts that were asked for in a request without an answer: it may be done now, or later."""
    close_asked: bool = False
    closed: bool = False
    asked_joins: set[str] = field(default_factory=set)
    """Names of those whose join was asked for."""
    joined: dict[str, str] = field(default_factory=dict)
    """By name: the id that was acknowledged."""
    left: set[str] = field(default_factory=set)
    """Ids whose leaving was acknowledged."""
    pin: int = 0


class Model:
    """All that the callers of one stage know, and what they met that should not be. For many threads."""

    def __init__(self) -> None:
        self.known: list[Known] = []
        self.calls: Counter[tuple[str, str]] = Counter()
        """By call and outcome: `acknowledged`, `refused` or `unknown`; and `again` for each further try."""
        self.trouble: list[str] = []
        self._lock = threading.Lock()

    def count(self, call: str, outcome: str, number: int = 1) -> None:
        with self._lock:
            self.calls[call, outcome] += number

    def add(self, one: Known) -> None:
        with self._lock:
            self.known.append(one)

    def complain(self, text: str) -> None:
        with self._lock:
            self.trouble.append(text)

    def some(self, dice: random.Random) -> Known | None:
        """One that was acknowledged, rather a recent one; None if there is none yet."""
        with self._lock:
            recent = self.known[-60:] if dice.random() < 0.9 else self.known
            one = dice.choice(recent) if recent else None
        return one if one is not None and one.id else None
