"""The connection to PostgreSQL is cut, delayed, reset or drops all data: requests fail soon, and work resumes."""

import re
import signal
import time

import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from tminus.storage.engine import BUSY_TIMEOUT_MS

AT_ONCE = BUSY_TIMEOUT_MS / 1000
"""Seconds. A request that takes less has not waited for a connection of the pool."""


@pytest.mark.slow
def test_while_the_database_is_unreachable_requests_fail_at_once_and_work_resumes_afterwards(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database:
        url = make_url(database.url)
        folder = url.query.get("host") or url.host
        with Proxy(f"{folder}/.s.PGSQL.5432") as proxy:
            storage = {"url": f"postgresql+psycopg://{url.username}@127.0.0.1:{proxy.port}/{url.database}"}
            daemon: Daemon = make_daemon(storage=storage, lifecycle={"lead": "1s"})
            daemon.start()
            due = daemon.make(startTime=from_now(seconds=6))
            kept = [daemon.make()["id"] for _ in range(5)]
            pid = daemon.process.pid if daemon.process else 0

            proxy.cut()
            for _ in range(10):
                begun = time.monotonic()
                for answer in (
                    daemon.post("/supportsessions", {"type": "live", "label": "Lost"}),
                    daemon.get(f"/supportsession/{kept[0]}"),
                ):
                    assert (answer.status_code, answer.json()["refcode"]) == (503, 107503)
                    assert int(answer.headers["Retry-After"]) >= 1
                assert time.monotonic() - begun < AT_ONCE
            ready = daemon.http.get(f"{daemon.url}/readyz")
            assert ready.status_code == 503
            assert re.match("the database cannot be (read|written), since [^ ]+Z: ", ready.json()["reasons"][0])
            assert daemon.http.get(f"{daemon.url}/healthz").status_code == 200
            daemon.logged("storage.unavailable")

            # A reload applies the settings without the database; stored deadlines follow when the database is back.
            daemon.configure(storage=storage, lifecycle={"lead": "500ms"})
            daemon.signal(signal.SIGHUP)
            daemon.logged("config.reloaded")

            eventually(lambda: from_now(seconds=1) > due["startTime"])  # it falls due during the outage
            proxy.end_faults()
            eventually(lambda: daemon.http.get(f"{daemon.url}/readyz").status_code == 200)
            eventually(lambda: daemon.session(due["id"])["status"] == "new")
            assert [event["type"] for event in daemon.events(due["id"])] == ["session.scheduled", "session.ready"]
            assert {daemon.session(one)["status"] for one in kept} == {"new"}
            assert daemon.get("/supportsessions?scope=all").json()["count"] == 6, "no refused request created a session"
            made = daemon.make()
            assert daemon.session(made["id"])["status"] == "new"

            # Responses are delayed, but complete.
            proxy.delay = 0.1
            assert daemon.session(daemon.make()["id"])["status"] == "new"
            proxy.end_faults()

            # The connection is reset in the middle of a response: a request may be refused, and the retry with the same
            # key executes it once.
            key = {"Idempotency-Key": "reset"}
            for _ in range(5):
                proxy.reset_in_answer(after=3)
                eventually(
                    lambda: daemon.post("/supportsessions", {"type": "live", "label": "Once"}, headers=key).is_success
                )
            eventually(lambda: daemon.http.get(f"{daemon.url}/readyz").status_code == 200)
            labels = [one["label"] for one in daemon.get("/supportsessions?scope=all&limit=1000").json()["rows"]]
            assert labels.count("Once") == 1

            # A network that drops all data: waiting requests are refused, and new ones do not wait.
            proxy.drop_packets()
            eventually(lambda: daemon.post("/supportsessions", {"type": "live", "label": "Lost"}).status_code == 503)
            eventually(lambda: "does not answer" in daemon.http.get(f"{daemon.url}/readyz").text)
            begun = time.monotonic()
            assert daemon.get(f"/supportsession/{kept[0]}").status_code == 503
            assert time.monotonic() - begun < AT_ONCE
            proxy.end_faults()
            eventually(lambda: daemon.http.get(f"{daemon.url}/readyz").status_code == 200)
            assert daemon.session(daemon.make(label="After")["id"])["status"] == "new"
            labels = [one["label"] for one in daemon.get("/supportsessions?scope=all&limit=1000").json()["rows"]]
            assert "Lost" not in labels

            assert daemon.process is not None
            assert (daemon.process.pid, daemon.process.poll()) == (pid, None)
            daemon.logged("storage.recovered")
            assert daemon.log_lines("config.failed") == []
            daemon.logged("deadlines.moved")
            assert daemon.terminate() == 0
