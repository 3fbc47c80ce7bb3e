"""Limit the log lines that one address causes to one line a minute, with a count.

Otherwise an attacker, or a script with an error, could fill the log.
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.networks import client_network
from tminus.logs.output import log

INTERVAL = 60.0
"""Minimum seconds between two lines with the same name and address."""

MAX_COUNTS = 500
"""Maximum number of separate counts of one line. Further addresses share one count, under the address `OTHERS`.

Each line has counts of its own. Otherwise somebody who guesses from many addresses would hide the addresses of all
other lines.
"""

OTHERS = "(others)"


@dataclass(slots=True)
class _Count:
    until: float
    """When the count is logged, on the monotonic clock."""
    number: int = 0
    since: datetime | None = None
    last: datetime | None = None
    fields: dict[str, Any] | None = None
    """The fields of the latest occurrence."""
    total: int = 1
    """Number of occurrences since the last minute without any."""


class Repeated:
    """Counts repeated lines. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_name: dict[str, dict[tuple[str, str], _Count]] = {}
        """The counts of each line, by address and `about`."""

    def log(self, name: str, address: str, /, about: str = "", **fields: Any) -> None:
        """Log the first occurrence at once; count those of the next minute, and log them as one line at its end.

        That line has the fields of the latest occurrence. IPv6 addresses of one /64 count as one; the field `network`
        contains the /64. Occurrences with different `about` are counted separately.
        """
        counted = client_network(address)
        key = (counted, about)
        if "remote_ip" in fields and "/" in counted:
            fields["network"] = counted
        with self._lock:
            counts = self._by_name.setdefault(name, {})
            count = counts.get(key)
            if count is None and len(counts) >= MAX_COUNTS:
                key = (OTHERS, "")
                if "remote_ip" in fields:
                    fields["remote_ip"] = OTHERS
                    fields.pop("network", None)
                count = counts.get(key)
            if count is not None:
                count.number += 1
                count.total += 1
                count.last = clock.now()
                count.since = count.since or count.last
                count.fields = fields
                return
            counts[key] = _Count(clock.monotonic() + INTERVAL)
        log(name, **fields, count=1)

    def recent(self, name: str, address: str) -> int:
        """Return how often this was logged or counted since the last minute without any; 0 after such a minute."""
        with self._lock:
            count = self._by_name.get(name, {}).get((client_network(address), ""))
            return count.total if count is not None else 0

    def write(self, *, everything: bool = False) -> None:
        """Log all counts whose minute is over; with `everything`, also the others."""
        now = clock.monotonic()
        due = []
        with self._lock:
            for name, counts in self._by_name.items():
                for key, count in list(counts.items()):
                    if not everything and now < count.until:
                        continue
                    del counts[key]
                    if count.number:
                        counts[key] = _Count(now + INTERVAL, total=count.total)
                        due.append((name, count))
        for name, count in due:
            assert count.since is not None, "what was counted has a time"
            assert count.last is not None, "what was counted has a time"
            since, last = timestamps.text(count.since), timestamps.text(count.last)
            log(name, **(count.fields or {}), count=count.number, since=since, last=last)

    def clear(self) -> None:
        """Drop all counts."""
        with self._lock:
            self._by_name.clear()


REPEATED = Repeated()
"""The instance of the process, which has one log."""
