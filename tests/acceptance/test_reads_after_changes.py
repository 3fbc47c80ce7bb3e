"""A read shows every change before it, although the daemon keeps the responses to recent reads."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support.waiting import eventually

RESCHEDULE = "/supportsessions/batch/reschedule"


def listed(daemon: Daemon, session_id: str, by: str) -> JSON:
    """Return a session as a list shows it: lists always read the database."""
    every = "&".join(f"status={status}" for status in ("scheduled", "new", "active", "closed"))
    rows: list[JSON] = daemon.get(f"/supportsessions?scope=all&{every}", by=by).json()["rows"]
    return next(row for row in rows if row["id"] == session_id) | {"durationSeconds": 0}


def check_current(daemon: Daemon, session_id: str) -> JSON:
    """Check the session for a caller who sees everything and one who does not; return it."""
    for by in ("monitor", "admin"):
        for _ in range(2):  # the second response may be the kept one
            shown = daemon.session(session_id, by=by) | {"durationSeconds": 0}
            assert shown == listed(daemon, session_id, by)
    return shown


def test_a_read_shows_every_change_before_it(storage: dict[str, Any], start_daemon: StartDaemon) -> None:
    daemon = start_daemon(storage=storage)
    session_id = daemon.make(startTime=from_now(days=2), type="support")["id"]
    one = f"/supportsession/{session_id}"
    people: list[str] = []

    def join() -> None:
        people.append(daemon.join(session_id).json()["participantId"])

    changes: dict[str, Callable[[], Any]] = {
        "moved": lambda: daemon.put(one, {"startTime": from_now(days=3)}),
        "moved with others": lambda: daemon.post(RESCHEDULE, {"ids": [session_id], "by": "1h"}),
        "opened": lambda: daemon.put(one, {"startTime": from_now(minutes=5)}),
        "joined": join,
        "joined again": join,
        "left": lambda: daemon.delete(f"{one}/participants/{people[0]}", by="room"),
        "closed": lambda: daemon.delete(one),
    }
    before = check_current(daemon, session_id)
    for change, make in changes.items():
        answer = make()
        assert answer is None or answer.status_code == 200, answer.text
        now = check_current(daemon, session_id)
        assert now != before, change
        before = now
    assert before["status"] == "closed"


def test_a_read_shows_what_the_scheduler_has_done(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(lifecycle={"lead": "1s", "new_timeout": "3s"})
    session_id = daemon.make(startTime=from_now(seconds=3))["id"]
    seen: list[str] = []

    def closed() -> bool:
        status: str = daemon.session(session_id)["status"]
        if status not in seen:
            seen.append(status)
        return status == "closed"

    eventually(closed, 30)
    assert seen == ["scheduled", "new", "closed"]


def test_a_read_shows_what_another_process_has_changed(start_daemon: StartDaemon) -> None:
    """Such as `tminus advance`, which works beside a running daemon."""
    daemon = start_daemon()
    session_id = daemon.make()["id"]
    with closing(sqlite3.connect(daemon.state / "tminus.db", isolation_level=None)) as other:
        for label in ("One", "Two", "Three"):
            check_current(daemon, session_id)
            other.execute("UPDATE session SET label = ? WHERE id = ?", (label, session_id))
            assert daemon.session(session_id)["label"] == label
