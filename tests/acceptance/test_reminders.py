"""Each reminder is sent once, by one of the daemons, and none is sent after the session has begun."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from time import sleep

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Section
from tests.acceptance.times import from_now, parsed
from tests.support.receivers import Receiver
from tests.support.waiting import eventually

SESSIONS = 20


@pytest.mark.slow
def test_what_is_sent_and_what_is_skipped_after_downtime(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(lifecycle={"lead": "100ms", "reminders": ["2500ms"]})
    soon = daemon.make(startTime=from_now(seconds=5), label="Soon")
    missed = daemon.make(startTime=from_now(seconds=7), label="Missed")
    later = daemon.make(startTime=from_now(hours=1), reminders=["1d", "59m57s", "15m"], label="Later")
    gone = daemon.make(startTime=from_now(seconds=5), label="Gone")
    daemon.delete(f"/supportsession/{gone['id']}")
    quiet = daemon.make(startTime=from_now(hours=1), reminders=[], label="Quiet")
    assert [one["reminders"] for one in (soon, later, quiet)] == [["2s500ms"], ["1d", "59m57s", "15m"], []]
    assert "1d, 59m57s, 15m before the start" in daemon.command("show", later["id"]).stdout

    line = daemon.logged("session.reminder", session_id=soon["id"])
    due = parsed(soon["startTime"]) - timedelta(seconds=2.5)
    assert (line["before"], line["actor"], line["status"]) == ("2s500ms", "clock", "scheduled")
    assert line["message"] == f"Session {soon['id']} “Soon” starts at {soon['startTime']}, in 2s500ms"
    [reminder] = [event for event in daemon.events(soon["id"]) if event["type"] == "session.reminder"]
    assert (reminder["before"], reminder["previousStatus"], reminder["status"]) == ("2s500ms", "scheduled", "scheduled")
    assert reminder["lagMs"] == (parsed(reminder["ts"]) - due) // timedelta(milliseconds=1)
    assert daemon.session(soon["id"])["version"] == 1
    daemon.logged("session.reminder", session_id=later["id"])

    if not any(event["type"] == "session.reminder" for event in daemon.events(missed["id"])):
        daemon.kill()
        # A daemon that is down sends no signal, so the test waits until the session would have opened.
        opens = parsed(missed["opensAt"])
        sleep(max(0.0, (opens - datetime.now(UTC)).total_seconds()) + 0.1)
        daemon.start()
        skipped = daemon.logged("session.reminder_skipped", session_id=missed["id"])
        assert "scheduler was late" in skipped["message"]
        header = {"Session-id": daemon.tokens["monitor"]}
        scraped = daemon.http.get(f"{daemon.url}/metrics", headers=header).text
        assert 'tminus_reminders_total{outcome="skipped"} 1.0' in scraped
        daemon.restart()
    types = Counter((event["label"], event["type"]) for event in daemon.feed())
    assert types["Missed", "session.reminder_skipped"] + types["Missed", "session.reminder"] == 1
    assert types["Soon", "session.reminder"] == types["Later", "session.reminder"] == 1
    assert types["Gone", "session.reminder"] == types["Quiet", "session.reminder"] == 0


@pytest.mark.slow
def test_of_two_daemons_one_sends_each_reminder_although_one_is_killed(
    start_daemon: StartDaemon, sections: dict[str, Section], receiver: Receiver
) -> None:
    one, two = (start_daemon(**sections) for _ in range(2))
    start = from_now(seconds=12)
    ids = [
        daemon.make(startTime=start, reminders=["6s", "4s"], label=f"S{number}")["id"]
        for number in range(SESSIONS // 2)
        for daemon in (one, two)
    ]
    eventually(lambda: any(event["type"] == "session.reminder" for event in two.feed()), deadline=30)
    one.kill()
    last = eventually(lambda: [event for event in two.feed() if event.get("before") == "4s"][SESSIONS - 1 :], 30)[-1]

    reminders = [event for event in two.feed() if event["type"] == "session.reminder"]
    assert Counter((event["id"], event["before"]) for event in reminders) == {
        (session_id, before): 1 for session_id in ids for before in ("6s", "4s")
    }
    eventually(lambda: last["seq"] in receiver.seqs, 20)
    assert {event["seq"] for event in reminders} <= set(receiver.seqs)
    two.terminate()


def test_bad_reminders_are_refused_and_nothing_is_created(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()

    def refused(**body: object) -> str:
        answer: httpx.Response = daemon.post("/supportsessions", {"type": "live", "label": "Bad", **body})
        assert answer.status_code == 400, answer.text
        return str(answer.json()["error"]["description"] if "error" in answer.json() else answer.json())

    start = from_now(hours=1)
    assert "startTime" in refused(reminders=["15m"])
    for wrong in (["0"], ["367d"], ["-5m"], [15], ["soon"], "15m", ["1m"] * 11, [None], ["9" * 5000 + "d"], {"a": 1}):
        assert "reminders" in refused(startTime=start, reminders=wrong), wrong
    assert daemon.get("/supportsessions").json()["count"] == 0
    made = daemon.make(startTime=start, reminders=["60m", "1h", "15m"])
    assert made["reminders"] == ["1h", "15m"]
    done = daemon.command("schedule", "--type", "live", "--label", "x", "--in", "2h", "--remind", "soon")
    assert done.returncode == 2
    done = daemon.command("schedule", "--type", "live", "--label", "x", "--in", "2h", "--remind", "5m", "--json")
    assert '"reminders": [' in done.stdout
    assert done.returncode == 0
