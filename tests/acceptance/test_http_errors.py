"""Error responses: one format, all errors of a request at once, and no request that causes a 500."""

import base64
import hashlib
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now


def refused(answer: httpx.Response, code: int, refcode: int) -> dict[str, Any]:
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {"code", "refcode", "description", "errors"}
    assert (body["code"], body["refcode"]) == (code, refcode)
    assert body["description"]
    assert all(set(fault) == {"field", "message"} and fault["message"] for fault in body["errors"])
    return body


def fields(answer: httpx.Response, refcode: int = 100400) -> set[str]:
    """Return the fields that a 400 lists."""
    return {fault["field"] for fault in refused(answer, 400, refcode)["errors"]}


def test_the_error_for_an_unknown_session_contains_its_id(daemon: Daemon) -> None:
    for answer in (
        daemon.get("/supportsession/xoKwKRBrbwRF"),
        daemon.delete("/supportsession/xoKwKRBrbwRF"),
        daemon.put("/supportsession/xoKwKRBrbwRF", {"startTime": from_now(days=1)}),
        daemon.get("/supportsession/xoKwKRBrbwRF/events"),
        daemon.join("xoKwKRBrbwRF"),
    ):
        assert refused(answer, 404, 101404)["description"] == "Session not found xoKwKRBrbwRF"


@pytest.mark.parametrize(
    "path", ["/nothing", "/v3", "/v3/", "/v3/nothing", "/v3/supportsession/", "/v2/me", "//nothing"]
)
def test_an_unknown_path_gets_an_error_in_the_common_format(daemon: Daemon, path: str) -> None:
    for headers in ({}, {"Session-id": daemon.token}):
        refused(daemon.http.get(f"{daemon.url}{path}", headers=headers), 404, 100404)


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE", "TRACE"])
def test_an_unsupported_method_gets_405_with_the_allowed_methods(daemon: Daemon, method: str) -> None:
    answer = daemon.call(method, "/supportsessions")
    assert method in refused(answer, 405, 100405)["description"]
    assert answer.headers["Allow"] == "GET, HEAD, POST"
    for path in ("/docs", "/docs/assets/swagger-ui.css", "/openapi.json"):
        answer = daemon.http.request(method, f"{daemon.url}{path}")
        refused(answer, 405, 100405)
        assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not JSON",
        b'{"type": "live", "label": "A",}',
        b'{"type": "live", "label": "A", "metaData": {"a": NaN}}',
        b'{"type": "live", "label": "A", "metaData": {"a": Infinity}}',
        b'{"type": "live", "label": "\\ud800"}',
        b'{"type": "live", "label": "A", "metaData": {"a": "\\udfff"}}',
        b'{"type": "live", "label": "\xff"}',
        b'\xef\xbb\xbf{"type": "live"',
        b'{"type": "live", "label": "A", "metaData": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        b"[" * 10_000 + b"]" * 10_000,
        b"[" * 60_000,
        b'{"type": "live", "label": "A", "metaData": {"a": ' + b"9" * 10_000 + b"}}",
    ],
    ids=lambda content: content[:60].decode("latin-1"),
)
def test_invalid_json_is_refused(daemon: Daemon, content: bytes) -> None:
    for method, path in (("POST", "/supportsessions"), ("PUT", "/supportsession/nobody")):
        answer = daemon.call(method, path, content=content)
        refused(answer, 400, 100400)
    refused(daemon.call("POST", "/auth/token/authWithToken", by=None, content=content), 400, 100400)


@pytest.mark.parametrize("content", [b"null", b"[]", b'"text"', b"1", b"true", b"[[]]"])
def test_a_json_body_that_is_not_an_object_is_refused(daemon: Daemon, content: bytes) -> None:
    refused(daemon.post("/supportsessions", content=content), 400, 100400)


