"""The test clock of a real daemon: it stops at every deadline in order, and everything that depends on time follows."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon, check_health, storage_of
from tests.acceptance.daemons import JSON, Daemon, environment
from tests.support.databases import KINDS
from tests.support.processes import TMINUS
from tests.support.receivers import SECRET, Receiver, status
from tests.support.rooms import Person
from tests.support.waiting import eventually
from tminus.domain import timestamps

pytestmark = pytest.mark.slow

BEGIN = datetime(2027, 3, 1, 9, tzinfo=UTC)
"""The time at which the test clock of each daemon begins."""

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

SETTINGS: Any = {"lifecycle": {"lead": "10m", "new_timeout": "1h"}, "storage": {"retention": "30d"}}


def at(span: timedelta) -> str:
    """Return the time at this distance from the beginning, in the format of the API."""
    return timestamps.text(BEGIN + span)


def on_test_clock(daemon: Daemon, start: str = at(timedelta(0))) -> Daemon:
    daemon.arguments = ["--test-clock", start]
    daemon.start()
    daemon.arguments = ["--test-clock"]  # later starts continue at the stored time
    return daemon


def move(daemon: Daemon, **order: str) -> JSON:
    answer = daemon.post("/clock", order)
    assert answer.status_code == 200, answer.text
    moved: JSON = answer.json()
    return moved


def schedule(daemon: Daemon, start: timedelta, **more: Any) -> str:
    return str(daemon.make(startTime=at(start), **more)["id"])


def story(events: list[JSON]) -> list[tuple[str, str]]:
    return [(event["type"], event["ts"]) for event in events]


@pytest.fixture(scope="module", params=KINDS)
def clocked(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon on a test clock, on each database. The tests share it, and each moves the clock forward."""
    with ExitStack() as stack:
        daemon = Daemon(**{**SETTINGS, "storage": {**SETTINGS["storage"], **storage_of(request, stack)}})
        stack.callback(daemon.remove)
        yield on_test_clock(daemon)
        check_health(daemon)


def test_moves_of_the_clock_open_and_expire_a_session(clocked: Daemon) -> None:
    assert clocked.get("/clock", by="api").json() == {"now": at(timedelta(0)), "test": True, "nextDeadline": None}
    session = schedule(clocked, HOUR)
    assert clocked.get("/clock").json()["nextDeadline"] == at(50 * MINUTE)

    nothing, opened = move(clocked, advance="49m59s999ms"), move(clocked, advance="1ms")
    expired, idle = move(clocked, to="next"), move(clocked, to="next")

    assert (story(nothing["events"]), nothing["now"]) == (
        [],
        timestamps.text(BEGIN + 50 * MINUTE - timedelta(milliseconds=1)),
    )
    assert story(opened["events"]) == [("session.ready", at(50 * MINUTE))]
    assert opened["events"][0]["lagMs"] == 0
    assert story(expired["events"]) == [("session.closed", at(2 * HOUR))]
    assert expired["events"][0]["reason"] == "expired"
    assert expired["events"][0] == clocked.events(session)[-1]
    assert idle == {
        "from": at(2 * HOUR), "now": at(2 * HOUR), "target": at(2 * HOUR), "reached": True,
        "nextDeadline": None, "events": [], "next": expired["next"],
    }  # fmt: skip
    assert clocked.http.get(f"{clocked.url}/healthz").json() == {"status": "ok", "testClock": at(2 * HOUR)}
    assert "test clock" in clocked.http.get(f"{clocked.url}/readyz").json()["notes"][0]
    assert "test clock" in clocked.logged("clock.test")["message"].lower()
    clocked.logged("clock.moved", moved_from=at(50 * MINUTE), now=at(2 * HOUR))


