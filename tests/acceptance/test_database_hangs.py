"""PostgreSQL hangs with open connections: requests fail soon, and work resumes when it continues."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now, parsed
from tests.support.callers import Maker, Reader
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually
from tminus.storage.engine import BUSY_TIMEOUT_MS

BOUND = 18
"""Seconds in which every request gets a response."""


def quickly(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the response; fail if the request waited for a pooled or a new connection."""
    begun = time.monotonic()
    answer = ask()
    assert time.monotonic() - begun < BUSY_TIMEOUT_MS / 1000
    return answer


def reasons(daemon: Daemon) -> list[str]:
    listed: list[str] = daemon.http.get(f"{daemon.url}/readyz").json()["reasons"]
    return listed


@pytest.mark.slow
def test_while_the_database_hangs_requests_are_refused_soon_and_work_resumes_afterwards(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database, ExitStack() as calling:
        url = database.configured
        daemon, another = (make_daemon(storage={"url": url}, lifecycle={"lead": "1s"}) for _ in range(2))
        daemon.start()
        start = from_now(seconds=5)
        due = daemon.make(startTime=start)["id"]
        makers = [calling.enter_context(Maker(daemon, f"maker {number}")) for number in range(3)]
        reader = calling.enter_context(Reader(daemon))
        eventually(lambda: all(one.made for one in makers))

        with pg_server.hanging():
            another.spawn()
            matching = eventually(lambda: [one for one in reasons(daemon) if one.startswith("the database does not")])
            assert matching[0].startswith("the database does not answer, since 20"), matching
            assert quickly(lambda: daemon.http.get(f"{daemon.url}/healthz")).status_code == 200
            for ask in (
                lambda: daemon.post("/supportsessions", {"type": "live", "label": "Lost"}),
                lambda: daemon.get(f"/supportsession/{due}"),
            ):
                answer = quickly(ask)
                assert (answer.status_code, answer.json()["refcode"]) == (503, 107503)
                assert int(answer.headers["Retry-After"]) >= 1
            daemon.logged("storage.unavailable")
            # A daemon that is started meanwhile logs the reason and exits; a service manager would start it again.
            assert another.process is not None
            assert another.process.wait(60) == 1
            assert "timeout" in another.logged("daemon.failed")["error"]
            assert another.errors.read_text() == ""
            eventually(lambda: from_now(seconds=1) > start)  # it falls due while the database hangs

        eventually(lambda: daemon.http.get(f"{daemon.url}/readyz").status_code == 200)
        eventually(lambda: daemon.session(due)["status"] == "new")
        made = sum(len(one.made) for one in makers)
        eventually(lambda: sum(len(one.made) for one in makers) > made + 3)
        calling.close()

        # All callers together: one that was waiting for a new connection may have no refused request.
        assert {answer.status_code for one in (*makers, reader) for answer in one.refused} == {503}
        assert max(one.slowest for one in (*makers, reader)) < BOUND
        assert [event["type"] for event in daemon.events(due)] == ["session.scheduled", "session.ready"]
        opened = daemon.session(due)["openedAt"]
        assert parsed(opened) >= parsed(start) - timedelta(seconds=1), "not early"
        ids = [session_id for one in makers for session_id in one.made]
        found = daemon.get("/supportsessions?scope=all&limit=1000").json()["rows"]
        assert sorted(one["id"] for one in found) == sorted([due, *ids]), "no session is lost or made twice"
        assert daemon.log_lines("http.failed") == []
        assert daemon.terminate() == 0
