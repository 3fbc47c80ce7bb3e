"""What a store reports to the daemon that opened it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tminus.storage.transaction import Transaction


def _ignore(*_report: object) -> None:
    """Do nothing: this report is not needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreObserver:
    """The functions that a store calls, one for each kind of report. They must return quickly and must not write."""

    committed: Callable[[Transaction], None] = _ignore
    """Called after each commit and before its answers go out, with the transaction. On the writer's thread."""
    health: Callable[[str | None], None] = _ignore
    """Called when writes begin to fail, with the reason, and when they succeed again, with None. On the writer's
    thread.
    """
    damaged: Callable[[str], None] = _ignore
    """Called when the database's file turns out to be damaged, with what was found: once; but if the -wal file is
    damaged, too, once before that. On any thread.
    """
    waiting: Callable[[], None] = _ignore
    """Called when the store has to wait to upgrade the schema: another process does it, or uses the tables."""
    peer_committed: Callable[[datetime | None], None] | None = None
    """Called when another daemon on the same PostgreSQL has committed, with the earliest deadline that it set, if any.
    On a thread of its own. None: the store does not listen for that.
    """
