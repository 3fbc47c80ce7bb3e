"""The log has what a service desk needs to explain why people could not enter a room, or were removed from one."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.conftest import shared
from tests.acceptance.daemons import JSON, Daemon
from tests.support.rooms import Person, key_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk() -> Iterator[Daemon]:
    # Each person has an address of their own, which a proxy passes on.
    yield from shared(
        server={"trusted_proxies": ["127.0.0.1"]},
        limits={"participants_per_session": 2},
        rooms={"reconnect": "2m", "restart": "2m"},
    )


@pytest.fixture
def people() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


class Desk:
    """People at a session, whose label and ticket contain a number."""

    def __init__(self, daemon: Daemon, people: contextlib.ExitStack, number: int, **body: Any) -> None:
        self.daemon = daemon
        self.people = people
        self.ticket = f"INC{number}"
        record = {"id": f"sys{number}", "type": "incident", "name": self.ticket}
        self.session = daemon.make(label=f"Printer {number}", externalMapping=self.ticket, parentObject=record, **body)

    def connect(self, address: str, session: JSON | None = None) -> Person:
        person = Person(self.daemon.url, session or self.session, address)
        self.people.callback(person.close)
        return person

    def refused(self, address: str, session: JSON | None = None, **join: Any) -> JSON:
        """Join, which must fail; return the log line about it."""
        before = len(self.lines(address))
        person = self.connect(address, session)
        with contextlib.suppress(ConnectionClosed):
            person.send("join", **join)
        person.wait_for_end()
        return eventually(lambda: self.lines(address)[before:])[0]

    def lines(self, address: str) -> list[JSON]:
        return [line for line in self.daemon.log_lines("http.websocket") if line["remote_ip"] == address]

    def line(self, address: str) -> JSON:
        """Return the latest line about the end of a connection from this address."""
        return self.daemon.logged("http.websocket", remote_ip=address)

    def matches(self, line: JSON, name: str) -> bool:
        """Return whether a log line has the session, ticket and label of this desk, and this participant's name."""
        return (line["session_id"], line["external_key"], line["label"], line["participant_name"]) == (
            self.session["id"], self.ticket, self.session["label"], name,
        )  # fmt: skip


def test_somebody_who_is_refused_is_found_by_ticket_and_name_with_the_reason(
    desk: Daemon, people: contextlib.ExitStack
) -> None:
    at = Desk(desk, people, 1)
    for address in ("10.1.0.1", "10.1.0.2"):
        at.connect(address).join()
    line = at.refused("10.1.0.3", name="Mr Late")
    assert at.matches(line, "Mr Late")
    assert (line["close_code"], line["refcode"]) == (4429, 102429)
    assert line["message"].startswith(
        "WebSocket /v3/rooms/{session_id} of Mr Late at 10.1.0.3 closed with 4429 (The session has 2 participants, the "
    )

    crowded = desk.make()["id"]
    assert [desk.join(crowded).status_code for _ in range(3)] == [200, 200, 429]
    desk.logged("http.request", refcode=102429, session_id=crowded)

    other = Desk(desk, people, 2)
    line = other.refused("10.1.0.4", name="Ben", role="host", key=key_of(at.session))
    assert other.matches(line, "Ben")
    assert (line["refcode"], line["close_reason"]) == (112403, "The host key is not valid for this session")
    assert other.matches(desk.logged("room.wrong_key", remote_ip="10.1.0.4"), "Ben")

    desk.join(other.session["id"], "Alan")
    line = other.refused("10.1.0.5", name="Mrs Page")
    assert other.matches(line, "Mrs Page")
    assert line["refcode"] == 112409
    assert other.matches(desk.logged("room.other_source", session_id=other.session["id"]), "Mrs Page")


def test_an_unknown_id_is_in_no_line(desk: Daemon, people: contextlib.ExitStack) -> None:
    at = Desk(desk, people, 3)
    line = at.refused("10.1.1.1", {"id": "Se3cretX"}, name="Mr Typo")
    assert (line["close_code"], line["refcode"], line["close_reason"]) == (4404, 101404, "Session not found")
    assert "session_id" not in line
    assert "Se3cretX" not in desk.log_text


