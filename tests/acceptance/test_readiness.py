"""`/readyz` answers at once, from what the last reads and writes met."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.support.databases import Database, PostgresServer
from tests.support.waiting import eventually

AT_ONCE = 3.0
"""Seconds in which it answers on a machine that is busy: less than any time-out of the database."""


def readiness(daemon: Daemon) -> tuple[int, list[str]]:
    begun = time.monotonic()
    answer = daemon.http.get(f"{daemon.url}/readyz")
    assert time.monotonic() - begun < AT_ONCE
    return answer.status_code, answer.json()["reasons"]


def not_ready(daemon: Daemon) -> str:
    def told() -> list[str]:
        return readiness(daemon)[1]

    return eventually(told)[0]


def ready_for_seconds(daemon: Daemon, seconds: float, code: int) -> None:
    """Fails unless it says the same all the time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert readiness(daemon)[0] == code
        time.sleep(0.05)


@contextmanager
def administrator(database: Database) -> Iterator[psycopg.Connection]:
    url = make_url(database.url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        yield connection


@pytest.mark.slow
def test_while_a_table_is_locked_it_answers_at_once_and_says_so(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database:
        daemon = make_daemon(storage={"url": database.configured})
        daemon.start()
        for table in ("session", "event"):
            with administrator(database) as other:
                other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                assert not_ready(daemon).startswith("the database ")
            eventually(lambda: readiness(daemon)[0] == 200)
        assert daemon.terminate() == 0


@pytest.mark.slow
def test_while_a_right_is_missing_it_is_not_ready_all_the_time_and_then_it_is(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database, pg_server.member(database, "clerk") as url:
        daemon = make_daemon(storage={"url": url})
        daemon.start()
        for right in ("SELECT ON event", "UPDATE ON session"):
            with administrator(database) as other:
                other.execute(f"REVOKE {right} FROM clerk")
            # Whoever uses it meets that, and nobody but the daemon does any more once it is known.
            eventually(lambda: _make(daemon).status_code == 503)
            assert "permission denied for table" in not_ready(daemon)
            ready_for_seconds(daemon, 1.5, 503)
            with administrator(database) as other:
                other.execute(f"GRANT {right} TO clerk")
            eventually(lambda: readiness(daemon)[0] == 200)
            eventually(lambda: _make(daemon).is_success)
        assert daemon.terminate() == 0


def _make(daemon: Daemon) -> httpx.Response:
    made = daemon.post("/supportsessions", {"type": "live", "label": "Mine"})
    return daemon.delete(f"/supportsession/{made.json()['id']}") if made.is_success else made


FAILING = """
import os
from tminus.cli import main
from tminus.{module} import {kind}
work = {kind}.{work}
def failing(self):
    if not os.path.exists("mended"):
        raise RuntimeError("as if there were a defect")
    work(self)
{kind}.{work} = failing
main()
"""


@pytest.mark.slow
def test_a_thread_that_fails_is_told_makes_the_daemon_unready_and_is_started_again(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.spawn_changed(FAILING.format(module="announcer", kind="Announcer", work="_run"))
    daemon.url = eventually(lambda: daemon.log_lines("daemon.ready"))[0]["url"]
    assert daemon.logged("thread.failed")["thread"] == "announcer"
    assert not_ready(daemon) == "a thread of the daemon fails: announcer (RuntimeError)"
    (daemon.home / "mended").touch()
    made = daemon.make()
    eventually(lambda: made["id"] in [line.get("session_id") for line in daemon.log_lines() if "seq" in line])
    eventually(lambda: readiness(daemon)[0] == 200)
    assert len(daemon.log_lines("thread.failed")) == 1, "told once, however often it failed so"
    assert daemon.terminate() == 0
