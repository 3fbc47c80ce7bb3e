"""Two daemons on one PostgreSQL: each reads changes of the other at once, and takes over if the other is killed."""

import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from queue import Queue

import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, Section
from tests.acceptance.times import from_now, parsed
from tests.support.proxy import Proxy
from tests.support.receivers import Receiver
from tests.support.waiting import eventually
from tminus.delivery.due import POLL_INTERVAL

SESSIONS = 30

SOON = 10.0
"""Seconds within which a thread that polls every second has polled, even on a busy machine."""


@pytest.fixture
def daemons(start_daemon: StartDaemon, sections: dict[str, Section]) -> Iterator[tuple[Daemon, Daemon]]:
    one, two = (start_daemon(**sections) for _ in range(2))
    yield one, two
    for daemon in (one, two):
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.terminate()


@pytest.mark.slow
def test_each_session_opens_once_and_events_arrive_in_order_although_one_daemon_is_killed(
    daemons: tuple[Daemon, Daemon], receiver: Receiver
) -> None:
    one, two = daemons

    # A long poll at one daemon returns events of the other.
    answers: list[JSON] = []
    waiting = threading.Thread(target=lambda: answers.append(one.get("/events?wait=9").json()))
    waiting.start()
    first = two.make()
    waiting.join(10)
    assert first["id"] in [event["id"] for event in answers[0]["events"]]
    # An idempotency key, a session and its PIN are valid at both.
    pin = one.make(type="support")["pin"]
    assert two.get(f"/support/{pin}/meta").status_code == 200
    body = {"type": "live", "label": "Once"}
    made = [daemon.post("/supportsessions", body, headers={"Idempotency-Key": "k"}).json()["id"] for daemon in daemons]
    assert made[0] == made[1]

    # So do participants and agent sessions.
    joined = one.join(made[0]).json()
    assert two.delete(f"/supportsession/{made[0]}/participants/{joined['participantId']}", by="room").status_code == 200
    assert one.session(made[0])["participants"] == 0
    sign_in = one.post("/auth/token/authWithToken", {"session_token": one.tokens["anna"]}, by=None).json()
    header = {"Session-id": sign_in["session"]["id"]}
    assert two.get("/me", by=None, headers=header).json()["session"]["sid"] == sign_in["session"]["sid"]
    assert two.get("/auth/signout", by=None, headers=header).status_code == 200
    assert one.get("/me", by=None, headers=header).status_code == 401

    # A changed lead time reaches one daemon before the other. Sessions that the other creates meanwhile follow it, too.
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
    eventually(lambda: any(event["type"] == "session.ready" for event in two.feed()), deadline=30)
    one.kill()
    eventually(lambda: all(two.session(session_id)["status"] == "new" for session_id in ids), deadline=30)
    events = two.feed()
    opened = [event["id"] for event in events if event["type"] == "session.ready"]
    assert sorted(opened) == sorted(ids)
    due = parsed(start) - timedelta(seconds=1)
    assert all(parsed(event["ts"]) >= due for event in events if event["type"] == "session.ready"), "none early"

    # The survivor takes the endpoint over within seconds, and no event is missing.
    last = two.make()
    eventually(lambda: last["id"] in [event["id"] for request in receiver.requests for event in request.events], 20)
    seqs = [event["seq"] for event in two.feed()]
    received = receiver.seqs
    assert list(dict.fromkeys(received)) == seqs, "in order, none missing"
    assert len(received) - len(seqs) <= 100, "at most the request that was in flight is repeated"
    for request in receiver.requests:
        request.verify()


@pytest.mark.slow
def test_a_frozen_daemon_delays_the_other_for_seconds_and_recovers(
    make_daemon: StartDaemon, sections: dict[str, Section], receiver: Receiver
) -> None:
    def received(session: JSON) -> bool:
        return session["id"] in [event["id"] for request in tuple(receiver.requests) for event in request.events]

    frozen, other = (make_daemon(**sections) for _ in range(2))
    frozen.start()
    first = frozen.make()
    eventually(lambda: received(first))  # so it is the one that serves the endpoint
    other.start()
    frozen.signal(signal.SIGSTOP)
    try:
        made = other.make()
        eventually(lambda: received(made))
    finally:
        frozen.signal(signal.SIGCONT)
    eventually(lambda: frozen.http.get(f"{frozen.url}/readyz").status_code == 200)
    last = frozen.make()
    eventually(lambda: received(last), deadline=30)
    assert list(dict.fromkeys(receiver.seqs)) == [event["seq"] for event in other.feed()]
    for daemon in (frozen, other):
        assert daemon.terminate() == 0


@pytest.mark.slow
def test_changes_of_the_other_daemon_are_found_within_seconds_without_a_notification(
    start_daemon: StartDaemon, sections: dict[str, Section], receiver: Receiver
) -> None:
    def received(session: JSON) -> int:
        """Return how many events of a session the receiver has received."""
        return [event["id"] for request in tuple(receiver.requests) for event in request.events].count(session["id"])

    storage = sections["storage"]
    assert isinstance(storage, dict)
    url = make_url(storage["url"])
    with Proxy(f"{url.query.get('host') or url.host}/.s.PGSQL.5432") as proxy:
        through = f"postgresql+psycopg://{url.username}@127.0.0.1:{proxy.port}/{url.database}"
        unnotified = start_daemon(**sections | {"storage": {"url": through}})
        first = unnotified.make()
        eventually(lambda: received(first))  # so it is the one that serves the endpoint
        other = start_daemon(**sections)
        eventually(lambda: proxy.listening)
        proxy.drops_notifications = True

        # A long poll at this daemon, and the endpoint.
        seen, answers = unnotified.feed()[-1]["seq"], Queue[JSON]()
        waiting = threading.Thread(
            target=lambda: answers.put(unnotified.get(f"/events?wait=15&after={seen}").json()), daemon=True
        )
        waiting.start()
        made = other.make()
        assert [event["id"] for event in answers.get(timeout=SOON)["events"]] == [made["id"]]
        waiting.join(10)
        eventually(lambda: received(made), SOON)
        # A replay that an operator requests from the other daemon while the endpoint is idle: no event wakes it.
        eventually(lambda: other.get("/webhooks/desk").json()["backlog"] == 0)
        asked = other.post("/webhooks/desk/replay", {"session": made["id"]})
        assert asked.status_code == 200, asked.text
        eventually(lambda: received(made) == 2, POLL_INTERVAL + SOON)
        # A deadline before all others, which only this daemon can meet.
        unnotified.make(startTime=from_now(hours=1))
        due = other.make(startTime=from_now(seconds=3))
        other.kill()
        eventually(lambda: unnotified.session(due["id"])["status"] == "new", 3 + SOON)
        opened = unnotified.events(due["id"])[-1]
        assert opened["type"] == "session.ready"
        assert opened["lagMs"] < SOON * 1000

        assert proxy.dropped > 0, "the server sent notifications, and none arrived"
        assert unnotified.terminate() == 0
