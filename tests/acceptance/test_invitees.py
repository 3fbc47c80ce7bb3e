"""Invitees: over the API, the client and the command, and who sees their addresses."""

import json
from typing import Any

import pytest

from tests.acceptance.daemons import JSON, Daemon, token_of
from tests.acceptance.times import from_now
from tminus.client import ScreenMeet

JOE = {"email": "joe.invited@example.com", "name": "Joe “Ünïcode” <Guest>", "role": "guest"}
ANNA = {"email": "müller.invited@straße.test", "name": "", "role": "host"}


def create(daemon: Daemon, **fields: Any) -> tuple[int, JSON]:
    answer = daemon.post("/supportsessions", {"type": "live", "label": "Invited", **fields}, by="anna")
    return answer.status_code, answer.json()


def test_invitees_are_stored_and_shown_to_those_who_may_host(daemon: Daemon) -> None:
    status, session = create(daemon, startTime=from_now(days=1), invitees=[JOE, {**ANNA, "extra": 1}])

    assert status == 200
    assert session["invitees"] == [JOE, ANNA]
    path = f"/supportsession/{session['id']}"
    for name, shown in (("anna", True), ("supervisor", True), ("chief", True), ("monitor", False)):
        assert ("invitees" in daemon.get(path, by=name).json()) is shown, name
        scope = "mine" if name == "anna" else "all"
        rows = daemon.get(f"/supportsessions?scope={scope}&limit=1000", by=name).json()["rows"]
        found = next(row for row in rows if row["id"] == session["id"])
        assert (found.get("invitees") == [JOE, ANNA]) is shown, name
    moved = daemon.put(path, {"startTime": from_now(days=2)}, by="anna").json()
    assert moved["invitees"] == [JOE, ANNA]
    assert daemon.delete(path, by="anna").status_code == 200
    assert daemon.get(path, by="anna").json()["invitees"] == [JOE, ANNA]


def test_no_event_and_no_log_line_contains_an_address(daemon: Daemon) -> None:
    _, session = create(daemon, invitees=[JOE, ANNA])
    history = daemon.get(f"/supportsession/{session['id']}/events", by="chief").text
    daemon.logged("session.created", session_id=session["id"])

    for text in (history, daemon.log_text):
        assert "invited@" not in text


def test_a_session_without_invitees_has_an_empty_list(daemon: Daemon) -> None:
    assert create(daemon)[1]["invitees"] == []
    assert create(daemon, invitees=[])[1]["invitees"] == []
    assert create(daemon, invitees=None)[1]["invitees"] == []


@pytest.mark.parametrize(
    ("invitees", "field", "message"),
    [
        ([{"name": "Joe"}], "invitees.0.email", "is missing"),
        ([{"email": "joe"}], "invitees.0.email", "must be a mail address"),
        ([{"email": "joe@example.com\r\nBcc: x@y"}], "invitees.0.email", "must have"),
        ([{"email": "joe@example.com", "name": "Joe\r\nBcc: x@example.com"}], "invitees.0.name", "control characters"),
        ([{"email": "joe@example.com", "role": "agent"}], "invitees.0.role", "host"),
        ([{"email": "joe@example.com", "name": "x" * 256}], "invitees.0.name", "255"),
        ([{"email": "a@example.com"}, {"email": "A@EXAMPLE.com"}], "invitees", "0 and 1"),
        ([{"email": f"a{number}@example.com"} for number in range(101)], "invitees", "100"),
        ("joe@example.com", "invitees", "list"),
    ],
)
def test_invalid_invitees_are_refused_by_field_name(daemon: Daemon, invitees: Any, field: str, message: str) -> None:
    status, answer = create(daemon, invitees=invitees)

    assert status == 400
    assert [one["field"] for one in answer["errors"]] == [field]
    assert message in answer["errors"][0]["message"]


def test_a_repeated_request_with_other_invitees_is_refused(daemon: Daemon) -> None:
    key = {"Idempotency-Key": f"invitees {from_now()}"}
    body = {"type": "live", "label": "Invited"}
    first, again, other = (
        daemon.post("/supportsessions", {**body, "invitees": invitees}, by="anna", headers=key)
        for invitees in ([JOE], [JOE], [ANNA])
    )

    assert again.json() == first.json()
    assert other.status_code == 409


def test_client_and_command_invite(daemon: Daemon) -> None:
    with ScreenMeet(daemon.url, token_of("anna")) as client:
        made = client.scheduleSession(
            from_now(days=1),
            "live",
            screenmeet_session_name="Client",
            invitees=[{"email": JOE["email"], "name": JOE["name"], "role": "guest"}],
        )
        assert made["invitees"] == [JOE]

    options = ("--type", "live", "--label", "Invited", "--invite", "joe@example.com")
    done = daemon.command("create", *options, "--invite-host", " Anna A. <anna@example.com>", "--json")
    session = json.loads(done.stdout)
    assert session["invitees"] == [
        {"email": "joe@example.com", "name": "", "role": "guest"},
        {"email": "anna@example.com", "name": "Anna A.", "role": "host"},
    ]
    shown = daemon.command("show", session["id"]).stdout
    assert "joe@example.com\n" in shown
    assert "Anna A. <anna@example.com> (host)\n" in shown
    wrong = daemon.command("create", *options, "--invite", "Joe <joe@example.com")
    assert wrong.returncode == 2
    assert "has no > at its end" in wrong.stderr