def test_one_move_meets_every_deadline_at_its_time(clocked: Daemon) -> None:
    begun = timestamps.parse(clocked.get("/clock").json()["now"]) - BEGIN
    starts = [begun + HOUR + timedelta(seconds=7 * number) for number in range(20)]
    ids = {schedule(clocked, start): start for start in reversed(starts)}

    moved = move(clocked, advance="1d")

    expected = sorted(
        [("session.ready", at(start - 10 * MINUTE)) for start in starts]
        + [("session.closed", at(start + HOUR)) for start in starts],
        key=lambda one: one[1],
    )
    assert story(moved["events"]) == expected
    assert all(event["lagMs"] == 0 for event in moved["events"])
    assert {event["id"] for event in moved["events"]} == set(ids)
    assert moved["now"] == at(begun + DAY)
    assert clocked.get(f"/events?after={moved['next']}").json()["events"] == []


def test_the_time_survives_a_restart_and_a_kill(clocked: Daemon) -> None:
    now = move(clocked, advance="1h")["now"]
    assert clocked.terminate() == 0
    clocked.start()
    assert clocked.get("/clock").json()["now"] == now
    later = move(clocked, advance="1h")["now"]
    clocked.kill()
    clocked.start()
    assert clocked.get("/clock").json()["now"] == later


def test_agent_sessions_idempotency_keys_and_retention_follow(clocked: Daemon) -> None:
    signed_in = clocked.post("/auth/tminus/authWithToken", {"session_token": clocked.tokens["anna"]}, by=None)
    clocked.tokens["web"] = signed_in.json()["session"]["id"]
    order, key = {"type": "live", "label": "Once"}, {"Idempotency-Key": "one"}
    first = clocked.post("/supportsessions", order, headers=key).json()["id"]
    clocked.delete(f"/supportsession/{first}")

    move(clocked, advance="59m")
    assert clocked.get("/me", by="web").status_code == 200
    assert clocked.post("/supportsessions", order, headers=key).json()["id"] == first
    move(clocked, advance="2m")
    assert clocked.get("/me", by="web").status_code == 401
    move(clocked, advance="25h")
    again = clocked.post("/supportsessions", order, headers=key).json()["id"]
    assert again != first
    assert clocked.session(first)["status"] == "closed"
    gone = move(clocked, advance="31d")

    assert [event["type"] for event in gone["events"]] == ["session.closed"], "retention runs at the end of the move"
    assert clocked.get(f"/supportsession/{first}").status_code == 404
    assert not clocked.log_lines("retention.held"), "a jump of the test clock is no sign of a wrong clock"


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({}, "exactly one"),
        ({"advance": "1s", "to": "next"}, "exactly one"),
        ({"advance": "soon"}, "advance"),
        ({"advance": 5}, "advance"),
        ({"advance": "-5m"}, "advance"),
        ({"advance": "3654d"}, "advance"),
        ({"advance": "99999999999999999999d"}, "advance"),
        ({"to": "2027-02-28T09:00:00Z"}, "to"),
        ({"to": "2027-03-01T09:00:00"}, "to"),
        ({"to": "8999-01-01T00:00:00Z"}, "to"),
        ({"to": 17}, "to"),
        ([], "body"),
    ],
)
def test_a_wrong_move_is_refused_and_moves_nothing(clocked: Daemon, order: Any, field: str) -> None:
    before = clocked.get("/clock").json()

    answer = clocked.post("/clock", order)

    assert answer.status_code == 400, answer.text
    assert field in answer.json()["description"]
    assert clocked.get("/clock").json() == before


def test_a_move_with_many_events_ends_early_and_the_command_goes_on(clocked: Daemon) -> None:
    begun = timestamps.parse(clocked.get("/clock").json()["now"]) - BEGIN
    sessions = [
        {"type": "live", "label": "Many", "startTime": at(begun + day * DAY)} for day in (1, 2) for _ in range(600)
    ]
    assert clocked.post("/supportsessions/batch", {"sessions": sessions}).status_code == 200
    seq = clocked.feed()[-1]["seq"]

    moved = clocked.post("/clock", {"advance": "3d"}).json()
    rest = clocked.command("clock", "to", moved["target"])

    assert moved["reached"] is False
    assert (moved["now"], moved["next"]) == (at(begun + DAY + HOUR), seq + 1000)
    assert rest.returncode == 0, rest.stderr
    printed = [int(line.split("\t")[0]) for line in rest.stdout.splitlines() if "session." in line]
    assert printed == list(range(seq + 1201, seq + 2401)), "each event once, including those that an answer leaves out"
    assert clocked.get("/clock").json()["now"] == moved["target"]


