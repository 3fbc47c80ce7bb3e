"""The ServiceNow Script Include, as users install it, calls a real daemon.

`tests/servicenow/harness.js` stands in for ServiceNow. A stub server produces the failures that a daemon cannot produce
on command.
"""

import json
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).parents[1] / "servicenow" / "harness.js"
SOURCE = Path(__file__).parents[2] / "config" / "servicenow" / "ScreenMeet.js"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed: the ServiceNow script is NOT tested"
)

Call = dict[str, Any]
Outcome = dict[str, Any]


_idle: list["subprocess.Popen[str]"] = []
"""Harnesses that wait for their next request, since to start Node takes longer than a request."""


@pytest.fixture(scope="module", autouse=True)
def harnesses() -> Iterator[None]:
    yield
    while _idle:
        harness = _idle.pop()
        harness.communicate()
        assert harness.returncode == 0


def query_harness(request: dict[str, Any]) -> Any:
    """Return the response of a harness. Each concurrent thread uses a harness of its own."""
    harness = _idle.pop() if _idle else None
    if harness is None:
        pipe = subprocess.PIPE
        harness = subprocess.Popen(
            ["node", str(HARNESS)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, encoding="utf-8"
        )
    assert harness.stdin is not None
    assert harness.stdout is not None
    harness.stdin.write(json.dumps(request) + "\n")
    harness.stdin.flush()
    line = harness.stdout.readline()
    assert request.get("token", "no token") not in line
    answer = json.loads(line)
    _idle.append(harness)
    return answer


def run(url: str, token: str, *calls: Call) -> list[Outcome]:
    """Return the result of each call; fail if one threw an exception, or if the token appears anywhere."""
    outcomes: list[Outcome] = query_harness({"base_url": f"{url}/v3", "token": token, "calls": calls})
    assert [outcome["thrown"] for outcome in outcomes] == [None] * len(calls)
    return outcomes


def results(url: str, token: str, *calls: Call) -> list[Any]:
    return [outcome["result"] for outcome in run(url, token, *calls)]


def create(
    *, kind: str = "support", record: str, label: str = "Remote support", prefs: Any = None, **more: Any
) -> Call:
    return {
        "method": "createSession",
        "args": [kind, "incident", record, "Incident INC0000005", label, prefs],
        **more,
    }


def schedule(start: str, record: str) -> Call:
    return {"method": "scheduleSession", "args": [start, *create(kind="live", record=record)["args"]]}


def close(session_id: str) -> Call:
    return {"method": "closeSession", "args": [session_id]}


def from_now(**span: int) -> str:
    return (datetime.now(UTC) + timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.fixture
def record() -> str:
    """A sys_id that no other test uses."""
    return uuid.uuid4().hex


# --- the article's examples, as they stand ----------------------------------------------------------------------------

CREATE = """
var sm = new x_prois_sm.ScreenMeet();

var result = sm.createSession('support', 'incident', 'e8e875b0c0a80164009dc852b4d677d5', 'Incident INC0000005', \
'Remote support session for INC0000005', {'record': true});
"""

SCHEDULE = """
var startTime = '2022-08-10T15:30:00.000Z';

var sm = new x_prois_sm.ScreenMeet();

var result = sm.scheduleSession(startTime, 'live', 'sn_customerservice_case', '9e05ffd01b08a450409921be6e4bcbec', \
'Case CS0010001', 'Scheduled snow call for CS0010001', {'record': true});
"""

RESCHEDULE = """
var sm = new x_prois_sm.ScreenMeet();

var result = sm.rescheduleSession('xoKwKRBrbwRF', '2021-10-01T17:30:00.000Z');
"""

CLOSE = """
var sm = new x_prois_sm.ScreenMeet();

var result = sm.closeSession('xoKwKRBrbwRF');
"""


def test_create_example(daemon: Any) -> None:
    (session,) = results(daemon.url, daemon.token, {"script": CREATE})
    assert session["type"] == "support"
    assert session["status"] == "new"
    assert session["label"] == "Remote support session for INC0000005"
    assert session["userDescription"] == "System A"
    assert session["scheduled"] is False
    assert session["unattended"] is False
    assert "startTime" not in session
    assert session["ExternalUserId"] == 32593
    assert session["createdByAgentSession"]["clientApp"] == "service-now-backend"
    assert session["createdByAgentSession"]["userAgent"] == "Jakarta Commons-HttpClient/3.1"
    assert session["createdByAgentSession"]["roles"] == {
        "api": True,
        "agent": True,
        "supervisor": False,
        "group_admin": True,
    }
    assert session["settings"]["recording"] is True
    assert session["externalMapping"] == "incident.e8e875b0c0a80164009dc852b4d677d5"
    assert 100000 <= session["pin"] <= 999999
    assert set(session["urls"]) == {"user", "host"}
    parent = session["parentObject"]
    assert (parent["type"], parent["id"]) == ("incident", "e8e875b0c0a80164009dc852b4d677d5")
    assert parent["name"] == "Incident INC0000005"

    found = daemon.get(f"/crmlookup/{session['externalMapping']}").json()
    assert session["id"] in [each["id"] for each in found]


def test_schedule_reschedule_and_close_examples(daemon: Any) -> None:
    """Only the times, which must be in the future, and the session's id are replaced."""
    start, later = from_now(days=30), from_now(days=31)
    (session,) = results(daemon.url, daemon.token, {"script": SCHEDULE.replace("2022-08-10T15:30:00.000Z", start)})
    assert session["type"] == "live"
    assert session["status"] == "scheduled"
    assert session["scheduled"] is True
    assert session["startTime"] == start
    assert session["pin"] == 0
    assert session["userDescription"] == "System A"
    assert session["externalMapping"] == "sn_customerservice_case.9e05ffd01b08a450409921be6e4bcbec"

    moved, closed = results(
        daemon.url,
        daemon.token,
        {"script": RESCHEDULE.replace("xoKwKRBrbwRF", session["id"]).replace("2021-10-01T17:30:00.000Z", later)},
        {"script": CLOSE.replace("xoKwKRBrbwRF", session["id"])},
    )
    assert moved["id"] == session["id"]
    assert moved["startTime"] == later
    assert set(moved) >= set(session)
    assert closed == {"success": True}
    assert daemon.get(f"/supportsession/{session['id']}").json()["status"] == "closed"


# --- one session, not two ---------------------------------------------------------------------------------------------


def test_a_rule_that_fires_twice_creates_one_session(daemon: Any, record: str) -> None:
    first = create(record=record, prefs={"record": True, "prerequestrc": True})
    again = create(record=record, prefs={"prerequestrc": True, "record": True})
    start = from_now(days=2)
    made = run(daemon.url, daemon.token, first, again, schedule(start, record), schedule(start, record))
    ids = [outcome["result"]["id"] for outcome in made]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert ids[0] != ids[2]
    assert [outcome["requests"][0]["replayed"] for outcome in made] == [False, True, False, True]
    assert len(daemon.get(f"/crmlookup/incident.{record}").json()) == 2


def test_a_rule_that_fires_four_times_at_once_creates_one_session(daemon: Any, record: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: results(daemon.url, daemon.token, create(record=record)), range(4)))
    assert len({session["id"] for (session,) in answers}) == 1


def test_after_a_close_the_same_call_creates_a_new_session(daemon: Any, record: str) -> None:
    ids = []
    for _ in range(3):
        first, again = results(daemon.url, daemon.token, create(record=record), create(record=record))
        assert first["id"] == again["id"]
        assert first["status"] == again["status"] == "new"
        assert results(daemon.url, daemon.token, close(first["id"])) == [{"success": True}]
        ids.append(first["id"])
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"userId": "another"},
        {"label": "Another label"},
        {"kind": "cobrowse"},
        {"prefs": {"record": True}},
        {"key": "a key of the caller"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_call_with_other_values_creates_another_session(daemon: Any, record: str, other: dict[str, Any]) -> None:
    one, two = results(daemon.url, daemon.token, create(record=record), create(record=record, **other))
    assert one["id"] != two["id"]


def test_a_key_of_the_caller(daemon: Any, record: str) -> None:
    """It is sent unchanged and used for one call; a repetition returns its session even if that is closed."""
    key = f"order-{record}"
    script = f"""
        var sm = new x_prois_sm.ScreenMeet().setIdempotencyKey('{key}');
        var one = sm.createSession('support', 'incident', '{record}', 'INC', 'A label');
        var two = sm.createSession('support', 'incident', '{record}', 'INC', 'A label');
        sm.closeSession(one.id);
        sm.setIdempotencyKey('{key}');
        var three = sm.createSession('support', 'incident', '{record}', 'INC', 'A label');
        sm.setIdempotencyKey('{key}');
        var four = sm.createSession('support', 'incident', '{record}', 'INC', 'Another label');
        var result = [one, two, three, four];
    """
    (outcome,) = run(daemon.url, daemon.token, {"script": script})
    one, two, three, four = outcome["result"]
    assert outcome["requests"][0]["headers"]["Idempotency-Key"] == key
    assert one["id"] != two["id"]
    assert (three["id"], three["status"]) == (one["id"], "closed")
    assert four["error"]["code"] == 409
    assert one["id"] in four["error"]["description"]


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("System Administrator", "System A"),
        ("Anna Maria  Schmidt ", "Anna S"),
        ("Abel", "Abel"),
        ("Zoë Ångström", "Zoë Å"),
        ("太郎 𠮷田", "太郎 𠮷"),
    ],
)
def test_user_description(daemon: Any, record: str, user: str, shown: str) -> None:
    (session,) = results(daemon.url, daemon.token, create(record=record, user=user))
    assert session["userDescription"] == shown


