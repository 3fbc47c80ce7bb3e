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
class KilledDaemon:
    """The database of a killed daemon, whose -wal file has all rows."""

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

    def with_damage(self, at: int) -> Path:
        content = bytearray(self.wal)
        content[at] ^= 0xFF
        return self.with_wal(bytes(content))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KilledDaemon:
    folder = tmp_path_factory.mktemp("wal")
    with closing(sqlite3.connect(folder / "left.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        for number in range(ROWS):
            connection.execute("INSERT INTO t (x) VALUES (?)", (str(number) * 3000,))
        return KilledDaemon(folder, folder.joinpath("left.db-wal").read_bytes())


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        number: int = connection.execute("SELECT count(*) FROM t").fetchone()[0]
        return number


def test_a_complete_incomplete_or_missing_wal_file_is_not_reported_as_damage(killed: KilledDaemon) -> None:
    assert wal.damage(killed.with_wal(killed.wal)) is None
    assert wal.damage(killed.with_wal(b"")) is None
    assert wal.damage(killed.folder / "nowhere.db") is None
    for cut in (1, STEP, 5 * STEP + 1000):
        database = killed.with_wal(killed.wal[:-cut])
        assert wal.damage(database) is None
        assert 0 < rows(database) < ROWS, "SQLite ignores the incomplete transaction"


@pytest.mark.parametrize("at", [0, 4, 9, 20, 24, FRAME, FRAME + 2000])
def test_a_changed_byte_in_committed_transactions_is_reported(killed: KilledDaemon, at: int) -> None:
    for frame in range(0, killed.frames - 4, 7):
        message = wal.damage(killed.with_damage(HEADER + frame * STEP + at))
        assert message is not None, frame
        assert f"{killed.folder}/copy.db-wal is damaged after frame " in message
        assert int(message.partition("after frame ")[2].partition(":")[0]) <= frame


@pytest.mark.parametrize("at", [0, 9, 17, 30])
def test_a_damaged_header_is_reported(killed: KilledDaemon, at: int) -> None:
    assert "after frame 0" in (wal.damage(killed.with_damage(at)) or "")


def test_damage_in_the_last_transaction_looks_like_an_incomplete_write(killed: KilledDaemon) -> None:
    assert wal.damage(killed.with_damage(len(killed.wal) - 100)) is None


def test_a_refused_commit_whose_fsync_failed_is_not_reported_as_lost(killed: KilledDaemon) -> None:
    """SQLite leaves the refused commit in the file and overwrites it later; the rest after the new end is not used."""
    last = killed.wal[-STEP:]
    head = last[:16] + b"\x01" * 8
    database = killed.with_wal(killed.wal + head + last[FRAME:] + last)
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
