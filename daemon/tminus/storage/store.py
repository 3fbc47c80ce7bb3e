"""The door to the database: `read` on any thread, `write` through the one writer."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tminus import clock
from tminus.errors import StartupError, StoreUnavailable
from tminus.storage import migrate
from tminus.storage.engine import is_unavailable, make_engine, plain_url, startup_error
from tminus.storage.peers import Heard, Holds, Notices
from tminus.storage.transaction import Transaction
from tminus.storage.view import View
from tminus.storage.writer import Writer
from tminus.vocabulary import Status

T = TypeVar("T")

STUCK = 10.0
"""Seconds that no transaction takes: SQLite gives up waiting for others after half of it."""

QUICK = 0.05
"""Seconds that counting may take to be done whenever somebody asks."""


class Store:
    """A database that has been brought up to date, with its writer running.

    Parameters
    ----------
    url, password
        A SQLAlchemy URL of SQLite or PostgreSQL; the password is kept apart so that no message shows it.
    now
        The clock; asked once a transaction.
    heard
        Called on a thread of its own when another daemon has committed, with the earliest deadline that it set.
    committed, health
        Called on the writer's thread after each commit; and when writing begins to fail (why), or works again (None).

    Raises `CannotOpenDatabase`, `DatabaseCorrupt`, `DatabaseTooNew`.
    """

    def __init__(
        self,
        url: str,
        now: Callable[[], datetime],
        committed: Callable[[Transaction], None] = lambda _tx: None,
        health: Callable[[str | None], None] = lambda _failing: None,
        heard: Heard | None = None,
        *,
        password: str | None = None,
    ) -> None:
        self._counting = threading.Lock()
        self._counts: dict[Status, int] = {}
        self._counted_at = -1, 0.0
        """The newest event that the counts know of, and when they may be reckoned anew."""
        self._writing = make_engine(url, password, writes=True)
        self._reading = make_engine(url, password, writes=False)
        try:
            self.migrated_from, self.schema = migrate.upgrade(self._writing)
            self.database_id = self.read(lambda view: view.meta("database_id")) or ""
        except (StartupError, StoreUnavailable, SQLAlchemyError) as error:
            self._dispose()
            if isinstance(error, StartupError):
                raise
            raise startup_error(url, error.__cause__ or error) from error
        self._notices = None
        if heard is not None and self._writing.dialect.name == "postgresql":
            self._notices = Notices(plain_url(self._writing), heard)
            self._notices.start()
        self._holds = Holds(make_engine(url, password, writes=True))
        self.hold = self._holds.hold
        self.release = self._holds.release
        self._writer = Writer(self._writing, now, committed, health, self._notices.say if self._notices else None)
        self._writer.start()
        self.submit = self._writer.submit
        self.write = self._writer.write

    @property
    def failing(self) -> str | None:
        """Why the last write failed, None if it did not."""
        return self._writer.failing

    @property
    def stuck(self) -> bool:
        """Whether a transaction has been on its way for so long that the database does not answer any more."""
        return self._writer.writing_for > STUCK

    def read(self, look: Callable[[View], T]) -> T:
        """Runs `look` on one consistent view, in the calling thread. Raises `StoreUnavailable`."""
        try:
            with self._reading.connect() as connection, connection.begin():
                return look(View(connection))
        except SQLAlchemyError as error:
            if not is_unavailable(error):
                raise
            raise StoreUnavailable from error

    def counts(self) -> dict[Status, int]:
        """Open sessions per status. Raises `StoreUnavailable`.

        Of a million this takes a tenth of a second. So it is reckoned anew only when something has happened, and, where
        it takes long, for no more than a hundredth of the time: the answer is then as old as that.
        """
        with self._counting:
            begun = clock.monotonic()
            seq = self.read(lambda view: view.last_seq())
            if seq != self._counted_at[0] and begun >= self._counted_at[1]:
                self._counts = self.read(lambda view: view.counts())
                took = clock.monotonic() - begun
                self._counted_at = seq, begun + (took * 100 if took > QUICK else 0)
            return dict(self._counts)

    def close(self) -> None:
        """Finishes what waits, then closes every connection."""
        self._writer.stop()
        if self._notices is not None:
            self._notices.stop()
        self._holds.close()
        self._dispose()

    def _dispose(self) -> None:
        self._writing.dispose()
        self._reading.dispose()
