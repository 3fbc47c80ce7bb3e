"""Whether a database is whole: SQLite's own checks, and what must be true of every session, asked in SQL."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    func,
    literal,
    not_,
    or_,
    select,
    type_coerce,
)  # fmt: skip
from sqlalchemy.exc import DBAPIError

from tminus.domain import timestamps
from tminus.domain.errors import CannotOpenDatabase
from tminus.domain.model import Instant
from tminus.domain.types import PIN_TYPES, Status, Timeouts, Trigger
from tminus.storage import meta, migrate, wal
from tminus.storage import schema as schemas
from tminus.storage.deadlines import plain, stored_deadline
from tminus.storage.engine import Where, is_damage, make_engine, read_only_engine, sqlite_file, startup_error
from tminus.storage.postgresql import NoAnswer
from tminus.storage.tables import EVENTS, META, PARTICIPANTS, SESSIONS

MOST = 100
"""Lines of one kind at the most: whoever reads a hundred knows."""

_S, _E, _P = SESSIONS.c, EVENTS.c, PARTICIPANTS.c


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it must be."""

    check: str
    """What was asked: `wal`, `integrity`, `foreign_keys`, `schema`, `deadline`, `events`, `status`, `pin`,
    `participants`.
    """
    text: str
    """A sentence for people; never a secret."""
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in a database, all of it at one moment."""

    problems: tuple[Problem, ...]
    schema: str | None = None
    """Its revision; None if it holds no database of tminus."""
    is_current: bool = False
    """Whether that is the revision that this tminus works with: only then its sessions were looked at."""
    sessions: int = 0
    events: int = 0
    last_seq: int = 0


def examine(url: Where, timeouts: Timeouts, now: datetime, *, password: str | None = None) -> Examined:
    """Looks at a database, also while a daemon works on it; changes nothing.

    `timeouts` are those of the configuration; deadlines may follow them, or those that the database remembers.
    Raises `CannotOpenDatabase`.
    """
    path = sqlite_file(url)
    engine = make_engine(url, password, writes=False) if path is None else _engine_of_file(path)
    try:
        found = _examine(engine, timeouts, now)
        left_out = wal.damage(path) if path else None
        return replace(found, problems=(Problem("wal", left_out), *found.problems)) if left_out else found
    except (DBAPIError, sqlite3.Error, NoAnswer) as error:
        raise startup_error(url, error) from error
    finally:
        engine.dispose()


def _engine_of_file(path: Path) -> Engine:
    try:
        is_there = path.is_file()
    except OSError as error:
        raise CannotOpenDatabase(str(path), f"cannot be read ({error.strerror})") from error
    if not is_there:
        raise CannotOpenDatabase(str(path), "there is no such file")
    return read_only_engine(path)


def _examine(engine: Engine, timeouts: Timeouts, now: datetime) -> Examined:
    problems: list[Problem] = []
    with engine.connect() as connection:
        try:
            transaction = connection.begin()
            if engine.dialect.name == "sqlite":
                differs = _schema_check(connection)
                if not differs.is_current:
                    return differs
                problems += differs.problems
                problems += _sqlite_checks(connection)
            schema = MigrationContext.configure(connection).get_current_revision()
        except DBAPIError as error:
            if not is_damage(error):
                raise
            return Examined((*problems, Problem("integrity", f"the file cannot be read: {error.orig}")))
        if schema != migrate.head():
            if schema is None:
                problems.append(Problem("schema", "this is no database of tminus: it has no schema"))
            elif not migrate.is_known(schema):
                problems.append(Problem("schema", f"its schema is {schema}, of a newer tminus than this"))
            return Examined(tuple(problems), schema)
        problems += _ask_all(connection, timeouts, now)
        counts = [0, 0, 0]
        try:
            with connection.begin_nested():
                counts = list(connection.execute(_COUNTS).one())
        except DBAPIError as error:
            problems.append(Problem("events", f"cannot be counted: {error.orig}"))
        transaction.rollback()
    return Examined(tuple(problems), schema, True, *counts)


def _ask_all(connection: Connection, timeouts: Timeouts, now: datetime) -> Iterator[Problem]:
    # Each in a savepoint: after one that met damage PostgreSQL would answer none of the others.
    for check, ask in _CHECKS.items():
        try:
            with connection.begin_nested():
                yield from ask(connection, timeouts, now)
        except DBAPIError as error:
            yield Problem(check, f"cannot be told: {error.orig}")
        except (ValueError, TypeError, OverflowError) as error:  # what is stored is of another kind
            yield Problem(check, f"cannot be told: {error}")


def _schema_check(connection: Connection) -> Examined:
    """What is wrong with the schema of an SQLite file. `is_current`: nothing that could run for ever or do harm, so
    that the rest can be looked at.
    """
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        found = schemas.revision(raw)
        wrong = schemas.differences(raw, found) if found is not None and migrate.is_known(found) else []
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            return Examined((Problem("schema", f"its schema is not read within {schemas.SECONDS:g} s"),))
        if not is_damage(error):
            raise
        return Examined((Problem("integrity", f"the file cannot be read: {error}"),))
    if found is None:
        return Examined((Problem("schema", "this is no database of tminus: it has no schema"),))
    if not migrate.is_known(found):
        return Examined((Problem("schema", f"its schema is {found}, of a newer tminus than this"),), found)
    problems = tuple(Problem("schema", text) for text in wrong[:MOST])
    return Examined(problems, found, is_current=all(text.endswith(schemas.MISSING) for text in wrong))


_COUNTS = select(
    select(func.count()).select_from(SESSIONS).scalar_subquery(),
    select(func.count()).select_from(EVENTS).scalar_subquery(),
    select(func.coalesce(func.max(_E.seq), 0)).scalar_subquery(),
)


def _sqlite_checks(connection: Connection) -> Iterator[Problem]:
    try:
        yield from _integrity(connection, MOST)
    except DBAPIError:
        yield from _integrity(connection, 1)  # of a badly damaged file it tells the first finding, and fails at more
        raise
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchmany(MOST)
    for table, row, parent, _ in orphans:
        yield Problem("foreign_keys", f"row {row} of {table} belongs to a {parent} that is not there")


def _integrity(connection: Connection, most: int) -> Iterator[Problem]:
    findings = connection.exec_driver_sql(f"PRAGMA integrity_check({most})")
    while found := findings.fetchone():
        # What it finds in one tree comes as one text of several lines, under a headline.
        yield from (Problem("integrity", line) for line in found[0].splitlines() if line != "ok" and line[:3] != "***")


# --- what must be true of every session -------------------------------------------------------------------------------


def _some(connection: Connection, check: str, wrong: Select[Any], words: Callable[[Any], str]) -> list[Problem]:
    """The first sessions that are wrong in one way, and how many more there are. The first column is the id."""
    rows = connection.execute(wrong.order_by(_S.id).limit(MOST)).all()
    problems = [Problem(check, f"session {row[0]} {words(row)}", row[0]) for row in rows]
    if len(rows) == MOST:
        more = connection.execute(select(func.count()).select_from(wrong.subquery())).scalar_one() - MOST
        problems += [Problem(check, f"and {more} sessions more")] if more else []
    return problems


def _deadlines(connection: Connection, timeouts: Timeouts, now: datetime) -> list[Problem]:
    """Each open session has the deadline that follows from the time-outs in force, or from those that it was computed
    by last: between the two a reload is at work.
    """
    rightly = [stored_deadline(spans) for spans in (timeouts, *_remembered(connection))]
    due_at = plain("due_at")
    wrong: list[ColumnElement[bool]] = [
        or_(due_at.is_distinct_from(at), _S.due_trigger.is_distinct_from(trigger)) for at, trigger in rightly
    ]
    # One that found no PIN free when it should have opened is put off for a few seconds, again and again.
    waits_for_pin = and_(
        _S.status == Status.SCHEDULED,
        _S.type.in_(PIN_TYPES),
        _S.due_trigger == Trigger.OPEN,
        due_at > rightly[-1][0],
        rightly[-1][0] <= literal(Instant.number(now), BigInteger),
    )
    at, trigger = rightly[-1]
    columns = (
        _S.id,
        _S.status,
        _S.due_trigger,
        _S.due_at,
        trigger.label("trigger"),
        type_coerce(at, _S.due_at.type).label("at"),
    )
    return _some(
        connection,
        "deadline",
        select(*columns).where(*wrong, not_(func.coalesce(waits_for_pin, False))),
        lambda row: f"({row[1]}) has the deadline {_told(row[2], row[3])}, but should have {_told(row[4], row[5])}",
    )


def _told(trigger: str | None, at: datetime | None) -> str:
    return f"{trigger or 'nothing'} at {timestamps.text(at) if at else 'no time'}" if trigger or at else "none"


def _remembered(connection: Connection) -> Sequence[Timeouts]:
    """The time-outs that the stored deadlines were last reckoned with, as `sweeps.follow_timeouts` leaves them."""
    stored = connection.execute(select(META.c.value).where(META.c.key == meta.TIMEOUTS)).scalar()
    return () if stored is None else (meta.parse_timeouts(stored),)


def _histories(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    untold = ~select(_E.seq).where(_E.session_id == _S.id).exists()
    return _some(connection, "events", select(_S.id).where(untold), lambda _row: "has no event")


def _statuses(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    last = select(func.max(_E.seq)).where(_E.session_id == _S.id).correlate(SESSIONS).scalar_subquery()
    joined = SESSIONS.join(EVENTS, _E.seq == last)
    wrong = select(_S.id, _S.status, _E.status, _E.seq).select_from(joined).where(_S.status != _E.status)
    return _some(
        connection, "status", wrong, lambda row: f"is {row[1]}, but by its last event ({row[3]}) it is {row[2]}"
    )


def _pins(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Without the PINs themselves: those are secret."""
    shared = select(_S.pin).where(_S.pin != 0).group_by(_S.pin).having(func.count() > 1)
    has = _S.status.in_((Status.NEW, Status.ACTIVE)) & _S.type.in_(PIN_TYPES)
    return [
        *_some(
            connection, "pin", select(_S.id).where(_S.pin.in_(shared)),
            lambda _row: "shares its PIN with another open session",
        ),
        *_some(
            connection, "pin", select(_S.id, _S.status, _S.pin == 0).where((_S.pin != 0) != has),
            lambda row: f"({row[1]}) has no PIN" if row[2] else f"({row[1]}) has a PIN, and should have none",
        ),
    ]  # fmt: skip


def _participants(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    inside = _P.left_at.is_(None) & _P.waiting_since.is_(None)
    found = select(_P.session_id, func.count().label("number")).where(inside).group_by(_P.session_id).subquery()
    number = func.coalesce(found.c.number, 0)
    joined = SESSIONS.outerjoin(found, found.c.session_id == _S.id)
    wrong = select(_S.id, _S.participants, number).select_from(joined).where(_S.participants != number)
    return _some(connection, "participants", wrong, lambda row: f"counts {row[1]} participants, but {row[2]} are in")


_CHECKS: dict[str, Callable[[Connection, Timeouts, datetime], list[Problem]]] = {
    "deadline": _deadlines,
    "events": _histories,
    "status": _statuses,
    "pin": _pins,
    "participants": _participants,
}
