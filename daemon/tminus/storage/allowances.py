"""What the writer keeps in memory between transactions: counts, so that none has to count in the database, and random
characters.
"""

from collections.abc import Callable

from tminus.domain.ids import SharedPrefix, Supply
from tminus.storage.pins import FreePins

UNCOUNTED = 100
"""Maximum number of sessions that an agent may open before its open sessions are counted again. If several daemons
share a database, each may exceed an agent's limit by this number.
"""

RANDOM = 8192
"""Random characters that are drawn at a time, for about a hundred sessions."""


class Allowances:
    """The free PINs, the sessions that agents may still open, and random characters for ids and secrets."""

    def __init__(self) -> None:
        self.id_prefix = SharedPrefix()
        self.random_texts = Supply(RANDOM).texts
        self.pins = FreePins()
        self.quotas = Quotas()

    def forget(self) -> None:
        """Discard all counts, because a transaction that changed them was rolled back."""
        self.pins.forget()
        self.quotas.forget()


class Quotas:
    """The number of sessions that each agent may open before its open sessions have to be counted again.

    Counting ten thousand sessions for each new one would take longer than storing it.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[int, int], int] = {}
        """(agent, limit) -> number of sessions that may be opened without a count."""

    def forget(self) -> None:
        """Discard all counts, so that the next session of each agent causes a new one."""
        self._left.clear()

    def take(self, agent_id: int, limit: int, count: Callable[[], int], number: int = 1) -> bool:
        """Return whether the agent may open `number` more sessions; if so, subtract them from the agent's allowance.

        `limit`: the agent's maximum number of open sessions. `count`: returns their present number.
        """
        left = self._left.get((agent_id, limit), 0)
        if left < number:
            free = max(0, limit - count())
            left = number + min(UNCOUNTED, free - number) if free >= number > 1 else min(UNCOUNTED, free)
        self._left[agent_id, limit] = max(0, left - number)
        return left >= number
