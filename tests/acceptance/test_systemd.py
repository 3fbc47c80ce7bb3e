"""The units under a real systemd: start, status, journal, reload, restart, watchdog, stop."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

import tminus
from tests.acceptance.daemons import agents_toml, token_of
from tests.support.databases import PostgresServer
from tests.support.pages import ROOT, blocks
from tests.support.systemd_box import Box, booted
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

UNITS = ("tminus.service", "tminus.socket", "tminus-backup.service", "tminus-backup.timer")

HANGS = "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=500ms\nEnvironment=PYTHONPATH=/opt/tminus/fault\n"
"""The daemon may be made to hang, with shorter time-outs. Everything else is as in a real installation."""

COMMAND = """#!/opt/tminus/bin/python
import sys
sys.path.insert(0, "/opt/tminus/source")
from tminus.cli import main
main()
"""

CLOCK_STOPS = """
import os, time
from apscheduler.schedulers.base import BaseScheduler

def fires_nothing(scheduler, process=BaseScheduler._process_jobs):
    while os.path.exists("/etc/tminus/clock-stands"):
        time.sleep(0.1)
    return process(scheduler)

BaseScheduler._process_jobs = fires_nothing
"""
"""Python runs this before the daemon. The scheduler's thread, and no other, hangs as long as the file exists."""

CLIENT = """
import http.client, json, select, sys
asked, wrong = 0, []
while not select.select([sys.stdin], [], [], 0)[0]:
    asked += 1
    if asked == 20:
        print("asking", flush=True)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", 8710, timeout=20)
        connection.request("GET", "/v3/me", headers={"Session-id": sys.argv[1]})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        if answer.status != 200:
            wrong.append(answer.status)
    except OSError as error:
        wrong.append(repr(error))
    except http.client.HTTPException as error:
        wrong.append(repr(error))
print(json.dumps({"asked": asked, "wrong": wrong}))
"""
"""Sends requests, each on a new connection, until there is standard input. Then prints their number and the errors."""

ME = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", 8710, timeout=20)
connection.request("GET", "/v3/me", headers={"Session-id": sys.argv[1]})
print(connection.getresponse().read().decode())
"""
"""Prints what the API returns about the caller, with the name of the organization."""


def _files() -> dict[str, str]:
    """Return the files that an administrator installs according to docs/install.md."""
    units = {f"/etc/systemd/system/{name}": (ROOT / "systemd" / name).read_text() for name in UNITS}
    return {
        **units,
        "/etc/sysusers.d/tminus.conf": (ROOT / "systemd" / "tminus.sysusers").read_text(),
        "/etc/tminus/tminus.toml": f'[organization]\nname = "Acme"\n{agents_toml()}',
        "/opt/tminus/fault/sitecustomize.py": CLOCK_STOPS,
        "/opt/tminus/pyvenv.cfg": "home = /usr/bin\n",
        "/opt/tminus/bin/tminus": COMMAND,
    }


@pytest.fixture(scope="module")
def installed() -> Iterator[Box]:
    """A booted systemd with tminus installed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shown = {
        Path(sysconfig.get_path("purelib")): f"/opt/tminus/lib/{version}/site-packages",
        Path(tminus.__file__).parents[1]: "/opt/tminus/source",
    }
    with booted(_files(), shown) as box:
        box.do("ln", "-sf", "/usr/bin/python3", "/opt/tminus/bin/python")
        box.do("mkdir", "/etc/tminus/conf.d")
        box.do("ln", "-sf", "/opt/tminus/bin/tminus", "/usr/local/bin/tminus")
        box.do("systemd-sysusers")
        yield box


@pytest.fixture
def box(installed: Box) -> Box:
    """A box in which tminus runs, even if the previous test stopped it."""
    installed.do("systemctl", "enable", "--now", "tminus.socket", "tminus.service")
    return installed


