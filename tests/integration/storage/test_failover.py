"""Two servers, one of which accepts writes: the daemon connects to that one."""

from contextlib import ExitStack, suppress
from datetime import datetime

import pytest
from sqlalchemy import make_url
from tests.support.databases import PostgresServer, postgres_server
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.errors import StoreUnavailable
from tminus.storage import Store, StoreObserver


@pytest.mark.slow
def test_a_url_with_two_hosts_connects_to_the_server_that_accepts_writes(pg_server: PostgresServer) -> None:
    """The first server is read-only like a standby, until it accepts writes and the second server is killed."""
    received: list[datetime | None] = []
    with ExitStack() as stack:
        first, second = pg_server, stack.enter_context(postgres_server())
        one, two = (stack.enter_context(server.database()) for server in (first, second))
        hosts = "&".join(f"host={make_url(each.url).query['host']}:5432" for each in (one, two))
        url = f"postgresql+psycopg://postgres@/tminus?{hosts}&target_session_attrs=read-write"
        first._admin.execute("ALTER DATABASE tminus SET default_transaction_read_only = on")
        try:
            store = Store(url, clock.now, StoreObserver(peer_committed=received.append))
            stack.callback(store.close)
            eventually(lambda: received == [None])
            store.submit(lambda tx: tx.set_meta("where", "second")).result()
            assert store.read(lambda view: view.meta("where")) == "second"
        finally:
            first._admin.execute("ALTER DATABASE tminus RESET default_transaction_read_only")
        second.kill()
        stack.callback(second.start_again)

        def written() -> bool:
            with suppress(StoreUnavailable):
                store.submit(lambda tx: tx.set_meta("where", "first")).result()
                return True
            return False

        eventually(written)
        eventually(lambda: len(received) > 1)  # it listens at the other server, too
        assert store.read(lambda view: view.meta("where")) == "first"