def test_any_text_arrives_unchanged(daemon: Any, record: str) -> None:
    label = "Größe ${price} $5 {x} \"quoted\" \\ '日本語' 🚀"
    (outcome,) = run(daemon.url, daemon.token, create(record=record, label=label))
    assert outcome["result"]["label"] == label
    assert outcome["requests"][0]["body"].isascii()


def test_fields_of_a_record_may_be_passed(daemon: Any, record: str) -> None:
    args = [{"$field": arg} for arg in ("support", "incident", record, "INC0000005", "A label")]
    of_fields, of_texts = run(
        daemon.url,
        daemon.token,
        {"method": "createSession", "args": [*args, {"record": True}]},
        {"method": "createSession", "args": [*(arg["$field"] for arg in args), {"record": True}]},
    )
    assert of_fields["result"]["id"] == of_texts["result"]["id"]


def test_without_a_record(daemon: Any) -> None:
    label = uuid.uuid4().hex
    none, half = run(
        daemon.url,
        daemon.token,
        {"method": "createSession", "args": ["support", None, "", None, label]},
        {"method": "createSession", "args": ["support", "incident", None, "INC", label]},
    )
    assert none["result"]["status"] == "new"
    assert set(json.loads(none["requests"][0]["body"])) == {"type", "label", "userDescription", "agentPrefs"}
    assert none["log"] == []
    assert half["result"]["id"] == none["result"]["id"]
    assert [(line["level"], "its sys_id" in line["text"]) for line in half["log"]] == [("warn", True)]


