"""Shares of what there is a limited number of: whose they are, and how often it is logged that one is used up."""

import ipaddress
from functools import lru_cache

from tminus import clock

TOLD_AGAIN = 60
"""Minimum seconds between two log lines about the same share."""

TOLD = 1000
"""Shares of which is remembered when a line was last written about them."""


@lru_cache(maxsize=4096)
def whose(address: str) -> str:
    """Return whose share an address counts for: of IPv6 a site has at least 64 bits for itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


class Seldom:
    """Decide whether a log line about something may be written again. Bounded, however many things there are."""

    def __init__(self) -> None:
        self._again: dict[str, float] = {}

    def is_due(self, about: str) -> bool:
        """Return whether a line about this is due, and take it for written."""
        now = clock.monotonic()
        if now < self._again.get(about, 0.0):
            return False
        self._again.pop(about, None)
        self._again[about] = now + TOLD_AGAIN
        if len(self._again) > TOLD:
            del self._again[next(iter(self._again))]
        return True

    def clear(self) -> None:
        """Forget what was written."""
        self._again.clear()


LINES = Seldom()
"""For the whole process: of several servers, one line."""