def as_member(*arguments: str, groups: str = "tminus") -> tuple[str, ...]:
    """Return a command line that runs the command as a user in these groups, who is not root."""
    return ("setpriv", "--reuid=nobody", "--regid=nogroup", f"--groups={groups}", "/opt/tminus/bin/tminus", *arguments)


def schedule(box: Box, label: str, within: str = "10m1s") -> str:
    made = json.loads(box.do(*as_member("schedule", "--type", "live", "--label", label, "--in", within, "--json")))
    return str(made["id"])


def test_systemd_analyze_has_no_complaint_about_the_units(box: Box) -> None:
    done = box.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{name}" for name in UNITS))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize(
    ("unit", "exposure"),
    [
        ("tminus.service", 11),
        ("tminus-backup.service", 20),  # it starts as root, and changes to the daemon's user
    ],
)
def test_the_exposure_of_the_service_is_as_low_as_its_function_allows(box: Box, unit: str, exposure: int) -> None:
    path = f"/etc/systemd/system/{unit}"
    done = box.run("systemd-analyze", "security", "--offline=true", f"--threshold={exposure}", path)
    assert done.returncode == 0, done.stdout


def test_a_daemon_that_a_reload_ends_before_python_has_begun_is_started_again(box: Box) -> None:
    fault = "/run/systemd/system/tminus.service.d/ended.conf"
    box.do("mkdir", "-p", "/run/systemd/system/tminus.service.d")
    # Only the first process ends so: the next one finds the file, and runs the daemon.
    once = "cd /var/lib/tminus; test -e once || { touch once; kill -HUP $$$$; }; exec /opt/tminus/bin/tminus run"
    start = f'[Service]\nExecStart=\nExecStart=/bin/sh -c "{once}"'
    box.do("bash", "-c", f'echo "$1" > {fault}', "bash", start)
    box.do("systemctl", "daemon-reload")
    try:
        box.run("systemctl", "restart", "tminus.service")
        eventually(lambda: box.show("tminus.service", "ActiveState") == "active")
        assert box.show("tminus.service", "NRestarts") == "1"
    finally:
        box.do("rm", fault)
        box.do("systemctl", "daemon-reload")


def test_no_core_dump_of_a_process_that_holds_tokens_is_written(box: Box) -> None:
    for unit in ("tminus.service", "tminus-backup.service"):
        assert (box.show(unit, "LimitCORE"), box.show(unit, "LimitCORESoft")) == ("0", "0")
    pid = box.show("tminus.service", "MainPID")
    assert "Max core file size        0                    0" in box.do("cat", f"/proc/{pid}/limits")


def test_the_service_is_ready_after_the_first_sweep_and_its_status_has_the_next_deadline(box: Box) -> None:
    assert box.show("tminus.service", "ActiveState") == "active"
    ready = eventually(lambda: box.journal("EVENT=daemon.ready"))[-1]
    started = box.journal("MESSAGE_ID=39f53479d3a045ac8e11786248231fbf", "UNIT=tminus.service")[-1]
    # The time in the line counts, because the thread that writes the log may send it a little later.
    assert datetime.fromisoformat(ready["TS"]).timestamp() * 1e6 <= int(started["__REALTIME_TIMESTAMP"])
    assert json.loads(ready["INHERITED"]) == ["listen", "socket"]
    status = box.show("tminus.service", "StatusText")
    assert re.fullmatch(r"\d+ scheduled, \d+ new, \d+ active; next deadline .+", status)
    schedule(box, "To come")
    eventually(lambda: box.show("tminus.service", "StatusText").endswith("Z"))


def test_only_commands_of_root_and_of_the_group_find_the_service(box: Box) -> None:
    assert json.loads(box.do("/opt/tminus/bin/tminus", "list", "--json"))
    assert json.loads(box.do(*as_member("list", "--json")))
    refused = box.run(*as_member("list", groups="nogroup"))
    assert refused.returncode == 5
    assert "not permitted to use it" in refused.stderr