# --- failures ---------------------------------------------------------------------------------------------------------


def failure(outcome: Outcome) -> dict[str, Any]:
    """Return the error of a failed call; check its format and that the call wrote one log line."""
    result = outcome["result"]
    assert set(result) == {"success", "error"}
    assert result["success"] is False
    error: dict[str, Any] = result["error"]
    assert set(error) == {"code", "refcode", "description", "errors", "retryable"}
    assert [line["level"] for line in outcome["log"]] == ["error"]
    assert "\n" not in outcome["log"][0]["text"]
    return error


def test_bad_token(daemon: Any, record: str) -> None:
    outcomes = run(daemon.url, "no-token-of-this-daemon", create(record=record), close("xoKwKRBrbwRF"))
    for outcome in outcomes:
        error = failure(outcome)
        assert error["code"] == 401
        assert error["refcode"]
        assert error["retryable"] is False
        assert len(outcome["requests"]) == 1


def test_bad_type_and_label(daemon: Any, record: str) -> None:
    (outcome,) = run(daemon.url, daemon.token, create(kind="telepathy", record=record, label=""))
    error = failure(outcome)
    assert error["code"] == 400
    assert error["retryable"] is False
    assert {fault["field"] for fault in error["errors"]} == {"type", "label"}
    assert all(fault["message"] for fault in error["errors"])


