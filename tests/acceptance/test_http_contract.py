"""Behaviour of the API on which clients of the original rely."""

import http.client
import json
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, digest, token_of
from tests.acceptance.times import from_now, parsed


def raw(daemon: Daemon, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Send a request with exactly this target and these headers."""
    host = urlsplit(daemon.url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=20)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, {"Session-id": daemon.token, **sent})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


# --- how clients write requests ---------------------------------------------------------------------------------------


def test_every_successful_call_returns_200_and_json(daemon: Daemon) -> None:
    made = daemon.post("/supportsessions", {"type": "live", "label": "A", "startTime": from_now(days=1)})
    one = f"/supportsession/{made.json()['id']}"
    moved = daemon.put(one, {"startTime": from_now(days=2)})
    closed = daemon.delete(one)
    for answer in (made, moved, closed, daemon.get("/supportsessions"), daemon.get(one), daemon.get(f"{one}/events")):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()


def test_a_get_may_have_an_empty_query_and_a_content_type(daemon: Daemon) -> None:
    session = daemon.make()
    code, answer = raw(daemon, "GET", f"/v3/supportsession/{session['id']}?", Content_Type="application/json")
    assert (code, answer["id"]) == (200, session["id"])
    assert raw(daemon, "GET", "/v3/supportsessions?", Content_Type="application/json")[0] == 200


@pytest.mark.parametrize("body", [None, b"{}", b"", b"not JSON"])
def test_a_delete_works_with_any_body_and_without(daemon: Daemon, body: bytes | None) -> None:
    session = daemon.make()
    code, answer = raw(daemon, "DELETE", f"/v3/supportsession/{session['id']}", body, Content_Type="application/json")
    assert (code, answer) == (200, {"success": True})
    assert daemon.session(session["id"])["status"] == "closed"


def test_a_token_is_accepted_as_session_id_or_as_bearer(daemon: Daemon) -> None:
    token = daemon.token
    for header in ({"Session-id": token}, {"Authorization": f"Bearer {token}"}, {"Authorization": f"bearer {token}"}):
        assert daemon.get("/me", by=None, headers=header).json()["user"]["id"] == 32593


def test_client_app_and_user_agent_are_recorded(daemon: Daemon) -> None:
    body = {"type": "support", "label": "A"}
    headers = {"client-app": "service-now-backend", "User-Agent": "Jakarta Commons-HttpClient/3.1"}
    by = daemon.post("/supportsessions", body, headers=headers).json()["createdByAgentSession"]
    assert by["clientApp"] == "service-now-backend"
    assert by["userAgent"] == "Jakarta Commons-HttpClient/3.1"
    assert by["remoteIp"] == "127.0.0.1"
    assert by["providerExternalId"] == "6816f79cc0a8016401c5a33be04be441"
    assert by["roles"] == {"api": True, "agent": True, "supervisor": False, "group_admin": True}
    assert "id" not in by


def test_a_closed_session_stays_readable(daemon: Daemon) -> None:
    session = daemon.make(type="support")
    assert daemon.delete(f"/supportsession/{session['id']}").json() == {"success": True}
    closed = daemon.session(session["id"])
    assert (closed["status"], closed["closeReason"], closed["pin"]) == ("closed", "closed", 0)
    assert closed["closedAt"]
    assert closed["urls"] == session["urls"]
    assert daemon.delete(f"/supportsession/{session['id']}").json() == {"success": True}
    assert [event["type"] for event in daemon.events(session["id"])] == ["session.created", "session.closed"]


def test_closing_a_scheduled_session_cancels_it(daemon: Daemon) -> None:
    session = daemon.make(startTime=from_now(days=1))
    daemon.delete(f"/supportsession/{session['id']}")
    assert daemon.session(session["id"])["closeReason"] == "cancelled"


def test_names_with_a_blank_and_unknown_members_are_accepted(daemon: Daemon) -> None:
    key = f"spiffycrm.acmebrand.case.{uuid.uuid4().hex}"
    parent = {"id": "1", "app ": "sdk-demo", "type": "case", "name": "Case", "sync": True, "provider": "webwidget"}
    session = daemon.make(externalMapping=key, parentObject=parent, nonsense={"a": [1]})
    assert session["parentObject"]["app"] == "sdk-demo"
    without = {name: value for name, value in parent.items() if name != "app "}
    assert "app" not in daemon.make(externalMapping=key, parentObject=without)["parentObject"]


@pytest.mark.parametrize("shape", ["dotted.{}", "with/slashes/{}/and more", "per cent %25 {}", "q{}:colon,comma"])
def test_crmlookup_takes_the_rest_of_the_path_as_the_key(daemon: Daemon, shape: str) -> None:
    key = shape.format(uuid.uuid4().hex)
    first = daemon.make(externalMapping=key.replace("%25", "%"), parentObject={"id": "1"})
    second = daemon.make(externalMapping=key.replace("%25", "%"), parentObject={"id": "1"})
    daemon.delete(f"/supportsession/{first['id']}")
    code, found = raw(daemon, "GET", f"/v3/crmlookup/{key.replace(' ', '%20')}?", Content_Type="application/json")
    assert code == 200
    assert [session["id"] for session in found] == [second["id"]]


def test_crmlookup_of_an_unknown_key_is_an_empty_array(daemon: Daemon) -> None:
    assert daemon.get("/crmlookup/nothing.like.it").json() == []


def test_empty_query_values_count_as_absent(daemon: Daemon) -> None:
    answer = daemon.get("/supportsessions?instance_url=&state=&limit=&orderby=&status=&type=&startFrom=")
    assert answer.status_code == 200
    assert set(answer.json()) == {"count", "rows"}


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_without_parameters_shows_the_newest_twenty_that_are_open(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    made = [daemon.make(by="lister", label=f"{number}")["id"] for number in range(22)]
    closed = made.pop()
    daemon.delete(f"/supportsession/{closed}", by="lister")
    daemon.make(by="anna")

    answer = daemon.get("/supportsessions", by="lister").json()

    assert answer["count"] == 21
    assert [row["id"] for row in answer["rows"]] == made[::-1][:20]
    page = daemon.get("/supportsessions?limit=5&offset=19&orderby=createdAt&orderdir=ASC", by="lister").json()
    assert page["count"] == 21
    assert [row["id"] for row in page["rows"]] == made[19:]
    assert daemon.get("/supportsessions?status=closed", by="lister").json()["rows"][0]["id"] == closed
    assert daemon.get("/supportsessions?scope=all", by="supervisor").json()["count"] == 22
    assert daemon.get("/supportsessions?scope=all", by="lister").status_code == 403


def test_lists_are_filtered_by_status_type_and_start(daemon: Daemon) -> None:
    soon = daemon.make(by="ben", type="replay", startTime=from_now(days=400))["id"]
    late = daemon.make(by="ben", type="replay", startTime=from_now(days=410))["id"]
    now = daemon.make(by="ben", type="replay")["id"]

    def found(query: str) -> set[str]:
        answer = daemon.get(f"/supportsessions?limit=1000&{query}", by="ben")
        assert answer.status_code == 200, answer.text
        return {row["id"] for row in answer.json()["rows"]} & {soon, late, now}

    assert found("") == {soon, late, now}
    assert found("status=scheduled") == {soon, late}
    assert found("status=new&status=scheduled") == {soon, late, now}
    assert found("status=active") == set()
    assert found(f"startFrom={from_now(days=405)}") == {late}
    assert found(f"startFrom={from_now(days=399)}&startTo={from_now(days=405)}") == {soon}
    assert found("type=replay") == {soon, late, now}
    assert found("type=live") == set()


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_reschedule_is_refused_for_a_version_that_if_match_does_not_list(daemon: Daemon) -> None:
    made = daemon.post("/supportsessions", {"type": "live", "label": "A", "startTime": from_now(days=1)})
    session, tag = made.json(), made.headers["ETag"]
    one, later = f"/supportsession/{session['id']}", from_now(days=2)
    assert tag == f'"{session["version"]}"'
    assert daemon.get(one).headers["ETag"] == tag

    moved = daemon.put(one, {"startTime": later}, headers={"If-Match": tag})
    assert moved.status_code == 200
    assert moved.json()["startTime"] == later
    assert moved.headers["ETag"] != tag
    assert parsed(moved.json()["expiresAt"]) > parsed(session["expiresAt"])

    stale = daemon.put(one, {"startTime": from_now(days=3)}, headers={"If-Match": tag})
    assert stale.status_code == 412
    assert stale.json()["refcode"] == 101412
    assert moved.headers["ETag"] in stale.json()["description"]
    assert daemon.session(session["id"])["startTime"] == later
    now = moved.headers["ETag"]
    for good in ("*", now, f"{tag}, {now}", f"{tag},{now}", f", {now} ,", f'W/{tag}, "a,b", {now}'):
        assert daemon.put(one, {"startTime": later}, headers={"If-Match": good}).status_code == 200, good
    for bad in (tag, f"W/{now}", f"W/{now}, {tag}", '""', f'"0{now[1:]}', '"*"'):
        assert daemon.put(one, {"startTime": later}, headers={"If-Match": bad}).status_code == 412, bad
    for odd in (f"w/{now}", "W/", '"1" "2"', f"*, {now}", "one", f"{now[:-1]}", f'"{now[1:-1]} "'):
        answer = daemon.put(one, {"startTime": later}, headers={"If-Match": odd})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "If-Match"), odd
    lines = [("Session-id", daemon.token), ("If-Match", tag), ("If-Match", now)]
    answer = daemon.http.put(f"{daemon.url}/v3{one}", json={"startTime": later}, headers=lines)
    assert answer.status_code == 200, "a list may be split into several header lines"
    assert daemon.session(session["id"])["version"] == moved.json()["version"], "an unchanged start is not recorded"


def test_only_a_scheduled_session_can_be_rescheduled(daemon: Daemon) -> None:
    session = daemon.make()
    answer = daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=1)})
    assert answer.status_code == 409
    assert answer.json()["refcode"] == 101409
    assert "new" in answer.json()["description"]


def test_a_start_within_the_lead_time_opens_at_once(daemon: Daemon) -> None:
    session = daemon.make(type="support", startTime=from_now(minutes=5))
    assert (session["status"], session["scheduled"]) == ("new", True)
    assert session["pin"]
    assert [event["type"] for event in daemon.events(session["id"])] == ["session.scheduled", "session.ready"]
    other = daemon.make(type="support", startTime=from_now(days=1))
    moved = daemon.put(f"/supportsession/{other['id']}", {"startTime": from_now(minutes=5)}).json()
    assert (moved["status"], moved["id"], moved["urls"]) == ("new", other["id"], other["urls"])


# --- browsers ---------------------------------------------------------------------------------------------------------


def preflight(daemon: Daemon, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "session-id,client-app,content-type",
    }
    return daemon.call("OPTIONS", "/supportsessions", by=None, headers=headers)


def test_a_browser_may_call_from_a_configured_origin(daemon: Daemon) -> None:
    answer = preflight(daemon, "https://desk.example.com")
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://desk.example.com"
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "session-id" in allowed
    assert "client-app" in allowed
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    read = daemon.get("/me", headers={"Origin": "https://desk.example.com"})
    assert read.headers["access-control-allow-origin"] == "https://desk.example.com"
    assert "etag" in read.headers["access-control-expose-headers"].lower()


def test_a_browser_may_read_errors_from_a_configured_origin(daemon: Daemon) -> None:
    answer = daemon.get("/supportsession/nobody", headers={"Origin": "https://desk.example.com"})
    assert answer.status_code == 404
    assert answer.headers["access-control-allow-origin"] == "https://desk.example.com"
    large = daemon.post("/supportsessions", content=b" " * 70_000, headers={"Origin": "https://desk.example.com"})
    assert large.status_code == 413
    assert large.headers["access-control-allow-origin"] == "https://desk.example.com"


def test_a_browser_may_not_call_from_another_origin(daemon: Daemon) -> None:
    answer = preflight(daemon, "https://evil.example.com")
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
    read = daemon.get("/me", headers={"Origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in read.headers


# --- rooms ------------------------------------------------------------------------------------------------------------


def test_the_first_participant_makes_a_session_active_and_leaving_does_not_change_that(daemon: Daemon) -> None:
    session = daemon.make(type="support")
    one = f"/supportsession/{session['id']}"

    host, guest = daemon.join(session["id"], "Anna", "host").json(), daemon.join(session["id"]).json()
    active = daemon.session(session["id"])
    assert (active["status"], active["participants"], active["pin"]) == ("active", 2, session["pin"])
    assert active["activatedAt"]

    for participant in (host, guest, guest):
        left = daemon.delete(f"{one}/participants/{participant['participantId']}", by="room")
        assert (left.status_code, left.json()) == (200, {"success": True})
    empty = daemon.session(session["id"])
    assert (empty["status"], empty["participants"]) == ("active", 0)

    events = daemon.events(session["id"])
    assert [event["type"] for event in events] == [
        "session.created", "session.active", "participant.joined", "participant.joined", "participant.left",
        "participant.left",
    ]  # fmt: skip
    assert events[1]["participant"]["name"] == "Anna"
    assert events[1]["previousStatus"] == "new"
    assert [event["actor"] for event in events] == ["agent:32593", *["room:12"] * 5]
    assert [event["stats"]["participants"] for event in events] == [0, 1, 1, 2, 1, 0]

    daemon.join(session["id"])
    daemon.delete(one)
    closed = daemon.session(session["id"])
    assert (closed["status"], closed["participants"]) == ("closed", 0)


def test_a_join_of_a_session_that_is_not_open_is_refused(daemon: Daemon) -> None:
    session = daemon.make(startTime=from_now(days=1))
    early = daemon.join(session["id"])
    assert (early.status_code, early.json()["refcode"]) == (409, 101409)
    assert "scheduled" in early.json()["description"]
    daemon.delete(f"/supportsession/{session['id']}")
    late = daemon.join(session["id"])
    assert late.status_code == 409
    assert "closed" in late.json()["description"]


def test_a_participant_who_knocks_is_admitted_or_denied(daemon: Daemon) -> None:
    session = daemon.make(type="live", agentPrefs={"knock": True})
    people = f"/supportsession/{session['id']}/participants"

    def knock(name: str) -> str:
        answer = daemon.post(people, {"role": "guest", "name": name, "knock": True}, by="room")
        assert answer.status_code == 200, answer.text
        return f"{people}/{answer.json()['participantId']}"

    grace, ada = knock("Grace"), knock("Ada")
    assert (daemon.session(session["id"])["status"], daemon.session(session["id"])["participants"]) == ("new", 0)
    for path, admitted in ((grace, True), (ada, False), (grace, True), (ada, False)):
        answer = daemon.put(path, {"admitted": admitted}, by="room")
        assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert (daemon.session(session["id"])["status"], daemon.session(session["id"])["participants"]) == ("active", 1)
    events = [(event["type"], event.get("participant", {}).get("name")) for event in daemon.events(session["id"])]
    assert events == [
        ("session.created", None), ("participant.knocked", "Grace"), ("participant.knocked", "Ada"),
        ("session.active", "Grace"), ("participant.admitted", "Grace"), ("participant.joined", "Grace"),
        ("participant.denied", "Ada"),
    ]  # fmt: skip
    again = daemon.put(ada, {"admitted": True}, by="room")
    assert (again.status_code, again.json()["refcode"]) == (409, 102409)
    nobody = daemon.put(f"{people}/nobody", {"admitted": True}, by="room")
    assert (nobody.status_code, nobody.json()["refcode"]) == (404, 102404)


def test_a_knock_is_refused_if_the_setting_is_off(daemon: Daemon) -> None:
    people = f"/supportsession/{daemon.make(type='live')['id']}/participants"
    answer = daemon.post(people, {"role": "guest", "name": "Grace", "knock": True}, by="room")
    assert (answer.status_code, answer.json()["refcode"]) == (409, 102409)


def test_an_unknown_participant_cannot_leave(daemon: Daemon) -> None:
    session = daemon.make()
    answer = daemon.delete(f"/supportsession/{session['id']}/participants/nobody", by="room")
    assert (answer.status_code, answer.json()["refcode"]) == (404, 102404)


def test_a_join_repeated_with_its_key_counts_once(daemon: Daemon) -> None:
    session = daemon.make()
    joins = [
        daemon.post(
            f"/supportsession/{session['id']}/participants",
            {"role": "guest", "name": "G"},
            by="room",
            headers={"Idempotency-Key": f"join {session['id']}"},
        )
        for _ in range(2)
    ]
    assert joins[0].json() == joins[1].json()
    assert joins[1].headers["Idempotency-Replayed"] == "true"
    assert daemon.session(session["id"])["participants"] == 1


def test_discovery_returns_the_active_sessions(daemon: Daemon) -> None:
    waiting, active, closed = daemon.make(), daemon.make(type="support"), daemon.make()
    for session in (active, closed):
        assert daemon.join(session["id"]).status_code == 200
    daemon.delete(f"/supportsession/{closed['id']}")
    ids = "%2C".join(session["id"] for session in (waiting, active, closed))

    code, found = raw(daemon, "GET", f"/v3/discovery?ids={ids}%2Cnobody", Content_Type="application/json")

    assert code == 200
    assert set(found) == {active["id"]}
    entry = found[active["id"]]
    assert set(entry) == {"id", "type", "ts", "servers"}
    assert (entry["id"], entry["type"]) == (active["id"], "support")
    assert isinstance(entry["ts"], int)
    assert set(entry["servers"]["support"]) == {"region", "endpoint", "serverInstanceId"}
    assert daemon.get("/discovery?").json() == {}
    assert daemon.get(f"/discovery?ids={ids}", by="anna").json() == {}


# --- PINs -------------------------------------------------------------------------------------------------------------


def test_the_public_data_of_a_session_are_returned_for_its_pin(daemon: Daemon) -> None:
    session = daemon.make(type="support", label="Printer")
    answer = daemon.get(f"/support/{session['pin']}/meta", by=None)
    assert answer.status_code == 200
    meta = answer.json()
    assert set(meta) == {
        "id", "pin", "type", "label", "userDescription", "status", "settings", "expiresAt", "OrganizationId",
        "client_info",
    }  # fmt: skip
    for name in set(meta) - {"client_info"}:
        assert meta[name] == session[name]
    assert set(meta["client_info"]) == {
        "win_download_url", "mac_download_url", "ios_itunes_url", "android_package_id",
    }  # fmt: skip
    daemon.delete(f"/supportsession/{session['id']}")
    assert daemon.get(f"/support/{session['pin']}/meta", by=None).status_code == 404


@pytest.mark.parametrize("pin", ["123", "0", "000000", "abcdef", "1234567", "-12345", "١٢٣٤٥٦"])
def test_an_unknown_pin_is_404_with_the_message_of_the_original(daemon: Daemon, pin: str) -> None:
    answer = daemon.get(f"/support/{pin}/meta", by=None)
    assert answer.status_code == 404
    wanted = {"code": 404, "refcode": 101404, "description": f"Session not found {pin}", "errors": []}
    assert answer.json() == wanted


def test_pins_of_open_sessions_are_unique(daemon: Daemon) -> None:
    pins = [daemon.make(type=kind)["pin"] for kind in ("support", "cobrowse") * 10]
    assert len(set(pins)) == len(pins)
    assert all(100000 <= pin <= 999999 for pin in pins)
    assert daemon.make(type="live")["pin"] == daemon.make(type="replay")["pin"] == 0


# --- history ----------------------------------------------------------------------------------------------------------


def test_a_history_is_paged(daemon: Daemon) -> None:
    session = daemon.make(startTime=from_now(days=1))
    starts = [from_now(days=2), from_now(days=3)]
    for start in starts:
        daemon.put(f"/supportsession/{session['id']}", {"startTime": start})
    daemon.delete(f"/supportsession/{session['id']}")
    events: list[JSON] = []
    after = 0
    while True:
        page = daemon.get(f"/supportsession/{session['id']}/events?after={after}&limit=2").json()
        if not page["events"]:
            break
        assert page["next"] == page["events"][-1]["seq"]
        events, after = events + page["events"], page["next"]
    assert page["next"] == after
    assert [event["type"] for event in events] == [
        "session.scheduled", "session.rescheduled", "session.rescheduled", "session.closed",
    ]  # fmt: skip
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert len({event["eventId"] for event in events}) == 4
    moves = [(event["previousStartTime"], event["startTime"]) for event in events[1:3]]
    assert moves == [(session["startTime"], starts[0]), (starts[0], starts[1])]
    assert (events[3]["reason"], events[3]["status"], events[3]["previousStatus"]) == (
        "cancelled", "closed", "scheduled",
    )  # fmt: skip


# --- operators --------------------------------------------------------------------------------------------------------


def test_the_documentation_page_loads_nothing_from_other_servers(daemon: Daemon) -> None:
    page = daemon.http.get(f"{daemon.url}/docs")
    assert page.status_code == 200
    assert "://" not in page.text, "the page loads nothing from other servers"
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert asset in page.text
        assert daemon.http.get(f"{daemon.url}/docs/assets/{asset}").status_code == 200
    described = daemon.http.get(f"{daemon.url}/openapi.json").json()
    assert "/v3/supportsessions" in described["paths"]


def test_health_and_readiness_need_no_token(daemon: Daemon) -> None:
    assert daemon.http.get(f"{daemon.url}/healthz").json() == {"status": "ok"}
    ready = daemon.http.get(f"{daemon.url}/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": [], "notes": []})


def test_sessions_created_through_the_local_socket_belong_to_the_local_operator(daemon: Daemon) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o600
    assert daemon.state.stat().st_mode & 0o777 == 0o700
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket)), base_url="http://localhost/v3") as local:
        me = local.get("/me").json()
        assert (me["user"]["id"], me["user"]["name"]) == (0, "local operator")
        assert me["roles"]["group_admin"] is True
        session = local.post("/supportsessions", json={"type": "live", "label": "A"}).json()
        assert session["ExternalUserId"] == 0
        assert local.get("/supportsessions?scope=all").status_code == 200
    assert daemon.get(f"/supportsession/{session['id']}", by="anna").status_code == 403
    assert daemon.events(session["id"])[0]["actor"] == "local"


def test_the_hash_of_a_token_is_not_accepted_as_a_token(daemon: Daemon) -> None:
    """A reader of the configuration file cannot authenticate with a hash from it."""
    stolen = digest(token_of("admin"))
    assert daemon.get("/me", by=None, headers={"Session-id": stolen}).status_code == 401