def test_all_errors_of_a_request_are_reported_at_once(daemon: Daemon) -> None:
    body = {
        "type": "telepathy",
        "label": "",
        "userDescription": 7,
        "agentPrefs": {"record": "yes", "audio": 1, "knock": None},
        "externalMapping": ["a"],
        "parentObject": {"id": 5},
        "metaData": [],
        "startTime": "2030-01-01T00:00:00",
    }
    assert fields(daemon.post("/supportsessions", body)) == {
        "type", "label", "userDescription", "agentPrefs.record", "agentPrefs.audio", "agentPrefs.knock",
        "externalMapping", "parentObject.id", "metaData", "startTime",
    }  # fmt: skip
    assert fields(daemon.post("/supportsessions", {})) == {"type", "label"}
    half = {"type": "telepathy", "label": "", "externalMapping": "x", "metaData": big(17 * 1024)}
    assert fields(daemon.post("/supportsessions", half)) == {"type", "label", "parentObject", "metaData"}
    other = {"type": "telepathy", "label": "A", "parentObject": {"id": 5}}
    assert fields(daemon.post("/supportsessions", other)) == {"type", "externalMapping", "parentObject.id"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"label": ""}, "label must have at least 1 character"),
        ({"label": "x" * 256}, "label must have at most 255 characters"),
        ({"parentObject": {"id": "x" * 256}}, "parentObject.id must have at most 255 characters"),
        ({"agentPrefs": "record"}, "agentPrefs must be an object"),
        ({"metaData": []}, "metaData must be an object"),
    ],
    ids=str,
)
def test_an_error_contains_what_the_field_must_be(daemon: Daemon, body: dict[str, Any], message: str) -> None:
    error = refused(daemon.post("/supportsessions", {"type": "live", "label": "A", **body}), 400, 100400)
    assert message in error["description"]
    error = refused(daemon.post("/supportsessions", ["A"]), 400, 100400)
    assert error["errors"] == [{"field": "body", "message": "must be an object"}]


def test_errors_of_headers_and_body_are_reported_together(daemon: Daemon) -> None:
    headers = {"Idempotency-Key": "x" * 256}
    assert fields(daemon.post("/supportsessions", {"type": "live"}, headers=headers)) == {"Idempotency-Key", "label"}
    broken = daemon.post("/supportsessions", content=b"{", headers=headers)
    assert fields(broken) == {"Idempotency-Key", "body"}


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.tminus.v3+json"],
)
def test_a_body_may_have_any_media_type_of_json(daemon: Daemon, content_type: str) -> None:
    body = b'{"type": "live", "label": "A"}'
    made = daemon.post("/supportsessions", content=body, headers={"Content-Type": content_type})
    assert (made.status_code, made.json()["label"]) == (200, "A")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/x-ndjson",
        "text/json",
        "json",
        "text/plain;+json",
    ],
)
def test_a_body_of_another_media_type_is_415(daemon: Daemon, content_type: str) -> None:
    body = b'{"type": "live", "label": "A"}'
    answer = daemon.post("/supportsessions", content=body, headers={"Content-Type": content_type})
    error = refused(answer, 415, 100415)
    assert error["description"] == "The body must be JSON, with the header Content-Type: application/json"
    assert "label" not in answer.text, "the response does not repeat the body"


def test_without_a_body_the_only_error_is_that_it_is_missing(daemon: Daemon) -> None:
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        for method, path in (("POST", "/supportsessions"), ("PUT", "/supportsession/nobody")):
            answer = refused(daemon.call(method, path, headers=headers), 400, 100400)
            assert answer["errors"] == [{"field": "body", "message": "is missing"}]


@pytest.mark.parametrize("number", ["one", "1.5", "0", "-1", "2147483648", "9" * 5000, "%D9%A3%20"])
def test_an_invalid_number_in_a_path_is_refused_by_name(daemon: Daemon, number: str) -> None:
    for call in ("remotewidgetconfig", "cobrowsedeployments"):
        assert fields(daemon.get(f"/organization/{number}/{call}")) == {"organization_id"}


