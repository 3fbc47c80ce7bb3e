"""Sample events: any type of the catalogue, delivered and signed as real events are, and marked."""

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import check_health
from tests.acceptance.daemons import JSON, Daemon
from tests.support.receivers import SECRET, Receiver, status
from tminus.domain.events import CATALOGUE, COMMON_FIELDS
from tminus.domain.types import EventType

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk() -> Iterator[tuple[Daemon, Receiver]]:
    """A daemon with one endpoint, which subscribes to `session.closed` only."""
    with Receiver() as receiver:
        daemon = Daemon()
        try:
            secret = daemon.home / "secret"
            secret.write_text(SECRET)
            endpoint = {"name": "desk", "url": receiver.url, "secret_file": str(secret), "events": ["session.closed"]}
            daemon.configure(webhooks=[endpoint])
            daemon.start()
            yield daemon, receiver
            check_health(daemon)
        finally:
            daemon.remove()


@pytest.mark.parametrize("kind", EventType)
def test_every_type_can_be_sent(desk: tuple[Daemon, Receiver], kind: EventType) -> None:
    daemon, receiver = desk

    answer = daemon.post("/webhooks/desk/sample", {"type": kind})

    assert answer.status_code == 200, answer.text
    assert (answer.json()["kind"], answer.json()["ok"], answer.json()["firstSeq"]) == ("sample", True, None)
    request = receiver.requests[-1]
    request.verify()
    (event,) = request.events
    assert event.keys() - {"actorName"} == {*COMMON_FIELDS, *CATALOGUE[kind].fields, "sample"}
    assert (event["type"], event["sample"], event["seq"], event["id"]) == (kind, True, 0, "sample-session")
    assert "-sample-" in event["eventId"]
    assert "None" not in event["message"]
    assert "unknown" not in event["message"]


def test_a_sample_has_the_fields_of_a_real_event_and_is_not_stored(desk: tuple[Daemon, Receiver]) -> None:
    daemon, receiver = desk
    session = daemon.make()
    (real,) = daemon.events(session["id"])
    before: JSON = daemon.get("/webhooks/desk").json()

    assert daemon.post("/webhooks/desk/sample", {"type": "session.created"}).status_code == 200

    sample = receiver.requests[-1].events[0]
    names = real.keys()
    assert sample.keys() - {"sample"} == names
    nullable = ("previousStatus", "startTime", "crmSyncTarget")
    assert {name: type(sample[name]) for name in names if name not in nullable} == {
        name: type(real[name]) for name in names if name not in nullable
    }
    assert daemon.feed()[-1] == real, "the feed has no samples"
    assert daemon.get("/webhooks/desk").json()["cursor"] == before["cursor"]
    assert daemon.get("/supportsession/sample-session").status_code == 404


def test_the_command_reports_whether_the_sample_has_arrived(desk: tuple[Daemon, Receiver]) -> None:
    daemon, receiver = desk
    assert daemon.post("/webhooks/desk/pause").status_code == 200
    arrived = daemon.command("sample-event", "participant.joined", "--to", "desk")
    as_json = daemon.command("sample-event", "participant.joined", "--to", "desk", "--json")
    receiver.answer = status(500)
    try:
        refused = daemon.command("sample-event", "participant.joined", "--to", "desk")
    finally:
        receiver.answer = status(200)
    unknown = daemon.command("sample-event", "participant.joined", "--to", "nobody")
    mistyped = daemon.command("sample-event", "session.opened", "--to", "desk")

    assert (arrived.returncode, arrived.stdout[:20]) == (0, "desk answered 200 in"), "even while it is paused"
    assert json.loads(as_json.stdout)["kind"] == "sample"
    assert (refused.returncode, "answered 500" in refused.stderr) == (1, True)
    assert (unknown.returncode, mistyped.returncode) == (3, 2)
    assert "sample" in daemon.command("webhooks", "deliveries", "desk", "--wide").stdout
    assert receiver.types[-3:] == ["participant.joined"] * 3, "each is sent once"


def test_an_unknown_type_is_refused(desk: tuple[Daemon, Receiver]) -> None:
    answer = desk[0].post("/webhooks/desk/sample", {"type": "session.opened"})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "type")
