"""The feed: every event once, in order, by polling, long polling and as a stream."""

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, digest, environment
from tests.acceptance.times import from_now
from tests.support.processes import TMINUS


def feed(daemon: Daemon, **query: Any) -> JSON:
    answer = daemon.http.get(f"{daemon.url}/v3/events", params=query, headers={"Session-id": daemon.tokens["monitor"]})
    assert answer.status_code == 200, answer.text
    page: JSON = answer.json()
    return page


def now(daemon: Daemon) -> int:
    """Return the cursor of future events."""
    page = feed(daemon, after="now")
    assert page["events"] == []
    return int(page["next"])


def events_of(daemon: Daemon, session_id: str, after: int, **query: Any) -> list[JSON]:
    """Return the events of one session by following `next` to the end, two events at a time."""
    found: list[JSON] = []
    while (page := feed(daemon, after=after, limit=2, **query))["events"]:
        assert [event["seq"] for event in page["events"]] == sorted({event["seq"] for event in page["events"]})
        assert page["events"][0]["seq"] > after
        found += [event for event in page["events"] if event["id"] == session_id]
        after = page["next"]
    return found


def test_a_reader_that_follows_next_gets_each_event_once_as_the_history_has_it(daemon: Daemon) -> None:
    after = now(daemon)
    session = daemon.make(startTime=from_now(days=1))
    daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=2)})
    daemon.delete(f"/supportsession/{session['id']}")
    history = daemon.events(session["id"])
    assert [event["type"] for event in history] == ["session.scheduled", "session.rescheduled", "session.closed"]
    assert events_of(daemon, session["id"], after) == history


def test_a_filter_by_types_skips_other_events(daemon: Daemon) -> None:
    after = now(daemon)
    session = daemon.make()
    daemon.join(session["id"])
    joined = events_of(daemon, session["id"], after, type=["participant.*"])
    assert [event["type"] for event in joined] == ["participant.joined"]
    both = events_of(daemon, session["id"], after, type=["session.active", "session.created"])
    assert [event["type"] for event in both] == ["session.created", "session.active"]
    nothing = feed(daemon, after=after, type="session.rescheduled")
    assert nothing["events"] == []
    assert nothing["next"] >= joined[-1]["seq"], "a reader with a filter reads no skipped event again"


def test_a_long_poll_returns_when_an_event_happens(daemon: Daemon) -> None:
    after = now(daemon)
    answers: list[JSON] = []
    waiting = threading.Thread(
        target=lambda: answers.append(feed(daemon, after=after, type="session.created", wait=15))
    )
    waiting.start()
    session = daemon.make()
    waiting.join(10)
    assert [event["id"] for event in answers[0]["events"]][:1] == [session["id"]]


def test_a_long_poll_without_events_returns_the_cursor(daemon: Daemon) -> None:
    page = feed(daemon, after=10**15, wait=0.2)
    assert page == {"events": [], "next": 10**15}


@pytest.mark.parametrize(
    ("query", "field"),
    [("after=-1", "after"), ("after=soon", "after"), ("limit=0", "limit"), ("wait=61", "wait"), ("type=x.*", "type.0")],
)
def test_an_invalid_feed_parameter_is_refused_by_name(daemon: Daemon, query: str, field: str) -> None:
    answer = daemon.get(f"/events?{query}")
    assert answer.status_code == 400
    assert [fault["field"] for fault in answer.json()["errors"]] == [field]


