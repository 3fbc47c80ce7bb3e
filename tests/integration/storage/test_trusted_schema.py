"""No connection to an SQLite file trusts the functions that the file's schema calls."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from tests.support.clocks import SettableClock

from tminus.domain.types import Timeouts
from tminus.storage import Store, checkpoint
from tminus.storage.backup import back_up
from tminus.storage.check import check_database
from tminus.storage.engine import make_engine, open_read_only, read_only_engine
from tminus.storage.restore import restore
from tminus.storage.snapshot import connect_unsynced

NOW = SettableClock().time

Trust = list[tuple[str, int]]
"""The name of the file of each connection that was closed, and whether the connection trusted its schema."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Store(tmp_path / "tminus.db", SettableClock()).close()
    return tmp_path / "tminus.db"


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> Trust:
    """The connections that were closed since the beginning of the test. Each of them trusts its schema at first."""
    closed: Trust = []
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        def __init__(self, database: Any, *arguments: Any, **more: Any) -> None:
            super().__init__(database, *arguments, **more)
            self.name = Path(str(database).partition("?")[0]).name
            super().execute("PRAGMA trusted_schema=ON")  # SQLite may be compiled with another default

        def close(self) -> None:
            closed.append((self.name, super().execute("PRAGMA trusted_schema").fetchone()[0]))
            super().close()

    def watched(*arguments: Any, **more: Any) -> sqlite3.Connection:
        made = connect(*arguments, **{"factory": Watched, **more})
        assert isinstance(made, Watched)
        return made

    monkeypatch.setattr(sqlite3, "connect", watched)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", watched)  # SQLAlchemy's
    return closed


def serve(file: Path) -> None:
    """Do what a daemon does with its database: write, read, and shorten the -wal file."""
    store = Store(file, SettableClock())
    try:
        store.submit(lambda tx: tx.set_meta("a", "b")).result(30)
        assert store.read(lambda view: view.session("nobody")) is None
        assert checkpoint.shorten(file)
    finally:
        store.close()


def back_up_and_restore(file: Path) -> None:
    """Restore a backup over a database that is there."""
    back_up(file, file.with_name("copy.db"), NOW)
    restore(file, file.with_name("copy.db"), NOW)


USES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "a daemon": (serve, 4),
    "the check": (lambda file: check_database(file, Timeouts(), NOW), 1),
    "a backup and a restore": (back_up_and_restore, 8),
    "db compact": (checkpoint.compact, 1),
}
"""What opens an SQLite file, and the number of connections that it opens at least."""


@pytest.mark.parametrize("use", USES)
def test_no_connection_trusts_the_schema_of_its_file(
    file: Path, trust: Trust, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "WAL_KEPT", 0)
    run, least = USES[use]

    run(file)

    on_files = [(name, trusts) for name, trusts in trust if name != ":memory:"]
    assert len(on_files) >= least, on_files
    assert [name for name, trusts in on_files if trusts] == [], on_files


def from_engine(engine: Engine) -> sqlite3.Connection:
    taken = engine.raw_connection()
    connection = taken.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    taken.detach()  # otherwise the pool could close it
    return connection


OPENED: dict[str, Callable[[Path], sqlite3.Connection]] = {
    "the writer": lambda file: from_engine(make_engine(file, writes=True)),
    "a reader": lambda file: from_engine(make_engine(file, writes=False)),
    "the engine of the check": lambda file: from_engine(read_only_engine(file)),
    "a read-only connection": open_read_only,
    "an unsynced connection": connect_unsynced,
}


@pytest.mark.parametrize("opened", OPENED)
def test_a_view_that_calls_an_unsafe_function_is_not_executed(file: Path, opened: str) -> None:
    calls = []
    with closing(sqlite3.connect(file)) as plain:
        plain.execute("PRAGMA trusted_schema=ON")
        plain.create_function("unsafe", 0, lambda: calls.append("plain"))
        plain.execute("CREATE VIEW code AS SELECT unsafe()")
        plain.execute("SELECT * FROM code").fetchall()

    with closing(OPENED[opened](file)) as connection:
        connection.create_function("unsafe", 0, lambda: calls.append(opened))
        connection.execute("SELECT unsafe()").fetchall()
        with pytest.raises(sqlite3.OperationalError, match=r"unsafe use of unsafe\(\)"):
            connection.execute("SELECT * FROM code")

    assert calls == ["plain", opened], "the view called it for the plain connection only"