@pytest.mark.parametrize("start", ["2022-08-10T15:30:00.000Z", "2099-08-10 15:30:00", "tomorrow", None])
def test_bad_start_time(daemon: Any, record: str, start: str | None) -> None:
    scheduled, moved = run(
        daemon.url,
        daemon.token,
        schedule(start, record),  # type: ignore[arg-type]
        {
            "script": f"""
                var sm = new x_prois_sm.ScreenMeet();
                var made = sm.scheduleSession('{from_now(days=3)}', 'live', 'incident', '{record}', 'INC', 'A label');
                var result = sm.rescheduleSession(made.id, {json.dumps(start)});
            """
        },
    )
    assert failure(scheduled)["code"] == 400
    assert failure(moved)["code"] == 400


def test_unknown_session(daemon: Any) -> None:
    unknown, missing = run(
        daemon.url,
        daemon.token,
        {"method": "rescheduleSession", "args": ["zzzzzz", from_now(days=1)]},
        close(""),
    )
    error = failure(unknown)
    assert (error["code"], error["refcode"]) == (404, 101404)
    assert "zzzzzz" in error["description"]
    assert failure(missing)["code"] == 0
    assert missing["requests"] == []


@pytest.mark.parametrize("network", ["status 0", "throw"])
def test_daemon_unreachable(record: str, network: str) -> None:
    with stub_server() as server:
        gone = server.url
    (outcome,) = run(gone, "a-secret-token", create(record=record, network=network))
    error = failure(outcome)
    assert (error["code"], error["refcode"], error["errors"], error["retryable"]) == (0, None, [], True)
    assert f"{gone}/v3/supportsessions" in error["description"]
    assert len(outcome["requests"]) == 2


@pytest.mark.parametrize("name", ["base_url", "token"])
def test_not_configured(record: str, name: str) -> None:
    (outcome,) = run("http://127.0.0.1:9", "a-secret-token", create(record=record, properties={f"x_tminus.{name}": ""}))
    error = failure(outcome)
    assert (error["code"], error["retryable"]) == (0, False)
    assert f"x_tminus.{name}" in error["description"]
    assert outcome["requests"] == []


# --- a server that fails on command -----------------------------------------------------------------------------------


@dataclass
class StubServer:
    url: str
    requests: list[tuple[str, str, dict[str, str], str]] = field(default_factory=list)
    """Method, path, headers and body of each request."""


