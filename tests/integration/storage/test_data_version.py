"""The number by which a daemon notices that an SQLite database has changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.databases import Database

from tminus.storage.data_version import DataVersion


def test_the_number_changes_with_each_commit_and_not_without(database: Database) -> None:
    store = database.open()
    before = store.version()
    if database.kind == "postgresql":
        assert before is None
        return
    assert store.version() == before
    for value in ("one", "two"):
        store.submit(lambda tx: tx.set_meta("a test", value)).result(30)  # noqa: B023 - it has run before the next
        assert store.version() not in (before, None)
        before = store.version()


def test_a_commit_of_another_process_counts_and_a_rollback_does_not(tmp_path: Path) -> None:
    file = tmp_path / "some.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE numbers (number)")
        version = DataVersion(file)
        first = version.read()
        other.execute("BEGIN")
        other.execute("INSERT INTO numbers VALUES (1)")
        assert version.read() == first
        other.execute("ROLLBACK")
        assert version.read() == first
        other.execute("INSERT INTO numbers VALUES (1)")
        assert version.read() not in (first, None)
        version.close()


def test_without_a_database_the_number_is_unknown(tmp_path: Path) -> None:
    assert DataVersion(tmp_path / "none.db").read() is None


def test_no_lock_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "locked.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE numbers (number)")
        version = DataVersion(file)
        assert version.read() is None
        version.close()
