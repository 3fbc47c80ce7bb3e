"""Advisory locks that a daemon holds by name, on a real PostgreSQL."""

import pytest
from tests.support.databases import PostgresServer

from tminus.storage import locks
from tminus.storage.server_watch import ServerWatch


def test_a_lock_released_during_its_renewal_is_free_for_another_daemon(
    pg_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "KEEP_ALIVE_INTERVAL", 0.0005)  # renewals overlap with releases many times
    with pg_server.database() as database:
        one, other = database.open(), database.open()
        for number in range(300):
            name = f"endpoint {number}"
            assert one.acquire(name)
            one.release(name)
            assert other.acquire(name), "the lock is free"
            other.release(name)


def test_locks_are_lost_with_their_connection(pg_server: PostgresServer) -> None:
    with pg_server.database() as database:
        one, other = database.open(), database.open()
        assert one.acquire("a")
        assert one.acquire("b")
        assert isinstance(one._watch, ServerWatch)
        one._watch.silences += 1  # the server did not respond, so older connections are no longer used
        one.release("a")
        assert other.acquire("b"), "the lock ended with its connection"
        assert not one.acquire("b"), "the first daemon does not assume that it still holds the lock"