def test_a_line_of_one_reason_does_not_hide_another_one_from_the_same_address(
    desk: Daemon, people: contextlib.ExitStack
) -> None:
    one, two = Desk(desk, people, 4), Desk(desk, people, 7)
    desk.join(one.session["id"], "Alan")
    desk.join(two.session["id"], "Alan")
    assert one.refused("10.1.2.1", {"id": "wrong"}, name="x")["refcode"] == 101404
    assert one.matches(one.refused("10.1.2.1", name="Mrs Novak"), "Mrs Novak")
    assert two.matches(two.refused("10.1.2.1", name="Mr Novak"), "Mr Novak")
    line = one.refused("10.1.2.1", name="\u202eMr Novak")
    assert (line["refcode"], line["external_key"]) == (112400, one.ticket)
    assert "participant_name" not in line


def test_a_proxy_that_does_not_forward_websockets_is_logged_as_such(desk: Daemon) -> None:
    headers = {
        "X-Forwarded-For": "10.1.5.1",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert desk.get("/rooms/x", by=None, headers=headers).status_code == 426
    line = desk.logged("websocket.no_upgrade", remote_ip="10.1.5.1")
    assert (line["level"], line["route"]) == ("warning", "/v3/rooms/{session_id}")
    assert line["error"] == "it needs the headers Connection: Upgrade and Upgrade: websocket"
    assert not [one for one in desk.log_lines("http.anonymous") if one["remote_ip"] == "10.1.5.1"]


def test_the_page_that_may_not_open_a_websocket_is_named(desk: Daemon) -> None:
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    for address, origin in ("10.1.6.1", "https://portal.example.net"), ("10.1.6.2", "https://\x85" + "x" * 300):
        headers = {**upgrade, "X-Forwarded-For": address, "Origin": origin.encode("latin-1")}
        answer = desk.http.get(f"{desk.url}/v3/rooms/x", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 403
    line = desk.logged("http.cross_site", remote_ip="10.1.6.1")
    assert line["origin"] == "https://portal.example.net"
    assert line["message"].endswith("refused: 1; https://portal.example.net is not in server.cors_origins")
    line = desk.logged("http.cross_site", remote_ip="10.1.6.2")
    assert line["origin"] == r"https://\x85" + "x" * 191


def test_the_log_has_the_reason_for_the_end_of_a_connection(desk: Daemon, people: contextlib.ExitStack) -> None:
    at = Desk(desk, people, 5, agentPrefs={"knock": True})
    host, guest = at.connect("10.1.3.1"), at.connect("10.1.3.2")
    host.host("Ada")
    guest.join("Grace")
    host.send("admit", participant=guest.participant)
    guest.wait_for("joined")
    again = at.connect("10.1.3.4")
    again.come_back(guest.resume)
    assert guest.wait_for_end() == 4409
    assert at.line("10.1.3.2")["close_reason"] == "replaced"
    assert at.matches(desk.logged("room.replaced", participant_id=guest.participant), "Grace")
    host.send("remove", participant=guest.participant)
    assert again.wait_for_end() == 4403
    line = at.line("10.1.3.4")
    assert at.matches(line, "Grace")
    assert (line["close_reason"], line["actor"]) == ("removed", f"guest:{guest.participant}")
    desk.command("close", at.session["id"])
    assert host.wait_for_end() == 4410
    assert at.line("10.1.3.1")["close_reason"] == "closed"


def test_the_log_has_no_close_reason_for_somebody_who_leaves(desk: Daemon, people: contextlib.ExitStack) -> None:
    at = Desk(desk, people, 6)
    guest = at.connect("10.1.4.1")
    guest.join("Grace")
    guest.send("leave")
    assert guest.wait_for_end() == 1000
    line = at.line("10.1.4.1")
    assert at.matches(line, "Grace")
    assert "close_reason" not in line
    assert "refcode" not in line
