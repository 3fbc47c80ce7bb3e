"""A transaction in a deadlock with a migration, which locks one table after the other, is retried."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import func, select, text
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually

from tminus.storage import Store, Transaction, View
from tminus.storage.engine import make_engine
from tminus.storage.tables import EVENTS, SESSIONS

WAITS = text("SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
             "WHERE NOT granted AND datname = current_database()")  # fmt: skip


def _read(store: Store, ask: Callable[[View], object]) -> object:
    return store.read(ask)


def _write(store: Store, ask: Callable[[Transaction], object]) -> object:
    return store.submit(ask).result(30)


@pytest.mark.parametrize("do", [_read, _write])
def test_a_transaction_aborted_in_a_deadlock_succeeds_at_its_retry(
    pg_server: PostgresServer, do: Callable[..., object]
) -> None:
    with pg_server.database(empty=True) as database:
        store = database.open()
        tries: list[int] = []
        first = threading.Event()
        go_on = threading.Event()

        def ask(view: View) -> object:
            tries.append(1)
            view.scalar(select(func.count()).select_from(EVENTS))
            first.set()
            assert go_on.wait(30)
            return view.scalar(select(func.count()).select_from(SESSIONS))

        found: list[object] = []
        asking = threading.Thread(target=lambda: found.append(do(store, ask)))
        engine, other = (make_engine(database.url, writes=True) for _ in range(2))
        with engine.connect() as migration, other.connect() as looking, migration.begin():
            migration.execute(text("LOCK TABLE session"))
            asking.start()
            assert first.wait(30)
            # The other one looks for a deadlock, this one never does.
            migration.execute(text("SET LOCAL deadlock_timeout = '1h'"))
            go_on.set()
            eventually(lambda: looking.execute(WAITS).scalar())
            migration.execute(text("LOCK TABLE event"))
        asking.join(30)
        assert found == [0]
        assert len(tries) == 2
        engine.dispose()
        other.dispose()
