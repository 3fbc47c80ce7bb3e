"""Two servers, one of which accepts writes: the daemon connects to that one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime

import pytest
from sqlalchemy import make_url
from tests.support.databases import Database, PostgresServer, postgres_server
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.errors import StoreUnavailable
from tminus.storage import Store, StoreObserver, server_watch
from tminus.storage.store import Lane


def both(*databases: Database) -> str:
    """Return the URL that docs/install.md recommends for several servers."""
    hosts = "&".join(f"host={make_url(each.url).query['host']}:5432" for each in databases)
    return f"postgresql+psycopg://postgres@/tminus?{hosts}&target_session_attrs=read-write"


@contextmanager
def fenced(server: PostgresServer) -> Iterator[None]:
    """Make all sessions of a server read-only, those that are open as well."""

    def reload(change: str, value: str) -> None:
        server._admin.execute(f"ALTER SYSTEM {change}")
        server._admin.execute("SELECT pg_reload_conf()")
        asked = [session.execute for session in (server._admin, server._cleaner)]
        eventually(lambda: {ask("SHOW default_transaction_read_only").fetchone() for ask in asked} == {(value,)})

    reload("SET default_transaction_read_only = on", "on")
    try:
        yield
    finally:
        reload("RESET default_transaction_read_only", "off")


def writes(store: Store, value: str) -> Callable[[], bool]:
    """Return a function that tries to write, and returns whether it has."""

    def write() -> bool:
        with suppress(StoreUnavailable):
            store.submit(lambda tx: tx.set_meta("where", value)).result()
            return True
        return False

    return write


@pytest.mark.slow
def test_a_url_with_two_hosts_connects_to_the_server_that_accepts_writes(pg_server: PostgresServer) -> None:
    """The first server is read-only like a standby, until it accepts writes and the second server is killed."""
    received: list[datetime | None] = []
    with ExitStack() as stack:
        first, second = pg_server, stack.enter_context(postgres_server())
        one, two = (stack.enter_context(server.database()) for server in (first, second))
        first._admin.execute("ALTER DATABASE tminus SET default_transaction_read_only = on")
        try:
            store = Store(both(one, two), clock.now, StoreObserver(peer_committed=received.append))
            stack.callback(store.close)
            eventually(lambda: received == [None])
            store.submit(lambda tx: tx.set_meta("where", "second")).result()
            assert store.read(lambda view: view.meta("where")) == "second"
        finally:
            first._admin.execute("ALTER DATABASE tminus RESET default_transaction_read_only")
        second.kill()
        stack.callback(second.start_again)
        eventually(writes(store, "first"))
        eventually(lambda: len(received) > 1)  # it listens at the other server, too
        assert store.read(lambda view: view.meta("where")) == "first"


@pytest.mark.slow
@pytest.mark.parametrize("finder", ["writer", "watchdog"])
def test_no_connection_stays_on_a_server_that_has_become_read_only(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, finder: str
) -> None:
    """The first server keeps all its connections open, as in a planned switch to the second one."""
    if finder == "writer":
        monkeypatch.setattr(server_watch, "INTERVAL", 60.0)
    received: list[datetime | None] = []
    lanes: tuple[Lane, ...] = ("requests", "clock", "search", "deliveries")
    with ExitStack() as stack:
        first = stack.enter_context(postgres_server())
        one, two = (stack.enter_context(server.database()) for server in (first, pg_server))
        store = Store(both(one, two), clock.now, StoreObserver(peer_committed=received.append))
        stack.callback(store.close)
        eventually(lambda: received == [None])
        store.submit(lambda tx: tx.set_meta("where", "first")).result()
        assert {store.read(lambda view: view.meta("where"), lane=lane) for lane in lanes} == {"first"}
        assert store.acquire("a")
        with fenced(first):
            if finder == "writer":
                assert not writes(store, "second")()
                assert store.read(lambda view: view.meta("where")) == "first", "no other server has answered yet"
                eventually(writes(store, "second"))
            else:
                # Nothing is written here. Another daemon has moved to the second server, and writes there.
                pg_server._cleaner.execute("INSERT INTO meta VALUES ('where', 'second')")
                eventually(lambda: store.read(lambda view: view.meta("where")) == "second")
            assert {store.read(lambda view: view.meta("where"), lane=lane) for lane in lanes} == {"second"}
            assert store.acquire("a")
            counted = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert pg_server._cleaner.execute(counted).fetchall() == [(1,)], "the lock is held where the others look"
            eventually(lambda: received == [None, None])  # it listens at the other server
            assert writes(store, "again")()
            switches = store._watch.generation
            store.submit(lambda tx: tx.set_meta("where", "third")).result()
            assert store._watch.generation == switches, "it stays there"
