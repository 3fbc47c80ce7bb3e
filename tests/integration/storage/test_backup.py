"""Backup and restore of an SQLite database."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.clocks import NOW, SettableClock
from tests.support.disks import small_disk
from tests.support.factories import session
from tests.support.worlds import World

from tminus.domain.errors import CannotBackUp, CannotOpenDatabase, CannotRestore, DatabaseCorrupt, DatabaseTooNew
from tminus.domain.types import Timeouts
from tminus.storage import Store, migrate, snapshot
from tminus.storage.backup import back_up
from tminus.storage.check import check_database
from tminus.storage.engine import make_engine
from tminus.storage.partial_file import partial_file
from tminus.storage.restore import restore


class Env:
    """A database with a store, and a directory for its backups."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tminus.db"
        self.url = f"sqlite:///{self.path}"
        self.copies = folder / "copies"
        self.copies.mkdir()
        self.copy = self.copies / "copy.db"
        self.clock = SettableClock()
        self.world = World(Store(self.url, self.clock), self.clock)

    def reopened(self) -> World:
        """Close the world, and return a new one on the current database."""
        self.world.store.close()
        self.world = World(Store(self.url, self.clock), self.clock)
        return self.world


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    one = Env(tmp_path)
    yield one
    one.world.store.close()


def sql(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def test_a_backup_contains_every_commit_and_reports_its_contents(env: Env) -> None:
    env.world.join(env.world.create())

    made = back_up(env.url, env.copy, NOW)

    assert made.path == env.copy
    assert (made.contents.sessions, made.contents.events, made.contents.last_seq) == (1, 3, 3)
    assert made.contents.size == env.copy.stat().st_size
    assert env.copy.stat().st_mode & 0o777 == 0o600
    assert os.listdir(env.copies) == ["copy.db"], "the backup is a single file"
    assert sql(env.copy, "PRAGMA journal_mode") == [("delete",)]
    found = check_database(f"sqlite:///{env.copy}", Timeouts(), NOW)
    assert (found.problems, found.sessions, found.last_seq) == ((), 1, 3)


def test_a_backup_is_a_snapshot_although_data_are_written_meanwhile(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit follows each step of one page: a backup that restarted each time would never end."""
    monkeypatch.setattr(snapshot, "PAGES", 1)
    world = env.world
    world.put(*(session(id=f"before{number}", label="x" * 255) for number in range(200)))
    written: list[str] = []

    class Slow(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, **options: Any) -> None:
            def commit(*_: int) -> None:
                written.append(world.create().id)
                assert len(written) < 1000, "the backup restarts after each commit"

            super().backup(target, progress=commit, **options)

    def open_slowly(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, factory=Slow)
        connection.isolation_level = None
        return connection

    monkeypatch.setattr(snapshot, "open_read_only", open_slowly)

    made = back_up(env.url, env.copy, NOW)

    assert len(written) > 20
    assert made.contents.sessions == 200
    assert sql(env.copy, "SELECT count(*) FROM session WHERE id LIKE 'before%'") == [(200,)]


def test_an_existing_file_is_overwritten_only_with_force(env: Env) -> None:
    env.copy.write_bytes(b"precious")

    with pytest.raises(CannotBackUp, match="exists already: name another file, or overwrite it with --force"):
        back_up(env.url, env.copy, NOW)
    assert env.copy.read_bytes() == b"precious"

    assert back_up(env.url, env.copy, NOW, force=True).contents.size == env.copy.stat().st_size


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("tminus.db", "is the database itself"),
        ("pipe", "is not a regular file, so it cannot be overwritten"),
        ("nowhere/copy.db", "there is no such directory"),
        ("tminus.db/copy.db", "there is no such directory"),
    ],
)
def test_an_unsuitable_target_is_refused_even_with_force(env: Env, target: str, problem: str) -> None:
    os.mkfifo(env.path.parent / "pipe")

    with pytest.raises(CannotBackUp, match=problem):
        back_up(env.url, env.path.parent / target, NOW, force=True)

    assert env.reopened().store.failing is None


def test_backups_in_a_directory_are_named_by_date_and_the_oldest_are_removed(env: Env) -> None:
    others = [env.copies / name for name in ("tminus-old.db", "mine.db", "tminus-20200101T000000Z.db.txt")]
    for other in others:
        other.touch()
    made = [back_up(env.url, env.copies, NOW + timedelta(days=day)).path for day in range(3)]
    assert made[0].name == "tminus-20300107T090000Z.db"

    last = back_up(env.url, env.copies, NOW + timedelta(days=3), keep=2)

    assert last.removed == (made[0], made[1])
    assert set(env.copies.iterdir()) == {*others, made[2], last.path}


def test_backups_of_one_second_are_numbered_and_the_oldest_are_removed(env: Env) -> None:
    made = [back_up(env.url, env.copies, NOW).path for _ in range(11)]
    assert [path.name for path in made[:2]] == ["tminus-20300107T090000Z.db", "tminus-20300107T090000Z-2.db"]

    last = back_up(env.url, env.copies, NOW, keep=3)

    assert last.removed == tuple(made[:9])
    assert set(env.copies.iterdir()) == {*made[9:], last.path}


def test_a_failed_backup_leaves_no_file_and_removes_no_old_backup(env: Env) -> None:
    good = back_up(env.url, env.copies, NOW).path
    for _ in range(40):
        env.world.create()
    env.world.store.close()
    content = bytearray(env.path.read_bytes())
    root = sql(env.path, "SELECT rootpage FROM sqlite_master WHERE name = 'session'")[0][0]
    content[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    env.path.write_bytes(content)

    with pytest.raises(DatabaseCorrupt, match=r"tminus\.db: the file is damaged \(malformed.*tminus db check"):
        back_up(env.url, env.copies, NOW + timedelta(days=1), keep=1)

    assert list(env.copies.iterdir()) == [good]
    env.world = World(Store(f"{env.url}.other", env.clock), env.clock)


def test_a_partial_file_of_a_killed_process_is_removed_and_one_in_progress_is_not(env: Env) -> None:
    left = env.copies / ".tminus-abc.half"
    left.touch()
    with partial_file(env.copies / "other.db") as others:
        back_up(env.url, env.copy, NOW)
        assert others.exists()

    assert os.listdir(env.copies) == ["copy.db"]


def test_a_full_disk_is_reported(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports a full disk if a file reaches its maximum number of pages."""
    connect = snapshot.connect_unsynced

    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count=5")
        return connection

    monkeypatch.setattr(snapshot, "connect_unsynced", small)

    with pytest.raises(CannotBackUp, match="cannot be written \\(the disk is full\\)") as refused:
        back_up(env.url, env.copy, NOW)
    assert refused.value.subject == str(env.copy), "the message names the file that could not be written"
    assert os.listdir(env.copies) == []


@pytest.mark.parametrize("free", [-80_000, 8_192, 20_480], ids=["copy", "use of a -wal", "upgrade"])
def test_a_restore_to_a_full_disk_is_reported_and_leaves_nothing(env: Env, tmp_path: Path, free: int) -> None:
    """`free`: what the disk has more than the size of the backup; with a few pages the copy fits, the rest does not."""
    size = back_up(env.url, env.copy, NOW).contents.size

    with small_disk(tmp_path / "disk", str(size + free)) as disk:
        with pytest.raises(CannotRestore, match=r"cannot be written \(.*disk") as refused:
            restore(f"sqlite:///{disk}/tminus.db", env.copy, NOW)
        assert refused.value.subject == str(disk / "tminus.db")
        assert os.listdir(disk) == []


def test_a_backup_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotOpenDatabase, match="there is nothing to back up"):
        back_up(f"sqlite:///{tmp_path}/none.db", tmp_path / "copy.db", NOW)
    assert os.listdir(tmp_path) == []


def test_a_backup_of_postgresql_is_refused_with_the_name_of_its_tool(tmp_path: Path) -> None:
    with pytest.raises(CannotBackUp, match="pg_dump"):
        back_up("postgresql+psycopg://db/tminus", tmp_path / "copy.db", NOW)
    with pytest.raises(CannotRestore, match="pg_restore"):
        restore("postgresql+psycopg://db/tminus", tmp_path / "copy.db", NOW)


# --- restore ----------------------------------------------------------------------------------------------------------


def test_a_restore_replaces_the_database_and_keeps_the_old_one_beside_it(env: Env) -> None:
    kept = env.world.create()
    back_up(env.url, env.copy, NOW)
    lost = env.world.create()
    env.world.store.close()

    done = restore(env.url, env.copy, NOW)

    assert (done.path, done.contents.sessions) == (env.path, 1)
    assert done.moved_to == env.path.with_name("tminus.db.20300107T090000Z")
    assert env.path.stat().st_mode & 0o777 == 0o600
    assert sql(done.moved_to, "SELECT count(*) FROM session") == [(2,)]
    world = env.reopened()
    assert world.stored(kept) == kept
    assert lost.id not in world.all_sessions()
    assert env.copy.exists()


def test_a_restored_database_has_a_new_id_and_reuses_no_event_number(env: Env) -> None:
    """Events after the backup had numbers and ids; no other event may have the same ones."""
    env.world.create()
    back_up(env.url, env.copy, NOW)
    env.world.create()
    before = env.world.store.database_id
    highest = env.world.events()[-1].event.seq
    env.world.store.close()

    done = restore(env.url, env.copy, NOW)

    world = env.reopened()
    assert world.store.database_id == done.database_id != before
    world.create()
    assert world.events()[-1].event.seq == highest + 1
    assert restore_id(env) != done.database_id, "each restore creates another id"


def restore_id(env: Env) -> str:
    env.world.store.close()
    return restore(env.url, env.copy, NOW + timedelta(seconds=1)).database_id


def test_a_backup_can_be_restored_without_an_old_database(env: Env, tmp_path: Path) -> None:
    made = env.world.create()
    back_up(env.url, env.copy, NOW)
    new = tmp_path / "new"
    new.mkdir()

    done = restore(f"sqlite:///{new}/tminus.db", env.copy, NOW)

    assert done.moved_to is None
    assert os.listdir(new) == ["tminus.db"]
    store = Store(f"sqlite:///{new}/tminus.db", env.clock)
    assert World(store, env.clock).stored(made) == made
    store.close()


@pytest.mark.parametrize("is_there", [True, False], ids=["in its place", "moved away by hand"])
def test_a_pending_rollback_is_applied_only_to_the_replaced_database(env: Env, is_there: bool) -> None:
    """SQLite writes a -journal while the journal mode changes, such as at the first start after a restore."""
    env.world.create()
    back_up(env.url, env.copy, NOW)
    env.world.create()
    env.world.store.close()
    with closing(sqlite3.connect(env.path, isolation_level=None)) as connection:
        for pragma in ("journal_mode=DELETE", "cache_size=1", "synchronous=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE session SET label = hex(zeroblob(4000))")
        connection.execute("DELETE FROM event")
        files = {end: env.path.with_name(f"tminus.db{end}") for end in ("", "-journal")}
        beside = {end: file.read_bytes() for end, file in files.items()}
    for end, data in beside.items():
        files[end].write_bytes(data)
    if not is_there:
        files[""].unlink()

    done = restore(env.url, env.copy, NOW + timedelta(hours=1))

    assert not files["-journal"].exists()
    left = [(done.moved_to, 2)] if done.moved_to else []
    assert len(left) == is_there
    assert len(list(env.path.parent.glob("tminus.db.2*"))) == is_there
    for file, sessions in (*left, (env.path, 1)):
        assert sql(file, "PRAGMA integrity_check") == [("ok",)]
        assert sql(file, "SELECT count(*), max(length(label)) < 100 FROM session") == [(sessions, 1)]
        assert sql(file, "SELECT count(DISTINCT session_id) FROM event") == [(sessions,)]


def test_the_wal_file_of_a_killed_daemon_is_kept_with_the_replaced_database(env: Env) -> None:
    """The -wal file of the replaced database must not be applied to the restored one."""
    back_up(env.url, env.copy, NOW)
    env.world.create()
    beside = {end: env.path.with_name(f"tminus.db{end}").read_bytes() for end in ("", "-wal")}
    env.world.store.close()
    for end, content in beside.items():
        env.path.with_name(f"tminus.db{end}").write_bytes(content)

    done = restore(env.url, env.copy, NOW)

    assert done.moved_to is not None
    assert sql(done.moved_to, "SELECT count(*) FROM session") == [(1,)]
    assert env.reopened().all_sessions() == {}


def test_a_damaged_database_is_replaced_and_kept(env: Env) -> None:
    made = env.world.create()
    back_up(env.url, env.copy, NOW)
    env.world.store.close()
    env.path.write_bytes(b"\xa5" * 20000)
    env.path.with_name("tminus.db-wal").write_bytes(b"\xa5" * 3000)

    done = restore(env.url, env.copy, NOW)

    assert done.moved_to is not None
    assert done.moved_to.read_bytes() == b"\xa5" * 20000
    assert done.moved_to.with_name(f"{done.moved_to.name}-wal").read_bytes() == b"\xa5" * 3000
    assert env.reopened().stored(made) == made


def test_a_backup_of_an_older_release_is_migrated(env: Env) -> None:
    engine = make_engine(f"sqlite:///{env.copy}", writes=True)
    with engine.connect() as connection:
        migrate.upgrade_to(connection, "0001")
    engine.dispose()
    env.world.store.close()

    done = restore(env.url, env.copy, NOW)

    assert (done.schema_before, done.schema) == ("0001", migrate.head())
    assert env.reopened().store.migrated_from == migrate.head()


def spoil_a_page(path: Path) -> None:
    root = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = 'session_due'")[0][0]
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = bytes(byte ^ 0xFF for byte in content[(root - 1) * 4096 : root * 4096])
    path.write_bytes(content)


def make_newer(path: Path) -> None:
    sql(path, "UPDATE alembic_version SET version_num = '9999'")


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def orphan_events(path: Path) -> None:
    sql(path, "UPDATE event SET session_id = 'gone'")


@pytest.mark.parametrize(
    ("spoil", "refusal", "problem"),
    [
        (spoil_a_page, DatabaseCorrupt, r"copy\.db: the file is damaged \(malformed"),
        (orphan_events, DatabaseCorrupt, r"copy\.db: the file is damaged \(malformed: row 1 of event belongs to no"),
        (make_newer, DatabaseTooNew, r"copy\.db: its schema is 9999, of a newer tminus"),
        (lambda path: path.write_bytes(b"a text " * 2000), DatabaseCorrupt, r"copy\.db: .* \(file is not a database"),
        (lambda path: path.write_bytes(b""), DatabaseCorrupt, r"copy\.db: the file is no database of tminus"),
        (Path.unlink, CannotOpenDatabase, "there is no such file"),
        (make_a_directory, CannotOpenDatabase, "this is a directory, not a file"),
        (make_a_pipe, CannotOpenDatabase, "this is not a regular file"),
    ],
)
def test_an_invalid_backup_is_refused_and_nothing_is_changed(
    env: Env, spoil: Any, refusal: type[Exception], problem: str
) -> None:
    env.world.create()
    back_up(env.url, env.copy, NOW)
    env.world.store.close()
    spoil(env.copy)
    before = {path.name: path.read_bytes() for path in env.path.parent.iterdir() if path.is_file()}

    with pytest.raises(refusal, match=problem):
        restore(env.url, env.copy, NOW)

    assert {path.name: path.read_bytes() for path in env.path.parent.iterdir() if path.is_file()} == before


def test_a_database_cannot_be_restored_onto_itself(env: Env) -> None:
    with pytest.raises(CannotRestore, match="is the database itself"):
        restore(env.url, env.path, NOW)