def big(length: int) -> dict[str, str]:
    return {"text": "x" * length}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"label": "a\0b"}, "label"),
        ({"label": "line\nbreak"}, "label"),
        ({"label": "\x1b[2J"}, "label"),
        ({"label": "x" * 256}, "label"),
        ({"label": ""}, "label"),
        ({"label": None}, "label"),
        ({"label": 5}, "label"),
        ({"label": ["A"]}, "label"),
        ({"type": "Live"}, "type"),
        ({"type": None}, "type"),
        ({"type": 1}, "type"),
        ({"userDescription": "x" * 256}, "userDescription"),
        ({"userDescription": "a\0"}, "userDescription"),
        ({"agentPrefs": {"record": "true"}}, "agentPrefs.record"),
        ({"agentPrefs": {"record": 1}}, "agentPrefs.record"),
        ({"agentPrefs": {"prerequestrc": None}}, "agentPrefs.prerequestrc"),
        ({"agentPrefs": []}, "agentPrefs"),
        ({"agentPrefs": "record"}, "agentPrefs"),
        ({"externalMapping": "a"}, "parentObject"),
        ({"externalMapping": "a", "parentObject": None}, "parentObject"),
        ({"parentObject": {"id": "1"}}, "externalMapping"),
        ({"externalMapping": "", "parentObject": {"id": "1"}}, "externalMapping"),
        ({"externalMapping": "x" * 256, "parentObject": {"id": "1"}}, "externalMapping"),
        ({"externalMapping": "a\0", "parentObject": {"id": "1"}}, "externalMapping"),
        ({"externalMapping": "a", "parentObject": {}}, "parentObject.id"),
        ({"externalMapping": "a", "parentObject": {"id": 1}}, "parentObject.id"),
        ({"externalMapping": "a", "parentObject": {"id": "1", "sync": "yes"}}, "parentObject.sync"),
        ({"externalMapping": "a", "parentObject": {"id": "1", "name": "x" * 256}}, "parentObject.name"),
        ({"externalMapping": "a", "parentObject": "case"}, "parentObject"),
        ({"metaData": big(17 * 1024)}, "metaData"),
        ({"metaData": "text"}, "metaData"),
        ({"metaData": {"a": 10**30}}, "metaData.a"),
        ({"startTime": ""}, "startTime"),
        ({"startTime": 1893456000}, "startTime"),
        ({"startTime": 1e308}, "startTime"),
        ({"startTime": "tomorrow"}, "startTime"),
        ({"startTime": "2030-01-01"}, "startTime"),
        ({"startTime": "2030-01-01T00:00:00"}, "startTime"),
        ({"startTime": "2030-01-01T00:00:00.000+25:00"}, "startTime"),
        ({"startTime": "2030-02-30T00:00:00Z"}, "startTime"),
        ({"startTime": "2030-01-01T00:00:00Z\n"}, "startTime"),
        ({"startTime": "9999-12-31T23:59:59-23:59"}, "startTime"),
        ({"startTime": "0001-01-01T00:00:00+23:59"}, "startTime"),
        ({"startTime": ["2030-01-01T00:00:00Z"]}, "startTime"),
    ],
    ids=lambda value: str(value)[:50].encode("unicode_escape").decode(),
)
def test_bad_input_is_refused_by_the_name_of_its_field(daemon: Daemon, body: dict[str, Any], field: str) -> None:
    before = daemon.get("/supportsessions?limit=1", by="lister").json()["count"]
    answer = daemon.post("/supportsessions", {"type": "live", "label": "A", **body}, by="lister")
    assert fields(answer) == {field}
    assert daemon.get("/supportsessions?limit=1", by="lister").json()["count"] == before, "no session was created"


@pytest.mark.parametrize("days", [-700_000, -3000, -0.002, 731, 2_900_000])
def test_a_start_in_the_past_or_far_away_is_refused(daemon: Daemon, days: float) -> None:
    start = from_now(days=days)
    assert fields(daemon.post("/supportsessions", {"type": "live", "label": "A", "startTime": start}), 101400) == {
        "startTime"
    }
    session = daemon.make(startTime=from_now(days=1))
    moved = daemon.put(f"/supportsession/{session['id']}", {"startTime": start})
    assert fields(moved, 101400) == {"startTime"}
    assert daemon.session(session["id"]) == session


def test_a_start_half_a_minute_in_the_past_is_accepted(daemon: Daemon) -> None:
    assert daemon.make(startTime=from_now(seconds=-30))["status"] == "new"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        (f"limit={10**30}", "limit"),
        ("offset=-1", "offset"),
        (f"offset={10**30}", "offset"),
        ("orderby=label", "orderby"),
        ("orderdir=UP", "orderdir"),
        ("status=open", "status.0"),
        ("type=telepathy", "type"),
        ("scope=world", "scope"),
        ("startFrom=2030-01-01", "startFrom"),
        ("startTo=soon", "startTo"),
        ("startFrom=2030-01-01T00:00:00%00Z", "startFrom"),
    ],
)
def test_a_bad_query_is_refused_by_the_name_of_its_parameter(daemon: Daemon, query: str, field: str) -> None:
    assert fields(daemon.get(f"/supportsessions?{query}")) == {field}


@pytest.mark.parametrize("role", ["guests", "", None, 1])
def test_a_join_with_an_unknown_role_is_refused(daemon: Daemon, role: Any) -> None:
    answer = daemon.post("/supportsession/nobody/participants", {"role": role, "name": "G\0"}, by="room")
    assert fields(answer) == {"role", "name"}


