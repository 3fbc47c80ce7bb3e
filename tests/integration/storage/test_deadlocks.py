"""A transaction that deadlocks with a migration is retried. The migration locks one table after another."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, text
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually

from tminus.storage import Store, Transaction, View
from tminus.storage.engine import make_engine
from tminus.storage.tables import EVENTS, SESSIONS

WAITING = text("SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
               "WHERE NOT granted AND datname = current_database()")  # fmt: skip


def _read(store: Store, query: Callable[[View], object]) -> object:
    return store.read(query)


def _write(store: Store, query: Callable[[Transaction], object]) -> object:
    return store.submit(query).result(30)


@pytest.mark.parametrize("do", [_read, _write])
def test_a_transaction_aborted_in_a_deadlock_succeeds_at_its_retry(
    pg_server: PostgresServer, do: Callable[..., object]
) -> None:
    with pg_server.database(empty=True) as database:
        store = database.open()
        attempts: list[int] = []
        first = threading.Event()
        go_on = threading.Event()

        def query(view: View) -> object:
            attempts.append(1)
            view.scalar(select(func.count()).select_from(EVENTS))
            first.set()
            assert go_on.wait(30)
            return view.scalar(select(func.count()).select_from(SESSIONS))

        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(do(store, query)))
        engine, other = (make_engine(database.url, writes=True) for _ in range(2))
        with engine.connect() as migration, other.connect() as observer, migration.begin():
            migration.execute(text("LOCK TABLE session"))
            thread.start()
            assert first.wait(30)
            # PostgreSQL aborts the transaction that detects the deadlock. It must be that of the store.
            migration.execute(text("SET LOCAL deadlock_timeout = '1h'"))
            go_on.set()
            eventually(lambda: observer.execute(WAITING).scalar())
            migration.execute(text("LOCK TABLE event"))
        thread.join(30)
        assert found == [0]
        assert len(attempts) == 2
        engine.dispose()
        other.dispose()
