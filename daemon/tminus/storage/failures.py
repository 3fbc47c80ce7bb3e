"""What the errors of a database mean.

The errors of psycopg are recognized by their SQLSTATE, so that a daemon on SQLite needs no psycopg, which takes 9 MB.
"""

import sqlite3
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoFreeConnection


class NoAnswer(Exception):
    """The database does not answer."""

    def __str__(self) -> str:
        return "it does not answer"


class TimedOut(NoAnswer):
    """The database did not answer within the time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s, given up"


class NotReplicated(NoAnswer):
    """A transaction is committed, but the server has not waited for its standbys, as it should have."""

    def __init__(self, warning: str) -> None:
        super().__init__(warning)
        self._warning = warning

    def __str__(self) -> str:
        return self._warning


class Unsuitable(NoAnswer):
    """A connection that the daemon cannot rely on."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self._why = why

    def __str__(self) -> str:
        return self._why


DEADLOCK_DETECTED = "40P01"
LOCK_NOT_AVAILABLE = "55P03"

_EXTERNAL = frozenset(
    {
        "42501",  # insufficient_privilege: PostgreSQL also raises it for a read-only disk
        "42P01",  # undefined_table: an administrator moves tables, or restores a dump
        "26000",  # invalid_sql_statement_name: a pooler has assigned the session to another client
        "42P05",  # duplicate_prepared_statement: likewise
    }
)
"""Errors that psycopg classifies as a defect of the statement, although their cause is outside tminus."""

_DAMAGED = frozenset({"XX001", "XX002"})
"""data_corrupted and index_corrupted."""


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error; None if it has none, as errors of SQLite and of lost connections."""
    code: str | None = getattr(getattr(error, "orig", None) or error, "sqlstate", None)
    return code


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error means that the database is unavailable, and not that this statement is wrong."""
    if isinstance(error, NoAnswer | NoFreeConnection):
        return True
    if not isinstance(error, DBAPIError):
        return False
    return (
        error.connection_invalidated
        or sqlstate(error) in _EXTERNAL
        or not isinstance(error, DataError | IntegrityError | ProgrammingError | NotSupportedError)
    )


def is_of_database(error: BaseException) -> bool:
    """Return whether the database or its driver raised an error, for any reason."""
    return isinstance(error, SQLAlchemyError | sqlite3.Error | NoAnswer) or hasattr(error, "sqlstate")


def is_damage(error: BaseException) -> bool:
    """Return whether an error means that the database's file is damaged, or is no database."""
    if sqlstate(error) in _DAMAGED:
        return True
    cause: Any = getattr(error, "orig", None) or error
    return isinstance(cause, sqlite3.DatabaseError) and any(
        words in str(cause) for words in ("malformed", "not a database")
    )


def reason(error: BaseException) -> str:
    """Return the driver's error message on one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
