"""Authorization: every call by every role and way of authentication, on own, other and unknown sessions.

`RIGHTS` is the table, the same as in docs/api.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now

ROLES = ("nobody", "api", "room", "agent", "monitor", "supervisor", "group_admin")

# What each role may do. docs/api.md explains the words.
RIGHTS = {
    "POST /v3/supportsessions": "- - - yes - - yes",
    "POST /v3/supportsessions/batch": "- - - yes - - yes",
    "POST /v3/supportsessions/batch/reschedule": "- - - yes - - yes",
    "POST /v3/supportsessions/batch/close": "- - - yes - yes yes",
    "GET /v3/supportsessions": "- - - own own own own",
    "GET /v3/supportsessions?scope=all": "- - - - masked all all",
    "GET /v3/supportsession/{session_id}": "- - - own masked all all",
    "PUT /v3/supportsession/{session_id}": "- - - own - - all",
    "DELETE /v3/supportsession/{session_id}": "- - - own - all all",
    "GET /v3/supportsession/{session_id}/events": "- - - own all all all",
    "GET /v3/supportsession/{session_id}/invite.ics": "- - - own masked all all",
    "POST /v3/supportsession/{session_id}/participants": "- - all - - - all",
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}": "- - all - - - all",
    "DELETE /v3/supportsession/{session_id}/participants/{participant_id}": "- - all - - - all",
    "GET /v3/report": "- - - yes yes yes yes",
    "GET /v3/report?scope=all": "- - - - yes yes yes",
    "GET /v3/events": "- - - - yes yes yes",
    "GET /v3/events?scope=mine": "- - - own own own own",
    "GET /v3/crmlookup/{key}": "- - - own masked all all",
    "GET /v3/discovery": "- none none own all all all",
    "GET /v3/support/{pin}/meta": "yes yes yes yes yes yes yes",
    "GET /v3/support/{pin}/metadata": "yes yes yes yes yes yes yes",
    "GET /v3/support/challenge": "yes yes yes yes yes yes yes",
    "POST /v3/support/connect": "yes yes yes yes yes yes yes",
    "POST /v3/live/connect": "yes yes yes yes yes yes yes",
    "POST /v3/auth/{provider}/authWithToken": "yes yes yes yes yes yes yes",
    "GET /v3/auth/{provider}/exchangeCode": "yes yes yes yes yes yes yes",
    "GET /v3/auth/signout": "- yes yes yes yes yes yes",
    "GET /v3/me": "- yes yes yes yes yes yes",
    "GET /v3/configuration/{type_id}": "- yes yes yes yes yes yes",
    "GET /v3/organization/{organization_id}/remotewidgetconfig": "- yes yes yes yes yes yes",
    "GET /v3/organization/{organization_id}/cobrowsedeployments": "- yes yes yes yes yes yes",
    "GET /v3/agents": "- - - - - - yes",
    "POST /v3/agents/{number}/shutOut": "- - - - - - yes",
    "POST /v3/agents/{number}/readmit": "- - - - - - yes",
    "POST /v3/agents/{number}/calendar": "- - - own - - all",
    "DELETE /v3/agents/{number}/calendar": "- - - own - - all",
    "GET /v3/calendars/{secret}.ics": "yes yes yes yes yes yes yes",
    "GET /v3/agents/{number}/freebusy": "- - - own all all all",
    "GET /v3/clock": "- yes yes yes yes yes yes",
    "POST /v3/clock": "- - - - - - yes",
    "GET /v3/webhooks": "- - - - - - yes",
    "GET /v3/webhooks/{name}": "- - - - - - yes",
    "POST /v3/webhooks/{name}/ping": "- - - - - - yes",
    "POST /v3/webhooks/{name}/sample": "- - - - - - yes",
    "POST /v3/webhooks/{name}/pause": "- - - - - - yes",
    "POST /v3/webhooks/{name}/resume": "- - - - - - yes",
    "GET /v3/webhooks/{name}/deliveries": "- - - - - - yes",
    "POST /v3/webhooks/{name}/replay": "- - - - - - yes",
    "POST /v3/series": "- - - yes - - yes",
    "GET /v3/series": "- yes yes yes yes yes yes",
    "GET /v3/series/{series_id}": "- - - own - all all",
    "PUT /v3/series/{series_id}": "- - - own - - all",
    "DELETE /v3/series/{series_id}": "- - - own - all all",
    "GET /metrics": "- - - - yes - yes",
    "GET /healthz": "yes yes yes yes yes yes yes",
    "GET /readyz": "yes yes yes yes yes yes yes",
}

AGENT_OF = {"api": "api", "room": "room", "agent": "anna", "monitor": "monitor", "supervisor": "supervisor",
            "group_admin": "chief"}  # fmt: skip
"""The agent whose token has this role, and no other role that matters."""

NEED_SCHEDULED = {"PUT /v3/supportsession/{session_id}"}
"""Calls that need a session which is still scheduled."""

OWNERS = {"agent": "anna", "group_admin": "chief", "local": None, "other": "ben"}
"""The agents who own sessions (None: a caller of the local socket). Ben makes no calls: no caller owns his sessions."""


@dataclass
class Owned:
    """The sessions of one owner."""

    planned: JSON
    """Scheduled for tomorrow."""
    live: JSON
    """Somebody is in it."""
    participant: str


@dataclass
class Situation:
    """A daemon with sessions of several owners, and the ways in which each caller authenticates."""

    daemon: Daemon
    local: httpx.Client
    sessions: dict[str, Owned] = field(default_factory=dict)
    agent_sessions: dict[str, str] = field(default_factory=dict)
    """The agent session of each role."""

    def ways(self, role: str) -> Iterator[tuple[str, httpx.Client, dict[str, str]]]:
        """Return every way in which a role authenticates: its name, the socket and the headers."""
        tcp = self.daemon.http
        if role == "nobody":
            yield "no token", tcp, {}
            yield "a wrong token", tcp, {"Session-id": "x" * 43}
            yield "an expired token", tcp, {"Session-id": self.daemon.tokens["expired"]}
            return
        token = self.daemon.tokens[AGENT_OF[role]]
        yield "the token", tcp, {"Session-id": token}
        if role not in self.agent_sessions:
            answer = self.daemon.post("/auth/token/authWithToken", {"session_token": token}, by=None).json()
            self.agent_sessions[role] = answer["session"]["id"]
        yield "an agent session", tcp, {"Session-id": self.agent_sessions[role]}
        if role == "group_admin":
            yield "the local socket", self.local, {}
            yield "the local socket, a wrong token", self.local, {"Session-id": "x" * 43}
            yield "the local socket, another's token", self.local, {"Session-id": self.daemon.tokens["room"]}

    def send(self, client: httpx.Client, call: str, headers: dict[str, str], at: Owned | None) -> httpx.Response:
        """Make a valid call about the sessions of this owner, or about an unknown session."""
        method, path = call.split()
        path = path.format(
            session_id="nobody" if at is None else (at.planned if call in NEED_SCHEDULED else at.live)["id"],
            participant_id=at.participant if at else "nobody",
            key="RIGHTS",
            pin=self.sessions["other"].live["pin"],
            provider="token",
            organization_id=1,
            type_id=3,
            name="nobody",
            number=7 if call.endswith(("/calendar", "/freebusy")) else 1000,  # the caller, or an unknown agent
            secret="none",
            series_id="nobody",
        )
        series = {
            "rrule": "FREQ=DAILY;COUNT=1",
            "dtstart": from_now(days=2)[:16],
            "timezone": "UTC",
            "session": {"type": "live", "label": "Of mine"},
        }
        bodies: dict[str, JSON] = {
            "POST /v3/supportsessions": {"type": "live", "label": "Of mine"},
            "POST /v3/supportsessions/batch": {"sessions": [{"type": "live", "label": "Of mine"}]},
            "POST /v3/supportsessions/batch/reschedule": {"filter": {"externalMapping": "nothing"}, "by": "1h"},
            "POST /v3/supportsessions/batch/close": {"filter": {"externalMapping": "nothing"}},
            "PUT /v3/supportsession/{session_id}": {"startTime": from_now(days=2)},
            "POST /v3/supportsession/{session_id}/participants": {"role": "guest", "name": "Guest"},
            "PUT /v3/supportsession/{session_id}/participants/{participant_id}": {"admitted": True},
            "POST /v3/auth/{provider}/authWithToken": {"session_token": self.daemon.tokens["api"]},
            "POST /v3/webhooks/{name}/replay": {"fromSeq": 1},
            "POST /v3/webhooks/{name}/sample": {"type": "session.ready"},
            "POST /v3/clock": {"to": "next"},
            "POST /v3/series": series,
            "PUT /v3/series/{series_id}": series,
            "POST /v3/support/connect": {"code": str(self.sessions["other"].live["pin"])},
            "POST /v3/live/connect": {"code": self.sessions["other"].live["id"]},
        }
        return client.request(
            method, f"{self.daemon.url}{path}", json=bodies.get(call), headers=headers, params=self.query(call)
        )

    def query(self, call: str) -> dict[str, Any] | None:
        if call.startswith("GET /v3/supportsessions"):
            return {"limit": 1000, "type": "support", "scope": "all" if "scope" in call else ""}
        if call == "GET /v3/events?scope=mine":
            return {"limit": 1000, "scope": "mine"}
        if call.endswith("exchangeCode"):
            return {"code": "none"}
        if call == "GET /v3/discovery":
            return {"ids": ",".join(owned.live["id"] for owned in self.sessions.values())}
        return None

    def create_sessions(self, whose: str) -> Owned:
        """Create sessions of this owner."""
        agent = OWNERS[whose]
        client, headers = (self.daemon.http, {"Session-id": self.daemon.tokens[agent]}) if agent else (self.local, {})

        def make(**more: Any) -> JSON:
            parent = {"externalMapping": "RIGHTS", "parentObject": {"id": "1"}}
            body = {"type": "support", "label": "Owned", **parent, **more}
            made: JSON = client.post(f"{self.daemon.url}/v3/supportsessions", json=body, headers=headers).json()
            return made

        planned, live = make(startTime=from_now(days=1)), make()
        return Owned(planned, live, self.daemon.join(live["id"]).json()["participantId"])

    def versions(self) -> dict[str, int]:
        """Return the version of each open session; a transition changes it."""
        rows = self.daemon.get("/supportsessions?scope=all&type=support&limit=1000").json()["rows"]
        owned = {one["id"] for own in self.sessions.values() for one in (own.planned, own.live)}
        return {row["id"]: row["version"] for row in rows if row["id"] in owned}


@pytest.fixture(scope="module", params=["daemon", pytest.param("pg_daemon", marks=pytest.mark.slow)])
def situation(request: pytest.FixtureRequest) -> Iterator[Situation]:
    shared: Daemon = request.getfixturevalue(request.param)
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(shared.socket)), timeout=20) as local:
        situation = Situation(shared, local)
        situation.sessions = {whose: situation.create_sessions(whose) for whose in OWNERS}
        yield situation


def test_every_call_of_the_api_is_in_the_table_and_no_other(daemon: Daemon) -> None:
    described = daemon.http.get(f"{daemon.url}/openapi.json").json()["paths"]
    calls = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert {call.partition("?")[0] for call in RIGHTS} == calls


def test_the_table_equals_that_of_the_documentation() -> None:
    page = Path(__file__).parents[2].joinpath("docs/api.md").read_text()
    head = "| call | nobody |" + "".join(f" `{role}` |" for role in ROLES[1:])
    assert head in page
    rows = re.findall(r"^\| `((?:GET|POST|PUT|DELETE) /\S+)` \|(( \S+ \|){7})$", page, re.MULTILINE)
    shown = {call: cells.replace("|", " ").replace("\u2013", "-").split() for call, cells, _ in rows}
    assert shown == {call: cells.split() for call, cells in RIGHTS.items()}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", RIGHTS)
def test_each_role_may_do_what_the_table_lists_and_refused_calls_change_nothing(
    situation: Situation, call: str, role: str
) -> None:
    may = RIGHTS[call].split()[ROLES.index(role)]
    of_a_session = "{session_id}" in call
    changes = of_a_session and not call.startswith("GET")
    before = situation.versions() if changes else {}
    assert not changes or len(before) == 2 * len(OWNERS)
    for way, client, headers in situation.ways(role):
        me = "local" if client is situation.local else role
        if not of_a_session:
            answer = situation.send(client, call, headers, situation.sessions["other"])
            _check(answer, allowed=may != "-", known=role != "nobody", context=f"{role} by {way}: {call}")
            if may in ("own", "all", "masked", "none") and answer.status_code == 200 and "/agents/" not in call:
                assert _seen(situation, call, answer) == _expected_secrets(situation, may, me), (
                    f"{role} by {way}: {call}"
                )
            continue
        for whose in ["other", *([me] if me in OWNERS else [])]:
            allowed = may in ("all", "masked") or (may == "own" and whose == me)
            # An allowed call changes the session, so it gets a new one.
            at = situation.sessions[whose]
            if allowed and changes:
                at = situation.create_sessions(whose)
            answer = situation.send(client, call, headers, at)
            context = f"{role} by {way}: {call} on {whose}'s session"
            _check(answer, allowed=allowed, known=role != "nobody", context=context)
            if allowed and call == "GET /v3/supportsession/{session_id}":
                assert _masked(answer.json()) is (may == "masked"), context
        gone = situation.send(client, call, headers, None)
        by_role_alone = "own" not in RIGHTS[call].split()
        if role == "nobody":
            assert gone.status_code == 401, f"{role} by {way}: {call} on no session"
        else:
            assert gone.status_code == (403 if by_role_alone and may == "-" else 404), f"{role} by {way}: {call}"
    if changes:
        assert situation.versions() == before
    if "signout" in call:
        situation.agent_sessions.clear()


def _check(answer: httpx.Response, *, allowed: bool, known: bool, context: str) -> None:
    if allowed:
        # After authorization, a call may fail because its webhook, agent, calendar, series or code is unknown, or
        # because the clock is no test clock.
        assert answer.status_code == 200 or answer.json()["refcode"] in (
            109404,
            113404,
            104400,
            118404,
            119404,
            120409,
        ), f"{context}: {answer.text}"
        return
    body = answer.json()
    assert (answer.status_code, body["refcode"]) == ((403, 104403) if known else (401, 104401)), context
    assert set(body) == {"code", "refcode", "description", "errors"}


def _masked(session: JSON) -> bool:
    """Return whether host token, host URL and PIN are left out; fail unless all or none of them are."""
    hidden = {"hostAuthToken" not in session, "host" not in session["urls"], session["pin"] == 0}
    assert len(hidden) == 1, session
    return hidden == {True}


def _seen(situation: Situation, call: str, answer: httpx.Response) -> dict[str, bool]:
    """Return the owners of the live sessions in a response, each with whether its secrets are left out."""
    body = answer.json()
    listed: dict[str, JSON] = body
    if isinstance(body, list) or "rows" in body:
        listed = {one["id"]: one for one in (body if isinstance(body, list) else body["rows"])}
    elif "events" in body:
        listed = {one["id"]: one for one in body["events"]}
    seen = {}
    for whose, owned in situation.sessions.items():
        if owned.live["id"] in listed:
            one = listed[owned.live["id"]]
            seen[whose] = "urls" in one and _masked(one)
    return seen


def _expected_secrets(situation: Situation, may: str, me: str) -> dict[str, bool]:
    if may == "none":
        return {}
    return {whose: may == "masked" for whose in situation.sessions if may != "own" or whose == me}