def test_only_an_administrator_moves_the_clock(clocked: Daemon) -> None:
    for agent in ("api", "anna", "supervisor", "monitor", "room"):
        assert clocked.post("/clock", {"to": "next"}, by=agent).status_code == 403


def test_many_moves_at_once_add_up(clocked: Daemon) -> None:

    before = timestamps.parse(clocked.get("/clock").json()["now"])
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: move(clocked, advance="1m"), range(16)))

    assert timestamps.parse(clocked.get("/clock").json()["now"]) == before + 16 * MINUTE


def first_screen(daemon: Daemon, command: str) -> str:
    """Return what a command that runs until Ctrl-C shows first on a terminal."""
    controller, terminal = pty.openpty()
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), COLUMNS="120", LINES="60")
    with subprocess.Popen([TMINUS, command], env=env, stdin=terminal, stdout=terminal, cwd=daemon.home) as process:
        os.close(terminal)
        screen = b""
        while b"Ctrl-C ends" not in screen:
            screen += os.read(controller, 1 << 16)
        process.send_signal(signal.SIGINT)
    os.close(controller)
    return screen.decode()


def test_the_command_moves_the_clock(clocked: Daemon) -> None:
    now = timestamps.parse(clocked.get("/clock").json()["now"])
    made = clocked.command("schedule", "--type", "live", "--label", "Demo", "--in", "1h", "--json")
    assert json.loads(made.stdout)["startTime"] == timestamps.text(now + HOUR), "--in counts from the daemon's time"

    session_id = json.loads(made.stdout)["id"]
    assert "opens in 50m, starts in 1h" in clocked.command("show", session_id).stdout, "as the daemon counts"
    assert "opens in 50m, starts in 1h" in clocked.command("list", "--wide").stdout
    assert timestamps.text(now)[:16].replace("T", " ") in first_screen(clocked, "watch")

    shown = clocked.command("clock", "show", "--utc")
    advanced = clocked.command("clock", "advance", "50m", "--json")
    following = clocked.command("clock", "next", "--utc")
    there = clocked.command("clock", "to", timestamps.text(now + 3 * HOUR))
    back = clocked.command("clock", "to", timestamps.text(now))

    assert shown.stdout.startswith("test clock, stands at "), shown
    assert [event["type"] for event in json.loads(advanced.stdout)["events"]] == ["session.ready"]
    assert "session.closed" in following.stdout
    assert following.stdout.endswith("; nothing is due\n")
    assert there.returncode == 0
    assert (back.returncode, back.stdout) == (1, "")
    assert "refcode 120400" in back.stderr


def test_a_daemon_on_the_real_clock_cannot_be_moved(daemon: Daemon) -> None:
    answer = daemon.post("/clock", {"advance": "1h"})

    assert (answer.status_code, answer.json()["refcode"]) == (409, 120409)
    shown = daemon.get("/clock").json()
    assert shown["test"] is False
    assert abs((timestamps.parse(shown["now"]) - datetime.now(UTC)).total_seconds()) < 60
    assert daemon.http.get(f"{daemon.url}/healthz").json() == {"status": "ok"}
    assert daemon.command("clock").stdout.startswith("real clock")


@pytest.mark.parametrize("storage", KINDS, indirect=True)
def test_a_database_keeps_its_kind_of_clock(make_daemon: StartDaemon, storage: dict[str, Any]) -> None:
    real, test = make_daemon(storage=storage), make_daemon(storage=storage)
    if not storage:
        test.state, test.socket = real.state, real.socket
    real.start()
    assert real.terminate() == 0

    test.arguments = ["--test-clock"]
    test.spawn()
    assert test.process is not None
    assert test.process.wait(60) == 1
    assert "was used on the real clock" in test.logged("daemon.failed")["message"]


