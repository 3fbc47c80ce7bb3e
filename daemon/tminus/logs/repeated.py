"""Lines about what one address does again and again: one line a minute, with a count.

Whoever attacks, or has a script that runs wild, decides how often something happens, but not how much is logged of it.
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.networks import client_network
from tminus.logs.output import log

EACH = 60.0
"""Seconds between two lines about the same thing and address."""

KEPT = 1000
"""Lines that are counted at a time. What comes beyond that is counted together, as from `OTHERS`."""

OTHERS = "(others)"


@dataclass(slots=True)
class _Count:
    until: float
    """When what was counted is logged, on the monotonic clock."""
    number: int = 0
    since: datetime | None = None
    fields: dict[str, Any] | None = None
    """Those of the last time."""


class Repeated:
    """Counts lines. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, str], _Count] = {}

    def log(self, name: str, address: str, /, about: str = "", **fields: Any) -> None:
        """Log the first time at once, and what follows within a minute as one line at its end, with the fields of the
        last time, and the `network` whose addresses count as one. `about`: what is counted apart from the rest of the
        same name and address.
        """
        counted = client_network(address)
        key = (name, counted, about)
        if "remote_ip" in fields and "/" in counted:
            fields["network"] = counted
        with self._lock:
            count = self._counts.get(key)
            if count is None and len(self._counts) >= KEPT:
                key = (name, OTHERS, "")
                if "remote_ip" in fields:
                    fields["remote_ip"] = OTHERS
                    fields.pop("network", None)
                count = self._counts.get(key)
            if count is not None:
                count.number += 1
                count.since = count.since or clock.now()
                count.fields = fields
                return
            self._counts[key] = _Count(clock.monotonic() + EACH)
        log(name, **fields, count=1)

    def write(self, *, everything: bool = False) -> None:
        """Log what was counted for a minute; `everything`: and what was not yet."""
        now = clock.monotonic()
        due = []
        with self._lock:
            for key, count in list(self._counts.items()):
                if not everything and now < count.until:
                    continue
                del self._counts[key]
                if count.number:
                    self._counts[key] = _Count(now + EACH)
                    due.append((key[0], count))
        for name, count in due:
            since = timestamps.text(count.since) if count.since else None
            log(name, **(count.fields or {}), count=count.number, since=since)

    def clear(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._counts.clear()


REPEATED = Repeated()
"""For the whole process, as the log is."""