def test_nul_in_a_path_or_query_is_refused(daemon: Daemon) -> None:
    for method, path in (
        ("GET", "/supportsession/%00"),
        ("DELETE", "/supportsession/a%00b"),
        ("GET", "/crmlookup/%00"),
    ):
        answer = daemon.call(method, path)
        assert (answer.status_code, answer.json()["refcode"]) == (404, 100404)
    assert fields(daemon.get("/discovery?ids=a%00b")) == {"ids"}


@pytest.mark.parametrize("member", ["zz", "parentObject", "metaData"])
def test_a_number_beyond_the_databases_range_is_refused_in_path_query_and_body(daemon: Daemon, member: str) -> None:
    large = b"123456789012345678901234567890"
    field = member if member == "zz" else f"{member}.n"
    value = large if member == "zz" else b'{"id":"1","n":' + large + b"}"
    body = b'{"type":"live","label":"x","externalMapping":"a.b","%s":%s}' % (member.encode(), value)
    for headers in ({}, {"Idempotency-Key": f"large {member}"}):
        answer = daemon.post("/supportsessions", content=body, headers=headers)
        assert (answer.status_code, fields(answer)) == (400, {field})
    assert httpx.get(f"{daemon.url}/readyz").json()["ready"] is True


@pytest.mark.parametrize("session_id", ["%F0%9F%9A%80", "%FF", "'%20OR%201=1", "..%2F..%2Fetc", "x" * 5000])
def test_any_text_as_an_id_is_an_unknown_session(daemon: Daemon, session_id: str) -> None:
    for method in ("GET", "DELETE"):
        assert daemon.call(method, f"/supportsession/{session_id}").status_code == 404
    assert daemon.get(f"/crmlookup/{session_id}").status_code == 200
    assert daemon.get(f"/discovery?ids={session_id}").json() == {}


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e9", "a\tb"])
def test_a_bad_idempotency_key_is_refused(daemon: Daemon, key: str) -> None:
    headers = httpx.Headers({"Session-id": daemon.token, "Idempotency-Key": key}, encoding="latin-1")
    url = f"{daemon.url}/v3/supportsessions"
    assert fields(daemon.http.post(url, json={"type": "live", "label": "A"}, headers=headers)) == {"Idempotency-Key"}


def test_a_body_that_is_too_large_is_413(daemon: Daemon) -> None:
    body = {"type": "live", "label": "A", "nonsense": "x" * 65536}
    error = refused(daemon.post("/supportsessions", body), 413, 100413)
    assert "65536" in error["description"]
    chunks = (b" " * 1024 for _ in range(100))
    headers = {"Session-id": daemon.token, "Content-Type": "application/json"}
    streamed = daemon.http.post(f"{daemon.url}/v3/supportsessions", content=chunks, headers=headers)
    refused(streamed, 413, 100413)
    assert daemon.make(metaData=big(16 * 1024 - 20))["metaData"]


