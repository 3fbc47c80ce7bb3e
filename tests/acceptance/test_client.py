"""The Python client: results, errors, and retries over a failing network that execute nothing twice."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.receivers import SECRET, Handler, Receiver, status
from tminus import client
from tminus.client import ScreenMeet, screenmeet
from tminus.client.transport import Response


class Wire:
    """A TCP proxy on loopback, one thread per connection, that forwards requests and loses some of the responses.

    `losing` is the number of connections that are still to be cut at the worst moment: after the daemon has executed
    the request and before its response arrives. A `silent` proxy accepts requests and forwards nothing.
    """

    def __init__(self, target: str) -> None:
        self._target = (urlsplit(target).hostname or "", urlsplit(target).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.losing = 0
        self.silent = False
        self.requests = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def _spawn(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: that is how it ends
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._connections += [near, far]
                self._spawn(self._hand_on, near, far)
                self._spawn(self._hand_back, near, far)

    def _hand_on(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while part := near.recv(65536):
                if not self.silent:
                    self.requests += part.count(b" HTTP/1.1\r\n")
                    far.sendall(part)
            far.shutdown(socket.SHUT_RDWR)

    def _hand_back(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while answer := far.recv(65536):
                if self.losing:
                    self.losing -= 1
                    break
                near.sendall(answer)
            near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def wire_to(daemon: Daemon) -> Iterator[Wire]:
    wire = Wire(daemon.url)
    try:
        yield wire
    finally:
        wire.close()


@pytest.fixture
def sm(daemon: Daemon) -> Iterator[ScreenMeet]:
    with ScreenMeet(daemon.url, daemon.token) as screenmeet:
        yield screenmeet


def test_a_lost_response_causes_no_second_session(daemon: Daemon) -> None:
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token) as sm:
        key = f"case.{wire.url}"
        wire.losing = 2
        made = sm.createSession("support", "case", wire.url, "A case", "A session")
        assert wire.losing == 0
        assert wire.requests == 3
        assert [row["id"] for row in daemon.get(f"/crmlookup/{key}").json()] == [made["id"]]

        wire.losing = 1
        scheduled = sm.scheduleSession(from_now(days=1), "live", "case", wire.url, "A case", "Another")
        assert {row["id"] for row in daemon.get(f"/crmlookup/{key}").json()} == {made["id"], scheduled["id"]}

        wire.losing = 1
        moved = sm.rescheduleSession(scheduled["id"], from_now(days=2))
        told = [event["type"] for event in daemon.events(scheduled["id"])]
        assert told == ["session.scheduled", "session.rescheduled"]
        assert moved["version"] == scheduled["version"] + 1

        wire.losing = 1
        assert sm.closeSession(scheduled["id"]) == {"success": True}
        assert len(daemon.events(scheduled["id"])) == 3


def test_a_call_that_must_not_run_twice_is_not_retried_after_a_lost_response(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon()
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    with Receiver() as receiver:
        receiver.answer = status(500)
        daemon.configure(webhooks=[{"name": "desk", "url": receiver.url, "secret_file": str(secret)}])
        daemon.start()
        daemon.make()
        with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token) as sm:
            wire.losing = 1
            with pytest.raises(client.Unavailable, match="No answer"):
                sm.request("POST", "/webhooks/desk/replay", json={"fromSeq": 1})
            assert wire.requests == 1
            assert sm.request("GET", "/webhooks/desk")["replays"] == 1


def test_a_call_that_may_have_been_executed_is_retried_only_with_a_key() -> None:
    with Receiver() as gateway, ScreenMeet(f"http://127.0.0.1:{gateway.port}", "token") as sm:
        gateway.answers = [status(503), status(502)]
        with pytest.raises(client.Unavailable, match="502"):
            sm.request("POST", "/webhooks/desk/ping")
        gateway.answers = [status(503), status(502), status(404)]
        with pytest.raises(client.NotFound):
            sm.createSession("live", screenmeet_session_name="A")
        assert len(gateway.requests) == 5
        assert "idempotency-key" not in gateway.requests[0].headers
        assert len({request.headers["idempotency-key"] for request in gateway.requests[2:]}) == 1


def test_a_refused_call_that_may_have_been_executed_is_retried_only_with_a_key() -> None:
    def database_lost(handler: Handler) -> None:
        body = orjson.dumps({"code": 503, "refcode": 107503, "description": "It is not available", "errors": []})
        handler.send_response(503)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with Receiver() as gateway, ScreenMeet(f"http://127.0.0.1:{gateway.port}", "token") as sm:
        gateway.answers = [database_lost, database_lost, status(404)]
        with pytest.raises(client.Unavailable, match="It is not available"):
            sm.request("POST", "/webhooks/desk/replay", json={"fromSeq": 1})
        assert len(gateway.requests) == 1
        with pytest.raises(client.NotFound):
            sm.createSession("live", screenmeet_session_name="A")
        assert len(gateway.requests) == 3


def test_a_call_that_alone_exceeds_a_limit_is_not_repeated(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"sessions_per_agent": 2})
    wanted = [{"type": "live", "label": "Many", "startTime": from_now(days=1)}] * 3
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token, retries=1) as sm:
        with pytest.raises(client.InvalidRequest, match="3 sessions, and one agent may have at most 2 open"):
            sm.scheduleSessions(wanted, idempotency_key="three")
        assert wire.requests == 1


def test_many_sessions_are_scheduled_moved_and_closed_although_responses_are_lost(daemon: Daemon) -> None:
    wanted = [{"type": "live", "label": f"Many {n}", "startTime": from_now(days=1, minutes=n)} for n in range(300)]
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token) as sm:
        planned = sm.scheduleSessions(wanted, dry_run=True)
        wire.losing = 1
        made = sm.scheduleSessions(wanted, idempotency_key="many")["sessions"]
        ids = [one["id"] for one in made]
        wire.losing = 1
        moved = sm.rescheduleSessions(ids=ids, by="30m", idempotency_key="moved")["sessions"]
        each = sm.rescheduleSessions([{"id": ids[0], "startTime": from_now(days=2)}])["sessions"]
        wire.losing = 1
        closed = sm.closeSessions(ids, idempotency_key="closed")["sessions"]

    assert [one["label"] for one in planned["planned"]] == [one["label"] for one in made]
    assert [one["version"] for one in moved] == [2] * 300
    assert (each[0]["id"], each[0]["version"]) == (ids[0], 3)
    assert [(one["id"], one["status"]) for one in closed] == [(one, "closed") for one in ids]
    assert [event["type"] for event in daemon.events(ids[1])] == [
        "session.scheduled", "session.rescheduled", "session.closed",
    ]  # fmt: skip


@pytest.mark.parametrize(("header", "pause"), [("3", 3.0), ("-5", 0.0), ("soon", 0.0), ("nan", 0.0), ("", 0.0)])
def test_an_invalid_retry_after_causes_no_pause(header: str, pause: float) -> None:
    assert screenmeet._retry_after(Response(503, "", {"retry-after": header}, b"")) == pause


def test_an_error_of_the_local_socket_contains_its_path(tmp_path: Path) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with (
            ScreenMeet(socket=path, timeout=0.1, retries=0) as sm,
            pytest.raises(client.Unavailable, match=f"No answer from {path}"),
        ):
            sm.listSessions()


def test_a_lost_response_divides_no_series_twice(daemon: Daemon) -> None:
    first = from_now(days=2)[:16]
    asked = {"rrule": "FREQ=DAILY", "dtstart": first, "timezone": "UTC", "horizon": "9d"}
    asked["session"] = {"type": "live", "label": "Stand-up"}  # type: ignore[assignment]
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token) as sm:
        wire.losing = 1
        made = sm.createSeries(asked)
        assert sm.getSeries(made["id"])["occurrences"] == made["occurrences"]
        wire.losing = 1
        moved = sm.changeSeries(made["id"], {**asked, "timezone": "Etc/GMT+1"})
        assert (moved["id"], moved["timezone"]) == (made["id"], "Etc/GMT+1")
        here = from_now(days=5)[:16]
        wire.losing = 1
        later = sm.changeSeries(made["id"], asked, from_here=here)
        assert (later["follows"], wire.losing) == (made["id"], 0)
        listed = [one for one in sm.listSeries(limit=1000)["series"] if one["follows"] == made["id"]]
        assert [one["id"] for one in listed] == [later["id"]]
        wire.losing = 2
        for one in (made, later):
            ended = sm.endSeries(one["id"])
            assert ended["endedAt"] is not None
            assert {session["status"] for session in ended["occurrences"]} <= {"closed"}
        assert sm.endSeries(later["id"], from_here=here) == ended, "to end it again changes nothing"


def test_the_error_reports_that_every_response_was_lost(daemon: Daemon) -> None:
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token, retries=1) as sm:
        wire.losing = 100
        with pytest.raises(client.Unavailable, match=f"No answer from {wire.url}") as caught:
            sm.createSession("live", "case", wire.url, "A case", "A session")
        assert (caught.value.code, caught.value.refcode) == (0, 0)
        assert wire.requests == 2
        assert len(daemon.get(f"/crmlookup/case.{wire.url}").json()) == 1


def test_a_callers_idempotency_key_works_across_clients(daemon: Daemon) -> None:
    with wire_to(daemon) as wire:
        wire.losing = 1
        with ScreenMeet(wire.url, daemon.token, retries=0) as sm, pytest.raises(client.Unavailable):
            sm.createSession("live", screenmeet_session_name="A", idempotency_key=wire.url)
        with ScreenMeet(daemon.url, daemon.token) as sm:
            one = sm.createSession("live", screenmeet_session_name="A", idempotency_key=wire.url)
            two = sm.createSession("live", screenmeet_session_name="A", idempotency_key=wire.url)
    assert one["id"] == two["id"]


def test_a_call_to_a_daemon_that_does_not_respond_ends_after_the_timeout(daemon: Daemon) -> None:
    with wire_to(daemon) as wire, ScreenMeet(wire.url, daemon.token, timeout=0.2, retries=1) as sm:
        wire.silent = True
        begun = time.monotonic()
        with pytest.raises(client.Unavailable, match="No answer"):
            sm.getSession("xoKwKRBrbwRF")
        assert time.monotonic() - begun < 5


def test_a_call_without_a_daemon_raises_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with ScreenMeet(url, "token", retries=0) as sm, pytest.raises(client.Unavailable):
        sm.createSession("live", screenmeet_session_name="A")


def test_a_stale_version_is_a_conflict(daemon: Daemon, sm: ScreenMeet) -> None:
    made = sm.scheduleSession(from_now(days=1), "live", screenmeet_session_name="A")
    moved = sm.rescheduleSession(made["id"], from_now(days=2), if_version=made["version"])
    assert moved["version"] > made["version"]
    with pytest.raises(client.Conflict) as caught:
        sm.rescheduleSession(made["id"], from_now(days=3), if_version=made["version"])
    assert (caught.value.code, caught.value.refcode) == (412, 101412)
    assert sm.getSession(made["id"])["startTime"] == moved["startTime"]


def test_every_kind_of_error_has_its_class_and_its_refcode(daemon: Daemon, sm: ScreenMeet) -> None:
    made = sm.createSession("live", screenmeet_session_name="A")
    with pytest.raises(client.NotFound) as not_found:
        sm.getSession("nobody")
    with pytest.raises(client.Conflict) as conflict:
        sm.rescheduleSession(made["id"], from_now(days=1))
    with pytest.raises(client.InvalidRequest) as invalid:
        sm.createSession("telepathy", screenmeet_session_name="")  # type: ignore[arg-type]
    with pytest.raises(client.InvalidRequest) as past:
        sm.scheduleSession("2022-08-10T15:30:00.000Z", "live", screenmeet_session_name="A")
    with ScreenMeet(daemon.url, "wrong") as nobody, pytest.raises(client.NotAuthenticated) as unknown:
        nobody.closeSession(made["id"])
    with ScreenMeet(daemon.url, daemon.tokens["monitor"]) as monitor, pytest.raises(client.Forbidden) as forbidden:
        monitor.closeSession(made["id"])
    told = [caught.value for caught in (not_found, conflict, invalid, past, unknown, forbidden)]
    assert [error.refcode for error in told] == [101404, 101409, 100400, 101400, 104401, 104403]
    assert [error.code for error in told] == [404, 409, 400, 400, 401, 403]
    assert {fault["field"] for fault in invalid.value.errors} == {"type", "label"}
    assert all(isinstance(error, client.ScreenMeetError) and error.description == str(error) for error in told)


@pytest.mark.parametrize("url", ["http://localhost:notaport", "localhost:8710", "ftp://localhost", "http://", "desk"])
def test_an_invalid_url_is_refused_with_its_text(url: str) -> None:
    with pytest.raises(client.InvalidRequest, match=f"^{url} is not a URL such as http://127.0.0.1:8710"):
        ScreenMeet(url, "token")


@pytest.mark.parametrize("token", ["tökèn", "two\nlines"])
def test_a_token_that_no_header_can_contain_is_not_authenticated(daemon: Daemon, token: str) -> None:
    with pytest.raises(client.NotAuthenticated, match="No valid token") as caught:
        ScreenMeet(daemon.url, token)
    assert token not in str(caught.value)


def test_an_idempotency_key_that_no_header_can_contain_is_refused(sm: ScreenMeet) -> None:
    with pytest.raises(client.InvalidRequest, match="idempotency key must be printable ASCII"):
        sm.createSession("live", screenmeet_session_name="A", idempotency_key="kéy")


class _Page(BaseHTTPRequestHandler):
    """The response of a proxy that requires a login."""

    page = b"<html>Sign in</html>"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (b"<html>Sign in</html>", "text/html that is not JSON"),
        (b"null", "JSON that is not an object"),
        (b"[1]", "JSON that is not an object"),
        (b"[" * 100_000, "text/html that is not JSON"),
        (b"{}", "JSON that has no id"),
        (b'{"id": 7}', "JSON that has id, which is not text"),
    ],
    ids=["HTML", "null", "a list", "nested lists", "nothing in it", "another type"],
)
def test_an_html_page_is_reported_as_another_server(page: bytes, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Page, "page", page)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            with ScreenMeet(url, "token") as sm, pytest.raises(client.InvalidRequest, match="not tminus") as caught:
                sm.getSession("A")
        finally:
            server.shutdown()
    assert str(caught.value) == (
        f"The server at {url}/v3/supportsession/A is not tminus: it sent {problem}; check the URL"
    )
    assert caught.value.code == 200


def test_an_id_with_a_slash_stays_one_id(sm: ScreenMeet) -> None:
    with pytest.raises(client.NotFound):
        sm.getSession("a/events")
    with pytest.raises(client.NotFound):
        sm.closeSession("../supportsessions")


def test_lists_and_histories_are_read(daemon: Daemon) -> None:
    with ScreenMeet(daemon.url, daemon.tokens["ben"], user_description="Ben B") as sm:
        made = sm.scheduleSession(
            from_now(days=500), "cobrowse", screenmeet_session_name="A", agent_prefs={"record": True}
        )
        assert made["userDescription"] == "Ben B"
        found = sm.listSessions(status=["scheduled", "new"], type="cobrowse", startFrom=from_now(days=499), limit=1000)
        assert found["count"] == len(found["rows"])
        assert made["id"] in [row["id"] for row in found["rows"]]
        page = sm.getEvents(made["id"])
        assert [event["type"] for event in page["events"]] == ["session.scheduled"]
        assert sm.getEvents(made["id"], page["next"])["events"] == []


def test_the_local_socket_needs_no_token(daemon: Daemon) -> None:
    with ScreenMeet(socket=daemon.socket) as sm:
        assert sm.createSession("live", screenmeet_session_name="A")["ExternalUserId"] == 0
