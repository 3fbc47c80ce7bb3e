"""Upgrade a database's schema at the start. A schema of a newer version of tminus is refused."""

import math
import secrets
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from tminus.domain.errors import DatabaseTooNew
from tminus.storage import meta
from tminus.storage.locks import LOCK_MIGRATION, TRY_LOCK_MIGRATION
from tminus.storage.watch import Watch

_MIGRATIONS = Path(__file__).with_name("migrations")

SCHEMA = _MIGRATIONS / "schema.sql"
"""The schema that all migrations together create in an SQLite database. `make docs` writes it."""

_NO_LONG_QUEUE = text("SET LOCAL lock_timeout = '1s'")
"""A change of a table waits until no transaction uses the table, and every later transaction that needs it waits behind
the change. Without this limit, a reader that takes an hour, such as a backup, would block all running daemons.
"""

PAUSE = 2.0
"""Seconds between two attempts. The other transactions run meanwhile."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@cache
def _scripts(folder: Path) -> ScriptDirectory:
    """Return the migrations in a folder, loaded. This takes 5 ms, and a start needs them five times."""
    scripts = ScriptDirectory(folder)
    scripts.get_heads()  # load them now, since several threads may use them later
    return scripts


def head() -> str:
    """Return the revision that this release uses."""
    revision = _scripts(_MIGRATIONS).get_current_head()
    assert revision is not None
    return revision


def is_known(revision: str) -> bool:
    """Return whether this release uses a revision, or can upgrade it."""
    return revision in {script.revision for script in _scripts(_MIGRATIONS).walk_revisions()}


def create(connection: Connection) -> None:
    """Create the schema that this release uses in an empty SQLite database.

    All migrations would create the same, but take 0.1 s and 3 MB of memory. On PostgreSQL, where this is done once for
    all daemons, they do.
    """
    for statement in SCHEMA.read_text(encoding="utf-8").removesuffix(";\n").split(";\n"):
        connection.exec_driver_sql(statement)
    connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": head()})
    new = {"key": meta.DATABASE_ID, "value": secrets.token_hex(4)}  # as the first migration
    connection.execute(text("INSERT INTO meta (key, value) VALUES (:key, :value)"), new)


def upgrade_to(connection: Connection, revision: str) -> None:
    """Upgrade the schema of a database to a revision. For empty databases and tests."""
    with connection.begin():
        command.upgrade(_config(connection), revision)


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
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
        wait()
        time.sleep(PAUSE)


def _upgrade(engine: Engine, watch: Watch, waiting: Callable[[], None]) -> tuple[str | None, str]:
    with engine.connect() as connection, watch.guard(connection, math.inf), connection.begin():
        shared = connection.dialect.name == "postgresql"
        if shared and not connection.execute(TRY_LOCK_MIGRATION).scalar():
            waiting()
            connection.execute(LOCK_MIGRATION)
        before = MigrationContext.configure(connection).get_current_revision()
        config = _config(connection)
        if before is not None and not is_known(before):
            raise too_new(engine.url.database or "" if not shared else engine.url.render_as_string(), before)
        if before is None and not shared:
            create(connection)
        elif before != head():
            if shared:
                connection.execute(_NO_LONG_QUEUE)
            command.upgrade(config, "head")
        return before, head()
