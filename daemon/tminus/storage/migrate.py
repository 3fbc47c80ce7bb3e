"""Brings a database's schema up to date at start; refuses one that a newer tminus has written."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from tminus.domain.errors import DatabaseTooNew
from tminus.storage.locks import LOCK_MIGRATION, TRY_LOCK_MIGRATION
from tminus.storage.watch import Watch

_MIGRATIONS = Path(__file__).with_name("migrations")

_NO_LONG_QUEUE = text("SET LOCAL lock_timeout = '1s'")
"""To change a table is to wait until nobody uses it, and whoever wants to use it meanwhile waits behind: a reader that
takes an hour, a backup say, would hold up every daemon that runs."""

REST = 2.0
"""Seconds for which those then have their turn."""


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The revision that this tminus works with."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def is_known(revision: str) -> bool:
    """Whether this tminus has such a revision: its own, or an older one that it can bring up to date."""
    return revision in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def upgrade_to(connection: Connection, revision: str) -> None:
    """Bring the schema of an empty database to a revision."""
    with connection.begin():
        command.upgrade(_config(connection), revision)


def too_new(where: str, revision: str) -> DatabaseTooNew:
    """Return what to tell an operator whose database has a revision that is not known here."""
    problem = f"its schema is {revision}, of a newer tminus than this; run that one, or restore an older backup"
    return DatabaseTooNew(where, problem)


def upgrade(engine: Engine, watch: Watch, waiting: Callable[[], None] = lambda: None) -> tuple[str | None, str]:
    """Applies what is missing, in one transaction; returns the revision before (None: an empty database) and after.

    However long that takes: as long as the server answers. `waiting` is called, once, if others are at it, or use what
    is to be changed. Raises `DatabaseTooNew`.
    """
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            told = True
            waiting()

    while True:
        try:
            return _upgrade(engine, watch, wait)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
        wait()
        time.sleep(REST)


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
        if before != head():
            if shared:
                connection.execute(_NO_LONG_QUEUE)
            command.upgrade(config, "head")
        return before, head()
