"""Check that a database is consistent: its file, its schema, and the invariants of all sessions (`invariants`)."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from tminus.domain.errors import CannotOpenDatabase
from tminus.domain.types import Timeouts
from tminus.storage import migrate, wal
from tminus.storage import schema as schemas
from tminus.storage.engine import Location, make_engine, not_a_file, read_only_engine, sqlite_file, startup_error
from tminus.storage.failures import NoAnswer, is_damage
from tminus.storage.invariants import MAX_PROBLEMS, Problem, check_sessions
from tminus.storage.tables import EVENTS, SESSIONS


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check of one snapshot of a database."""

    problems: tuple[Problem, ...]
    schema: str | None = None
    """The revision of the schema; None if it is no database of tminus."""
    is_current: bool = False
    """Whether this release uses that revision. If not, the sessions were not checked."""
    sessions: int = 0
    events: int = 0
    last_seq: int = 0


def check_database(url: Location, timeouts: Timeouts, now: datetime, *, password: str | None = None) -> CheckResult:
    """Check a database without changing it; a daemon may be running.

    `timeouts`: those of the configuration. Deadlines have to follow from them, or from those stored in the database.
    Raises `CannotOpenDatabase`.
    """
    path = sqlite_file(url)
    engine = make_engine(url, password, writes=False) if path is None else _engine_of_file(path)
    try:
        found = _check(engine, timeouts, now)
        left_out = wal.damage(path) if path else None
        return replace(found, problems=(Problem("wal", left_out), *found.problems)) if left_out else found
    except (DBAPIError, sqlite3.Error, NoAnswer) as error:
        raise startup_error(url, error) from error
    finally:
        engine.dispose()


def _engine_of_file(path: Path) -> Engine:
    try:
        problem = not_a_file(path)
    except OSError as error:
        raise CannotOpenDatabase(str(path), f"cannot be read ({error.strerror})") from error
    if problem:
        raise CannotOpenDatabase(str(path), problem)
    return read_only_engine(path)


def _check(engine: Engine, timeouts: Timeouts, now: datetime) -> CheckResult:
    problems: list[Problem] = []
    with engine.connect() as connection:
        try:
            transaction = connection.begin()
            if engine.dialect.name == "sqlite":
                checked = _schema_check(connection)
                if not checked.is_safe:
                    return CheckResult(checked.problems, checked.revision)
                problems += checked.problems
                problems += _sqlite_checks(connection)
            schema = migrate.revision_of(connection)
        except DBAPIError as error:
            if not is_damage(error):
                raise
            return CheckResult((*problems, Problem("integrity", f"the file cannot be read: {error.orig}")))
        if schema != migrate.head():
            if schema is None:
                problems.append(Problem("schema", "this is no database of tminus: it has no schema"))
            elif not migrate.is_known(schema):
                problems.append(Problem("schema", f"its schema is {schema}, of a newer tminus than this"))
            return CheckResult(tuple(problems), schema)
        problems += check_sessions(connection, timeouts, now)
        counts = [0, 0, 0]
        try:
            with connection.begin_nested():
                counts = list(connection.execute(_COUNTS).one())
        except DBAPIError as error:
            problems.append(Problem("events", f"cannot be counted: {error.orig}"))
        transaction.rollback()
    return CheckResult(tuple(problems), schema, True, *counts)


class _SchemaCheck(NamedTuple):
    """The result of a check of the schema of an SQLite file."""

    problems: tuple[Problem, ...]
    revision: str | None = None
    is_safe: bool = False
    """Whether the other checks can run, because nothing in the schema can do harm or run for ever."""


def _schema_check(connection: Connection) -> _SchemaCheck:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        found = schemas.revision(raw)
        wrong = schemas.differences(raw, found) if found is not None and migrate.is_known(found) else []
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            return _SchemaCheck((Problem("schema", f"its schema is not read within {schemas.MAX_SECONDS:g} s"),))
        if not is_damage(error):
            raise
        return _SchemaCheck((Problem("integrity", f"the file cannot be read: {error}"),))
    if found is None:
        return _SchemaCheck((Problem("schema", "this is no database of tminus: it has no schema"),))
    if not migrate.is_known(found):
        return _SchemaCheck((Problem("schema", f"its schema is {found}, of a newer tminus than this"),), found)
    problems = tuple(Problem("schema", text) for text in wrong[:MAX_PROBLEMS])
    return _SchemaCheck(problems, found, is_safe=all(text.endswith(schemas.MISSING) for text in wrong))


_COUNTS = select(
    select(func.count()).select_from(SESSIONS).scalar_subquery(),
    select(func.count()).select_from(EVENTS).scalar_subquery(),
    select(func.coalesce(func.max(EVENTS.c.seq), 0)).scalar_subquery(),
)


def _sqlite_checks(connection: Connection) -> Iterator[Problem]:
    try:
        yield from _integrity(connection, MAX_PROBLEMS)
    except DBAPIError:
        # In a badly damaged file SQLite may find one problem, and fail when it searches for more.
        yield from _integrity(connection, 1)
        raise
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MAX_PROBLEMS)
    for table, row, parent, _ in orphans:
        yield Problem("foreign_keys", f"row {row} of {table} belongs to a {parent} that does not exist")


def _integrity(connection: Connection, most: int) -> Iterator[Problem]:
    findings = connection.exec_driver_sql(f"PRAGMA integrity_check({most})")
    while found := findings.fetchone():
        # SQLite reports the problems of one tree as one text of several lines, with a heading.
        yield from (Problem("integrity", line) for line in found[0].splitlines() if line != "ok" and line[:3] != "***")
