"""Files of SQLite shrink again; a snapshot on a read-only disk can be read."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.clocks import NOW, SettableClock
from tests.support.disks import mount, small_disk
from tests.support.factories import put, session

from tminus.domain.errors import CannotCompact, CannotOpenDatabase, StartupError
from tminus.domain.types import Status, Timeouts
from tminus.storage import Store, check, checkpoint, restore
from tminus.storage.retention import remove_closed

MEGABYTE = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "tminus.db", SettableClock())
    yield one
    one.close()


def fill(store: Store, megabytes: int) -> None:
    for number in range(megabytes * 10):
        store.submit(lambda tx, number=number: tx.set_meta(f"fill {number}", "x" * 100_000)).result(30)  # type: ignore[misc]


def test_the_wal_file_shrinks_when_no_reader_needs_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "WAL_KEPT", MEGABYTE)
    wal = tmp_path / "tminus.db-wal"
    with closing(sqlite3.connect(tmp_path / "tminus.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM meta").fetchone()
        fill(store, 8)
        grown = wal.stat().st_size
        assert grown > 8 * MEGABYTE
        assert not checkpoint.shorten(tmp_path / "tminus.db")
        fill(store, 1)  # writes do not wait for the reader
        assert wal.stat().st_size >= grown
        reader.execute("ROLLBACK")
        assert checkpoint.shorten(tmp_path / "tminus.db")
    assert wal.stat().st_size == 0
    fill(store, 1)
    assert store.read(lambda view: view.meta("fill 0")) == "x" * 100_000
    assert not checkpoint.shorten(tmp_path / "other.db")


def test_compact_returns_the_space_of_removed_rows(tmp_path: Path) -> None:
    path = tmp_path / "tminus.db"
    store = Store(path, SettableClock())
    closed = [session(id=f"s{n}", label="x" * 5000, status=Status.CLOSED, closed_at=NOW) for n in range(500)]
    store.submit(lambda tx: put(tx, *closed)).result(30)
    store.submit(lambda tx: tx.set_meta("kept", "yes")).result(30)
    while store.submit(lambda tx: remove_closed(tx, tx.now + timedelta(days=1), 400)).result(30).more:
        pass
    store.close()
    _, before, after = checkpoint.compact(path)
    assert (before > 2 * MEGABYTE, after < MEGABYTE / 2) == (True, True)
    assert path.stat().st_size == after
    store = Store(path, SettableClock())
    assert store.read(lambda view: view.meta("kept")) == "yes"
    store.close()


def test_a_database_that_cannot_be_compacted_is_reported() -> None:
    with pytest.raises(CannotCompact, match="VACUUM"):
        checkpoint.compact("postgresql+psycopg://tminus@db.example/tminus")
    with pytest.raises(CannotOpenDatabase, match="there is no such file"):
        checkpoint.compact(Path("/nowhere/tminus.db"))


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[Path]:
    """A daemon's database on a separate disk, which the test makes read-only."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        store = Store(disk / "tminus.db", SettableClock())
        store.submit(lambda tx: put(tx, session())).result(30)
        shutil.copyfile(disk / "tminus.db-wal", tmp_path / "wal")
        store.close()
        yield disk / "tminus.db"


def test_a_snapshot_on_a_read_only_disk_can_be_checked_and_restored(snapshot: Path, tmp_path: Path) -> None:
    mount("-o", "remount,ro", snapshot.parent)
    found = check.check_database(snapshot, Timeouts(), NOW)
    assert (found.sessions, [one.check for one in found.problems]) == (1, ["deadline", "events"])  # by `put`
    restored = restore.restore(tmp_path / "restored.db", snapshot, NOW)
    assert restored.contents.sessions == 1


def test_the_error_about_a_read_only_snapshot_with_a_wal_file_contains_what_to_do(
    snapshot: Path, tmp_path: Path
) -> None:
    shutil.copyfile(tmp_path / "wal", f"{snapshot}-wal")
    mount("-o", "remount,ro", snapshot.parent)
    with pytest.raises(CannotOpenDatabase, match="copy both files to another disk first"):
        check.check_database(snapshot, Timeouts(), NOW)
    with pytest.raises(StartupError, match="copy both files to another disk first"):
        restore.restore(tmp_path / "restored.db", snapshot, NOW)
