"""Migrations create exactly the tables that the code declares. On both databases."""

import ast
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlmodel import SQLModel
from tests.support.clocks import SettableClock
from tests.support.databases import Database, PostgresServer
from tests.support.factories import put, session
from tests.support.releases import add_migration
from tests.support.waiting import eventually

from tminus.domain.errors import CannotOpenDatabase, DatabaseCorrupt, DatabaseTooNew
from tminus.domain.types import Timeouts
from tminus.storage import Store, migrate
from tminus.storage.check import check_database
from tminus.storage.engine import make_engine


def test_migrations_create_the_tables_that_the_code_declares(empty_database: Database) -> None:
    empty_database.open()
    engine = make_engine(empty_database.url, writes=True)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, SQLModel.metadata)
        assert not differences, f"migrations and storage/tables.py differ; a migration would have to do {differences}"
    engine.dispose()


def test_the_tables_with_autoincrement_in_sqlite_are_those_that_the_code_declares(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/tminus.db", SettableClock())
    migrated = text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'")
    found = store.submit(lambda tx: set(tx.execute(migrated).scalars())).result(30)
    store.close()
    declared = SQLModel.metadata.tables.values()
    assert found == {table.name for table in declared if table.dialect_options["sqlite"]["autoincrement"]}
    assert "event" in found


def test_an_empty_database_is_migrated_to_the_newest_schema(empty_database: Database) -> None:
    store = empty_database.open()
    assert (store.migrated_from, store.schema) == (None, migrate.head())
    assert len(store.database_id) == 8


def test_a_database_with_the_current_schema_is_not_changed(empty_database: Database) -> None:
    first = empty_database.open()
    first.submit(lambda tx: put(tx, session(id="s1"))).result(30)
    second = empty_database.open()
    assert second.migrated_from == second.schema == migrate.head()
    assert second.database_id == first.database_id
    assert second.read(lambda view: view.session("s1")) == first.read(lambda view: view.session("s1"))


OPENING = """
import sys
import tminus.service.main
from pathlib import Path
from tminus.storage import Store
Store(Path(sys.argv[1]), None).close()
print({name.partition(".")[0] for name in sys.modules} & {"alembic", "mako", "psycopg", "pygments"} or "none")
"""


@pytest.mark.parametrize("stored", ["new", "current"])
def test_a_daemon_on_sqlite_loads_neither_alembic_nor_psycopg(tmp_path: Path, stored: str) -> None:
    """They take 18 MB, and only a database of an earlier version, or PostgreSQL, needs them."""
    if stored == "current":
        Store(tmp_path / "tminus.db", SettableClock()).close()
    command = [sys.executable, "-c", OPENING, str(tmp_path / "tminus.db")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "none\n"


def test_two_databases_have_different_ids(database: Database, tmp_path: Path) -> None:
    other = Store(f"sqlite:///{tmp_path}/other.db", SettableClock())
    other.close()
    assert other.database_id != database.open().database_id


def test_a_database_of_a_newer_release_is_refused_and_not_changed(empty_database: Database) -> None:
    store = empty_database.open()
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    store.submit(lambda tx: tx.execute(newer)).result(30)
    with pytest.raises(DatabaseTooNew, match="its schema is 9999, of a newer tminus than this; run that one, or "):
        empty_database.open()
    found = store.submit(lambda tx: tx.execute(text("SELECT version_num FROM alembic_version")).scalar()).result(30)
    assert found == "9999"


def test_a_database_with_two_revisions_is_refused(empty_database: Database) -> None:
    """As after a dump that was read into a database with tables: only an operator can find out which one is true."""
    store = empty_database.open()
    store.submit(lambda tx: tx.execute(text("INSERT INTO alembic_version VALUES ('0019')"))).result(30)
    with pytest.raises(CannotOpenDatabase, match="alembic_version has 2 rows"):
        empty_database.open()
    with pytest.raises(CannotOpenDatabase, match="alembic_version has 2 rows"):
        check_database(empty_database.url, Timeouts(), datetime.now(UTC))


def test_two_daemons_that_start_at_once_on_an_empty_database_both_start(empty_database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: empty_database.open(), range(4)))
    assert len({store.database_id for store in stores}) == 1
    assert {store.migrated_from for store in stores} == {None, migrate.head()}


def test_a_start_waits_for_another_process_that_begins_to_use_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "tminus.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")  # SQLite's busy time-out does not apply to this lock
        release = threading.Timer(0.2, other.execute, ["COMMIT"])
        release.start()
        Store(path, SettableClock()).close()
        release.join()


