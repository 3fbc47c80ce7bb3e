"""The Python client: results, errors, and retries over a failing network that execute nothing twice."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
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
from tminus.client.transport import NoResponse, Response, local


class LossyProxy:
    """A TCP proxy on loopback, one thread per connection, that forwards requests and loses some of the responses.

    `responses_to_lose` is the number of connections that the proxy still has to cut at the worst moment: after the
    daemon has executed the request and before its response arrives. A `silent` proxy accepts requests and forwards
    nothing.
    """

    def __init__(self, target: str) -> None:
        self._target = (urlsplit(target).hostname or "", urlsplit(target).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.responses_to_lose = 0
        self.silent = False
        self.requests = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)

    def _spawn(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # `close` ends the loop: it shuts down the listener
            while True:
                downstream, _ = self._listener.accept()
                upstream = socket.create_connection(self._target)
                self._connections += [downstream, upstream]
                self._spawn(self._forward_requests, downstream, upstream)
                self._spawn(self._forward_responses, downstream, upstream)

    def _forward_requests(self, downstream: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while part := downstream.recv(65536):
                if not self.silent:
                    self.requests += part.count(b" HTTP/1.1\r\n")
                    upstream.sendall(part)
            upstream.shutdown(socket.SHUT_RDWR)

    def _forward_responses(self, downstream: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while part := upstream.recv(65536):
                if self.responses_to_lose:
                    self.responses_to_lose -= 1
                    break
                downstream.sendall(part)
            downstream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in (self._listener, *self._connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def proxy_to(daemon: Daemon) -> Iterator[LossyProxy]:
    proxy = LossyProxy(daemon.url)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def sm(daemon: Daemon) -> Iterator[ScreenMeet]:
    with ScreenMeet(daemon.url, daemon.token) as screenmeet:
        yield screenmeet


def test_a_lost_response_causes_no_second_session(daemon: Daemon) -> None:
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token) as sm:
        key = f"case.{proxy.url}"
        proxy.responses_to_lose = 2
        made = sm.createSession("support", "case", proxy.url, "A case", "A session")
        assert proxy.responses_to_lose == 0
        assert proxy.requests == 3
        assert [row["id"] for row in daemon.get(f"/crmlookup/{key}").json()] == [made["id"]]

        proxy.responses_to_lose = 1
        scheduled = sm.scheduleSession(from_now(days=1), "live", "case", proxy.url, "A case", "Another")
        assert {row["id"] for row in daemon.get(f"/crmlookup/{key}").json()} == {made["id"], scheduled["id"]}

        proxy.responses_to_lose = 1
        moved = sm.rescheduleSession(scheduled["id"], from_now(days=2))
        types = [event["type"] for event in daemon.events(scheduled["id"])]
        assert types == ["session.scheduled", "session.rescheduled"]
        assert moved["version"] == scheduled["version"] + 1

        proxy.responses_to_lose = 1
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
        with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token) as sm:
            proxy.responses_to_lose = 1
            with pytest.raises(client.Unavailable, match="No answer"):
                sm.request("POST", "/webhooks/desk/replay", json={"fromSeq": 1})
            assert proxy.requests == 1
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
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token, retries=1) as sm:
        with pytest.raises(client.InvalidRequest, match="3 sessions, and one agent may have at most 2 open"):
            sm.scheduleSessions(wanted, idempotency_key="three")
        assert proxy.requests == 1


def test_many_sessions_are_scheduled_moved_and_closed_although_responses_are_lost(daemon: Daemon) -> None:
    wanted = [{"type": "live", "label": f"Many {n}", "startTime": from_now(days=1, minutes=n)} for n in range(300)]
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token) as sm:
        planned = sm.scheduleSessions(wanted, dry_run=True)
        proxy.responses_to_lose = 1
        made = sm.scheduleSessions(wanted, idempotency_key="many")["sessions"]
        ids = [one["id"] for one in made]
        proxy.responses_to_lose = 1
        moved = sm.rescheduleSessions(ids=ids, by="30m", idempotency_key="moved")["sessions"]
        each = sm.rescheduleSessions([{"id": ids[0], "startTime": from_now(days=2)}])["sessions"]
        proxy.responses_to_lose = 1
        closed = sm.closeSessions(ids, idempotency_key="closed")["sessions"]

    assert [one["label"] for one in planned["planned"]] == [one["label"] for one in made]
    assert [one["version"] for one in moved] == [2] * 300
    assert (each[0]["id"], each[0]["version"]) == (ids[0], 3)
    assert [(one["id"], one["status"]) for one in closed] == [(one, "closed") for one in ids]
    assert [event["type"] for event in daemon.events(ids[1])] == [
        "session.scheduled", "session.rescheduled", "session.closed",
    ]  # fmt: skip


def test_progress_begins_again_with_each_attempt_and_ends_complete(daemon: Daemon) -> None:
    wanted = [{"type": "live", "label": f"Counted {n}", "startTime": from_now(days=1, minutes=n)} for n in range(250)]
    steps: list[tuple[int, int]] = []
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token) as sm:
        planned = sm.scheduleSessions(wanted, dry_run=True, progress=lambda *step: steps.append(step))
        assert steps[:4] == [(0, 500), (100, 500), (200, 500), (250, 500)]
        assert steps == sorted(steps)
        assert steps[-1] == (500, 500)

        steps.clear()
        proxy.responses_to_lose, proxy.requests = 2, 0
        made = sm.scheduleSessions(wanted, idempotency_key="counted", progress=lambda *step: steps.append(step))
        assert (proxy.responses_to_lose, proxy.requests) == (0, 3)
        begun = [place for place, step in enumerate(steps) if step == (0, 500)]
        assert steps[: begun[1]] == steps[begun[1] : begun[2]] == [(0, 500), (100, 500), (200, 500), (250, 500)]
        assert steps[begun[2] :] == sorted(steps[begun[2] :])
        assert steps[-1] == (500, 500)

        # The daemon recognizes the same batch in JSON.
        assert sm.scheduleSessions(wanted, idempotency_key="counted") == made
        with pytest.raises(client.Conflict):
            sm.scheduleSessions(wanted[1:], idempotency_key="counted", progress=lambda *_: None)
    assert planned["dryRun"] is True
    assert [one["label"] for one in planned["planned"]] == [one["label"] for one in wanted]
    assert [one["label"] for one in made["sessions"]] == [one["label"] for one in wanted]


def test_errors_of_a_batch_are_the_same_with_progress(daemon: Daemon) -> None:
    wrong: list[dict[str, object]] = [{"type": "live", "label": "A"}, {"type": "phone", "label": "A"}] * 300
    for sessions in (wrong, [], [{"type": "live", "label": "A"}] * 10_001):
        for options in ({"url": daemon.url, "token": daemon.token}, {"socket": daemon.socket}):
            errors = []
            with ScreenMeet(**options) as sm:
                for progress in (None, lambda *_: None):
                    with pytest.raises(client.InvalidRequest) as refused:
                        sm.scheduleSessions(sessions, progress=progress)
                    errors.append((refused.value.code, refused.value.refcode, refused.value.errors))
            assert errors[0] == errors[1]


def test_a_batch_is_sent_again_as_a_whole_when_the_daemon_asks_to_wait() -> None:
    steps: list[tuple[int, int]] = []
    with Receiver() as gateway, ScreenMeet(f"http://127.0.0.1:{gateway.port}", "token") as sm:
        gateway.answers = [status(429, Retry_After="0"), status(503, Retry_After="0"), status(404)]
        with pytest.raises(client.NotFound):
            sm.scheduleSessions([{"label": "A"}] * 150, progress=lambda *step: steps.append(step))
    assert [request.body for request in gateway.requests] == [b'{"label": "A"}\n' * 150] * 3
    assert len({request.headers["idempotency-key"] for request in gateway.requests}) == 1
    assert steps == [(0, 300), (100, 300), (150, 300)] * 3


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", ""),
        (b"3\r\nabc\r\n", "in the middle of its answer"),
        (b"5\r\nabc", "in the middle of its answer"),
        (b"3\r\nabc\r\n0\r\n", "in the middle of its answer"),
        (b"x\r\nabc\r\n", "no valid length"),
        (b"-3\r\nabc\r\n", "no valid length"),
        (b"\r\nabc\r\n", "no valid length"),
        (b"fffffffff\r\nabc\r\n", "too long"),
        (b"1" * 70_000, "no valid length"),
    ],
)  # fmt: skip
def test_chunks_on_the_local_socket_are_joined_and_none_may_be_missing(sent: bytes, problem: str) -> None:
    ours, theirs = socket.socketpair()
    parts: list[bytes] = []
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent)
        theirs.shutdown(socket.SHUT_WR)
        if problem:
            with pytest.raises(NoResponse, match=problem):
                local._response(ours, parts.append)
        else:
            assert local._response(ours, parts.append).body == b"".join(parts) == b"abcde"


@pytest.mark.parametrize(("header", "pause"), [("3", 3.0), ("-5", 0.0), ("soon", 0.0), ("nan", 0.0), ("", 0.0)])
def test_only_a_valid_retry_after_causes_a_pause(header: str, pause: float) -> None:
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
    body = {"rrule": "FREQ=DAILY", "dtstart": first, "timezone": "UTC", "horizon": "9d"}
    body["session"] = {"type": "live", "label": "Stand-up"}  # type: ignore[assignment]
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token) as sm:
        proxy.responses_to_lose = 1
        made = sm.createSeries(body)
        assert sm.getSeries(made["id"])["occurrences"] == made["occurrences"]
        proxy.responses_to_lose = 1
        moved = sm.changeSeries(made["id"], {**body, "timezone": "Etc/GMT+1"})
        assert (moved["id"], moved["timezone"]) == (made["id"], "Etc/GMT+1")
        here = from_now(days=5)[:16]
        proxy.responses_to_lose = 1
        later = sm.changeSeries(made["id"], body, from_here=here)
        assert (later["follows"], proxy.responses_to_lose) == (made["id"], 0)
        listed = [one for one in sm.listSeries(limit=1000)["series"] if one["follows"] == made["id"]]
        assert [one["id"] for one in listed] == [later["id"]]
        proxy.responses_to_lose = 2
        for one in (made, later):
            ended = sm.endSeries(one["id"])
            assert ended["endedAt"] is not None
            assert {session["status"] for session in ended["occurrences"]} <= {"closed"}
        assert sm.endSeries(later["id"], from_here=here) == ended, "ending it again changes nothing"


def test_the_error_reports_that_every_response_was_lost(daemon: Daemon) -> None:
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token, retries=1) as sm:
        proxy.responses_to_lose = 100
        with pytest.raises(client.Unavailable, match=f"No answer from {proxy.url}") as caught:
            sm.createSession("live", "case", proxy.url, "A case", "A session")
        assert (caught.value.code, caught.value.refcode) == (0, 0)
        assert proxy.requests == 2
        assert len(daemon.get(f"/crmlookup/case.{proxy.url}").json()) == 1


def test_a_callers_idempotency_key_works_across_clients(daemon: Daemon) -> None:
    with proxy_to(daemon) as proxy:
        proxy.responses_to_lose = 1
        with ScreenMeet(proxy.url, daemon.token, retries=0) as sm, pytest.raises(client.Unavailable):
            sm.createSession("live", screenmeet_session_name="A", idempotency_key=proxy.url)
        with ScreenMeet(daemon.url, daemon.token) as sm:
            one = sm.createSession("live", screenmeet_session_name="A", idempotency_key=proxy.url)
            two = sm.createSession("live", screenmeet_session_name="A", idempotency_key=proxy.url)
    assert one["id"] == two["id"]


def test_a_call_to_a_daemon_that_does_not_respond_ends_after_the_timeout(daemon: Daemon) -> None:
    with proxy_to(daemon) as proxy, ScreenMeet(proxy.url, daemon.token, timeout=0.2, retries=1) as sm:
        proxy.silent = True
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
    errors = [caught.value for caught in (not_found, conflict, invalid, past, unknown, forbidden)]
    assert [error.refcode for error in errors] == [101404, 101409, 100400, 101400, 104401, 104403]
    assert [error.code for error in errors] == [404, 409, 400, 400, 401, 403]
    assert {fault["field"] for fault in invalid.value.errors} == {"type", "label"}
    assert all(isinstance(error, client.ScreenMeetError) and error.description == str(error) for error in errors)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), datetime.now(UTC), {(1, 2): 3}])
def test_a_value_that_json_does_not_have_is_refused(sm: ScreenMeet, value: object) -> None:
    with pytest.raises(client.InvalidRequest, match="cannot be written as JSON") as caught:
        sm.request("POST", "/supportsession", json={"metaData": {"a": value}})
    assert caught.value.code == 0


class _Page(BaseHTTPRequestHandler):
    """A server that answers every GET with an HTML page, as a proxy that requires a login does."""

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
def test_a_response_of_another_server_is_reported(page: bytes, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
