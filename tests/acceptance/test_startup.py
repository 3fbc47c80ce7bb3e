"""A daemon that cannot start logs the cause in one line, and exits with code 1."""

import os
import re
import socket
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, environment
from tests.acceptance.times import parsed
from tests.support.databases import PostgresServer
from tests.support.processes import TMINUS
from tests.support.waiting import eventually


def failed(daemon: Daemon, **env: str) -> str:
    """Return the only log line of a start that failed."""
    daemon.spawn(**env)
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    lines = daemon.log_lines()
    assert [line["event"] for line in lines[-2:]] == ["daemon.starting", "daemon.failed"]
    assert lines[-1]["level"] == "critical"
    error: str = lines[-1]["error"]
    everything = daemon.log_text + daemon.errors.read_text()
    assert "Traceback" not in everything
    assert "\n" not in error
    assert daemon.errors.read_text() == ""
    return error


def test_a_state_directory_below_a_file(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    below = daemon.config / "state"
    error = failed(daemon, STATE_DIRECTORY=str(below))
    assert error == f"{below}: cannot be used as the state directory (Not a directory)"


def test_a_state_directory_that_cannot_be_written(make_daemon: StartDaemon) -> None:
    assert "/proc/tminus: cannot be used as the state directory" in failed(
        make_daemon(), STATE_DIRECTORY="/proc/tminus"
    )


@pytest.mark.parametrize("content", [b"This is no database. " * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_file_that_is_not_a_database(make_daemon: StartDaemon, content: bytes) -> None:
    daemon = make_daemon()
    daemon.state.mkdir()
    (daemon.state / "tminus.db").write_bytes(content)
    error = failed(daemon)
    assert str(daemon.state / "tminus.db") in error
    assert "damaged or not a database" in error
    assert "restore a backup" in error
    assert (daemon.state / "tminus.db").read_bytes() == content, "the daemon does not change the file"


def test_a_database_of_a_newer_version(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    assert daemon.command("db", "upgrade").returncode == 0
    with sqlite3.connect(daemon.state / "tminus.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    error = failed(daemon)
    assert "its schema is 9999, of a newer tminus" in error
    done = daemon.command("db", "upgrade")
    assert (done.returncode, done.stderr) == (1, f"tminus: {error}\n")


def test_a_database_server_that_is_not_running(make_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    error = failed(make_daemon(storage={"url": f"postgresql+psycopg://tminus@127.0.0.1:{port}/tminus"}))
    assert "postgresql+psycopg://tminus@127.0.0.1" in error
    assert "refused" in error


def test_a_port_in_use(make_daemon: StartDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = failed(make_daemon(server={"listen": address}))
    assert error == f"{address}: cannot be listened on (Address already in use)"


def test_an_address_of_another_machine(make_daemon: StartDaemon) -> None:
    assert "192.0.2.1:0: cannot be listened on" in failed(make_daemon(server={"listen": "192.0.2.1:0"}))


def test_a_local_socket_whose_path_is_too_long(make_daemon: StartDaemon) -> None:
    error = failed(make_daemon(server={"socket": "x" * 120}))
    assert "cannot be listened on" in error


def test_a_second_daemon_in_the_same_state_directory(daemon: Daemon, make_daemon: StartDaemon) -> None:
    second = make_daemon()
    error = failed(second, STATE_DIRECTORY=str(daemon.state))
    assert daemon.process is not None
    assert error == f"{daemon.state}: another tminus is running here (process {daemon.process.pid}): stop it first"
    assert daemon.get("/me").status_code == 200, "the first daemon still works"
    assert daemon.command("list").returncode == 0, "its local socket still works"


def test_a_second_daemon_or_a_restore_on_the_same_database_from_another_state_directory(
    start_daemon: StartDaemon, make_daemon: StartDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "elsewhere.db"
    first = start_daemon(storage={"url": f"sqlite:///{file}"})
    session = first.make()
    assert first.process is not None
    folder = tmp_path / "folder"
    folder.symlink_to(tmp_path)
    for path in (file, folder / file.name):
        second = make_daemon(storage={"url": f"sqlite:///{path}"})
        refusal = f"{path}: another tminus is running here (process {first.process.pid}): stop it first"
        assert failed(second) == refusal
        copy = str(second.home / "copy.db")
        assert second.command("db", "backup", copy).returncode == 0
        done = second.command("db", "restore", copy)
        assert (done.returncode, done.stderr) == (1, f"tminus: {refusal}\n")
        assert [second.command(*command.split()).returncode for command in ("advance", "db upgrade")] == [0, 0]
    assert first.session(session["id"]) == session
    assert list(tmp_path.glob("elsewhere.db.*")) == [], "nothing was moved aside"


def test_a_database_that_is_a_symbolic_link_is_refused(make_daemon: StartDaemon, tmp_path: Path) -> None:
    """SQLite keeps the -wal file beside the file to which the link leads, so nothing here would look at it."""
    link = tmp_path / "link.db"
    (tmp_path / "real.db").touch()
    link.symlink_to(tmp_path / "real.db")
    daemon = make_daemon(storage={"url": f"sqlite:///{link}"})
    problem = "is a symbolic link: let storage.url name the file itself, or make the link to its directory"
    assert failed(daemon) == f"{link}: {problem}"
    copy = daemon.home / "copy.db"
    for command in (
        "db check",
        "db compact",
        "db upgrade",
        "advance",
        f"db backup {copy}",
        f"db restore {daemon.config}",
    ):
        done = daemon.command(*command.split())
        assert (done.returncode, done.stderr) == (1, f"tminus: {link}: {problem}\n"), command
    assert (tmp_path / "real.db").read_bytes() == b""


@pytest.mark.parametrize("command", ["run", "db upgrade"])
def test_a_new_database_is_readable_by_its_owner_only(make_daemon: StartDaemon, tmp_path: Path, command: str) -> None:
    daemon = make_daemon(storage={"url": f"sqlite:///{tmp_path}/elsewhere.db"})
    if command == "run":
        daemon.start()
        daemon.make()
    else:
        assert daemon.command(*command.split()).returncode == 0
    made = [path for path in tmp_path.glob("elsewhere.db*") if not path.name.endswith("-lock")]
    assert len(made) == (3 if command == "run" else 1)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}


def test_a_path_may_contain_any_characters(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.state = daemon.home / os.fsdecode(b"s?env=prod %41#x\n \xff")
    daemon.socket = daemon.state / "tminus.sock"
    daemon.start()
    made = daemon.make()
    copy = daemon.home / "b?%41#\n.db"
    assert daemon.command("db", "backup", str(copy)).returncode == 0
    assert daemon.terminate() == 0
    assert {one.name for one in daemon.home.iterdir()} == {daemon.state.name, copy.name, "t.toml", "log", "err"}
    assert {one.stat().st_mode & 0o777 for one in daemon.state.iterdir()} == {0o600}

    for end in (b"c", b"\xff"):  # the second is not UTF-8
        daemon.state = daemon.home / os.fsdecode(b"s?env=test %41#" + end)
        assert daemon.command("db", "upgrade").returncode == 0, "another directory is another database"
        assert daemon.command("db", "restore", str(copy)).returncode == 0
        assert daemon.command("db", "check").stdout.startswith("nothing wrong: 1 sessions")
        assert daemon.command("db", "check", str(copy)).returncode == 0
        assert daemon.command("advance").returncode == 0
        [database] = daemon.state.glob("tminus.db")
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT id FROM session").fetchall() == [(made["id"],)]


def test_a_database_in_a_missing_directory(make_daemon: StartDaemon, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "a.db"
    error = failed(make_daemon(storage={"url": f"sqlite:///{file}"}))
    assert error == f"{file}: cannot be locked (No such file or directory)"


def test_all_problems_of_a_configuration_are_printed_with_file_and_line(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    faulty = '[server]\nlsten = "127.0.0.1:0"\nsocket = 5\n\n[lifecycle]\nlead = "soon"\n\n[log]\nlevel = "inof"\n'
    daemon.config.write_text(faulty)
    beside = daemon.home / "conf.d"
    beside.mkdir()
    (beside / "10-more.toml").write_text('[[agents]]\nid = 0\nname = "A"\nroles = ["king"]\n')
    daemon.spawn(TMINUS_LIMITS__CONECTIONS="5")
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    assert daemon.log_text == ""
    printed = daemon.errors.read_text()
    checked = daemon.command("check", TMINUS_LIMITS__CONECTIONS="5")
    assert (checked.returncode, checked.stderr) == (1, printed)
    where = str(daemon.config)
    wanted = [
        rf"tminus: {where}:2: server\.lsten .*did you mean server\.listen\?",
        rf"tminus: {where}:3: server\.socket must be text.*",
        rf"tminus: {where}:6: lifecycle\.lead must be a duration .*",
        rf'tminus: {where}:9: log\.level .*did you mean "info"\?',
        rf"tminus: {beside}/10-more\.toml:2: agents\[.*\]\.id .*",
        rf"tminus: {beside}/10-more\.toml:4: agents\[.*\]\.roles.* .*",
        r"tminus: environment TMINUS_LIMITS__CONECTIONS: .*did you mean TMINUS_LIMITS__CONNECTIONS\?",
    ]
    lines = printed.splitlines()
    assert len(lines) == len(wanted), printed
    for pattern in wanted:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, printed)


def test_all_unreadable_secrets_are_reported_at_once_with_file_and_line(make_daemon: StartDaemon) -> None:
    desk = {"name": "desk", "url": "http://127.0.0.1:9/", "secret_file": "desk.secret", "ca_file": "desk.pem"}
    url = "postgresql+psycopg://tminus@127.0.0.1:9/tminus"
    daemon = make_daemon(webhooks=[desk], storage={"url": url, "password_file": "password"})
    lines = daemon.config.read_text().splitlines()
    wanted = [
        (lines.index('secret_file = "desk.secret"') + 1, "webhooks[desk].secret_file names a secret"),
        (lines.index('ca_file = "desk.pem"') + 1, "webhooks[desk].ca_file does not name a file of certificates"),
        (lines.index('password_file = "password"') + 1, "storage.password_file names a secret"),
    ]
    checked = daemon.command("check")
    assert checked.returncode == 1
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    output = daemon.log_text + daemon.errors.read_text()
    faults = checked.stderr.splitlines()
    for (line, text), fault in zip(sorted(wanted), faults, strict=True):
        assert fault.startswith(f"tminus: {daemon.config}:{line}: {text}")
        assert f"{daemon.config}:{line}: {text}" in output


def test_a_missing_configuration_file(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.config.unlink()
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    assert daemon.errors.read_text() == f"tminus: --config: there is no file {daemon.config}\n"


def test_the_command_in_the_start_message_works(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.start(PATH=os.defpath)
    environ = environment(TMINUS_CONFIG=str(daemon.config), STATE_DIRECTORY=str(daemon.state))
    hint = daemon.logged("daemon.ready")["hint"]
    assert hint.startswith(f"{TMINUS} schedule ")
    subprocess.run(hint, shell=True, check=True, cwd=daemon.home, env=environ, stdout=subprocess.DEVNULL)
    assert daemon.terminate() == 0
    daemon.start(PATH=f"{Path(TMINUS).parent}:{os.defpath}")
    assert daemon.log_lines("daemon.ready")[-1]["hint"].startswith("tminus schedule ")


def test_files_of_a_killed_daemon_do_not_prevent_a_start(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    session = daemon.make()
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.session(session["id"]) == session
    assert daemon.command("show", session["id"]).returncode == 0


COUNTS_ONCE = """
from tminus.domain.errors import StoreUnavailable
from tminus.storage import Store

def counts(store, asked=[], count=Store.counts):
    asked.append(1)
    if len(asked) > 1:
        raise StoreUnavailable
    return count(store)

Store.counts = counts
from tminus.cli import main
main()
"""


def test_a_database_that_becomes_unreachable_after_the_first_sweep_does_not_end_the_start(
    make_daemon: StartDaemon,
) -> None:
    daemon = make_daemon()
    daemon.spawn_patched(COUNTS_ONCE)
    assert daemon.logged("daemon.ready")["sessions"] == {"scheduled": 0, "new": 0, "active": 0}
    assert daemon.terminate() == 0
    assert daemon.errors.read_text() == ""


SLOW_TO_STOP_LISTENING = """
import asyncio, time
from types import SimpleNamespace
from tminus import cli
from tminus.scheduler.scheduler import Scheduler
from tminus.service import startup

first_tick = Scheduler.first_tick

def slow_tick(self):
    time.sleep(0.5)
    return first_tick(self)

async def late(wait):
    await asyncio.to_thread(wait)
    await asyncio.sleep(0.5)

startup.PATIENCE = 0.0
startup.asyncio = SimpleNamespace(**vars(asyncio) | {"to_thread": late})
Scheduler.first_tick = slow_tick
cli.main()
"""


@pytest.mark.slow
def test_no_request_is_refused_because_of_the_start_after_the_daemon_is_ready(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.spawn_patched(SLOW_TO_STOP_LISTENING)
    daemon.url = daemon.logged("daemon.ready")["url"]
    for _ in range(20):
        assert httpx.get(f"{daemon.url}/v3/me", headers={"Session-id": daemon.token}).status_code == 200
    assert daemon.terminate() == 0


@pytest.mark.slow
def test_a_long_start_is_reported_and_drops_no_connection(make_daemon: StartDaemon, pg_server: PostgresServer) -> None:
    with pg_server.database(empty=True) as database, socket.create_server(("127.0.0.1", 0)) as listening:
        url = database.configured
        daemon = make_daemon(storage={"url": url})
        daemon.passed = [listening]
        daemon.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def readiness() -> httpx.Response:
            return httpx.get(f"{daemon.url}/readyz", timeout=30)  # on a new connection

        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("SELECT pg_advisory_xact_lock(8457290)")  # the lock of a daemon that migrates
            daemon.spawn()
            daemon.logged("storage.waiting")
            answer = readiness()
            assert answer.status_code == 503
            waiting = "waiting for other processes to upgrade the database's schema"
            [reason] = answer.json()["reasons"]
            cause, since = reason.split(", since ")
            assert (answer.json()["ready"], cause) == (False, waiting)
            assert parsed(since) < datetime.now(UTC)
            assert httpx.get(f"{daemon.url}/healthz").json() == {"status": "ok"}
            refused = daemon.post("/supportsessions", {"type": "live", "label": "Too soon"})
            assert (refused.status_code, refused.json()["refcode"]) == (503, 110503)
            assert refused.headers["Retry-After"] == "5"
            assert refused.headers["X-Content-Type-Options"] == "nosniff"
        assert eventually(lambda: readiness().status_code == 200)
        assert daemon.make()["label"] == "A session"
        assert daemon.command("list").returncode == 0
        assert daemon.terminate() == 0


def test_a_stop_signal_during_the_wait_for_another_daemon_ends_the_daemon_at_once(
    make_daemon: StartDaemon, pg_server: PostgresServer
) -> None:
    with pg_server.database(empty=True) as database:
        url = database.configured
        daemon = make_daemon(storage={"url": url})
        with psycopg.connect(url.replace("+psycopg", "")) as other:
            other.execute("SELECT pg_advisory_xact_lock(8457290)")
            daemon.spawn()
            daemon.logged("storage.waiting")
            assert daemon.terminate() == 0
