"""SIGTERM finishes running requests and loses nothing. SIGHUP applies the whole new configuration or nothing."""

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, agents_toml
from tests.acceptance.test_log import metric
from tests.acceptance.times import from_now
from tests.support.oidc import use_issuer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def half_a_request(daemon: Daemon) -> tuple[socket.socket, bytes]:
    """Return a connection on which the daemon has read the head of a request, and the missing half of its body."""
    body = json.dumps({"type": "live", "label": "Drained"}).encode()
    head = (
        f"POST /v3/supportsessions HTTP/1.1\r\nHost: x\r\nSession-id: {daemon.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    host = urlsplit(daemon.url)
    connection = socket.create_connection((host.hostname, host.port), timeout=10)
    connection.sendall(head.encode())
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n", "the daemon waits for the body"
    connection.sendall(body[:10])
    return connection, body[10:]


def answer_on(connection: socket.socket) -> tuple[int, dict[str, object]]:
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        part = connection.recv(65536)
        assert part, received
        received += part
    return int(received.split()[1]), json.loads(received.partition(b"\r\n\r\n")[2])


def test_a_running_request_gets_its_response_before_the_daemon_stops(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    kept = [daemon.make(startTime=from_now(days=1)) for _ in range(3)]
    connection, rest = half_a_request(daemon)
    with connection:
        begun = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.logged("daemon.draining")["signal"] == "SIGTERM"
        connection.sendall(rest)
        code, session = answer_on(connection)
    assert code == 200
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0
    assert time.monotonic() - begun < 10
    assert daemon.log_lines()[-1]["event"] == "daemon.stopped"
    assert not daemon.socket.exists()
    with pytest.raises(httpx.TransportError):
        daemon.get("/me")

    daemon.start()
    assert daemon.session(str(session["id"]))["label"] == "Drained"
    for one in kept:
        assert daemon.session(one["id"]) == one
    assert daemon.log_lines("daemon.ready")[-1]["sessions"]["scheduled"] == 3


def test_new_requests_are_refused_while_the_daemon_drains(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    connection, _rest = half_a_request(daemon)
    with connection:
        daemon.signal(signal.SIGTERM)
        daemon.logged("daemon.draining")
        # For a moment the daemon still listens and refuses requests; then it closes the socket.
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{daemon.url}/v3/me", headers={"Session-id": daemon.token}, timeout=2)
            assert (answer.status_code, answer.json()["refcode"]) == (503, 108503)
            assert int(answer.headers["Retry-After"]) > 0
        assert daemon.process is not None
        assert daemon.process.poll() is None
        daemon.signal(signal.SIGTERM)  # a second signal
        assert daemon.process.wait(5) == 0
    assert daemon.log_lines()[-1]["event"] == "daemon.stopped"


def test_an_endless_request_delays_a_stop_by_seconds_only(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    connection, _rest = half_a_request(daemon)
    with connection:
        daemon.signal(signal.SIGTERM)
        assert daemon.process is not None
        assert daemon.process.wait(30) == 0, "systemd kills a daemon that takes longer (TimeoutStopSec=30)"
    assert daemon.log_lines()[-1]["event"] == "daemon.stopped"


def test_ctrl_c_stops_the_daemon(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.signal(signal.SIGINT)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0
    assert daemon.log_lines("daemon.draining")[0]["signal"] == "SIGINT"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_during_the_reading_of_the_configuration_ends_the_daemon(
    make_daemon: StartDaemon, number: signal.Signals
) -> None:
    daemon = make_daemon()
    ours, theirs = os.openpty()
    daemon.config.unlink()
    daemon.config.symlink_to(os.ttyname(theirs))  # a terminal at which nobody writes, so the daemon waits
    daemon.spawn()
    assert daemon.process is not None
    opened = Path(f"/proc/{daemon.process.pid}/fd")

    def is_read() -> bool:
        with suppress(FileNotFoundError):  # another file was closed meanwhile
            return str(daemon.config.readlink()) in {str(file.readlink()) for file in opened.iterdir()}
        return False

    eventually(is_read)
    daemon.signal(number)
    assert daemon.process.wait(60) == 0
    os.close(theirs)
    os.close(ours)
    assert [line["event"] for line in daemon.log_lines()] == ["daemon.stopped"]
    assert daemon.errors.read_text() == ""


def survives_sighup(daemon: Daemon) -> bool:
    """Return whether the process blocks or handles SIGHUP, which would end it otherwise."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigBlk", "SigCgt")))
    return bool((int(masks["SigBlk"], 16) | int(masks["SigCgt"], 16)) & 1 << signal.SIGHUP - 1)


def test_a_reload_signal_during_the_start_is_handled_after_it(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    assert daemon.terminate() == 0
    daemon.fresh = True  # a new process, as a service manager starts it
    daemon.spawn()
    eventually(lambda: survives_sighup(daemon))
    for _ in range(5):
        daemon.signal(signal.SIGHUP)
    assert daemon.logged("config.reloaded")["changes"] == 0
    assert len(daemon.log_lines("daemon.ready")) == 2
    assert daemon.terminate() == 0
    assert len(daemon.log_lines("config.reloaded")) == 1, "five pending signals cause one reload"


def test_reload_signals_in_quick_succession_cause_few_reloads_and_the_last_configuration_is_in_force(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    for minutes in range(1, 201):
        daemon.configure(lifecycle={"new_timeout": f"{minutes}m"})
        daemon.signal(signal.SIGHUP)
    daemon.logged("config.changed", key="lifecycle.new_timeout", new="3h20m")
    assert daemon.terminate() == 0
    assert len(daemon.log_lines("config.reloaded")) < 200, "signals that wait cause one reload"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_during_imports_ends_the_daemon_cleanly(make_daemon: StartDaemon, number: signal.Signals) -> None:
    daemon = make_daemon()
    daemon.fresh = True
    daemon.spawn()
    eventually(lambda: survives_sighup(daemon))
    daemon.signal(number)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0  # a busy machine takes long to load it
    assert [line["event"] for line in daemon.log_lines()] == ["daemon.stopped"]
    assert daemon.errors.read_text() == ""


def test_a_stop_signal_during_the_wait_for_the_database_ends_the_daemon(make_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        daemon = make_daemon(storage={"url": f"postgresql+psycopg://tminus@127.0.0.1:{port}/tminus"})
        daemon.spawn()
        connection, _ = silent.accept()
        with connection:
            daemon.signal(signal.SIGTERM)
            assert daemon.process is not None
            assert daemon.process.wait(60) == 0
    assert [line["event"] for line in daemon.log_lines()] == ["daemon.starting", "daemon.stopped"]
    assert not daemon.socket.exists()
    assert daemon.errors.read_text() == ""


SIGNALS_ITSELF = """
import os, signal
from tminus.cli import main
from tminus.service import daemon

make = daemon.make_application

def told(services):
    os.kill(os.getpid(), signal.SIGTERM)
    return make(services)

daemon.make_application = told
main()
"""


def test_a_stop_signal_before_the_server_has_started_ends_the_daemon(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.spawn_patched(SIGNALS_ITSELF)
    assert daemon.process is not None
    assert daemon.process.wait(60) == 0
    assert daemon.log_lines()[-1]["event"] == "daemon.stopped"
    assert daemon.errors.read_text() == ""


def test_a_reload_applies_the_whole_file_or_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(server={"cors_origins": []})
    session = daemon.make(startTime=from_now(minutes=12))
    begun = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens["anna"]}, by=None).json()
    assert session["status"] == "scheduled"

    # A file with two errors and one valid change: nothing is applied, and the log has the reasons.
    good = daemon.config.read_text()
    faulty = good.replace("[log]", '[lifecycle]\nlead = "soon"\nleed = "20m"\nhorizon = "1d"\n\n[log]')
    daemon.config.write_text(faulty)
    daemon.signal(signal.SIGHUP)
    assert daemon.logged("config.rejected")["faults"] == 2
    lines = faulty.splitlines()
    logged = eventually(lambda: (len(found := daemon.log_lines("config.fault")) == 2 and found) or [])
    faults = {line["key"]: line for line in logged}
    for key, written in (("lifecycle.lead", 'lead = "soon"'), ("lifecycle.leed", 'leed = "20m"')):
        assert faults[key]["where"] == f"{daemon.config}:{lines.index(written) + 1}"
    assert "lifecycle.lead" in faults["lifecycle.leed"]["error"]
    assert daemon.make(startTime=from_now(days=2))["status"] == "scheduled"
    assert daemon.log_lines("config.changed") == []

    # A valid file: each changed key is logged, and stored deadlines change.
    daemon.configure(
        server={"cors_origins": ["https://desk.example.com"], "listen": "127.0.0.1:1"},
        lifecycle={"lead": "15m"},
        limits={"connections": 7},
        organization={"name": "Acme"},
    )
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(agents_toml(), agents_toml().split("[[agents]]\nid = 7", maxsplit=1)[0]))
    daemon.signal(signal.SIGHUP)
    assert daemon.logged("config.reloaded")
    changed = {line["key"]: (line.get("old"), line.get("new")) for line in daemon.log_lines("config.changed")}
    assert changed["lifecycle.lead"] == ("10m", "15m")
    assert changed["organization.name"][1] == "Acme"
    assert "server.cors_origins" in changed
    assert "agents[7]" in changed
    later = {line["key"]: line["new"] for line in daemon.log_lines("config.needs_restart")}
    assert later == {"server.listen": "127.0.0.1:1", "limits.connections": "7"}

    ready = daemon.logged("session.ready", session_id=session["id"])
    assert ready["actor"] == "clock"
    assert daemon.logged("deadlines.moved")["moved"] == 2
    shown = daemon.session(session["id"])
    assert (shown["status"], shown["expiresAt"]) == ("new", session["expiresAt"])

    assert daemon.get("/me", by="anna").status_code == 401, "an agent who was removed from the file has no access"
    assert daemon.get("/me", by=None, headers={"Session-id": begun["session"]["id"]}).status_code == 401
    assert daemon.get("/me").json()["org"]["name"] == "Acme"
    seen = daemon.get("/me", headers={"Origin": "https://desk.example.com"})
    assert seen.headers["access-control-allow-origin"] == "https://desk.example.com"


APPLYING_FAILS = """
import os
from tminus.cli import main
from tminus.logs import output

def fails_once(*given, configure=output.configure):
    if os.path.exists("fails"):
        os.remove("fails")
        raise RuntimeError("as if there were a defect")
    configure(*given)

output.configure = fails_once
main()
"""


def test_what_an_internal_error_keeps_a_reload_from_applying_is_applied_by_the_next_one(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon()
    daemon.spawn_patched(APPLYING_FAILS)
    daemon.url = daemon.logged("daemon.ready")["url"]
    session = daemon.make(startTime=from_now(minutes=12))
    daemon.configure(lifecycle={"lead": "15m"})
    (daemon.home / "fails").touch()
    daemon.signal(signal.SIGHUP)
    assert "as if there were a defect" in daemon.logged("config.failed")["error"]
    assert metric(daemon, "tminus_config_rejected") == 1
    daemon.signal(signal.SIGHUP)
    changed = daemon.logged("config.changed", key="lifecycle.lead")
    assert (changed["old"], changed["new"]) == ("10m", "15m")
    daemon.logged("session.ready", session_id=session["id"])
    assert metric(daemon, "tminus_config_rejected") == 0


LIBRARY_IS_MISSING = """
import sys
from tminus.cli import main

sys.modules["tminus.oidc.issuer"] = None
main()
"""
"""As while pip replaces a library that the daemon has not loaded yet."""


def test_a_reload_that_cannot_load_a_library_changes_nothing(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.spawn_patched(LIBRARY_IS_MISSING)
    daemon.url = daemon.logged("daemon.ready")["url"]
    daemon.configure(lifecycle={"lead": "15m"})
    use_issuer(daemon, "http://127.0.0.1:9")
    daemon.signal(signal.SIGHUP)
    assert "tminus.oidc.issuer" in daemon.logged("config.failed")["error"]
    assert daemon.make(startTime=from_now(minutes=12))["status"] == "scheduled"
    assert daemon.log_lines("config.changed") == []


def test_new_lifecycle_settings_change_stored_deadlines_also_at_a_start(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    session = daemon.make(startTime=from_now(minutes=12))
    daemon.configure(lifecycle={"lead": "15m"})
    daemon.restart()
    assert daemon.session(session["id"])["status"] == "new"
    assert daemon.logged("deadlines.moved")["moved"] == 1
