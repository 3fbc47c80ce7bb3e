"""Two daemons on one PostgreSQL: what one does the other knows at once, and when one dies the other takes over."""

import signal
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, Section
from tests.acceptance.times import from_now, parsed
from tests.support.databases import PostgresServer
from tests.support.receivers import SECRET, Receiver
from tests.support.waiting import eventually

SESSIONS = 30


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture
def sections(
    pg_server: PostgresServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Section]]:
    """The configuration of each of the daemons: one database, one endpoint."""
    secret = tmp_path_factory.mktemp("secret") / "desk"
    secret.write_text(SECRET)
    with pg_server.database(empty=True) as database:
        yield {
            "storage": {"url": database.configured},
            "lifecycle": {"lead": "1s"},
            "webhooks": [{"name": "desk", "url": receiver.url, "secret_file": str(secret)}],
        }


@pytest.fixture
def daemons(start_daemon: StartDaemon, sections: dict[str, Section]) -> Iterator[tuple[Daemon, Daemon]]:
    one, two = (start_daemon(**sections) for _ in range(2))
    yield one, two
    for daemon in (one, two):
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.terminate()


def whole_feed(daemon: Daemon) -> list[JSON]:
    answer = daemon.get("/events?limit=1000")
    assert answer.status_code == 200, answer.text
    events: list[JSON] = answer.json()["events"]
    return events


def test_each_is_opened_once_and_told_in_order_although_one_is_killed(
    daemons: tuple[Daemon, Daemon], receiver: Receiver
) -> None:
    one, two = daemons

    # Whoever waits at one hears of what happens at the other.
    answers: list[JSON] = []
    waiting = threading.Thread(target=lambda: answers.append(one.get("/events?wait=9").json()))
    waiting.start()
    first = two.make()
    waiting.join(10)
    assert first["id"] in [event["id"] for event in answers[0]["events"]]
    # An idempotency key, a session and its PIN hold at both.
    pin = one.make(type="support")["pin"]
    assert two.get(f"/support/{pin}/meta").status_code == 200
    body = {"type": "live", "label": "Once"}
    made = [daemon.post("/supportsessions", body, headers={"Idempotency-Key": "k"}).json()["id"] for daemon in daemons]
    assert made[0] == made[1]

    # So do who is in a session, and an agent's hour of work.
    joined = one.join(made[0]).json()
    assert two.delete(f"/supportsession/{made[0]}/participants/{joined['participantId']}", by="room").status_code == 200
    assert one.session(made[0])["participants"] == 0
    sign_in = one.post("/auth/token/authWithToken", {"session_token": one.tokens["anna"]}, by=None).json()
    header = {"Session-id": sign_in["session"]["id"]}
    assert two.get("/me", by=None, headers=header).json()["session"]["sid"] == sign_in["session"]["sid"]
    assert two.get("/auth/signout", by=None, headers=header).status_code == 200
    assert one.get("/me", by=None, headers=header).status_code == 401

    # Another lead reaches the one first and the other later: what the other made meanwhile follows, too.
    between = []
    for daemon in daemons:
        between.append(two.make(startTime=from_now(hours=1))["id"])
        daemon.config.write_text(daemon.config.read_text().replace('lead = "1s"', 'lead = "500ms"'))
        daemon.signal(signal.SIGHUP)
        assert daemon.logged("deadlines.moved")["moved"] == 1
    for session_id in between:
        two.delete(f"/supportsession/{session_id}")

    start = from_now(seconds=3)
    ids = [daemon.make(startTime=start, label=f"S{number}")["id"] for number in range(SESSIONS) for daemon in daemons]
    eventually(lambda: any(event["type"] == "session.ready" for event in whole_feed(two)), deadline=20)
    one.kill()
    eventually(lambda: all(two.session(session_id)["status"] == "new" for session_id in ids), deadline=20)
    events = whole_feed(two)
    opened = [event["id"] for event in events if event["type"] == "session.ready"]
    assert sorted(opened) == sorted(ids)
    due = parsed(start) - timedelta(seconds=1)
    assert all(parsed(event["ts"]) >= due for event in events if event["type"] == "session.ready"), "none early"

    # The survivor has the endpoint within seconds, and nothing is missing.
    last = two.make()
    eventually(lambda: last["id"] in [event["id"] for request in receiver.requests for event in request.events], 20)
    seqs = [event["seq"] for event in whole_feed(two)]
    told = receiver.seqs
    assert list(dict.fromkeys(told)) == seqs, "in order, none missing"
    assert len(told) - len(seqs) <= 100, "at most the request that was on its way comes again"
    for request in receiver.requests:
        request.verify()


def test_one_that_is_frozen_holds_up_the_other_for_seconds_and_comes_back(
    make_daemon: StartDaemon, sections: dict[str, Section], receiver: Receiver
) -> None:
    def told(session: JSON) -> bool:
        return session["id"] in [event["id"] for request in tuple(receiver.requests) for event in request.events]

    frozen, other = (make_daemon(**sections) for _ in range(2))
    frozen.start()
    first = frozen.make()
    eventually(lambda: told(first))  # so it is the one that serves the endpoint
    other.start()
    frozen.signal(signal.SIGSTOP)
    try:
        made = other.make()
        eventually(lambda: told(made), deadline=30)
    finally:
        frozen.signal(signal.SIGCONT)
    eventually(lambda: frozen.http.get(f"{frozen.url}/readyz").status_code == 200)
    last = frozen.make()
    eventually(lambda: told(last), deadline=20)
    assert list(dict.fromkeys(receiver.seqs)) == [event["seq"] for event in whole_feed(other)]
    for daemon in (frozen, other):
        assert daemon.terminate() == 0
