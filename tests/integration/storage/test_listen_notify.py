"""LISTEN and NOTIFY between daemons on one PostgreSQL."""

from datetime import datetime

import psycopg
from sqlalchemy import make_url
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually

from tminus.domain import timestamps


def test_an_invalid_notification_is_ignored_and_the_next_is_received(pg_server: PostgresServer) -> None:
    received: list[datetime | None] = []
    with pg_server.database() as database:
        database.open(peer_committed=received.append)
        eventually(lambda: received)  # the store listens
        url = make_url(database.url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            for payload in ("somebody soon", f"somebody {10**30}", "somebody 86400000"):
                other.execute("SELECT pg_notify('tminus', %s)", [payload])
        eventually(lambda: len(received) > 1)
    assert received == [None, timestamps.parse("1970-01-02T00:00:00Z")]


def test_a_listener_reconnects_and_reads_what_it_has_missed(
    pg_server: PostgresServer,
) -> None:
    received: list[datetime | None] = []
    with pg_server.database() as database:
        database.open(peer_committed=received.append)
        eventually(lambda: received == [None])
        url = make_url(database.url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            ended = other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN tminus'"
                " AND datname = current_database()"
            ).fetchall()
            assert ended == [(True,)]
            eventually(lambda: received == [None, None])
            other.execute("SELECT pg_notify('tminus', 'somebody 86400000')")
            eventually(lambda: received == [None, None, timestamps.parse("1970-01-02T00:00:00Z")])