def test_the_journal_has_all_events_of_a_session(box: Box) -> None:
    session, other = schedule(box, "Told"), schedule(box, "Another")
    eventually(lambda: box.journal(f"SESSION_ID={session}", "EVENT=session.ready"))
    box.do(*as_member("close", session))
    eventually(lambda: box.journal(f"SESSION_ID={session}", "EVENT=session.closed"))
    lines = box.journal(f"SESSION_ID={session}")
    assert [line["EVENT"] for line in lines] == ["session.scheduled", "session.ready", "session.closed"]
    assert [(line.get("PREVIOUS_STATUS"), line["STATUS"], line["ACTOR"]) for line in lines] == [
        (None, "scheduled", "local"),
        ("scheduled", "new", "clock"),
        ("new", "closed", "local"),
    ]
    for line in lines:
        assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"], line["_TRANSPORT"]) == ("6", "tminus", "journal")
        assert line["_SYSTEMD_UNIT"] == "tminus.service"
        assert line["MESSAGE"].startswith(f"Session {session} “Told")
    assert int(lines[1]["LAG_MS"]) >= 0
    assert other not in json.dumps(lines)


def test_warnings_have_their_priority_in_the_journal(box: Box) -> None:
    box.do("/usr/bin/python3", "-c", CLIENT.replace("while not select", "for _ in [1]:  #"), "wrong-token")
    warnings = ("--unit=tminus.service", "--priority=warning")
    [warned] = eventually(lambda: box.journal(*warnings, "EVENT=auth.failed"))
    assert (warned["PRIORITY"], warned["REMOTE_IP"]) == ("4", "127.0.0.1")
    assert not box.journal(*warnings, "EVENT=daemon.ready")
    assert "wrong-token" not in json.dumps(box.journal())


def test_a_reload_is_applied_and_reported_when_systemctl_returns(box: Box) -> None:
    box.do("sed", "-i", "s/Acme/Umbrella/", "/etc/tminus/tminus.toml")
    pid = box.show("tminus.service", "MainPID")
    box.do("kill", "-STOP", pid)  # it handles the signal late, as on a busy machine
    with subprocess.Popen(box.command("systemctl", "reload", "tminus.service")) as reload:
        try:
            eventually(lambda: _is_pending(box, pid, signal.SIGHUP))
            eventually(lambda: box.show("tminus.service", "ControlPID") == "0")
            assert box.show("tminus.service", "ActiveState") == "reloading"
            assert reload.poll() is None, "systemctl returned before the daemon had read the configuration"
        finally:
            box.do("kill", "-CONT", pid)
    assert reload.returncode == 0
    assert box.show("tminus.service", "ActiveState") == "active"
    assert "Umbrella" in box.do("/usr/bin/python3", "-c", ME, token_of("admin"))
    [changed] = eventually(lambda: box.journal("EVENT=config.changed", "KEY=organization.name"))
    assert changed["NEW"] == "Umbrella"
    assert not box.journal("EVENT=config.needs_restart"), "sockets from systemd have not changed"
    assert box.show("tminus.service", "MainPID") == pid


def test_a_rejected_reload_ends_too(box: Box) -> None:
    box.do("bash", "-c", "echo 'server.lsten = 5' > /etc/tminus/conf.d/faulty.toml")
    try:
        box.do("systemctl", "reload", "tminus.service")
    finally:
        box.do("rm", "/etc/tminus/conf.d/faulty.toml")
    assert box.show("tminus.service", "ActiveState") == "active"
    assert eventually(lambda: box.journal("EVENT=config.rejected"))


def _is_pending(box: Box, pid: str, number: signal.Signals) -> bool:
    """Return whether the process has received the signal and has not handled it."""
    [mask] = re.findall(r"^ShdPnd:\s*(\w+)$", box.do("cat", f"/proc/{pid}/status"), re.MULTILINE)
    return bool(int(mask, 16) & 1 << number - 1)


