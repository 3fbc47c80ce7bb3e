"""The daemon is killed under load repeatedly: no acknowledged change is lost, and none is made twice."""

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support.waiting import eventually

ROUNDS = 3
CALLERS = 6
PER_ROUND = 25
"""Number of acknowledged changes after which the daemon is killed, whatever it is doing."""


@dataclass
class Known:
    """The state of a session according to the responses that its caller got."""

    id: str
    label: str
    start: str | None
    """The last acknowledged start; None for a session that was created to open at once."""
    unsure: set[str] = field(default_factory=set)
    """Later starts that may be stored: an attempt got no response, and the retry was refused with 409."""
    closed: bool = False


class Maker(threading.Thread):
    """A caller that creates, reschedules and closes sessions, and repeats each request until it gets a response."""

    def __init__(self, daemon: Daemon, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"maker {number}")
        self.daemon_under_test = daemon
        self.known: list[Known] = []
        self.acknowledged = 0
        self.retried = 0
        self.trouble: list[str] = []
        self._random = random.Random(number)
        self._stop_asking = stop

    def run(self) -> None:
        with httpx.Client(headers={"Session-id": self.daemon_under_test.token}, timeout=5) as http:
            while not self._stop_asking.is_set():
                movable = [one for one in self.known if one.start is not None and not one.closed]
                what = self._random.random()
                if movable and what < 0.35:
                    self._move(http, self._random.choice(movable))
                elif movable and what < 0.4:
                    self._close(http, self._random.choice(movable))
                else:
                    self._make(http)

    def _start(self) -> str:
        """Return a start time: some sessions open while the daemon is down, some while it runs, some never."""
        return from_now(seconds=self._random.choice((1.5, 2.5, 4, 5, 3600)))

    def _ask(self, http: httpx.Client, method: str, path: str, body: JSON, **headers: str) -> httpx.Response:
        """Repeat a request until its response is final. The daemon has another port after each start."""
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            try:
                url = f"{self.daemon_under_test.url}/v3{path}"
                answer = http.request(method, url, json=body, headers=headers)
            except httpx.TransportError:
                self.retried += 1
            else:
                if answer.status_code != 503:
                    if answer.status_code not in (200, 409):
                        self.trouble.append(answer.text)
                    self.acknowledged += answer.status_code == 200
                    return answer
            self._stop_asking.wait(0.05)
        raise AssertionError("no answer for a minute")

    def _make(self, http: httpx.Client) -> None:
        label = str(uuid.uuid4())
        start = self._start() if self._random.random() < 0.8 else None
        body: JSON = {"type": self._random.choice(("support", "live")), "label": label, "metaData": {"a": 1}}
        body |= {"startTime": start} if start else {}
        made = self._ask(http, "POST", "/supportsessions", body, **{"Idempotency-Key": label}).json()
        self.known.append(Known(made["id"], label, start))

    def _move(self, http: httpx.Client, one: Known) -> None:
        start = self._start()
        before = self.retried
        answer = self._ask(http, "PUT", f"/supportsession/{one.id}", {"startTime": start})
        if answer.status_code == 200:
            one.start = start
            one.unsure.clear()
        elif self.retried > before:  # an earlier attempt may have been executed before the session opened
            one.unsure.add(start)

    def _close(self, http: httpx.Client, one: Known) -> None:
        self._ask(http, "DELETE", f"/supportsession/{one.id}", {})
        one.closed = True


@pytest.mark.slow
def test_no_acknowledged_change_is_lost_and_none_is_made_twice(
    storage: dict[str, Any], start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(lifecycle={"lead": "1s", "new_timeout": "48h"}, storage=storage)
    daemon.fresh = True
    stop = threading.Event()
    makers = [Maker(daemon, number, stop) for number in range(CALLERS)]
    for maker in makers:
        maker.start()
    try:
        for _ in range(ROUNDS):
            reached = sum(maker.acknowledged for maker in makers) + PER_ROUND
            eventually(lambda reached=reached: sum(maker.acknowledged for maker in makers) >= reached, 60)  # type: ignore[misc]
            daemon.kill()
            daemon.start()
    finally:
        stop.set()
        for maker in makers:
            maker.join(90)
    assert [maker.trouble for maker in makers if maker.trouble] == []
    assert any(maker.retried for maker in makers), "the daemon was killed during requests"
    assert len(daemon.log_lines("daemon.ready")) == ROUNDS + 1

    known = {one.id: one for maker in makers for one in maker.known}
    query = "/supportsessions?scope=all&limit=1000&status=scheduled&status=new&status=active&status=closed"

    def stored() -> dict[str, JSON]:
        rows: list[JSON] = []
        while page := daemon.get(f"{query}&offset={len(rows)}").json()["rows"]:
            rows += page
        return {row["id"]: row for row in rows}

    def due(sessions: dict[str, JSON]) -> list[str]:
        soon = from_now(seconds=120)
        return [row["id"] for row in sessions.values() if row["status"] == "scheduled" and row["startTime"] < soon]

    sessions = eventually(lambda: (not due(found := stored()) and found) or {})

    labels = [row["label"] for row in sessions.values()]
    assert len(labels) == len(set(labels)), "a retried request made no second session"
    assert set(sessions) == set(known)
    history: dict[str, list[JSON]] = {session_id: daemon.events(session_id) for session_id in known}
    for session_id, one in known.items():
        session, events = sessions[session_id], history[session_id]
        names = [event["type"] for event in events]
        assert session["label"] == one.label
        assert session.get("startTime") == one.start or session.get("startTime") in one.unsure
        assert names[0] == ("session.scheduled" if one.start else "session.created")
        assert names.count("session.scheduled") + names.count("session.created") == 1
        assert names.count("session.closed") == (session["status"] == "closed") == one.closed
        if session["openedAt"] and one.start:
            assert names.count("session.ready") == 1
            ready = events[names.index("session.ready")]
            assert ready["startTime"] == session["startTime"]
            assert "session.rescheduled" not in names[names.index("session.ready") :]
        else:
            assert "session.ready" not in names
        moved = [
            event["startTime"] for event in events if event["type"] in ("session.scheduled", "session.rescheduled")
        ]
        assert moved[-1:] == ([session["startTime"]] if one.start else [])
    seqs = [event["seq"] for events in history.values() for event in events]
    assert len(seqs) == len(set(seqs))
    opened = [session_id for session_id in known if any(e["type"] == "session.ready" for e in history[session_id])]
    assert len(opened) > ROUNDS, "many sessions opened during the test"
    pins = [row["pin"] for row in sessions.values() if row["pin"]]
    assert len(pins) == len(set(pins))
    assert all(row["pin"] for row in sessions.values() if row["type"] == "support" and row["status"] == "new")