@pytest.mark.parametrize("content", [b"This is a text that somebody put here." * 40, b"\0" * 100 + b"x" * 8000])
def test_a_file_that_is_not_a_database_is_refused_with_a_hint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tminus.db"
    path.write_bytes(content)
    with pytest.raises(
        DatabaseCorrupt, match="restore a backup, or move the file away to start with an empty database"
    ) as refused:
        Store(f"sqlite:///{path}", SettableClock())
    assert str(path) in refused.value.description
    assert path.read_bytes() == content


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tminus.db"
    Store(f"sqlite:///{path}", SettableClock()).close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    content[100:300] = b"\xa5" * 200  # the list of tables in the first page
    path.write_bytes(content)
    with pytest.raises(DatabaseCorrupt):
        Store(f"sqlite:///{path}", SettableClock())


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CannotOpenDatabase, match="unable to open database file"):
        Store(f"sqlite:///{tmp_path}/nowhere/tminus.db", SettableClock())


def test_a_server_that_does_not_respond_is_reported_without_the_password() -> None:
    with pytest.raises(CannotOpenDatabase) as refused:
        Store("postgresql+psycopg://tminus@127.0.0.1:9/tminus", SettableClock(), password="SecretPassword")
    assert "127.0.0.1" in refused.value.description
    assert "SecretPassword" not in refused.value.description
    assert "\n" not in refused.value.description


ADDS = {"op.create_table", "op.create_index", "op.add_column"}
MIGRATIONS = sorted(Path(migrate.__file__).with_name("migrations").glob("versions/[0-9]*.py"))[1:]


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_migrations_only_add_so_that_the_previous_release_continues_to_work(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    done = [call for call in calls if ast.unparse(call.func).startswith("op.")]
    new = {ast.unparse(call.args[0]) for call in done if ast.unparse(call.func) == "op.create_table"}
    assert {ast.unparse(call.func) for call in done} <= ADDS | {"op.drop_index"}  # this is only slower
    for call in done:
        code = ast.unparse(call)
        if ast.unparse(call.func) == "op.add_column":
            assert "server_default" in code or "nullable=True" in code, "an older release does not set the column"
        table = call.args[1] if ast.unparse(call.func) == "op.create_index" else call.args[0]
        if ast.unparse(table) not in new:
            assert "unique=True" not in code, "an older release may store duplicates"


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """From now on, act as a release with one more migration; return its revision."""
    folder = shutil.copytree(migrate._MIGRATIONS, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    add_migration(
        folder, "9000_more",
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '9000', '{migrate.head()}'\n"
        "def upgrade():\n    op.add_column('session', sa.Column('more', sa.Text(), nullable=True))\n",
    )  # fmt: skip
    monkeypatch.setattr(migrate, "_MIGRATIONS", folder)
    return "9000"


def test_while_a_migration_waits_for_a_table_others_can_write(
    pg_server: PostgresServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE", 0.1)
    with pg_server.database(empty=True) as database, ThreadPoolExecutor(1) as pool:
        older = database.open()
        newest = request.getfixturevalue("one_more")
        waiting = threading.Event()
        reader = make_engine(database.url, writes=True)
        with reader.connect() as connection:
            with connection.begin():
                connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                connection.execute(text("SELECT count(*) FROM session"))  # like a backup that takes an hour
                opening = pool.submit(database.open, waiting=waiting.set)
                numbers = count()

                def writes_until_waiting() -> bool:
                    row = session(id=f"s{next(numbers)}")
                    older.submit(lambda tx: put(tx, row)).result(5)  # it waits behind the migration, but not for long
                    return waiting.is_set()

                eventually(writes_until_waiting)
                assert not opening.done()
            newer = opening.result(30)
        reader.dispose()
        assert (newer.migrated_from, newer.schema) == (older.schema, newest)
        older.submit(lambda tx: put(tx, session(id="after"))).result(8)
        assert newer.read(lambda view: view.session("after"))


def test_a_start_during_a_migration_of_another_daemon_waits_and_reports_it(pg_server: PostgresServer) -> None:
    with pg_server.database(empty=True) as database, ThreadPoolExecutor(1) as pool:
        waiting = threading.Event()
        engine = make_engine(database.url, writes=True)
        with engine.connect() as other, other.begin():
            other.execute(text("SELECT pg_advisory_xact_lock(8457290)"))
            opening = pool.submit(database.open, waiting=waiting.set)
            assert waiting.wait(10)
            assert not opening.done()
        assert opening.result(30).schema == migrate.head()
        engine.dispose()
