"""`/readyz` responds at once, from the results of the latest reads and writes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.databases import Database, PostgresServer
from tests.support.receivers import SECRET, Receiver
from tests.support.waiting import eventually

AT_ONCE = 3.0
"""Maximum seconds for a response of a busy machine: less than every time-out of the database."""


def readiness(daemon: Daemon) -> tuple[int, list[str]]:
    begun = time.monotonic()
    answer = daemon.http.get(f"{daemon.url}/readyz")
    assert time.monotonic() - begun < AT_ONCE
    return answer.status_code, answer.json()["reasons"]


def not_ready(daemon: Daemon) -> str:
    def reasons() -> list[str]:
        return readiness(daemon)[1]

    return eventually(reasons)[0]


def check_status(daemon: Daemon, seconds: float, code: int) -> None:
    """Fail unless `/readyz` responds with the same status for a number of seconds."""
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
def test_readyz_reports_a_locked_table_at_once(pg_server: PostgresServer, make_daemon: StartDaemon) -> None:
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
def test_a_daemon_that_may_not_store_events_is_never_ready(pg_server: PostgresServer, make_daemon: StartDaemon) -> None:
    """Not even for its first answer: a rolling upgrade would go on to the next daemon."""
    with pg_server.database(empty=True) as database, pg_server.member(database, "clerk") as url:
        with administrator(database) as other:
            other.execute("REVOKE INSERT ON event FROM clerk")
        daemon = make_daemon(storage={"url": url})
        daemon.start()
        status, reasons = readiness(daemon)
        assert status == 503
        assert "permission denied for table event" in str(reasons)


@pytest.mark.slow
def test_the_daemon_is_not_ready_while_a_database_privilege_is_missing(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database, pg_server.member(database, "clerk") as url:
        daemon = make_daemon(storage={"url": url})
        daemon.start()
        for right in ("SELECT ON event", "UPDATE ON session"):
            with administrator(database) as other:
                other.execute(f"REVOKE {right} FROM clerk")
            # A request finds the missing privilege; afterwards only the daemon's own probe tries it.
            eventually(lambda: _make(daemon).status_code == 503)
            assert "permission denied for table" in not_ready(daemon)
            check_status(daemon, 1.5, 503)
            with administrator(database) as other:
                other.execute(f"GRANT {right} TO clerk")
            eventually(lambda: readiness(daemon)[0] == 200)
            eventually(lambda: _make(daemon).is_success)
        assert daemon.terminate() == 0


def _make(daemon: Daemon) -> httpx.Response:
    made = daemon.post("/supportsessions", {"type": "live", "label": "Mine"})
    return daemon.delete(f"/supportsession/{made.json()['id']}") if made.is_success else made


FAILING = """
import os, threading, time
from tminus.api.readers import Readers
from tminus.cli import main
from tminus.delivery.webhooks import Webhooks
from tminus.logs.writer import LogWriter
from tminus.monitoring.event_log import EventLog
from tminus.scheduler import clock_steps, timers
from tminus.service import run_marker
from tminus.storage import listen_notify, locks, server_watch, writer

def fails(kind, name, file="broken"):
    work = getattr(kind, name)
    def failing(self, *given):
        if os.path.exists(file):
            raise RuntimeError("as if there were a defect")
        return work(self, *given)
    setattr(kind, name, failing)

fails(listen_notify.PeerNotifications, "_listen", "broken-at-start")
fails(locks.AdvisoryLocks, "_keep_alive", "broken-at-start")
fails(EventLog, "_save", "broken-at-start")  # later there may be nothing to save
fails(LogWriter, "_write")
fails(Readers, "_read")
fails(clock_steps.ClockStepDetector, "_log_difference")
fails(timers._Scheduler, "_process_jobs")
fails(server_watch.ServerWatch, "_end_waits")
fails(writer.Writer, "_write")

serve = Webhooks._run
def ends(self):
    if os.path.exists("broken"):
        raise RuntimeError("as if there were a defect")
    def stop():
        while not os.path.exists("broken"):
            time.sleep(0.05)
        self._loop.call_soon_threadsafe(self._loop.stop)
    threading.Thread(target=stop, daemon=True).start()
    serve(self)
    if os.path.exists("broken"):
        raise RuntimeError("as if there were a defect")
Webhooks._run = ends

utime = os.utime
def no_sign_of_life(*given):
    if os.path.exists("broken"):
        raise RuntimeError("as if there were a defect")
    utime(*given)
run_marker.os.utime = no_sign_of_life

main()
"""

READERS = {"read_0", "read_1", "read_2", "read_3"}
"""Names of the threads that read the database for requests."""

THREADS = READERS | {
    "event_log", "listen", "locks", "log", "clock_steps", "running", "timers", "watch", "webhooks", "writer",
}  # fmt: skip
"""Names of the threads that run as long as the daemon, except the one that serves HTTP."""


@pytest.mark.slow
def test_a_failed_thread_is_logged_and_restarted_and_the_daemon_is_not_ready_meanwhile(
    pg_server: PostgresServer, make_daemon: StartDaemon, receiver: Receiver
) -> None:
    with pg_server.database(empty=True) as database:
        daemon = make_daemon()
        secret = daemon.home / "secret"
        secret.write_text(SECRET)
        webhook = {"name": "desk", "url": receiver.url, "secret_file": str(secret)}
        daemon.configure(storage={"url": database.configured}, webhooks=[webhook])
        early, broken = daemon.home / "broken-at-start", daemon.home / "broken"
        early.touch()
        daemon.spawn_patched(FAILING)
        daemon.url = eventually(lambda: daemon.log_lines("daemon.ready"))[0]["url"]
        session = daemon.make()["id"]
        broken.touch()
        failing = {f"a thread of the daemon fails: {name} (RuntimeError)" for name in THREADS}

        def all_fail() -> bool:
            _make(daemon)  # the writer fails when it has something to write
            for _ in READERS:  # a reader that has failed waits before it restarts, so each read fails another one
                assert daemon.get(f"/supportsession/{session}").status_code == 500
            # On a busy machine this lasts so long that the scheduler counts as stopped too.
            return failing <= set(readiness(daemon)[1])

        eventually(all_fail)
        early.unlink()
        broken.unlink()
        eventually(lambda: readiness(daemon)[0] == 200)

        assert daemon.session(session)["id"] == session
        opening = daemon.make(startTime=from_now(minutes=10, seconds=0.5))
        daemon.logged("session.ready", session_id=opening["id"])
        eventually(lambda: opening["id"] in [event["id"] for one in receiver.requests for event in one.events])
        failed = [line["thread"] for line in daemon.log_lines("thread.failed")]
        assert sorted(failed) == sorted(THREADS), "the log has each thread once, however often it failed"
        assert daemon.terminate() == 0
