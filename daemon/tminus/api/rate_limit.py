"""Limit how often one address may send wrong tokens, PINs and session ids."""

import ipaddress
from collections import OrderedDict, deque
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Failures:
    """What is stored about one address."""

    times: deque[float]
    """Times of the latest failures since the last pause."""
    pending: int = 0
    """Number of attempts whose result is not known yet."""
    paused_until: float = 0.0
    pause: float = 0.0
    """Seconds of the next pause."""
    last: float = field(default_factory=clock.monotonic)
    """Time of the latest attempt."""


class GrowingPause:
    """Make an address wait after too many failures in a window, each time for twice as long. None: no limit.

    The first pause is as long as the window, the longest one `LONGEST` times as long. An address that has not failed
    for twice the longest pause begins again. Attempts that succeed do not count.

    An attempt is counted before its result is known, so that parallel attempts cannot exceed the limit: each `begin`
    that returned None needs an `end`.
    """

    LONGEST = 15

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._addresses: OrderedDict[str, _Failures] = OrderedDict()
        """Failures by address, ordered by the last attempt."""

    def begin(self, address: str) -> float | None:
        """Begin an attempt; return None if it may be made now, else the seconds until the next one, at least 1."""
        if self._rate is None:
            return None
        network, now = _network(address), clock.monotonic()
        found = self._addresses.get(network)
        if found is None:
            found = self._addresses[network] = _Failures(deque(maxlen=self._rate.count), pause=self._rate.seconds)
        if now < found.paused_until:
            return max(1.0, found.paused_until - now)
        while found.times and found.times[0] + self._rate.seconds <= now:
            found.times.popleft()
        if len(found.times) + found.pending >= self._rate.count:
            return 1.0  # until the results of the attempts in progress are known
        found.pending += 1
        found.last = now
        self._addresses.move_to_end(network)
        self._forget(now)
        return None

    def end(self, address: str, *, failed: bool) -> None:
        """End an attempt, and count it if it failed."""
        found = self._addresses.get(_network(address))
        if self._rate is None or found is None:
            return
        found.pending = max(0, found.pending - 1)
        if not failed:
            return
        now = clock.monotonic()
        found.times.append(now)
        if len(found.times) == self._rate.count and found.times[0] + self._rate.seconds > now:
            found.times.clear()
            found.paused_until = now + found.pause
            found.pause = min(2 * found.pause, self.LONGEST * self._rate.seconds)

    def _forget(self, now: float) -> None:
        """Remove addresses that have not tried for long, and the oldest ones if there are too many."""
        assert self._rate is not None, "the caller has checked it"
        old = now - 2 * self.LONGEST * self._rate.seconds
        while len(self._addresses) > MAX_ADDRESSES or next(iter(self._addresses.values())).last <= old:
            self._addresses.popitem(last=False)


def _network(address: str) -> str:
    """Return the unit that one client controls: an IPv4 address, or a /64 network of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
