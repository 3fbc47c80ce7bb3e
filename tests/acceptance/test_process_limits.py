"""The process reaches a resource limit, or is stopped while sessions open: no acknowledged change is lost."""

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import text

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support.tables import multiply, tables_of
from tests.support.waiting import eventually

RESERVED = 128
"""Number of file descriptors that the connections of one socket never use."""

FILES = 210
"""Limit of open files: connections to one socket cannot use it up, but connections to both sockets can."""

MANY = 144
"""Number of connections: more than one socket accepts."""


def pid_of(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid


def open_files(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{pid_of(daemon)}/fd"))


def cpu_seconds(daemon: Daemon) -> float:
    after_name = Path(f"/proc/{pid_of(daemon)}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def connect(address: str | tuple[str, int]) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    connection.settimeout(10)
    connection.connect(address)
    return connection


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    """Connections that are closed at the end, also after a failure."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


@pytest.mark.slow
def test_without_free_file_descriptors_sessions_open_on_time_and_service_recovers(
    storage: JSON, start_daemon: StartDaemon, clients: list[socket.socket]
) -> None:
    daemon = start_daemon(storage=storage)
    host = urlsplit(daemon.url)
    assert host.hostname is not None
    assert host.port is not None
    resource.prlimit(pid_of(daemon), resource.RLIMIT_NOFILE, (FILES, FILES))
    session = daemon.make(startTime=from_now(minutes=10, seconds=3))

    clients += [connect((host.hostname, host.port)) for _ in range(MANY)]
    clients[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: tminus\r\n\r\n")
    assert clients[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
    assert clients[0].recv(1) == b"", "the daemon closed the connection that was idle for longest"
    assert daemon.command("list").returncode == 0, "TCP connections do not block the local socket"
    assert daemon.get("/me").status_code == 200
    [full] = daemon.log_lines("http.full")
    assert full["limit"] == FILES
    assert full["connections"] == full["busiest_connections"] == FILES - RESERVED
    assert full["busiest"] == "127.0.0.1"

    # Use up the remaining file descriptors.
    def none_is_left() -> bool:
        if open_files(daemon) < FILES:
            with suppress(OSError):
                clients.append(connect(str(daemon.socket)))
        return open_files(daemon) == FILES

    clients += [connect(str(daemon.socket)) for _ in range(MANY)]
    eventually(none_is_left)
    begun, used = time.monotonic(), cpu_seconds(daemon)
    line = daemon.logged("session.ready", session_id=session["id"])
    assert line["lag_ms"] < 5000
    assert cpu_seconds(daemon) - used < 0.2 + (time.monotonic() - begun) / 2, "the daemon does not spin"

    for client in clients:
        client.close()
    eventually(lambda: open_files(daemon) < FILES - RESERVED)
    assert daemon.command("list").returncode == 0
    daemon.http.close()
    daemon.http = type(daemon.http)(timeout=20)
    assert daemon.session(session["id"])["status"] == "new"


HERD = 12_000


@pytest.mark.slow
def test_after_a_stop_during_a_herd_the_remaining_sessions_open_once_and_in_order(
    storage: JSON, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(storage=storage)
    template = daemon.make(startTime=from_now(days=300))["id"]
    assert daemon.terminate() == 0
    with tables_of(daemon) as herd:
        multiply(herd, template, HERD)
        daemon.start()
        # The sessions fall due one millisecond apart, all in the past.
        now = time.time_ns() // 1_000_000
        ((last,),) = herd.execute(text("SELECT max(due_at) FROM session"))
        herd.execute(
            text(
                "UPDATE session SET due_at = due_at - :back, start_time = start_time - :back, "
                "expires_at = expires_at - :back"
            ),
            {"back": last - now},
        )
        opened = text("SELECT count(*) FROM session WHERE status = 'new'")
        eventually(lambda: herd.scalar(opened))
        daemon.signal(signal.SIGTERM)
        assert daemon.process is not None
        assert daemon.process.wait(60) == 0
        assert 0 < herd.execute(opened).scalar_one() < HERD, "the stop came in the middle"
        assert daemon.log_lines()[-1]["event"] == "daemon.stopped"
        logged = [line["session_id"] for line in daemon.log_lines("session.ready")]

        daemon.log.unlink()  # otherwise each look at the log would read all these lines
        daemon.start()
        assert herd.scalar(opened) == HERD
        events = herd.execute(
            text(
                "SELECT s.due_at, e.session_id FROM event AS e JOIN session AS s ON s.id = e.session_id "
                "WHERE e.type = 'session.ready' ORDER BY e.seq"
            )
        ).all()
    assert len(events) == len({session_id for _, session_id in events}) == HERD
    assert [due for due, _ in events] == sorted(due for due, _ in events)
    # After the restart, the daemon logs the events that it had no time to log before the stop.
    eventually(lambda: len(logged) + daemon.log_text.count('"session.ready"') >= HERD, deadline=60)
    assert daemon.terminate() == 0
    logged += [line["session_id"] for line in daemon.log_lines("session.ready")]
    assert logged == [session_id for _, session_id in events], "each event is logged once, because the stop was clean"


MEMORY = 32_000_000
"""Bytes by which the daemon may grow."""


@pytest.fixture
def limit_memory() -> Iterator[Callable[[int], None]]:
    """Return a function that limits a process to `MEMORY` more bytes; beyond it the kernel kills that process only."""
    root = Path("/sys/fs/cgroup")
    names = {"memory.limit_in_bytes": MEMORY, "memory.swappiness": 0}
    if (root / "cgroup.controllers").exists():
        names = {"memory.max": MEMORY, "memory.swap.max": 0}
    else:
        root /= "memory"
    group = root / f"tm-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED WITH LITTLE MEMORY: it needs root and control groups ({error})")
    try:
        for name, value in names.items():
            if not (group / name).exists():
                pytest.skip(f"NOT TESTED WITH LITTLE MEMORY: control groups here have no {name}")
            (group / name).write_text(str(value))

        def put(pid: int) -> None:
            (group / "cgroup.procs").write_text(str(pid))

        yield put
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


@pytest.mark.slow
def test_a_daemon_killed_for_lack_of_memory_has_lost_no_acknowledged_change(
    storage: JSON, start_daemon: StartDaemon, limit_memory: Callable[[int], None]
) -> None:
    daemon = start_daemon(server={"max_body": "64MiB"}, storage=storage)
    limit_memory(pid_of(daemon))
    acknowledged: list[str] = []

    def make() -> int:
        """Create sessions until the daemon is gone; return the number of requests."""
        requests = 0
        with httpx.Client(headers={"Session-id": daemon.token}, timeout=20) as http, suppress(httpx.TransportError):
            while True:
                requests += 1
                answer = http.post(f"{daemon.url}/v3/supportsessions", json={"type": "support", "label": "Kept"})
                if answer.status_code == 200:
                    acknowledged.append(answer.json()["id"])
        return requests

    with ThreadPoolExecutor(3) as pool:
        makers = [pool.submit(make) for _ in range(3)]
        eventually(lambda: len(acknowledged) > 20)
        with suppress(httpx.TransportError):
            daemon.post("/supportsessions", content=b" " * (MEMORY * 2 - 1_000_000))
        assert daemon.process is not None
        assert daemon.process.wait(20) == -signal.SIGKILL
        requests = sum(maker.result() for maker in makers)

    daemon.start()
    with tables_of(daemon) as tables:
        pin_of = {one.id: one.pin for one in tables.execute(text("SELECT id, pin FROM session"))}
        created = tables.scalars(text("SELECT session_id FROM event WHERE type = 'session.created'")).all()
    assert set(acknowledged) <= pin_of.keys()
    assert len(pin_of) <= requests
    assert len(set(pin_of.values())) == len(pin_of)
    assert sorted(created) == sorted(pin_of), "each session has its event"
    assert daemon.session(acknowledged[-1])["status"] == "new"
