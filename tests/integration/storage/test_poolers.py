"""A pooler between the daemon and PostgreSQL: it works, or the daemon refuses it with one line."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime

import psycopg
import pytest
from sqlalchemy import make_url, text
from tests.support.databases import Database, PostgresServer
from tests.support.poolers import PGBOUNCER, pooler
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.errors import CannotOpenDatabase, StoreUnavailable
from tminus.storage import Store, StoreObserver
from tminus.storage.engine import make_engine

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="NOT TESTED BEHIND A POOLER: pgbouncer is not installed")


@pytest.fixture
def behind(pg_server: PostgresServer) -> Iterator[Database]:
    with pg_server.database() as database:
        yield database


def test_a_pooler_in_session_mode_works(behind: Database) -> None:
    notifications: list[datetime | None] = []
    with pooler(behind, "session") as bouncer, ExitStack() as opened:
        one = Store(bouncer.url, clock.now, StoreObserver(peer_committed=notifications.append))
        opened.callback(one.close)
        eventually(lambda: notifications)  # the store listens
        other = Store(bouncer.url, clock.now, StoreObserver(peer_committed=lambda _due: None))
        opened.callback(other.close)
        assert one.acquire("endpoint")
        assert not other.acquire("endpoint")
        limit = text("SELECT current_setting('idle_in_transaction_session_timeout')")
        assert one.submit(lambda tx: tx.scalar(limit)).result() == "5s"  # type: ignore[arg-type]
        other.submit(lambda tx: setattr(tx, "has_events", True)).result()
        eventually(lambda: len(notifications) > 1)
        one.release("endpoint")
        assert other.acquire("endpoint")


def test_settings_of_the_url_are_in_force_behind_a_pooler_that_ignores_start_up_options(behind: Database) -> None:
    with pooler(behind, "session") as bouncer:
        options = r"-c%20idle_in_transaction_session_timeout=7s%20--work-mem=5MB%20-c%20application_name=a%5C%20b"
        engine = make_engine(f"{bouncer.url}?options={options}", writes=True)
        with engine.connect() as connection:
            names = ("idle_in_transaction_session_timeout", "work_mem", "application_name", "client_encoding")
            found = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
        engine.dispose()
    assert found == ["7s", "5MB", "a b", "UTF8"]


@pytest.mark.parametrize("more", [{}, {"server_round_robin": 1}, {"default_pool_size": 1}], ids=str)
def test_a_pooler_in_transaction_mode_is_refused_with_one_line(behind: Database, more: dict[str, int]) -> None:
    with pooler(behind, "transaction", **more) as bouncer:
        if "default_pool_size" not in more:
            warm(bouncer.port, behind, 3)
        with pytest.raises(CannotOpenDatabase) as refused:
            Store(bouncer.url, clock.now)
    message = refused.value.description
    assert "a pooler between tminus and PostgreSQL" in message
    assert "pool_mode = session" in message
    assert "\n" not in message


def warm(port: int, database: Database, sessions: int) -> None:
    """Make the pooler open several server sessions, as if other clients used it already."""
    url = make_url(database.url)
    with ExitStack() as opened:
        for _ in range(sessions):
            other = opened.enter_context(
                psycopg.connect(host="127.0.0.1", port=port, user=url.username, dbname=url.database)
            )
            other.execute("SELECT 1")


def test_a_pooler_in_statement_mode_is_refused_with_one_line(behind: Database) -> None:
    with pooler(behind, "statement") as bouncer, pytest.raises(CannotOpenDatabase, match="pool_mode = session"):
        Store(bouncer.url, clock.now)


def test_a_pooler_that_changes_its_mode_is_refused_until_the_mode_is_corrected(behind: Database) -> None:
    with pooler(behind, "session") as bouncer, ExitStack() as opened:
        store = Store(bouncer.url, clock.now)
        opened.callback(store.close)

        def write() -> None:
            store.submit(lambda tx: tx.set_meta("label", "x")).result()

        def read() -> str | None:
            return store.read(lambda view: view.meta("label"))

        def works() -> bool:
            with suppress(StoreUnavailable):
                write()
                return read() == "x" and store.acquire("endpoint")
            return False

        def refusals() -> set[str]:
            """Return the errors of a write and of a read."""
            for attempt in (write, read):
                with pytest.raises(StoreUnavailable):
                    attempt()
            unreadable = store.unreadable()
            return {str(store.failing), unreadable.why if unreadable else "readable"}

        assert works()
        bouncer.restart("transaction")
        message = (
            "a pooler between tminus and PostgreSQL gives each transaction another session of the server:"
            " tminus needs whole sessions (pool_mode = session), or no pooler"
        )
        eventually(lambda: refusals() == {message})
        assert not store.acquire("endpoint")
        bouncer.restart("session")
        eventually(works)


def test_a_refused_pooler_keeps_no_settings_of_ours(behind: Database) -> None:
    with pooler(behind, "transaction") as bouncer:
        with pytest.raises(CannotOpenDatabase):
            Store(bouncer.url, clock.now)
        url = make_url(behind.url)
        with psycopg.connect(host="127.0.0.1", port=bouncer.port, user=url.username, dbname=url.database) as other:
            row = other.execute("SHOW idle_in_transaction_session_timeout").fetchone()
    assert row == ("0",), "the shared server session is unchanged"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_refused_with_one_line(pg_server: PostgresServer, encoding: str) -> None:
    with pg_server.database(empty=True, encoding=encoding) as database, pytest.raises(CannotOpenDatabase) as refused:
        Store(database.url, clock.now)
    assert f"the database's encoding is {encoding}, and tminus needs UTF8" in refused.value.description
    assert "\n" not in refused.value.description


@pytest.mark.parametrize("how", ["url", "options", "environment", "role"])
def test_text_is_utf8_on_each_connection_although_other_clients_set_another_encoding(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with pg_server.database(empty=True) as database:
        url = make_url(database.url)
        if how == "url":
            url = url.update_query_dict({"client_encoding": "latin1"})
        elif how == "options":
            url = url.update_query_dict({"options": "-c client_encoding=latin1"})
        elif how == "environment":
            monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
            monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
        else:
            with psycopg.connect(url.set(drivername="postgresql").render_as_string(), autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {url.database} SET client_encoding TO 'SQL_ASCII'")
        store = Store(url.render_as_string(hide_password=False), clock.now)
        try:
            store.submit(lambda tx: tx.set_meta("label", "会議 Łódź 🚀")).result()
            assert store.read(lambda view: view.meta("label")) == "会議 Łódź 🚀"
        finally:
            store.close()
