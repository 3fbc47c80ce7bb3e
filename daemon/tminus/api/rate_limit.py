"""Limit how often one address may send wrong tokens, PINs and session ids.

An IPv6 address counts in several networks (`domain.networks`): otherwise somebody with many networks would have the
limit once for each of them.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from tminus import clock
from tminus.config import Rate
from tminus.domain.networks import counted_networks

MAX_NETWORKS = 10_000
"""Maximum number of networks in memory; beyond it, those with the oldest attempts are removed."""


class RateLimiter:
    """Count attempts per address in a sliding window. With a rate of None there is no limit.

    The window uses monotonic time: a wall clock that is set back must not extend a lockout. No library is used, since
    the common ones keep every address for ever and use the wall clock.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        """Times of the latest attempts by network, ordered by the last attempt."""

    def retry_after(self, address: str) -> float | None:
        """Return the seconds until the address may try again, at least 1; None if it may try now."""
        if self._rate is None:
            return None
        longest = 0.0
        for network, factor in counted_networks(address):
            attempts = self._attempts.get(network)
            if attempts is not None and len(attempts) >= self._rate.count * factor:
                longest = max(longest, attempts[0] + self._rate.seconds - clock.monotonic())
        return max(1.0, longest) if longest > 0 else None

    def count(self, address: str) -> None:
        """Count an attempt."""
        if self._rate is None:
            return
        now = clock.monotonic()
        for network, factor in counted_networks(address):
            attempts = self._attempts.setdefault(network, deque(maxlen=self._rate.count * factor))
            attempts.append(now)
            self._attempts.move_to_end(network)
        while len(self._attempts) > MAX_NETWORKS or next(iter(self._attempts.values()))[-1] + self._rate.seconds <= now:
            self._attempts.popitem(last=False)


@dataclass(slots=True)
class _Failures:
    """What is stored about one network."""

    times: deque[float]
    """Times of the latest failures since the last pause. When the deque is full, the network has to wait."""
    pause: float
    """Seconds of the next pause."""
    failed_at: float = 0.0
    """Time of the latest failure."""
    pending: int = 0
    """Number of attempts whose result is not known yet."""
    paused_until: float = 0.0
    last: float = field(default_factory=clock.monotonic)
    """Time of the latest attempt."""

    def wait(self, seconds: float, now: float) -> float:
        """Return the seconds until the next attempt; 0 if it may be made now. `seconds`: length of the window."""
        if now < self.paused_until:
            return max(1.0, self.paused_until - now)
        while self.times and self.times[0] + seconds <= now:
            self.times.popleft()
        # One second: until the results of the attempts in progress are known.
        return 1.0 if len(self.times) + self.pending >= (self.times.maxlen or 0) else 0.0

    def fail(self, seconds: float, now: float, longest: float) -> None:
        """Count a failure; begin a pause if it is one too many. The first pause after a long time is short again."""
        if now - self.failed_at >= 2 * longest:
            self.pause = seconds
        self.failed_at = now
        self.times.append(now)
        if len(self.times) == self.times.maxlen and self.times[0] + seconds > now:
            self.times.clear()
            self.paused_until = now + self.pause
            self.pause = min(2 * self.pause, longest)


class GrowingPause:
    """Make an address wait after too many failures in a window, each time for twice as long.

    With a rate of None there is no limit. The first pause is as long as the window, the longest one `LONGEST` times as
    long. An address that has not failed for twice the longest pause begins again. Attempts that succeed do not count.

    An attempt is counted before its result is known, so that parallel attempts cannot exceed the limit: each `begin`
    that returned None needs an `end`.
    """

    LONGEST = 15

    def __init__(self, rate: Rate | None) -> None:
        self._rate = rate
        self._networks: OrderedDict[str, _Failures] = OrderedDict()
        """Failures by network, ordered by the last attempt."""

    def begin(self, address: str) -> float | None:
        """Begin an attempt; return None if it may be made now, else the seconds until the next one, at least 1."""
        if self._rate is None:
            return None
        now, counted = clock.monotonic(), counted_networks(address)
        known = [self._networks[network] for network, _ in counted if network in self._networks]
        wait = max((one.wait(self._rate.seconds, now) for one in known), default=0.0)
        if wait:
            return wait
        for network, factor in counted:
            found = self._networks.get(network)
            if found is None:
                failures: deque[float] = deque(maxlen=self._rate.count * factor)
                found = self._networks[network] = _Failures(failures, self._rate.seconds)
            found.pending += 1
            found.last = now
            self._networks.move_to_end(network)
        self._forget(now)
        return None

    def end(self, address: str, *, failed: bool) -> None:
        """End an attempt, and count it if it failed."""
        if self._rate is None:
            return
        now, longest = clock.monotonic(), self.LONGEST * self._rate.seconds
        for network, _ in counted_networks(address):
            found = self._networks.get(network)
            if found is not None:
                found.pending = max(0, found.pending - 1)
                if failed:
                    found.fail(self._rate.seconds, now, longest)

    def _forget(self, now: float) -> None:
        """Remove networks that have not tried for long, and the oldest ones if there are too many."""
        assert self._rate is not None, "the caller has checked it"
        old = now - 2 * self.LONGEST * self._rate.seconds
        while len(self._networks) > MAX_NETWORKS or next(iter(self._networks.values())).last <= old:
            self._networks.popitem(last=False)