def test_the_cause_of_a_failed_start_is_critical_in_the_journal(box: Box) -> None:
    box.do("systemctl", "stop", "tminus.socket", "tminus.service")
    box.do("bash", "-c", "echo 'server.lsten = 5' > /etc/tminus/conf.d/faulty.toml")
    assert box.run("systemctl", "start", "tminus.service").returncode != 0
    box.do("systemctl", "stop", "tminus.service")
    box.do("rm", "/etc/tminus/conf.d/faulty.toml")
    [fault], [failed] = (box.journal(f"EVENT={name}")[-1:] for name in ("config.fault", "daemon.failed"))
    assert (fault["PRIORITY"], failed["PRIORITY"]) == ("3", "2")
    assert fault["MESSAGE"].startswith("/etc/tminus/conf.d/faulty.toml:1: server.lsten is not a key")


def test_no_connection_is_refused_during_a_restart(box: Box) -> None:
    clients = [
        subprocess.Popen(
            box.command("/usr/bin/python3", "-c", CLIENT, token_of("admin")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    pid = box.show("tminus.service", "MainPID")
    box.do("systemctl", "restart", "tminus.service")
    assert box.show("tminus.service", "MainPID") != pid
    for client in clients:
        result = json.loads(client.communicate("stop", timeout=30)[0])
        assert result["wrong"] == []
        assert result["asked"] > 20


def test_a_daemon_whose_scheduler_hangs_is_killed_and_restarted(box: Box) -> None:
    box.do("mkdir", "-p", "/run/systemd/system/tminus.service.d")
    fault = "/run/systemd/system/tminus.service.d/fault.conf"
    box.do("bash", "-c", f"echo '{HANGS}' > {fault}")
    box.do("systemctl", "daemon-reload")
    box.do("systemctl", "restart", "tminus.service")
    pid, before = box.show("tminus.service", "MainPID"), len(box.journal("UNIT=tminus.service"))
    box.do("touch", "/etc/tminus/clock-stands")
    session = schedule(box, "Due meanwhile", "10m1s")  # before the watchdog
    assert session in box.do(*as_member("list")), "everything else works"
    eventually(lambda: box.show("tminus.service", "MainPID") not in (pid, "0"), deadline=30)
    box.do("rm", "/etc/tminus/clock-stands", fault)
    messages = [line["MESSAGE"] for line in box.journal("UNIT=tminus.service")[before:]]
    assert any("Watchdog timeout" in line for line in messages), messages
    eventually(lambda: box.show("tminus.service", "ActiveState") == "active", deadline=30)
    opened = eventually(lambda: box.journal(f"SESSION_ID={session}", "EVENT=session.ready"), deadline=30)
    assert int(opened[0]["LAG_MS"]) > 1000
    box.do("systemctl", "daemon-reload")


def test_a_backup_succeeds_beside_the_running_service(box: Box) -> None:
    session = schedule(box, "Kept")
    pid = box.show("tminus.service", "MainPID")
    started = box.run("systemctl", "start", "tminus-backup.service")
    assert started.returncode == 0, box.run("journalctl", "-u", "tminus-backup.service", "-o", "cat").stdout
    [file] = box.do("find", "/var/backups/tminus/", "-name", "*.db", "-printf", "%p %m %u\n").splitlines()
    path, mode, owner = file.split()
    assert (mode, owner) == ("600", "root")
    assert box.do("stat", "-c", "%U %a", "/var/backups/tminus").split() == ["root", "700"], (
        "the daemon cannot remove it"
    )
    read = f"import sqlite3; print(*(row[0] for row in sqlite3.connect('{path}').execute('SELECT id FROM session')))"
    assert session in box.do("/usr/bin/python3", "-c", read).split()
    assert box.show("tminus.service", "MainPID") == pid


def test_the_commands_of_root_work_on_the_database_of_the_service(box: Box) -> None:
    session = schedule(box, "Here")
    tminus = ("env", "--chdir=/root", "/opt/tminus/bin/tminus")
    for command in (("check",), ("db", "check"), ("db", "upgrade"), ("advance",)):
        box.do(*tminus, *command)
    box.do(*tminus, "db", "backup", "/root/copy.db")
    read = "import sqlite3; print(*sqlite3.connect('/root/copy.db').execute('SELECT id FROM session'))"
    assert session in box.do("/usr/bin/python3", "-c", read)
    refused = box.run(*tminus, "db", "restore", "/root/copy.db")
    assert (refused.returncode, "another tminus is running here" in refused.stderr) == (1, True)
    assert box.run("test", "-e", "/root/var").returncode == 1
    schedule(box, "It works on")


def test_the_documented_lines_for_prometheus_work(box: Box) -> None:
    box.do("systemd-sysusers", "--inline", 'u prometheus - "Prometheus"')
    box.do("mkdir", "-p", "/etc/prometheus")
    box.paste(blocks("docs/monitoring.md", "Prometheus")[0])
    eventually(lambda: box.journal("EVENT=config.changed", "KEY=agents[90]"))
    assert box.do("stat", "-c", "%a %U %G", "/etc/tminus/conf.d/prometheus.toml").split() == ["640", "root", "tminus"]
    assert box.do("stat", "-c", "%a %U", "/etc/prometheus/tminus.token").split() == ["600", "prometheus"]


def test_the_documented_lines_for_backup_and_restore_work(box: Box) -> None:
    kept = schedule(box, "In the backup")
    printed = box.paste(blocks("docs/backup.md", "Backup and restore")[0])
    copy = printed.partition(":")[0]
    lost = schedule(box, "After it")
    drill, restore = blocks("docs/backup.md", "Restore")
    pid = box.show("tminus.service", "MainPID")
    assert "nothing wrong" in box.paste(drill)
    assert box.show("tminus.service", "MainPID") == pid
    box.paste(re.sub(r"/var/backups/\S+", copy, restore))
    assert json.loads(box.do(*as_member("show", kept, "--json")))["label"] == "In the backup"
    assert box.run(*as_member("show", lost)).returncode == 3


@contextmanager
def connected_to(box: Box, socket: Path) -> Iterator[None]:
    """Make a PostgreSQL server of this machine reachable in the box at the address in the documentation."""
    box.do("bash", "-c", "echo 127.0.0.1 db.example.com >> /etc/hosts")
    proxy = ("systemd-socket-activate", "-l", "127.0.0.1:5432", "/lib/systemd/systemd-socket-proxyd", str(socket))
    with subprocess.Popen([*box.command()[:3], "--net", *proxy], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()  # printed when it listens
        try:
            yield
        finally:
            process.terminate()


def refuses(address: str) -> bool:
    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return True
    return False


def test_the_documented_lines_for_the_password_of_postgresql_work(box: Box, pg_server: PostgresServer) -> None:
    [lines] = blocks("docs/install.md", "Secrets")
    with pg_server.database(), pg_server.login("tminus", "the password") as socket, connected_to(box, socket):
        address = f"host={socket.parent} dbname=tminus user=tminus"
        eventually(lambda: refuses(f"{address} password=another"))
        try:
            box.paste(lines)
            session = schedule(box, "In PostgreSQL")
            with psycopg.connect(f"{address} password='the password'") as connection:
                assert connection.execute("SELECT id FROM session").fetchall() == [(session,)]
            unset = box.run("tminus", "check")
            assert (unset.returncode, "$CREDENTIALS_DIRECTORY is not set" in unset.stderr) == (1, True)
            assert "nothing wrong" in box.paste("CREDENTIALS_DIRECTORY=/etc/tminus/secrets tminus check")
        finally:
            box.do("systemctl", "stop", "tminus.socket", "tminus.service")
            box.do("rm", "-f", "/etc/tminus/conf.d/postgresql.toml")


def test_the_service_stops_in_order(box: Box) -> None:
    box.do("systemctl", "stop", "tminus.socket", "tminus.service")
    assert box.show("tminus.service", "Result") == "success"
    assert eventually(lambda: box.journal("EVENT=daemon.stopped"))
    assert box.run("test", "-e", "/run/tminus/tminus.sock").returncode == 1
