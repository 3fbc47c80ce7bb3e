"""Connections: SQLite or PostgreSQL, and what each must be told."""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from tminus.clock import monotonic
from tminus.domain.errors import CannotOpenDatabase, DatabaseCorrupt, StartupError
from tminus.storage.postgresql import NoAnswer, Server, ask
from tminus.storage.shared_clock import READ, SharedClock

BUSY_TIMEOUT_MS = 5000
"""How long SQLite waits for another process's write (`tminus advance`, a backup) before it gives up."""

LEAST_FREE = 256 * 1024
"""Bytes without which SQLite cannot be opened: it makes two files beside the database."""

WAL_KEPT = 16 * 1024 * 1024
"""Bytes of the -wal file that are kept for what comes next: four times what SQLite copies to the database at once."""

READERS = 4
"""Connections for reading: more would queue for the interpreter."""

_BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED; " + READ


Where = str | Path
"""Where a database is: the path of an SQLite file, in which every character is itself; or a URL of PostgreSQL."""


def _url(where: Where) -> URL:
    return URL.create("sqlite", database=str(where)) if isinstance(where, Path) else make_url(where)


def make_engine(
    url: Where,
    password: str | None = None,
    *,
    writes: bool,
    idle_seconds: int | None = None,
    shared: SharedClock | None = None,
) -> Engine:
    """An engine whose every transaction writes (`writes`), or only reads.

    `idle_seconds`: PostgreSQL ends a connection of it that has asked nothing for so long. What the URL itself says of
    a connection goes before what `postgresql` says. `shared`: the beginning of each transaction reads PostgreSQL's
    clock into it.
    """
    parsed = _url(url)
    if password is not None:
        parsed = parsed.set(password=password)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, writes)
    engine = create_engine(
        parsed,
        pool_size=1 if writes else READERS,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_MS / 1000,
        # Several statements of one read see one moment.
        isolation_level="AUTOCOMMIT" if shared else "READ COMMITTED" if writes else "REPEATABLE READ",
        json_deserializer=bytes.decode,  # psycopg would parse what goes out as it is
        hide_parameters=True,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _entry: Any, _arguments: Any, parameters: dict[str, Any]) -> psycopg.Connection:
        return Server(parameters, idle_seconds).connect()

    if shared is not None:

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            _begin_reading_clock(connection, shared)

    return engine


def _begin_reading_clock(connection: Connection, shared: SharedClock) -> None:
    """Begin a transaction and read the clock in one round trip; the driver would need one for BEGIN alone."""
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    asked = monotonic()
    try:
        [[microseconds]] = ask(raw, _BEGIN)
    except (psycopg.Error, NoAnswer) as error:
        if isinstance(error, NoAnswer):
            raw.close()  # the answer may still come, to a question that was never asked
        raise OperationalError(_BEGIN.decode(), None, error, connection_invalidated=raw.closed) from error
    shared.note(int(microseconds or 0), asked, monotonic())


def _sqlite(url: URL, writes: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=1 if writes else READERS,
        max_overflow=0,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        hide_parameters=True,  # labels and tokens have no business in an error's text
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-16384",
            f"journal_size_limit={WAL_KEPT}",
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")
        harden(connection)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if writes:
            # A transaction that begins as a reader and upgrades to a writer fails at once if another one wrote
            # meanwhile.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # This touches no file, so it cannot fail: SQLAlchemy's way to it would take a quarter of a small read.
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("BEGIN")

    return engine


def sqlite_file(url: Where) -> Path | None:
    """The file of an SQLite database; None for PostgreSQL."""
    parsed = _url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def look_at(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, not even how the file keeps its journal: for backups, and copies of them.

    Beside a file that a daemon has used SQLite makes two others, also to read it. Where it cannot, on a snapshot that
    is mounted read-only, say, the file is read as it is: nobody else writes it there.
    """
    connection = _read_only(path)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if "unable to open" not in str(error) or os.access(path.absolute().parent, os.W_OK):
            return connection  # whoever uses it meets the same, and says so
        connection.close()
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists() and wal.stat().st_size:
            problem = (
                f"{path.parent} is read-only and {wal.name} holds transactions: copy both files to another disk first"
            )
            raise sqlite3.OperationalError(problem) from error
        return _read_only(path, "&immutable=1")
    return connection


def _read_only(path: Path, more: str = "") -> sqlite3.Connection:
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
    """Let a connection run as little as possible of what a file brings with it: `schema` looks at the rest."""
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {pragma}")


def looking_engine(path: Path) -> Engine:
    """An engine of such connections, whose every transaction sees one moment."""
    engine = create_engine("sqlite://", creator=lambda: look_at(path), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


_NOT_OURS = (
    psycopg.errors.InsufficientPrivilege,  # so PostgreSQL calls a disk that is read-only, too
    psycopg.errors.UndefinedTable,  # somebody is moving tables, or restores a dump
    psycopg.errors.InvalidSqlStatementName,  # a pooler has handed the session to somebody else
    psycopg.errors.DuplicatePreparedStatement,
)
"""What psycopg takes for a defect of the statement, and is done by others."""


def is_unavailable(error: BaseException) -> bool:
    """Whether it is the database that cannot serve anybody now, and not this one statement that is at fault."""
    if isinstance(error, NoAnswer | NoConnectionFree):
        return True
    if isinstance(getattr(error, "orig", None), _NOT_OURS):
        return True
    return isinstance(error, DBAPIError) and not isinstance(
        error, DataError | IntegrityError | ProgrammingError | NotSupportedError
    )


def is_damage(error: BaseException) -> bool:
    """Whether the database has found its file damaged, or SQLite it to be none of its own."""
    cause: Any = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.errors.DataCorrupted | psycopg.errors.IndexCorrupted):
        return True
    return isinstance(cause, sqlite3.DatabaseError) and any(
        words in str(cause) for words in ("malformed", "not a database")
    )


def reason(error: BaseException) -> str:
    """The database's own words, on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def startup_error(url: Where, error: BaseException) -> StartupError:
    """What to tell an operator whose database does not open."""
    where = str(sqlite_file(url) or _url(url).render_as_string(hide_password=True))
    cause: Any = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split())
    if not is_damage(error):
        disk = _disk_problem(sqlite_file(url), cause)
        return CannotOpenDatabase(where, f"{disk} ({text})" if disk else text, transient=disk is not None)
    if isinstance(cause, psycopg.Error):
        return DatabaseCorrupt(where, f"the database is damaged ({text}): restore a backup")
    way_out = "restore a backup, or move it away to begin anew"
    return DatabaseCorrupt(where, f"the file is damaged or not a database ({text}): {way_out}")


def _disk_problem(file: Path | None, cause: BaseException) -> str | None:
    """What is wrong with the disk under an SQLite file, if that is why it cannot be opened or written."""
    if file is None or not isinstance(cause, sqlite3.OperationalError):
        return None
    with suppress(OSError):
        disk = os.statvfs(file.parent)
        if disk.f_flag & os.ST_RDONLY:
            return "its disk is read-only"
        if "disk is full" in str(cause) or disk.f_bavail * disk.f_frsize < LEAST_FREE or not disk.f_favail:
            return "its disk is full"
    return None


def server(engine: Engine) -> Server | None:
    """The PostgreSQL of an engine, for connections beside it; None for SQLite."""
    if engine.dialect.name != "postgresql":
        return None
    _, parameters = engine.dialect.create_connect_args(engine.url)
    return Server(parameters)
