"""Upgrade a database's schema at the start. A schema of a newer version of tminus is refused.

Only a database of an earlier version, or of an unknown one, needs Alembic, which takes 0.1 s and 9 MB to load.
"""

import math
import re
import secrets
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import OperationalError

from tminus.domain.errors import CannotOpenDatabase, DatabaseTooNew
from tminus.storage import meta
from tminus.storage.failures import LOCK_NOT_AVAILABLE, sqlstate
from tminus.storage.locks import LOCK_MIGRATION, TRY_LOCK_MIGRATION
from tminus.storage.watch import Watch

_MIGRATIONS = Path(__file__).with_name("migrations")

_NO_LONG_QUEUE = text("SET LOCAL lock_timeout = '1s'")
"""A change of a table waits until no transaction uses the table, and every later transaction that needs it waits behind
the change. Without this limit, a reader that takes an hour, such as a backup, would block all running daemons.
"""

PAUSE = 2.0
"""Seconds between two attempts. The other transactions run meanwhile."""


_HEAD = re.compile(r"INSERT INTO alembic_version VALUES \('(\w+)'\);\n")


def new_schema() -> str:
    """Return the statements that create the schema of this release in an empty SQLite database.

    `make docs` writes them from the migrations. The last one stores the revision.
    """
    return _read(_MIGRATIONS / "schema.sql")


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def head() -> str:
    """Return the revision that this release uses."""
    found = _HEAD.search(new_schema())
    assert found is not None
    return found[1]


def is_known(revision: str) -> bool:
    """Return whether this release uses a revision, or can upgrade it."""
    return revision == head() or revision in _revisions(_MIGRATIONS)


@cache
def _revisions(folder: Path) -> frozenset[str]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above

    return frozenset(script.revision for script in ScriptDirectory(folder).walk_revisions())


def revision_of(connection: Connection) -> str | None:
    """Return the revision of a database's schema; None for an empty database. Raises `CannotOpenDatabase`."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if len(found) > 1:
        where = connection.engine.url.database or ""
        raise CannotOpenDatabase(where, f"the table alembic_version has {len(found)} rows: restore a backup")
    return str(found[0]) if found else None


def create(connection: Connection) -> None:
    """Create the schema that this release uses in an empty SQLite database.

    All migrations would create the same, but take 0.1 s and 3 MB of memory, besides Alembic. On PostgreSQL, where this
    is done once for all daemons, they do.
    """
    for statement in new_schema().removesuffix(";\n").split(";\n"):
        connection.exec_driver_sql(statement)
    new = {"key": meta.DATABASE_ID, "value": secrets.token_hex(4)}  # as the first migration
    connection.execute(text("INSERT INTO meta (key, value) VALUES (:key, :value)"), new)


def upgrade_to(connection: Connection, revision: str) -> None:
    """Upgrade the schema of a database to a revision. For empty databases and tests."""
    with connection.begin():
        _migrate(connection, revision)


def _migrate(connection: Connection, revision: str) -> None:
    """Run the migrations up to a revision, in the transaction of the connection."""
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def too_new(where: str, revision: str) -> DatabaseTooNew:
    """Return the error for a database with the schema of a newer release."""
    problem = f"its schema is {revision}, of a newer tminus than this; run that one, or restore an older backup"
    return DatabaseTooNew(where, problem)


def upgrade(engine: Engine, watch: Watch, waiting: Callable[[], None] = lambda: None) -> tuple[str | None, str]:
    """Run the missing migrations in one transaction; return the revision before (None: an empty database) and after.

    There is no time limit while the server answers. `waiting` is called once if another process is migrating, or is
    using a table that has to be changed. Raises `DatabaseTooNew`.
    """
    is_reported = False

    def wait() -> None:
        nonlocal is_reported
        if not is_reported:
            is_reported = True
            waiting()

    while True:
        try:
            return _upgrade(engine, watch, wait)
        except OperationalError as error:
            if sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
        wait()
        time.sleep(PAUSE)


def _upgrade(engine: Engine, watch: Watch, waiting: Callable[[], None]) -> tuple[str | None, str]:
    with engine.connect() as connection, watch.guard(connection, math.inf), connection.begin():
        shared = connection.dialect.name == "postgresql"
        if shared and not connection.execute(TRY_LOCK_MIGRATION).scalar():
            waiting()
            connection.execute(LOCK_MIGRATION)
        before = revision_of(connection)
        if before is not None and not is_known(before):
            raise too_new(engine.url.database or "" if not shared else engine.url.render_as_string(), before)
        if before is None and not shared:
            create(connection)
        elif before != head():
            if shared:
                connection.execute(_NO_LONG_QUEUE)
            _migrate(connection, "head")
        return before, head()