@pytest.mark.parametrize("storage", KINDS, indirect=True)
def test_a_test_clock_is_refused_by_all_others(make_daemon: StartDaemon, storage: dict[str, Any]) -> None:
    test, other = make_daemon(storage=storage), make_daemon(storage=storage)
    on_test_clock(test)
    schedule(test, HOUR)
    if storage:  # a second daemon on one PostgreSQL
        other.arguments = ["--test-clock"]
        other.spawn()
        assert other.process is not None
        assert other.process.wait(60) == 1
        assert "only one daemon can" in other.logged("daemon.failed")["message"]
        assert test.get("/clock").status_code == 200
    assert test.terminate() == 0

    test.arguments = []
    test.spawn()
    assert test.process is not None
    assert test.process.wait(60) == 1
    advanced = test.command("advance")
    test.arguments = ["--test-clock", at(DAY)]
    test.spawn()
    assert test.process.wait(60) == 1
    test.arguments = ["--test-clock"]
    test.start()

    first, second = [line["message"] for line in test.log_lines("daemon.failed")]
    assert "belongs to a test clock" in first
    assert f"stands at {at(timedelta(0))}" in second
    assert advanced.returncode == 1
    assert "`tminus clock`" in advanced.stderr
    assert story(move(test, advance="50m")["events"]) == [("session.ready", at(50 * MINUTE))]


def test_webhooks_have_the_time_of_the_test_clock_and_a_signature_of_now(
    make_daemon: StartDaemon, receiver: Receiver
) -> None:
    daemon = make_daemon(**SETTINGS)
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    daemon.configure(**SETTINGS, webhooks=[{"name": "desk", "url": receiver.url, "secret_file": str(secret)}])
    on_test_clock(daemon)
    receiver.answer = status(500)
    schedule(daemon, HOUR)
    failed = daemon.logged("webhook.failed")
    assert failed["retry_at"] > at(timedelta(0))
    assert BEGIN < timestamps.parse(failed["retry_at"]) < BEGIN + MINUTE, "the retry is due on the test clock"

    receiver.answer = status(200)
    move(daemon, advance="50m")

    eventually(lambda: receiver.types[-1:] == ["session.ready"])
    for request in receiver.requests:
        request.verify()
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 300
    assert [event["ts"] for event in receiver.requests[-1].events][-1] == at(50 * MINUTE)
    check_health(daemon)


def test_a_move_denies_a_guest_who_has_knocked_too_long(make_daemon: StartDaemon) -> None:
    daemon = on_test_clock(make_daemon(**SETTINGS))
    session = daemon.make(agentPrefs={"knock": True})
    host, guest = Person(daemon.url, session), Person(daemon.url, session)
    host.host()
    guest.join()

    moved = move(daemon, advance="1h")

    assert [event["type"] for event in moved["events"]] == ["participant.denied"]
    guest.wait_for_end()
    assert guest.last == {"type": "denied", "reason": "timeout"}
    host.close()
    check_health(daemon)


def test_a_kill_in_the_middle_of_a_move_loses_nothing(make_daemon: StartDaemon) -> None:
    daemon = on_test_clock(make_daemon(**SETTINGS))
    starts = [HOUR + timedelta(seconds=number) for number in range(150)]
    for start in starts:
        schedule(daemon, start)
    before = len(daemon.feed())

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(lambda: daemon.post("/clock", {"advance": "1d"}))
        eventually(lambda: len(daemon.log_lines("session.ready")) > 20)
        daemon.kill()
        assert answer.exception() is not None
    daemon.start()
    killed_at = timestamps.parse(daemon.get("/clock").json()["now"])
    assert BEGIN + 50 * MINUTE < killed_at < BEGIN + DAY

    while not move(daemon, to=at(DAY))["reached"]:
        pass  # on a busy machine a move ends early

    assert story(daemon.feed()[before:]) == sorted(
        [("session.ready", at(start - 10 * MINUTE)) for start in starts]
        + [("session.closed", at(start + HOUR)) for start in starts],
        key=lambda one: one[1],
    )
    assert all(event["lagMs"] == 0 for event in daemon.feed()[before:]), "even if it was due when the daemon was killed"
