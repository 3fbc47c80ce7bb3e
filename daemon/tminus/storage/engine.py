"""Connections to SQLite or PostgreSQL with the settings that each needs."""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from tminus.clock import monotonic
from tminus.domain.errors import CannotOpenDatabase, DatabaseCorrupt, StartupError
from tminus.storage.failures import is_damage
from tminus.storage.shared_clock import SharedClock

if TYPE_CHECKING:
    from tminus.storage.postgresql import Server

BUSY_TIMEOUT_MS = 5000
"""Milliseconds that SQLite waits for another process's write (`tminus advance`, a backup) before it fails."""

LEAST_FREE = 256 * 1024
"""Free bytes that SQLite needs to open a database, because it creates two files beside it."""

WAL_KEPT = 16 * 1024 * 1024
"""Bytes of the -wal file that are kept for reuse: four times what SQLite copies to the database at a time."""

WAL_RETRY = 0.02
"""Seconds between attempts to switch a database to write-ahead logging while another process uses it."""

READERS = 4
"""Number of connections for reading in each lane. More of them would only wait for the interpreter lock."""

Location = str | Path
"""The location of a database: the path of an SQLite file, in which no character has a special meaning, or a URL."""


def _url(location: Location) -> URL:
    return URL.create("sqlite", database=str(location)) if isinstance(location, Path) else make_url(location)


def make_engine(
    url: Location,
    password: str | None = None,
    *,
    writes: bool,
    idle_seconds: int | None = None,
    shared: SharedClock | None = None,
    opening: Callable[[ConnectionPoolEntry], None] | None = None,
) -> Engine:
    """Return an engine. Parameters of the URL take precedence over those of `postgresql`.

    Parameters
    ----------
    url, password
        The location of the database. The password is not part of the URL, so that no message shows it.
    writes
        Whether its transactions write.
    idle_seconds
        Seconds without a statement after which PostgreSQL closes a connection.
    shared
        Receives PostgreSQL's time at the beginning of each transaction.
    opening
        Called before a connection to PostgreSQL is opened, with the entry of the pool that will hold it.
    """
    parsed = _url(url)
    if password is not None:
        parsed = parsed.set(password=password)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, writes)
    from tminus.storage import server_pool  # noqa: PLC0415 - psycopg takes 70 ms and 9 MB, and SQLite needs none

    size = 1 if writes else READERS
    return server_pool.make_engine(
        parsed, size=size, writes=writes, idle_seconds=idle_seconds, shared=shared, opening=opening
    )


def _sqlite(url: URL, writes: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=1 if writes else READERS,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        hide_parameters=True,  # labels and tokens must not appear in an error's text
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # so that the driver does not begin transactions by itself
        _use_wal(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-16384", f"journal_size_limit={WAL_KEPT}"):
            connection.execute(f"PRAGMA {pragma}")
        harden(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if writes:
            # After a plain BEGIN, a write would fail if another process has written since the transaction's first read.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # BEGIN uses no file, so it cannot fail. Through SQLAlchemy it would take a quarter of the time of a small
            # read.
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("BEGIN")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch a database to write-ahead logging, unless it uses that already.

    SQLite does not wait for this lock: if two processes switch a new database at once, one of them fails immediately.
    """
    until = monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            primary = error.sqlite_errorcode & 0xFF  # the other bits are those of an extended code
            if primary not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL} or monotonic() >= until:
                raise
        time.sleep(WAL_RETRY)


def sqlite_file(url: Location) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL.

    Raises `CannotOpenDatabase` if it is a symbolic link: SQLite keeps its -wal file beside the file to which the link
    leads, so everything here that looks at files beside the database would miss them.
    """
    parsed = _url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    file = Path(parsed.database or "")
    with suppress(OSError):  # without the right to look there; opening the file reports that
        if file.is_symlink():
            problem = "is a symbolic link: let storage.url name the file itself, or make the link to its directory"
            raise CannotOpenDatabase(str(file), problem)
    return file


def not_a_file(path: Path) -> str:
    """Return what there is at a path instead of a regular file; "" if there is one. Raises `OSError`."""
    if path.is_file():
        return ""
    if path.is_dir():
        return "this is a directory, not a file"
    return "this is not a regular file" if path.exists() else "there is no such file"


def open_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that changes nothing, not even the file's journal mode: for backups and checks.

    SQLite creates two files beside a database that a daemon has used, even to read it. If it cannot, such as on a
    snapshot that is mounted read-only, the file is opened as immutable, because nothing else can write it there.
    """
    connection = _open(path)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if "unable to open" not in str(error) or os.access(path.absolute().parent, os.W_OK):
            return connection  # the caller's first statement raises the same error, and the caller handles it
        connection.close()
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size:
            problem = (
                f"{path.parent} is read-only and {wal.name} holds transactions: copy both files to another disk first"
            )
            raise sqlite3.OperationalError(problem) from error
        return _open(path, "&immutable=1")
    return connection


def _open(path: Path, more: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{more}",
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1000,
        check_same_thread=False,
    )
    connection.isolation_level = None
    harden(connection)
    return connection


def harden(connection: sqlite3.Connection) -> None:
    """Let a connection run as little code of the file's schema as possible; `schema` checks the rest."""
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {pragma}")


def read_only_engine(path: Path) -> Engine:
    """Return an engine of read-only connections, each of whose transactions sees one snapshot."""
    engine = create_engine("sqlite://", creator=lambda: open_read_only(path), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def startup_error(url: Location, error: BaseException) -> StartupError:
    """Return the error for a database that cannot be opened."""
    where = str(sqlite_file(url) or _url(url).render_as_string(hide_password=True))
    cause: Any = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    if not is_damage(error):
        disk = _disk_problem(sqlite_file(url), cause)
        return CannotOpenDatabase(where, f"{disk} ({text})" if disk else text, transient=disk is not None)
    if sqlite_file(url) is None:
        return DatabaseCorrupt(where, f"the database is damaged ({text}): restore a backup")
    remedy = "restore a backup, or move the file away to start with an empty database"
    return DatabaseCorrupt(where, f"the file is damaged or not a database ({text}): {remedy}")


def _disk_problem(file: Path | None, cause: BaseException) -> str | None:
    """Return why the disk prevents an SQLite file from being opened or written; None if it does not."""
    if file is None or not isinstance(cause, sqlite3.OperationalError):
        return None
    with suppress(OSError):
        disk = os.statvfs(file.parent)
        if disk.f_flag & os.ST_RDONLY:
            return "its disk is read-only"
        if "disk is full" in str(cause) or disk.f_bavail * disk.f_frsize < LEAST_FREE or not disk.f_favail:
            return "its disk is full"
    return None


def server(engine: Engine) -> "Server | None":
    """Return the PostgreSQL server of an engine, for connections outside its pool; None for SQLite."""
    if engine.dialect.name != "postgresql":
        return None
    from tminus.storage.postgresql import Server  # noqa: PLC0415 - as above

    _, parameters = engine.dialect.create_connect_args(engine.url)
    return Server(parameters)
