"""Damage of a -wal file is reported; an incomplete write after a crash is not."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tminus.storage import wal

PAGE, HEADER, FRAME = 4096, 32, 24
STEP = FRAME + PAGE
ROWS = 20


@dataclass
class Left:
    """The database of a killed daemon: all rows are in its -wal file."""

    folder: Path
    wal: bytes

    @property
    def frames(self) -> int:
        return (len(self.wal) - HEADER) // STEP

    def with_wal(self, content: bytes) -> Path:
        database = self.folder / "copy.db"
        for old in self.folder.glob("copy.db*"):
            old.unlink()
        shutil.copy(self.folder / "left.db", database)
        self.folder.joinpath("copy.db-wal").write_bytes(content)
        return database

    def spoilt(self, at: int) -> Path:
        content = bytearray(self.wal)
        content[at] ^= 0xFF
        return self.with_wal(bytes(content))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("wal")
    with closing(sqlite3.connect(folder / "left.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        for number in range(ROWS):
            connection.execute("INSERT INTO t (x) VALUES (?)", (str(number) * 3000,))
        return Left(folder, folder.joinpath("left.db-wal").read_bytes())


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        number: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        return number


def test_a_complete_incomplete_or_missing_wal_file_is_not_reported_as_damage(left: Left) -> None:
    assert wal.damage(left.with_wal(left.wal)) is None
    assert wal.damage(left.with_wal(b"")) is None
    assert wal.damage(left.folder / "nowhere.db") is None
    for cut in (1, STEP, 5 * STEP + 1000):
        database = left.with_wal(left.wal[:-cut])
        assert wal.damage(database) is None
        assert 0 < rows(database) < ROWS, "but SQLite has dropped what was cut"


@pytest.mark.parametrize("at", [0, 4, 9, 20, 24, FRAME, FRAME + 2000])
def test_a_changed_byte_in_committed_transactions_is_reported(left: Left, at: int) -> None:
    for frame in range(0, left.frames - 4, 7):
        said = wal.damage(left.spoilt(HEADER + frame * STEP + at))
        assert said is not None, frame
        assert f"{left.folder}/copy.db-wal is damaged after frame " in said
        assert int(said.partition("after frame ")[2].partition(":")[0]) <= frame


@pytest.mark.parametrize("at", [0, 9, 17, 30])
def test_a_damaged_header_is_reported(left: Left, at: int) -> None:
    assert "after frame 0" in (wal.damage(left.spoilt(at)) or "")


def test_damage_in_the_last_transaction_looks_like_an_incomplete_write(left: Left) -> None:
    assert wal.damage(left.spoilt(len(left.wal) - 100)) is None


def test_a_refused_commit_whose_fsync_failed_is_not_reported_as_lost(left: Left) -> None:
    """SQLite leaves the refused commit in the file and overwrites it later; the rest after the new end is not used."""
    last = left.wal[-STEP:]
    head = last[:16] + b"\x01" * 8
    database = left.with_wal(left.wal + head + last[FRAME:] + last)
    assert wal.damage(database) is None
    assert rows(database) == ROWS


def test_concurrent_writes_and_restarts_of_the_wal_file_are_not_reported_as_damage(tmp_path: Path) -> None:
    database = tmp_path / "live.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA wal_autocheckpoint=10")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        for number in range(40):
            connection.execute("INSERT INTO t (x) VALUES (?)", (str(number) * 3000,))
            assert wal.damage(database) is None
