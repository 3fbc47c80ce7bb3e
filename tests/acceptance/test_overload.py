"""Overload: slow, broken or too many clients block neither other clients nor the scheduler."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from tests.acceptance.conftest import StartDaemon, check_health, storage_of
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.bench import load
from tests.bench.load import Plan
from tests.support.databases import KINDS
from tests.support.tables import tables_of
from tests.support.waiting import eventually

IDLE = 2000
"""Number of idle connections: as many as may be open by default."""

LEAD = 600
"""Seconds before its start time in which a session opens, by default."""

LATE_MS = 5000
"""Maximum lag of a transition in milliseconds. Only a scheduler that waits behind requests would exceed it."""


FAIR = 6
"""Maximum 99th percentile of the response times, as a multiple of their mean: no request waits behind all others."""

FLAT = 1.25
"""Maximum size of the daemon in the second half of an overload, as a multiple of its size in the first half."""


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon on each database for the tests of this module, with a raised limit of open files."""
    limit = IDLE + 1000
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    if own[1] != resource.RLIM_INFINITY and own[1] < limit:
        pytest.skip(f"NOT TESTED UNDER LOAD: a process may open no more than {own[1]} files here")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, own)
        daemon = Daemon(storage=storage_of(request, stack))
        stack.callback(daemon.remove)
        daemon.start()
        assert daemon.process is not None
        for process in (0, daemon.process.pid):
            soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
            resource.prlimit(process, resource.RLIMIT_NOFILE, (max(soft, limit), hard))
        yield daemon
        check_health(daemon)


def resident(daemon: Daemon) -> int:
    """Return the resident memory of a process in bytes."""
    assert daemon.process is not None
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def due_in(daemon: Daemon, seconds: float) -> str:
    """Schedule a session that opens in a number of seconds; return its id."""
    made = daemon.make(startTime=from_now(seconds=LEAD + seconds))
    assert made["status"] == "scheduled"
    return str(made["id"])


def lag_of(daemon: Daemon, session_id: str) -> int:
    """Wait until a session is open; return by how many milliseconds it was late."""

    def opened() -> list[int]:
        return [event["lagMs"] for event in daemon.events(session_id) if event["type"] == "session.ready"]

    return eventually(opened)[0]


@pytest.mark.slow
def test_slow_idle_and_broken_clients_do_not_block_other_clients(loaded: Daemon) -> None:
    address = ("127.0.0.1", int(loaded.url.rpartition(":")[2]))
    head = f"POST /v3/supportsessions HTTP/1.1\r\nHost: a\r\nSession-id: {loaded.token}\r\n".encode()
    get = f"GET /v3/me HTTP/1.1\r\nHost: a\r\nSession-id: {loaded.token}\r\n\r\n".encode()
    unfinished = (
        head,  # a head that never ends
        head + b"Content-Length: 100\r\n\r\n{",  # a body that never comes
        head + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",  # one that never ends
        get * 20,  # many requests at once, without reading the responses
    )
    garbage = (b"\x16\x03\x01\x02\x00\x01" * 500, b"GET\r\n\r\n" * 500, get + b"}\r\n\r\n" * 500, b"X: y\r\n" * 20_000)
    with ExitStack() as held:

        def connect() -> socket.socket:
            return held.enter_context(socket.create_connection(address, timeout=20))

        for _ in range(IDLE):
            connect()
        slow = [connect() for _ in range(20 * len(unfinished))]
        for number, one in enumerate(slow):
            one.sendall(unfinished[number % len(unfinished)])
        session = due_in(loaded, 3)
        for bad in garbage * 3:
            with suppress(ConnectionError):  # the daemon closes the connection before it has read everything
                connect().sendall(bad)
            for number, one in enumerate(slow):
                if number % len(unfinished) < 2:
                    one.send(b"x")  # a byte now and then
                elif number % len(unfinished) == 2:
                    one.send(b"1\r\n \r\n")
            assert loaded.session(loaded.make()["id"])["status"] == "new"
        assert lag_of(loaded, session) < LATE_MS


@pytest.mark.slow
def test_under_overload_excess_requests_are_refused_and_accepted_ones_are_answered_soon_and_stored_once(
    loaded: Daemon,
) -> None:
    seen = loaded.make()["id"]
    sessions = [due_in(loaded, seconds) for seconds in (1.5, 1.9, 2.3)]
    port = int(loaded.url.rpartition(":")[2])
    plan = Plan("mixed", port, loaded.token, 1.5, 800, ids=[seen], first_start=from_now(days=2))
    begun = time.monotonic()
    generator = load.start(plan)
    sizes = []
    while generator.poll() is None and time.monotonic() < begun + plan.seconds + 1:  # a second to start
        sizes.append(resident(loaded))
        time.sleep(0.1)
    counted = load.finish(generator)
    assert time.monotonic() - begun < 30  # every request got a response
    assert set(counted.statuses) == {"200", "503"}  # `load` checks the body of each refusal, and Retry-After
    assert max(lag_of(loaded, session) for session in sessions) < LATE_MS
    # Each connection repeats its request after each response, so the mean depends on the speed of the machine.
    mean = sum(took for _, took, _ in counted.latencies) / len(counted.latencies)
    assert max(counted.p(99, status=status) for status in counted.statuses) < FAIR * mean
    half = len(sizes) // 2
    assert max(sizes[half:]) < FLAT * max(sizes[:half])
    # The daemon serves again at once, and has stored every acknowledged session.
    assert loaded.make()["status"] == "new"
    with tables_of(loaded) as tables:
        stored = tables.scalars(text("SELECT id FROM session WHERE label = 'Bench'")).all()
    assert sorted(stored) == sorted(session_id for session_id, _ in counted.made)


def ask(daemon: Daemon, opened: ExitStack, source: str) -> socket.socket:
    """Return a new connection from an address, after the response to its first request; `opened` closes it."""
    url = urlsplit(daemon.url)
    one = opened.enter_context(
        socket.create_connection((url.hostname, url.port), timeout=20, source_address=(source, 0))
    )
    check_response(one)
    return one


def check_response(connection: socket.socket) -> None:
    """Check that the daemon answers a request on an open connection."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(4096) or pytest.fail("the daemon has closed the connection")
    assert received.startswith(b"HTTP/1.1 200")


def test_one_more_connection_of_an_address_at_its_limit_replaces_its_oldest_one(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"connections_per_address": 3})
    with ExitStack() as opened:
        elsewhere = ask(daemon, opened, "127.0.0.2")
        oldest, *others = [ask(daemon, opened, "127.0.0.1") for _ in range(3)]
        newest = ask(daemon, opened, "127.0.0.1")
        assert oldest.recv(1) == b"", "it is closed"
        for one in (elsewhere, *others, newest):
            check_response(one)
    line = daemon.logged("http.crowded")
    assert (line["remote_ip"], line["connections"]) == ("127.0.0.1", 3)


def test_a_trusted_proxy_may_have_more_connections_than_other_addresses(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"connections_per_address": 3}, server={"trusted_proxies": ["127.0.0.1"]})
    with ExitStack() as opened:
        for one in [ask(daemon, opened, "127.0.0.1") for _ in range(5)]:
            check_response(one)
    assert not daemon.log_lines("http.crowded")
