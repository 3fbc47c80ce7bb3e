"""Statements that PostgreSQL has prepared, and refuses after an administrator has altered a table."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from tests.support.databases import PostgresServer

from tminus.storage import Store, View
from tminus.storage.engine import make_engine
from tminus.storage.store import Lane

LANES: tuple[Lane, ...] = ("requests", "clock")
OFTEN = 10
"""More executions than those after which the driver prepares a statement."""


def read(store: Store, query: Callable[[View], str | None]) -> set[str | None]:
    return {store.read(query, lane=lane) for lane in LANES}


def write(store: Store, query: Callable[[View], str | None]) -> set[str | None]:
    return {store.submit(query).result(30)}


@pytest.mark.parametrize("do", [read, write])
def test_a_statement_that_was_prepared_before_a_column_was_altered_is_repeated(
    pg_server: PostgresServer, do: Callable[[Store, Callable[[View], str | None]], set[str | None]]
) -> None:
    with pg_server.database(empty=True) as database:
        store = database.open()
        store.submit(lambda tx: tx.set_meta("where", "here")).result(30)
        engine = make_engine(database.url, writes=True)
        for length in (400, 500):
            for _ in range(OFTEN):
                assert do(store, lambda view: view.meta("where")) == {"here"}
            with engine.begin() as administrator:
                administrator.execute(text(f"ALTER TABLE meta ALTER COLUMN value TYPE varchar({length})"))
        assert do(store, lambda view: view.meta("where")) == {"here"}
        assert store.failing is None
        engine.dispose()
