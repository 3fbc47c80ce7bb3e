"""The daemon as a service, without systemd: its notifications, and the sockets passed to it."""

import json
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.waiting import eventually


class Manager:
    """A stand-in for systemd, which stores notifications and has listening sockets."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.notifications: list[str] = []
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.local_path = folder / "given.sock"
        self.local = socket.create_server(str(self.local_path), family=socket.AF_UNIX)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while (datagram := self._socket.recv(4096).decode()) != "end":
            self.notifications += datagram.split("\n")

    def wait_for(self, what: str, times: int = 1) -> None:
        """Wait until a notification has arrived a number of times."""
        eventually(lambda: sum(one.startswith(what) for one in self.notifications) >= times)

    def close(self) -> None:
        self._socket.sendto(b"end", self.address)
        self._thread.join()
        for one in (self._socket, self.tcp, self.local):
            one.close()


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    made = Manager(tmp_path_factory.mktemp("m"))
    yield made
    made.close()


@pytest.fixture
def service(manager: Manager, make_daemon: StartDaemon) -> Daemon:
    """A daemon that gets both sockets at its start; it is not started yet."""
    made = make_daemon(log={"heartbeat": "0"})
    made.passed = (manager.local, manager.tcp)
    return made


@pytest.mark.slow
def test_every_state_of_the_daemon_is_sent_to_the_service_manager(manager: Manager, service: Daemon) -> None:
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"}
    service.start(**environ)
    port = manager.tcp.getsockname()[1]
    ready = service.logged("daemon.ready")
    assert (ready["url"], ready["socket"]) == (f"http://127.0.0.1:{port}", str(manager.local_path))
    assert ready["inherited"] == ["listen", "socket"]
    assert not service.socket.exists(), "the daemon does not open the configured socket as well"
    manager.wait_for("READY=1")
    states = [one for one in manager.notifications if not one.startswith(("WATCHDOG", "EXTEND"))]
    assert states == [
        "STATUS=opening the database",
        "STATUS=executing what fell due while no daemon ran",
        "READY=1",
        "STATUS=0 scheduled, 0 new, 0 active; next deadline none",
    ]
    before_ready = manager.notifications[: manager.notifications.index("READY=1")]
    assert "WATCHDOG=1" in before_ready, "the first sweep was done before"

    # The daemon serves both sockets; callers on the local one have all rights.
    assert service.make()["status"] == "new"
    listed = service.command("--socket", str(manager.local_path), "list", "--json")
    assert len(json.loads(listed.stdout)["rows"]) == 1
    manager.wait_for("STATUS=0 scheduled, 1 new, 0 active; next deadline 2")

    # The beginning and the end of each reload are sent, even if it is refused. Inherited addresses need no restart.
    service.configure(organization={"name": "Acme"})
    service.signal(signal.SIGHUP)
    service.logged("config.reloaded")
    manager.wait_for("READY=1", 2)
    assert service.log_lines("config.needs_restart") == []
    service.config.write_text("faulty")
    service.signal(signal.SIGHUP)
    service.logged("config.rejected")
    manager.wait_for("READY=1", 3)
    order = [one.split("=")[0] for one in manager.notifications if one.startswith(("READY", "RELOADING"))]
    assert order == ["READY", "RELOADING", "READY", "RELOADING", "READY"]

    # The watchdog is still reset while the database cannot be written; /readyz reports it.
    assert service.process is not None
    limited = service.process.pid, resource.RLIMIT_FSIZE
    resource.prlimit(*limited, (0, resource.RLIM_INFINITY))
    assert service.post("/supportsessions", {"type": "live", "label": "Not now"}).status_code == 503
    manager.wait_for("STATUS=not ready: the database cannot be written")
    manager.wait_for("WATCHDOG=1", manager.notifications.count("WATCHDOG=1") + 1)
    resource.prlimit(*limited, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    manager.wait_for("STATUS=0 scheduled, 1 new", 2)

    # While the daemon is stopped, new connections wait for the next daemon, and the socket's file stays.
    service.configure()
    assert service.terminate() == 0
    assert "STOPPING=1" in manager.notifications
    answers: list[int] = []
    waiting = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{service.url}/healthz", timeout=20).status_code)
    )
    waiting.start()
    service.start(**environ)
    waiting.join()
    assert answers == [200]
    assert service.command("--socket", str(manager.local_path), "list").returncode == 0
    assert service.terminate() == 0
    assert manager.local_path.exists()


def test_problems_of_the_configuration_are_in_the_log_of_a_service(manager: Manager, service: Daemon) -> None:
    service.config.write_text('[server]\nlsten = "127.0.0.1:0"\nsocket = 5\n')
    service.spawn(NOTIFY_SOCKET=manager.address)
    assert service.process is not None
    assert service.process.wait(30) == 1
    assert service.errors.read_text() == ""
    *faults, failed = service.log_lines()
    assert [(line["event"], line["level"], line["where"], line["key"]) for line in faults] == [
        ("config.fault", "error", f"{service.config}:2", "server.lsten"),
        ("config.fault", "error", f"{service.config}:3", "server.socket"),
    ]
    assert (failed["event"], failed["level"]) == ("daemon.failed", "critical")
    assert failed["error"] == "the configuration has 2 errors"


@pytest.mark.slow
def test_an_endless_transaction_is_abandoned_and_the_watchdog_is_not_reset_before(
    manager: Manager, make_daemon: StartDaemon, pg_server: PostgresServer
) -> None:
    """A client holds the lock that every transaction takes first. The server answers other queries."""
    with pg_server.database(empty=True) as database:
        service = make_daemon(storage={"url": database.configured}, lifecycle={"lead": "1s"})
        service.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="30000000")
        due = service.make(startTime=from_now(seconds=3))
        url = make_url(database.url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_advisory_lock(8457291)")
            eventually(lambda: from_now(seconds=1) > due["startTime"])
            before = manager.notifications.count("WATCHDOG=1")
            eventually(lambda: any(one.startswith("the database does not answer") for one in _reasons(service)))
            assert httpx.get(f"{service.url}/healthz").status_code == 200, "the process itself is healthy"
            assert service.get(f"/supportsession/{due['id']}").status_code == 200, "reads still work"
            refused = service.post("/supportsessions", {"type": "live", "label": "Not now"})
            assert (refused.status_code, refused.json()["refcode"]) == (503, 107503)
            eventually(lambda: service.log_lines("storage.unavailable"), deadline=30)
            resets = manager.notifications.count("WATCHDOG=1") - before
            assert resets <= 3, "a healthy daemon would have reset it each second for ten seconds"
            other.execute("SELECT pg_advisory_unlock(8457291)")
        eventually(lambda: service.session(due["id"])["status"] == "new", deadline=30)
        eventually(lambda: _reasons(service) == [])
        manager.wait_for("WATCHDOG=1", manager.notifications.count("WATCHDOG=1") + 1)
        assert service.terminate() == 0


def _reasons(service: Daemon) -> list[str]:
    reasons: list[str] = httpx.get(f"{service.url}/readyz").json()["reasons"]
    return reasons
