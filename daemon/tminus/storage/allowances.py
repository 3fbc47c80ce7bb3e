"""What the writer remembers from transaction to transaction, so that it is not counted in each."""

from collections.abc import Callable

from tminus.storage.pins import FreePins

UNCOUNTED = 100
"""Sessions that an agent opens before its open ones are counted again. Each of several daemons on one
database may let it open so many beyond its limit."""


class Allowances:
    """All that is remembered."""

    def __init__(self) -> None:
        self.pins = FreePins()
        self.quotas = Quotas()

    def forget(self) -> None:
        """A transaction was rolled back: what it took is there again."""
        self.pins.forget()
        self.quotas.forget()


class Quotas:
    """How many sessions each agent may open before they have to be counted: to count ten thousand for each new one
    would take longer than to store it.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[int, int], int] = {}
        """By agent and limit: how many more it may open, uncounted."""

    def forget(self) -> None:
        self._left.clear()

    def take(self, agent_id: int, limit: int, count: Callable[[], int]) -> bool:
        """Whether the agent may open one more. `count` counts its open sessions."""
        left = self._left.get((agent_id, limit), 0) or min(UNCOUNTED, max(0, limit - count()))
        self._left[agent_id, limit] = max(0, left - 1)
        return left > 0
