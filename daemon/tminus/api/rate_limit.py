"""Limit how often one address may send wrong tokens or look up PINs."""

import ipaddress
from collections import OrderedDict, deque

from tminus import clock
from tminus.config import Rate

MAX_ADDRESSES = 10_000
"""Maximum number of addresses in memory; beyond it, those with the oldest attempts are removed."""


class RateLimiter:
    """Count attempts per address in a sliding window. With a rate of None there is no limit.

    The window uses monotonic time: a wall clock that is set back must not extend a lockout. No library is used, since
    the common ones keep every address for ever and use the wall clock.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        """Times of the latest attempts by address, ordered by the last attempt."""

    def retry_after(self, address: str) -> float | None:
        """Return the seconds until the address may try again, at least 1; None if it may try now."""
        attempts = self._attempts.get(_network(address))
        if self._rate is None or attempts is None or len(attempts) < self._rate.count:
            return None
        left = attempts[0] + self._rate.seconds - clock.monotonic()
        return max(1.0, left) if left > 0 else None

    def count(self, address: str) -> None:
        """Count an attempt."""
        if self._rate is None:
            return
        network, now = _network(address), clock.monotonic()
        self._attempts.setdefault(network, deque(maxlen=self._rate.count)).append(now)
        self._attempts.move_to_end(network)
        while (
            len(self._attempts) > MAX_ADDRESSES or next(iter(self._attempts.values()))[-1] + self._rate.seconds <= now
        ):
            self._attempts.popitem(last=False)


def _network(address: str) -> str:
    """Return the unit that one client controls: an IPv4 address, or a /64 network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