def test_an_agent_reads_and_streams_the_events_of_its_own_sessions_only(daemon: Daemon) -> None:
    after = daemon.get("/events?after=now").json()["next"]
    daemon.make(by="ben")
    own = daemon.make(by="anna")["id"]
    daemon.make(by="ben")
    page = daemon.get(f"/events?after={after}&scope=mine", by="anna").json()
    assert {one["id"] for one in page["events"]} == {own}
    headers = {"Session-id": daemon.tokens["anna"], "Accept": "text/event-stream", "Last-Event-ID": str(after)}
    with daemon.http.stream("GET", f"{daemon.url}/v3/events?scope=mine", headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(json.loads(line[6:])["id"] for line in lines if line.startswith("data: ")) == own


@pytest.mark.parametrize("by", ["room", "api"])
@pytest.mark.parametrize("scope", ["all", "mine"])
def test_callers_without_access_to_the_feed_get_neither_a_page_nor_a_stream(
    daemon: Daemon, by: str, scope: str
) -> None:
    for accept in ("application/json", "text/event-stream"):
        answer = daemon.get(f"/events?after=now&scope={scope}", by=by, headers={"Accept": accept})
        assert (answer.status_code, answer.json()["refcode"]) == (403, 104403)


def stream(daemon: Daemon, http: httpx.Client, after: str = "now", last: str | None = None) -> Iterator[JSON]:
    """Return the events of a stream, each with its id."""
    headers = {"Session-id": daemon.tokens["monitor"], "Accept": "text/event-stream"}
    headers |= {"Last-Event-ID": last} if last else {}
    with http.stream("GET", f"{daemon.url}/v3/events?after={after}", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if not line and "data" in fields:
                event = json.loads(fields["data"])
                assert (fields["id"], fields["event"]) == (str(event["seq"]), event["type"])
                yield event
                fields = {}
            elif name:
                fields[name] = value
            else:
                yield {}  # a comment: the stream has begun, or it is still open


def test_an_interrupted_stream_resumes_after_the_last_event(daemon: Daemon) -> None:
    with httpx.Client(timeout=20) as http:
        events = stream(daemon, http)
        assert next(events) == {}
        session = daemon.make()
        created = next(event for event in events if event and event["id"] == session["id"])
        assert created["type"] == "session.created"
        events.close()  # type: ignore[attr-defined]
        daemon.join(session["id"])
        daemon.delete(f"/supportsession/{session['id']}")
        rest = stream(daemon, http, last=str(created["seq"]))
        found = list(islice((event for event in rest if event and event["id"] == session["id"]), 3))
    assert [created, *found] == daemon.events(session["id"])


def test_a_stream_and_a_long_poll_end_when_their_token_is_revoked(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    held: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: held.append(daemon.get("/events?after=now&wait=30", by="monitor")))
    with httpx.Client(timeout=20) as http:
        events = stream(daemon, http)
        assert next(events) == {}
        waiting.start()
        config = daemon.config.read_text().replace(digest(daemon.tokens["monitor"]), digest("another"))
        daemon.config.write_text(config)
        daemon.signal(signal.SIGHUP)
        daemon.logged("config.reloaded")
        daemon.make(label="After that")
        assert [event for event in events if event] == []
    waiting.join(20)
    assert (held[0].status_code, held[0].json()["refcode"]) == (401, 104401)


def test_other_requests_are_served_while_an_event_wakes_many_readers(daemon: Daemon) -> None:
    url = httpx.URL(daemon.url)
    head = f"GET /v3/events?after=now HTTP/1.1\r\nHost: a\r\nSession-id: {daemon.tokens['monitor']}\r\n"
    head += "Accept: text/event-stream\r\n\r\n"
    with ExitStack() as opened:
        for _ in range(300):
            listener = opened.enter_context(socket.create_connection((url.host, url.port or 80), timeout=20))
            listener.sendall(head.encode())
            assert listener.recv(1000).startswith(b"HTTP/1.1 200")
        codes = set()
        for _ in range(5):
            made = daemon.make()
            codes |= {daemon.get(f"/supportsession/{made['id']}").status_code for _ in range(5)}
    assert codes == {200}


def test_the_oldest_stream_of_an_agent_at_its_limit_ends_for_a_new_one(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(limits={"streams_per_agent": 2})
    url = httpx.URL(daemon.url)

    def ask(by: str, more: str) -> socket.socket:
        one = socket.create_connection((url.host, url.port or 80), timeout=20)
        one.sendall(f"GET /v3/events?after=now{more}Session-id: {daemon.tokens[by]}\r\n\r\n".encode())
        return one

    stream = " HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n"
    held = "&wait=60 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    with ask("admin", stream) as others, ask("monitor", stream) as first:
        for one in (others, first):
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
        with ask("monitor", held) as second:
            httpx.get(f"{daemon.url}/healthz")  # a later connection: after its response, `second` is waiting
            with ask("monitor", stream) as third, ask("monitor", stream) as fourth:
                for one in (third, fourth):
                    assert one.recv(4096).startswith(b"HTTP/1.1 200")
                received, until = b"", time.monotonic() + 60  # a stream that goes on gets comments for ever
                while not received.endswith(b"0\r\n\r\n"):
                    received += first.recv(4096) or pytest.fail("the stream was cut off, not ended")
                    assert time.monotonic() < until, "the stream has not ended"
                page = b""
                while more := second.recv(4096):
                    page += more
                assert b'"events":[]' in page, "the long poll returns as it does after its wait"
                made = daemon.make()
                for one in (others, third, fourth):
                    received = b""
                    while made["id"].encode() not in received:
                        received += one.recv(4096) or pytest.fail("the stream has ended")
    daemon.logged("feed.crowded")
    assert len(daemon.log_lines("feed.crowded")) == 1


def test_the_oldest_stream_of_an_address_at_its_limit_ends_for_a_new_one_of_any_agent(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(limits={"streams_per_address": 2})
    url = httpx.URL(daemon.url)
    with ExitStack() as opened:

        def open_stream(by: str, source: str = "127.0.0.1") -> socket.socket:
            one = opened.enter_context(
                socket.create_connection((url.host, url.port or 80), timeout=20, source_address=(source, 0))
            )
            head = f"GET /v3/events?after=now HTTP/1.1\r\nHost: a\r\nSession-id: {daemon.tokens[by]}\r\n"
            one.sendall(f"{head}Accept: text/event-stream\r\n\r\n".encode())
            assert one.recv(4096).startswith(b"HTTP/1.1 200")
            return one

        elsewhere = open_stream("admin", "127.0.0.2")
        first, second = open_stream("admin"), open_stream("monitor")
        third = open_stream("supervisor")
        made = daemon.make()
        for one in (elsewhere, second, third):
            received = b""
            while made["id"].encode() not in received:
                received += one.recv(4096) or pytest.fail("the stream has ended")
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += first.recv(4096) or pytest.fail("the stream was cut off, not ended")
            assert made["id"].encode() not in received, "the stream has not ended"
    line = daemon.logged("feed.crowded")
    assert (line["remote_ip"], line["limit"], line["key"]) == ("127.0.0.1", 2, "limits.streams_per_address")
    assert len(daemon.log_lines("feed.crowded")) == 1


def test_a_disconnected_long_poll_no_longer_counts_towards_the_limit(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"streams_per_agent": 1})
    url = httpx.URL(daemon.url)
    head = f"GET /v3/events?after=now&wait=60 HTTP/1.1\r\nHost: a\r\nSession-id: {daemon.tokens['monitor']}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=20) as one:
        one.sendall(head.encode())
    answered = daemon.logged("http.request", route="/v3/events")
    assert answered["ms"] < 30_000
    assert daemon.get("/events?after=now&wait=1", by="monitor").status_code == 200
    assert not daemon.log_lines("feed.crowded")


def test_the_command_follows_events(daemon: Daemon) -> None:
    after = now(daemon)
    session = daemon.make()
    command = [TMINUS, "events", "-f", "--json", "--after", str(after), "--type", "session.*", session["id"]]
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    following = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["type"] == "session.created"
        daemon.delete(f"/supportsession/{session['id']}")
        assert json.loads(following.stdout.readline())["type"] == "session.closed"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
    finally:
        following.kill()
        following.communicate()


@pytest.mark.slow
def test_the_command_follows_events_over_a_restart_and_misses_none(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    session = daemon.make()
    command = [TMINUS, "events", "-f", "--json", "--after", "0"]
    env = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    following = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        assert following.stderr is not None
        assert json.loads(following.stdout.readline())["type"] == "session.created"
        assert daemon.terminate() == 0
        assert following.stderr.readline().endswith("again\n"), "the command retries"
        daemon.start()
        daemon.delete(f"/supportsession/{session['id']}")
        assert json.loads(following.stdout.readline())["type"] == "session.closed"
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
    finally:
        following.kill()
        following.communicate()


def test_long_polls_and_streams_do_not_delay_a_stop(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    requests = [
        b"GET /v3/events?wait=50 HTTP/1.1\r\nHost: x\r\nSession-id: %s\r\n\r\n",
        b"GET /v3/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nSession-id: %s\r\n\r\n",
    ]
    waiting = [socket.create_connection(("127.0.0.1", int(daemon.url.rpartition(":")[2]))) for _ in requests]
    for one, request in zip(waiting, requests, strict=True):
        one.sendall(request % daemon.tokens["monitor"].encode())
    stream = waiting[1].recv(4096)
    assert b"text/event-stream" in stream
    now(daemon)  # after this response, the daemon has read the requests above
    assert daemon.terminate() == 0
    page = waiting[0].recv(4096)
    assert b" 200 " in page
    assert page.endswith(b'{"events":[],"next":0}')
    while rest := waiting[1].recv(4096):
        stream += rest
    assert stream.endswith(b"0\r\n\r\n"), "the stream was ended, not cut off"
    assert b"\nid: 0\n: tminus\n\n" in stream, "a client that is cut off before the first event resumes here"
    for one in waiting:
        one.close()