def test_the_log_names_the_route_of_a_request_that_is_refused_before_its_body_is_read(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()  # a new one: only the first refusal of a minute has a line of its own
    refused(daemon.post("/supportsessions", content=b" " * 70_000), 413, 100413)
    assert daemon.logged("http.anonymous", code=413)["route"] == "/v3/supportsessions"


def test_a_request_id_is_in_the_response_and_in_the_log(daemon: Daemon) -> None:
    sent = daemon.get("/me", headers={"X-Request-Id": "my-request.1"})
    assert sent.headers["X-Request-Id"] == "my-request.1"
    assert daemon.logged("http.request", request_id="my-request.1")["actor"] == "agent:32593"
    generated = daemon.get("/supportsession/nobody").headers["X-Request-Id"]
    line = daemon.logged("http.request", request_id=generated)
    assert (line["code"], line["refcode"], line["method"]) == (404, 101404, "GET")
    assert line["route"] == "/v3/supportsession/{session_id}"
    forged = daemon.get("/me", headers={"X-Request-Id": "two lines\tand more"}).headers["X-Request-Id"]
    assert forged != "two lines\tand more"
    made = daemon.post("/supportsessions", {"type": "live", "label": "A"}, headers={"X-Request-Id": "making.1"})
    line = daemon.logged("session.created", session_id=made.json()["id"])
    assert line["request_id"] == "making.1"


def test_every_response_has_its_security_and_cors_headers(daemon: Daemon) -> None:
    desk = {"Origin": "https://desk.example.com"}
    preflight = {**desk, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "If-Match"}
    stranger = {**preflight, "Origin": "https://evil.example"}
    answers = {
        "an answer": (daemon.get("/me", headers=desk), 200),
        "a refusal": (daemon.get("/supportsession/nobody", headers=desk), 404),
        "no token": (daemon.get("/me", by=None), 401),
        "no such path": (daemon.get("/nothing"), 404),
        "no such method": (daemon.call("PATCH", "/me"), 405),
        "no JSON": (daemon.post("/supportsessions", content=b"{"), 400),
        "too large": (daemon.post("/supportsessions", content=b" " * 70_000), 413),
        "a preflight": (daemon.call("OPTIONS", "/me", by=None, headers=preflight), 200),
        "a stranger's preflight": (daemon.call("OPTIONS", "/me", by=None, headers=stranger), 400),
        "health": (daemon.http.get(f"{daemon.url}/healthz"), 200),
        "metrics": (daemon.http.get(f"{daemon.url}/metrics"), 401),
        "the page": (daemon.http.get(f"{daemon.url}/docs"), 200),
        "a script of the page": (daemon.http.get(f"{daemon.url}/docs/assets/swagger-ui-bundle.js"), 200),
        "an unknown asset of the page": (daemon.http.get(f"{daemon.url}/docs/assets/nothing.js"), 404),
        "the page by another method": (daemon.http.put(f"{daemon.url}/docs"), 405),
        "the description": (daemon.http.get(f"{daemon.url}/openapi.json"), 200),
    }
    for what, (answer, code) in answers.items():
        headers = answer.headers
        assert answer.status_code == code, what
        assert headers["X-Content-Type-Options"] == "nosniff", what
        kept = what in ("the page", "a script of the page", "the description")
        assert headers.get_list("Cache-Control") == ["no-cache" if kept else "no-store"], what
        assert headers["Referrer-Policy"] == "no-referrer", what
        assert headers["X-Frame-Options"] == "DENY", what
        (policy,) = headers.get_list("Content-Security-Policy")
        assert policy.startswith("default-src 'none'; "), what
        assert policy.endswith("frame-ancestors 'none'"), what
        assert ("script-src" in policy) is (what == "the page"), what
        assert "server" not in headers, what
    assert "Access-Control-Allow-Origin" not in answers["a stranger's preflight"][0].headers


def test_a_refused_preflight_has_the_common_error_format(daemon: Daemon) -> None:
    wrong = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "x-other",
        "Access-Control-Request-Private-Network": "true",
    }
    right = {"Origin": "https://desk.example.com", "Access-Control-Request-Method": "PUT"}
    for name, value in wrong.items():
        answer = daemon.call("OPTIONS", "/me", by=None, headers={**right, name: value})
        assert fields(answer) == {name}
        assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert fields(daemon.call("OPTIONS", "/me", by=None, headers=wrong)) == set(wrong)


def test_the_page_runs_its_own_scripts_and_no_others(daemon: Daemon) -> None:
    page = daemon.http.get(f"{daemon.url}/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    inline = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert len(hashes) == 1
    assert policy["script-src"].split() == ["'self'", *(f"'sha256-{one}'" for one in hashes)]
    assert policy["connect-src"] == "'self'"
    loaded = re.findall(r"""(?:src|href)="([^"]+)""" + '"', page.text)
    assert loaded
    assert all(path.startswith("docs/assets/") for path in loaded), "relative paths: a proxy may remove a prefix"
    assert not re.search(r"\son\w+=|javascript:", page.text)


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v3/me HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v3/me HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /v3/supportsessions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v3/me HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /v3/me\xff\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://elsewhere/v3/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v3/me HTTP/1.1\r\nHost: x\r\nSession-id: \xff\xfe\r\nConnection: close\r\n\r\n",
        b"GET /v3/me HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST /v3/supportsessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_malformed_http_affects_no_other_client(daemon: Daemon, sent: bytes) -> None:
    host = urlsplit(daemon.url)
    with socket.create_connection((host.hostname, host.port), timeout=5) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
    assert daemon.http.get(f"{daemon.url}/healthz").status_code == 200


def test_after_all_tests_the_daemon_is_healthy_and_no_response_was_500(daemon: Daemon) -> None:
    """Check the log of all earlier tests of this worker."""
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.http.get(f"{daemon.url}/readyz").json()["ready"] is True
    assert [line for line in daemon.log_lines("http.request") if line["code"] == 500] == []
    assert daemon.log_lines("http.failed") == []
    assert json.loads(daemon.get("/me").text)["user"]["id"] == 32593
