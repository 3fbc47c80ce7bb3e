"""Find out whether an SQLite database has changed."""

import sqlite3
from pathlib import Path

from tminus.storage.engine import harden


class DataVersion:
    """SQLite's number of the state of a database, on a connection of its own. Used by one thread at a time.

    SQLite looks in memory that all processes share, so a change by `tminus advance` counts too. After a commit it also
    reads the first page of the file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._connection: sqlite3.Connection | None = None

    def read(self) -> int | None:
        """Return the number, which SQLite changes at each commit of another connection. None if it is unknown."""
        try:
            if self._connection is None:
                self._connection = _open(self._file)
            # All rows are read, because a statement that has not ended would keep the connection at an old state.
            [(version,)] = self._connection.execute("PRAGMA data_version")
        except sqlite3.Error:  # the next read reports it
            return None
        return int(version)

    def close(self) -> None:
        """Close the connection. The next `read` would open another one, with other numbers."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _open(file: Path) -> sqlite3.Connection:
    """Return a connection that waits for no lock, because the event loop uses it."""
    location = f"{file.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(location, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
    harden(connection)
    return connection
