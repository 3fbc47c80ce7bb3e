"""The reports of a store to the daemon that opened it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from tminus.storage.transaction import Transaction


def _ignore(*_report: object) -> None:
    """Ignore a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreObserver:
    """The functions that a store calls, one for each kind of report. They must return quickly and must not write."""

    committed: Callable[[Transaction], None] = _ignore
    """Called with the transaction after each commit, before its answers are sent. On the writer's thread."""
    health: Callable[[str | None], None] = _ignore
    """Called with the reason when writes begin to fail, and with None when they succeed again. On the writer's thread.
    """
    damaged: Callable[[str], None] = _ignore
    """Called with a description when the database's file is found to be damaged: once for the -wal file, and once for
    the database itself. On any thread.
    """
    waiting: Callable[[], None] = _ignore
    """Called when the store waits to upgrade the schema, because another process is upgrading it or uses the tables."""
    peer_committed: Callable[[datetime | None], None] | None = None
    """Called when another daemon on the same PostgreSQL has committed, with the earliest deadline that it set, if any.
    On a separate thread. None: the store does not listen for notifications.
    """