@contextmanager
def stub_server(*answers: tuple[int, str] | str) -> Iterator[StubServer]:
    """Serve these responses (status, body) in order, the last one repeatedly: "drop" disconnects, "hang" waits."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            with lock:
                server.requests.append((self.command, self.path, dict(self.headers), body))
                answer = answers[min(len(server.requests), len(answers)) - 1]
            if answer == "hang":
                over.wait(30)
            if isinstance(answer, str):
                self.close_connection = True
                return
            status, text = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            """Log nothing: the tests check `requests`."""

    lock, over = threading.Lock(), threading.Event()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = StubServer(f"http://127.0.0.1:{httpd.server_port}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        over.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


SESSION = (200, '{"id": "HUiUti", "status": "new"}')
PROXY = (502, "<html>Bad gateway</html>")
BUSY = (503, '{"code": 503, "refcode": 108503, "description": "The daemon is stopping"}')
SLOWER = (429, '{"code": 429, "refcode": 104429, "description": "Too many attempts"}')


@pytest.mark.parametrize("first", ["drop", BUSY, PROXY, (504, "")], ids=["drop", "503", "502", "504"])
def test_one_retry_has_the_same_key(record: str, first: tuple[int, str] | str) -> None:
    with stub_server(first, SESSION) as server:
        (outcome,) = run(server.url, "a-secret-token", create(record=record))
    assert outcome["result"]["id"] == "HUiUti"
    assert outcome["log"] == []
    one, two = server.requests
    assert one == two
    assert one[2]["Idempotency-Key"]


@pytest.mark.parametrize(
    ("answer", "tries", "code", "refcode", "retryable"),
    [
        ("drop", 2, 0, None, True),
        (BUSY, 2, 503, 108503, True),
        (PROXY, 2, 502, None, True),
        (SLOWER, 1, 429, 104429, True),
        ((500, "oops"), 1, 500, None, True),
        ((201, SESSION[1]), 1, 201, None, False),
        ((204, ""), 1, 204, None, False),
        ((302, ""), 1, 302, None, False),
        ((200, "<html>Sign in</html>"), 1, 0, None, False),
        ((200, "[]"), 1, 0, None, False),
        ((200, "null"), 1, 0, None, False),
        ((404, '{"detail": "not of tminus"}'), 1, 404, None, False),
    ],
)
def test_an_invalid_response(
    record: str, answer: tuple[int, str] | str, tries: int, code: int, refcode: int | None, retryable: bool
) -> None:
    with stub_server(answer) as server:
        for outcome in run(server.url, "a-secret-token", create(record=record), close("HUiUti")):
            error = failure(outcome)
            assert (error["code"], error["refcode"], error["retryable"]) == (code, refcode, retryable)
            assert error["description"]
            assert len(outcome["requests"]) == tries


def test_timeout(record: str) -> None:
    with stub_server("hang") as server:
        started = time.monotonic()
        (outcome,) = run(server.url, "a-secret-token", create(record=record, properties={"x_tminus.timeout_ms": "200"}))
        assert time.monotonic() - started < 10
    error = failure(outcome)
    assert (error["code"], error["retryable"]) == (0, True)


def test_requests(record: str) -> None:
    """Method, path, headers and body of all four requests are those of the API."""
    start = from_now(days=1)
    with stub_server(SESSION) as server:
        run(
            server.url,
            "a-secret-token",
            create(record=record, prefs={"record": True}),
            schedule(start, record),
            {"method": "rescheduleSession", "args": ["a/b c", start]},
            close("HUiUti"),
        )
    made, scheduled, moved, closed = server.requests
    for _, _, headers, _ in server.requests:
        assert headers["Session-id"] == "a-secret-token"
        assert headers["client-app"] == "service-now-backend"
        assert headers["Content-Type"] == headers["Accept"] == "application/json"
    wanted = {
        "type": "support",
        "label": "Remote support",
        "userDescription": "System A",
        "agentPrefs": {"record": True},
        "externalMapping": f"incident.{record}",
        "parentObject": {
            "id": record,
            "app": "snow",
            "type": "incident",
            "name": "Incident INC0000005",
            "sync": True,
            "provider": "snow-universal",
        },
    }
    assert (made[0], made[1], json.loads(made[3])) == ("POST", "/v3/supportsessions", wanted)
    assert json.loads(scheduled[3]) == {**wanted, "type": "live", "agentPrefs": {}, "startTime": start}
    assert (moved[0], moved[1], json.loads(moved[3])) == ("PUT", "/v3/supportsession/a%2Fb%20c", {"startTime": start})
    assert (closed[0], closed[1], closed[3]) == ("DELETE", "/v3/supportsession/HUiUti", "{}")
    assert ["Idempotency-Key" in headers for _, _, headers, _ in server.requests] == [True, True, False, False]


def test_mid_server(record: str) -> None:
    with stub_server(SESSION) as server:
        (outcome,) = run(server.url, "a-secret-token", create(record=record, properties={"x_tminus.mid_server": "m1"}))
    assert (outcome["requests"][0]["mid"], outcome["requests"][0]["skip_sensor"]) == ("m1", "true")


def test_a_trailing_slash_of_the_base_url_is_ignored(record: str) -> None:
    with stub_server(SESSION) as server:
        written = {"x_tminus.base_url": f" {server.url}/v3/ "}
        run(server.url, "a-secret-token", create(record=record, properties=written))
    assert server.requests[0][1] == "/v3/supportsessions"


def test_a_token_that_a_response_quotes_is_removed(record: str) -> None:
    fault = {"field": "Session-id", "message": "a-secret-token"}
    quoting = {"description": "Headers:\nSession-id: a-secret-token", "errors": [fault]}
    with stub_server((400, json.dumps(quoting))) as server:
        (outcome,) = run(server.url, "a-secret-token", create(record=record))  # run() looks for the token
    assert failure(outcome)["description"] == "Headers:\nSession-id: (token)"
    assert outcome["log"][0]["text"].endswith("Headers: Session-id: (token)")


def test_the_chain_of_closed_sessions_ends(record: str) -> None:
    with stub_server((200, '{"id": "HUiUti", "status": "closed"}')) as server:
        (outcome,) = run(server.url, "a-secret-token", create(record=record))
    assert "setIdempotencyKey" in failure(outcome)["description"]
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in server.requests]
    assert len(keys) == len(set(keys)) == 20


# --- ES5 --------------------------------------------------------------------------------------------------------------


def not_es5(source: str) -> list[str]:
    found: list[str] = query_harness({"check": source})
    return found


def test_the_script_is_es5() -> None:
    assert not_es5(SOURCE.read_text()) == []


@pytest.mark.parametrize(
    "newer",
    [
        "let a = 1;",
        "const a = 1;",
        "var f = () => 1;",
        "var a = `b`;",
        "class A {}",
        "var a = [1, 2,];",
        "f(1, 2,);",
        "var a = {b: 1,};",
        "var a = {b() { return 1; }};",
        "var a = 1, o = {a};",
        "var a = {[b]: 1};",
        "function f(a = 1) {}",
        "function f(...a) {}",
        "function f({a}) {}",
        "var {a} = b;",
        "var [a] = b;",
        "for (var a of b) {}",
        "try {} catch {}",
        "var a = b?.c;",
        "var a = b ?? c;",
        "var a = 2 ** 3;",
        "var a = 1_000;",
        "var a = 0b11;",
        "var a = /b/y;",
        "var a = '\\u{1F680}';",
    ],
)
def test_the_es5_check_finds_newer_syntax(newer: str) -> None:
    assert not_es5(newer)[0].startswith("line 1: ")


@pytest.mark.parametrize(
    "older",
    [
        "var a = {get: 1, of: 2, class: 3}; a.class = a.let; // let",
        "var a = b / c / d, e = /[/`]=>/.test(f); /* const */",
        "var a = {get b() { return '=> `'; }}; if (a) { a = [1, 2]; }",
        "var f = function g(a, b) { return a.b; }; f(1)(2); (function () {})();",
        "var a, b, c = 1.5e3, d = 0xff, e = .5;",
    ],
)
def test_the_es5_check_accepts_es5(older: str) -> None:
    assert not_es5(older) == []
