"""Responses of servers that are not tminus: every command prints one line without a traceback, and fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.support.commands import Result, invoke
from tminus import schemas
from tminus.api import examples
from tminus.client import validation

SESSION, EVENT, WEBHOOK, DELIVERY = examples._SESSION, examples._EVENT, examples._WEBHOOK, examples._DELIVERY
AGENT, CLOCK, REPORT, SERIES = (examples.EXAMPLES[name] for name in ("Agent", "Clock", "Report", "Series"))


class Other:
    """A server that gives one response to all requests."""

    def __init__(self) -> None:
        other = self
        self.status, self.body = 200, b""

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(other.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(other.body)))
                self.end_headers()
                self.wfile.write(other.body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def run(self, answer: Any, *command: str) -> Result:
        self.body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        url = f"http://127.0.0.1:{self.server.server_port}"
        return invoke(*command, "--url", url)


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    server = Other()
    yield server
    server.server.shutdown()
    server.server.server_close()


COMMANDS = [
    ("list",), ("list", "--wide"), ("list", "--json"), ("list", "--search", "x"), ("list", "--record", "x"),
    ("show", "A"), ("show", "A", "--json"), ("close", "A"), ("close", "A", "--json"),
    ("create", "--type", "live", "--label", "A"), ("create", "--type", "live", "--label", "A", "--json"),
    ("schedule", "--type", "live", "--label", "A", "--in", "1h"),
    ("reschedule", "A", "--in", "1h"), ("reschedule", "A", "--by", "1h"),
    ("events",), ("events", "A"), ("events", "-f"), ("events", "A", "-f", "--json"), ("events", "--json"), ("watch",),
    ("webhooks", "list"), ("webhooks", "list", "--json"), ("webhooks", "deliveries", "A"), ("webhooks", "ping", "A"),
    ("webhooks", "pause", "A"), ("webhooks", "resume", "A"), ("webhooks", "replay", "A", "--from-seq", "1"),
    ("sample-event", "session.ready", "--to", "A"), ("shift", "--from", "2027-03-01T09:00Z", "--by", "30m"),
    ("close", "--filter", "status=new", "--yes"), ("agents", "list"), ("agents", "shut-out", "7"),
    ("agents", "readmit", "7"), ("agents", "feed", "7"), ("agents", "feed", "7", "--revoke"),
    ("series", "list"), ("series", "show", "A"), ("series", "show", "A", "--json"), ("series", "end", "A"),
    ("series", "create", "--dtstart", "A", "--timezone", "UTC", "--type", "live", "--label", "A"),
    ("series", "change", "A", "--label", "B"),
    ("clock", "show"), ("clock", "next"), ("report",), ("report", "--csv"),
]  # fmt: skip

WRONG = [
    {}, [], [[]], 7, 1.5, None, True, "tminus", {"error": {"code": 200, "message": "upstream"}}, {"rows": None},
    {"count": "3", "rows": [{}]}, {"count": 1, "rows": [7]}, {"count": 1, "rows": {"id": "A"}}, {"status": "ok"},
    {"events": [None], "next": 1}, {"events": [], "next": "1"}, {"webhooks": [{}]}, {"deliveries": {}},
    {"success": False}, {"id": "A"}, b"NaN", b"", b"<html>", b"\xff\xfe", b"[" * 50_000, b"9" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_response_of_another_server_is_reported_in_one_line(other: Other, command: tuple[str, ...]) -> None:
    for wrong in WRONG:
        done = other.run(wrong, *command)
        assert done.exit_code == 1, (wrong, done)
        assert "is not tminus: it sent" in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout in ("", "[\n") or "--json" not in command


@pytest.mark.parametrize(
    "body",
    [*WRONG, {"description": 7, "refcode": 1, "errors": []}, {"description": "x", "refcode": "y", "errors": "z"},
     {"description": "x", "refcode": 1, "errors": [1]}, b'{"description": "x", "refcode": 1e999, "errors": []}'],
    ids=lambda body: str(body)[:40],
)  # fmt: skip
def test_an_error_of_another_server_is_reported_by_its_status(
    other: Other, body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, code in ((400, 1), (401, 5), (403, 5), (404, 1), (409, 4), (412, 4), (302, 1), (201, 1)):
        monkeypatch.setattr(other, "status", status)
        done = other.run(body, "show", "A")
        assert (done.exit_code, done.stdout) == (code, ""), done
        assert done.stderr.startswith(f"tminus: HTTP {status} ")


def _sessions(session: Any) -> Any:
    return {"count": 1, "rows": [session], "next": 5}


def _events(event: Any) -> Any:
    return {"events": [event], "next": 0}


def _deliveries(delivery: Any) -> Any:
    return {"deliveries": [delivery], "next": None}


VALID = [
    (("list", "--wide"), SESSION, _sessions, validation.SESSION_FIELDS),
    (("list", "--search", "Remote"), SESSION, _sessions, validation.SESSION_FIELDS),
    (("show", "A"), SESSION, lambda one: one, validation.SESSION_FIELDS),
    (("reschedule", "A", "--at", "2027-03-02T14:30Z"), SESSION, lambda one: one, validation.SESSION_FIELDS),
    (("events", "A"), EVENT, _events, validation.EVENT_FIELDS),
    (("webhooks", "list", "--wide"), WEBHOOK, lambda one: {"webhooks": [one]}, validation.WEBHOOK_FIELDS),
    (("webhooks", "resume", "A"), WEBHOOK, lambda one: one, validation.WEBHOOK_FIELDS),
    (("webhooks", "deliveries", "A"), DELIVERY, _deliveries, validation.DELIVERY_FIELDS),
    (("webhooks", "ping", "A"), DELIVERY, lambda one: one, validation.DELIVERY_FIELDS),
    (("agents", "list", "--wide"), AGENT, lambda one: {"agents": [one], "next": None}, validation.AGENT_FIELDS),
    (("series", "list", "--wide"), SERIES, lambda one: {"series": [one], "next": None}, validation.SERIES_FIELDS),
    (("series", "show", "A"), SERIES, lambda one: one, validation.SERIES_FIELDS),
    (("clock", "show"), CLOCK, lambda one: one, validation.CLOCK_FIELDS),
    (("report",), REPORT, lambda one: one, validation.REPORT_FIELDS),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("command", "one", "answer", "needed"), VALID, ids=[" ".join(row[0]) for row in VALID])
def test_a_missing_or_wrong_field_is_an_error(
    other: Other, command: tuple[str, ...], one: dict[str, Any], answer: Any, needed: Any
) -> None:
    assert other.run(answer(one), *command).exit_code == 0
    for name, right in one.items():
        less = {key: value for key, value in one.items() if key != name}
        for wrong in (less, one | {name: [7]}, one | {name: {"x": 7}}, one | {name: 10**30}):
            done = other.run(answer(wrong), *command)
            if name in needed and not (isinstance(right, dict) and wrong.get(name) == {"x": 7}):
                assert done.exit_code == 1, (name, wrong.get(name))
                assert name in done.stderr
            else:  # no command reads it, or any object will do
                assert done.exit_code in (0, 1)


@pytest.mark.parametrize(
    ("fields", "schema"),
    [(validation.SESSION_FIELDS, schemas.Session), (validation.EVENT_FIELDS, schemas.Event),
     (validation.WEBHOOK_FIELDS, schemas.Webhook), (validation.DELIVERY_FIELDS, schemas.Delivery),
     (validation.AGENT_FIELDS, schemas.Agent), (validation.CLOCK_FIELDS, schemas.Clock),
     (validation.REPORT_FIELDS, schemas.Report), (validation.SERIES_FIELDS, schemas.Series)],
)  # fmt: skip
def test_the_validated_fields_are_those_of_the_schemas(fields: Any, schema: Any) -> None:
    assert set(fields) <= schema.__required_keys__
