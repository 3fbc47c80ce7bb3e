"""What the writer keeps in memory between transactions, so that a transaction need not count it in the database."""

from collections.abc import Callable

from tminus.storage.pins import FreePins

UNCOUNTED = 100
"""Sessions that an agent may open before its open sessions are counted again. If several daemons share a database, each
may exceed an agent's limit by so many."""


class Allowances:
    """The free PINs, and the sessions that agents may still open."""

    def __init__(self) -> None:
        self.pins = FreePins()
        self.quotas = Quotas()

    def forget(self) -> None:
        """Discard everything, since a transaction that took some of it was rolled back."""
        self.pins.forget()
        self.quotas.forget()


class Quotas:
    """The sessions that each agent may open before its open sessions have to be counted again.

    Counting ten thousand for each new session would take longer than storing it.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[int, int], int] = {}
        """(agent, limit) -> how many more may be opened without a count."""

    def forget(self) -> None:
        """Count again for the next session of each agent."""
        self._left.clear()

    def take(self, agent_id: int, limit: int, count: Callable[[], int]) -> bool:
        """Take one session from the agent's allowance; return False if it has none left.

        `count`: returns the number of its open sessions.
        """
        left = self._left.get((agent_id, limit), 0) or min(UNCOUNTED, max(0, limit - count()))
        self._left[agent_id, limit] = max(0, left - 1)
        return left > 0
