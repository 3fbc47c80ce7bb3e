"""Notifications to systemd, and sockets inherited from it, on real sockets."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.activation import activated

from tminus.system import systemd
from tminus.system.systemd import ServiceManager


class Manager:
    """A stand-in for systemd: a socket that receives the notifications."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def received(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture(params=["a path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = f"{tmp_path}/notify"
    made = Manager(path if request.param == "a path" else f"@tminus-test{os.getpid()}{path[-60:]}")
    yield made
    made.socket.close()


@pytest.fixture
def service(manager: Manager) -> Iterator[ServiceManager]:
    made = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "30000000"})
    yield made
    made.close()


def test_each_state_is_sent_in_systemds_protocol(manager: Manager, service: ServiceManager) -> None:
    assert service.is_present
    service.ready("all is well")
    assert manager.received() == ["READY=1", "STATUS=all is well"]
    before = time.monotonic()
    service.reloading()
    reloading, since = manager.received()
    assert reloading == "RELOADING=1"
    assert before * 1e6 <= int(since.removeprefix("MONOTONIC_USEC=")) + 1 <= time.monotonic() * 1e6 + 1
    service.reloaded()
    assert manager.received() == ["READY=1"]
    service.alive()
    assert manager.received() == ["WATCHDOG=1"]
    service.stopping()
    assert manager.received()[0] == "STOPPING=1"


def test_a_status_is_one_line_and_sent_only_when_it_changes(manager: Manager, service: ServiceManager) -> None:
    service.status("3 scheduled")
    service.status("3 scheduled")
    service.status("a failure\nMAINPID=1")
    assert manager.received() == ["STATUS=3 scheduled"]
    assert manager.received() == ["STATUS=a failure MAINPID=1"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_systemd_nothing_is_sent(address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"} if address else {})
    assert not service.is_present
    assert not service.has_watchdog
    service.ready("all is well")
    service.close()


def test_a_missing_or_hanging_service_manager_blocks_nobody(
    manager: Manager, service: ServiceManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "SEND_TIMEOUT", 0.02)
    quick = ServiceManager({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"})
    cpu = time.process_time()
    for _ in range(40):
        quick.alive()
    assert time.process_time() - cpu < 0.3, "it waits, and does not spin"
    manager.socket.close()
    quick.alive()
    quick.close()


@pytest.mark.parametrize(
    ("environ", "watched"),
    [
        ({"WATCHDOG_USEC": "3000000"}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
def test_there_is_a_watchdog_only_if_it_is_for_this_process(environ: dict[str, str], watched: bool) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": "@nobody", **environ})
    assert service.has_watchdog is watched
    service.close()


PRINT_SOCKETS = """
import os
from tminus.domain.errors import CannotListen
from tminus.system.systemd import inherited_sockets
try:
    print(*(one.getsockname() for one in inherited_sockets(os.environ)), sep="|", end="")
except CannotListen as error:
    print(error.description, end="")
"""


def inherited(*sockets: socket.socket, **env: str) -> str:
    """Return the output of a process that inherits these sockets."""
    command, descriptors = activated([sys.executable, "-c", PRINT_SOCKETS], sockets, **env)
    done = subprocess.run(command, pass_fds=descriptors, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_sockets_come_in_the_order_of_the_unit(tmp_path: Path) -> None:
    path = str(tmp_path / "local")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.create_server(path, family=socket.AF_UNIX) as local:
        assert inherited(tcp, local) == f"{tcp.getsockname()}|{path}"
        assert inherited(tcp, local, LISTEN_PID="1") == "", "the sockets are for another process"


def test_a_socket_that_cannot_be_served_is_refused_by_name() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert inherited(datagrams) == "unit.socket: is not a ListenStream= socket with Accept=no"
    with socket.socket() as unconnected:
        assert inherited(unconnected) == "unit.socket: is not a ListenStream= socket with Accept=no"
    with socket.create_server(f"\0tminus-{os.getpid()}", family=socket.AF_UNIX) as abstract:
        assert "any user could connect" in inherited(abstract)
