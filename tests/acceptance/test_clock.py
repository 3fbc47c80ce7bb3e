"""Sessions open and close at their deadlines, or at the next start of the daemon."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON
from tests.acceptance.times import from_now, parsed, text
from tests.support.waiting import eventually

LATE = timedelta(seconds=5)
"""How late a busy machine may be. `make bench` measures how late the daemon is."""


def test_the_tour(make_daemon: StartDaemon) -> None:
    """A session scheduled for ten minutes and two seconds from now is open two seconds later."""
    daemon = make_daemon()
    daemon.fresh = True
    daemon.start()
    done = daemon.command("schedule", "--type", "live", "--label", "Demo", "--in", "10m2s", "--json")
    assert done.returncode == 0, done.stderr
    session = json.loads(done.stdout)
    assert session["status"] == "scheduled"
    opens = parsed(session["startTime"]) - timedelta(minutes=10)
    line = daemon.logged("session.ready", session_id=session["id"])
    opened = parsed(daemon.session(session["id"])["openedAt"])
    assert timedelta(0) <= opened - opens < LATE
    assert line["lag_ms"] == (opened - opens) // timedelta(milliseconds=1)
    assert (line["previous_status"], line["status"], line["actor"]) == ("scheduled", "new", "clock")
    assert "Demo" in line["message"]
    assert "is open" in line["message"]
    shown = daemon.command("show", session["id"])
    assert shown.returncode == 0
    assert "new" in shown.stdout
    assert "Demo" in shown.stdout


def test_every_deadline_is_met(start_daemon: StartDaemon) -> None:
    """A session opens by the lead time, expires if nobody joins, and is closed when empty or at the time limit."""
    daemon = start_daemon(
        lifecycle={"lead": "200ms", "new_timeout": "3s", "empty_timeout": "300ms", "max_active": "2s"}
    )
    expiring = daemon.make(type="support", startTime=from_now(seconds=2))
    busy = daemon.make()
    assert daemon.join(busy["id"]).status_code == 200
    empty = daemon.make(type="support")
    guest = daemon.join(empty["id"]).json()["participantId"]
    daemon.delete(f"/supportsession/{empty['id']}/participants/{guest}", by="room")

    def closed(session: JSON) -> JSON:
        return eventually(lambda: ((now := daemon.session(session["id"]))["status"] == "closed" and now) or {})

    ended = {name: closed(session) for name, session in (("expiring", expiring), ("empty", empty), ("busy", busy))}
    assert {name: session["closeReason"] for name, session in ended.items()} == {
        "expiring": "expired", "empty": "empty", "busy": "time_limit",
    }  # fmt: skip
    late = {
        "expiring": parsed(ended["expiring"]["closedAt"]) - parsed(expiring["expiresAt"]),
        "busy": parsed(ended["busy"]["closedAt"]) - parsed(ended["busy"]["activatedAt"]) - timedelta(seconds=2),
    }
    for name, lag in late.items():
        assert timedelta(0) <= lag < LATE, name
    assert 2 <= ended["busy"]["durationSeconds"] <= 2 + LATE.seconds
    assert ended["busy"]["participants"] == 0
    events = [(event["type"], event.get("lagMs") is not None) for event in daemon.events(expiring["id"])]
    assert events == [("session.scheduled", False), ("session.ready", True), ("session.closed", True)]
    assert daemon.get(f"/support/{empty['pin']}/meta", by=None).status_code == 404


@pytest.mark.parametrize("storage", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_transitions_due_during_downtime_run_at_the_start_in_order_and_are_logged_as_late(
    storage: dict[str, Any], start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(lifecycle={"lead": "100ms", "new_timeout": "700ms"}, storage=storage)
    begun = datetime.now(UTC)
    starts = [begun + timedelta(seconds=span) for span in (5.9, 5.3, 5.6, 5.0)]
    made = {daemon.make(startTime=text(start))["id"]: start for start in starts}
    later = daemon.make(startTime=from_now(days=1))["id"]
    expected = sorted(made, key=lambda session_id: made[session_id])
    last = parsed(daemon.session(expected[-1])["expiresAt"])
    assert daemon.terminate() == 0
    assert [daemon.log_lines(name) for name in ("session.ready", "session.closed")] == [[], []]
    # There is no condition to wait for, only time: every session must have expired before the start.
    time.sleep(max(0.0, (last - datetime.now(UTC)).total_seconds()) + 1.1)
    daemon.start()

    ready = eventually(lambda: (len(lines := daemon.log_lines("session.ready")) == 4 and lines) or [])
    assert [line["session_id"] for line in ready] == expected
    assert all(line["lag_ms"] > 1000 for line in ready)
    assert eventually(lambda: [line["session_id"] for line in daemon.log_lines("session.closed")] == expected)
    late = eventually(lambda: daemon.log_lines("clock.late"))[0]
    assert (late["moves"], late["cause"]) == (8, "start after downtime")
    for session_id in expected:
        events = daemon.events(session_id)
        assert [event["type"] for event in events] == ["session.scheduled", "session.ready", "session.closed"]
        due = parsed(events[1]["startTime"]) - timedelta(milliseconds=100)
        assert events[1]["lagMs"] == (parsed(events[1]["ts"]) - due) // timedelta(milliseconds=1)
        assert events[2]["reason"] == "expired"
    seqs = [event["seq"] for session_id in expected for event in daemon.events(session_id)[1:2]]
    assert seqs == sorted(seqs)
    assert daemon.session(later)["status"] == "scheduled"


@pytest.mark.slow
def test_a_daemon_in_any_local_time_zone_starts_and_opens_sessions_on_time(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(lifecycle={"lead": "1s"})
    for zone in ("UTC0", "No/Such"):
        daemon.kill()
        daemon.start(TZ=zone)
        waiting = daemon.make(startTime=from_now(seconds=30))
        soon = daemon.make(startTime=from_now(seconds=1.1))
        daemon.kill()
        daemon.start(TZ=zone)
        daemon.logged("session.ready", session_id=soon["id"])
        assert daemon.session(waiting["id"])["status"] == "scheduled"


def test_a_daemon_without_a_time_zone_database_starts_and_opens_sessions(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(lifecycle={"lead": "1s"})
    waiting = daemon.make(startTime=from_now(seconds=2))
    daemon.kill()
    daemon.fresh = True  # a new process: Python reads PYTHONTZPATH only once
    daemon.start(TZ="Europe/Berlin", PYTHONTZPATH="/nonexistent")
    daemon.logged("session.ready", session_id=waiting["id"])
