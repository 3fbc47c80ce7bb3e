"""How often one address may try what can be guessed."""

import ipaddress

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from tminus import clock
from tminus.config import Rate


class Attempts:
    """Counts attempts per address over a sliding window. A rate of None counts nothing and refuses nothing."""

    def __init__(self, rate: Rate | None) -> None:
        self._item = RateLimitItemPerSecond(rate.count, rate.seconds) if rate else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def exhausted(self, address: str) -> float | None:
        """Seconds until the address may try again; None if it may now."""
        if self._item is None or self._limiter.test(self._item, _network(address)):
            return None
        again = self._limiter.get_window_stats(self._item, _network(address)).reset_time
        return max(1.0, again - clock.now().timestamp())

    def count(self, address: str) -> None:
        """Counts an attempt."""
        if self._item is not None:
            self._limiter.hit(self._item, _network(address))


def _network(address: str) -> str:
    """What one guesser has at hand: an IPv4 address, but a whole /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
