"""How often one address may try what can be guessed."""

import ipaddress
from collections import OrderedDict, deque

from tminus import clock
from tminus.config import Rate

KEPT = 10_000
"""Addresses that are remembered: of more, those that have been quiet for longest are forgotten."""


class Attempts:
    """Counts attempts per address over a sliding window of monotonic time, so that a wall clock that is set back locks
    nobody out. A rate of None counts nothing and refuses nothing.

    Not by a library: those in use keep every address for ever, and reckon with the wall clock.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        """By address, when its last attempts were; the address that tried last stands last."""

    def exhausted(self, address: str) -> float | None:
        """Seconds until the address may try again, at least 1; None if it may now."""
        attempts = self._attempts.get(_network(address))
        if self._rate is None or attempts is None or len(attempts) < self._rate.count:
            return None
        left = attempts[0] + self._rate.seconds - clock.monotonic()
        return max(1.0, left) if left > 0 else None

    def count(self, address: str) -> None:
        """Counts an attempt."""
        if self._rate is None:
            return
        network, now = _network(address), clock.monotonic()
        self._attempts.setdefault(network, deque(maxlen=self._rate.count)).append(now)
        self._attempts.move_to_end(network)
        while len(self._attempts) > KEPT or next(iter(self._attempts.values()))[-1] + self._rate.seconds <= now:
            self._attempts.popitem(last=False)


def _network(address: str) -> str:
    """What one guesser has at hand: an IPv4 address, but a whole /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
