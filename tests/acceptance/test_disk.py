"""The disk is full, fails, is slow, becomes read-only or loses power: the daemon refuses what it cannot store, loses no
acknowledged change, and resumes by itself.
"""

import errno
import itertools
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psycopg
import pytest
from sqlalchemy import text

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer, postgres_server
from tests.support.disks import LoopDisk, fill, mount, small_disk
from tests.support.tables import multiply, tables_of
from tests.support.waiting import eventually
from tminus.storage.engine import WAL_KEPT

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).with_name("fixtures") / "faildisk.c"

BOUND = 15
"""Seconds in which every request gets a response, whatever the disk does."""


_numbers = itertools.count()


class Callers:
    """Threads that create sessions concurrently until they are stopped."""

    def __init__(self, daemon: Daemon, number: int = 4) -> None:
        self._daemon = daemon
        self._name = f"callers {next(_numbers)}"
        """Unique among all objects of this class, as several use one daemon. `id(self)` is not: Python reuses it."""
        self._stop = threading.Event()
        self.made: list[str] = []
        """Labels of the sessions that were acknowledged."""
        self.refused: list[tuple[int, httpx.Response]] = []
        """The number of the thread and the response, for each refused request."""
        self.trouble: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in range(number)]

    def _run(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            asked += 1
            label = f"{self._name}: {number} {asked}"
            begun = time.monotonic()
            try:
                body = {"type": "live", "label": label, "metaData": {"a": "x" * 500}}
                answer = self._daemon.post("/supportsessions", body)
            except httpx.TransportError:
                return  # the daemon was ended
            if answer.status_code == 200:
                self.made.append(label)
            elif answer.status_code == 503:
                self.refused.append((number, answer))
                self._stop.wait(0.1)
            else:
                self.trouble.append(answer.text)
            if time.monotonic() - begun > BOUND:
                self.trouble.append("a request was not answered in good time")

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        try:
            self.wait_for_more(20)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, number: int) -> None:
        """Wait until a number of further sessions is acknowledged."""
        enough = len(self.made) + number
        eventually(lambda: len(self.made) >= enough, 30)

    def wait_until_refused(self) -> None:
        """Wait until the requests of each thread are refused, and check the errors."""
        known = len(self.refused)
        eventually(lambda: len({number for number, _ in self.refused[known:]}) == len(self._threads), 30)
        for _, answer in self.refused[known:]:
            assert answer.json()["refcode"] == 107503
            assert int(answer.headers["Retry-After"]) >= 1


def labels(daemon: Daemon) -> list[str]:
    """Return the labels of all sessions. A read may be refused while the daemon detects the state of its disk."""
    rows: list[JSON] = []
    refusals: list[str] = []

    def page() -> list[list[JSON]]:
        answer = daemon.get(f"/supportsessions?scope=all&limit=1000&offset={len(rows)}")
        if answer.status_code == 200:
            return [answer.json()["rows"]]
        refusals.append(f"{time.monotonic():.1f} {answer.status_code} {answer.text} {reasons(daemon)}")
        return []

    try:
        while some := eventually(page, 60)[0]:
            rows += some
    except AssertionError as error:
        raise AssertionError(f"{error}: {len(refusals)} refusals, {refusals[:3]} … {refusals[-3:]}") from error
    return [row["label"] for row in rows]


def check_kept(daemon: Daemon, callers: Callers) -> None:
    """Check that every acknowledged session is stored and no session is incomplete."""
    assert callers.trouble == []
    assert set(callers.made) <= check_whole(daemon)


def check_whole(daemon: Daemon) -> set[str]:
    """Check that each session is stored once and with its events, and the file is undamaged; return the labels."""
    stored = labels(daemon)
    assert len(stored) == len(set(stored))
    done = daemon.command("db", "check")
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "nothing wrong"), done.stdout + done.stderr
    return set(stored)


def end(daemon: Daemon) -> None:
    """End the daemon if it runs: a disk with open files cannot be unmounted."""
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.kill()


def reasons(daemon: Daemon) -> str:
    """Return the reasons of `/readyz`; empty if the daemon is ready."""
    assert daemon.http.get(f"{daemon.url}/healthz").status_code == 200
    return ", ".join(daemon.http.get(f"{daemon.url}/readyz").json()["reasons"])


def cannot_write(daemon: Daemon) -> str | None:
    """Return the reason in `/readyz` why the database cannot be written; None if it can."""
    found = re.search("the database cannot be written, since [^ ]+Z: (.*)", reasons(daemon))
    return found and found[1]


class Failing:
    """A daemon on a small disk whose system calls fail or are slow when a test asks for it."""

    def __init__(self, daemon: Daemon, library: Path, control: Path) -> None:
        self.daemon = daemon
        self._control = control
        self._env = {
            "LD_PRELOAD": str(library),
            "FAILDISK": str(control),
            "FAILDISK_UNDER": str(daemon.state / "tminus.db"),
        }
        self.clear_faults()

    def start(self) -> None:
        self.daemon.start(**self._env)

    def set_faults(self, *, sync: int = 0, write: int = 0, slow: int = 0) -> None:
        """Set the error numbers of fsync and write (0: none), and the milliseconds that each fsync takes."""
        self._control.write_text(f"{sync} {write} {slow} \n")

    def clear_faults(self) -> None:
        self.set_faults()


@pytest.fixture(scope="module")
def on_small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED: no C compiler, so no disk faults can be caused")
    built = tmp_path_factory.mktemp("faildisk")
    library, control = built / "faildisk.so", built / "fault"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    with ExitStack() as stack:
        daemon = Daemon(lifecycle={"lead": "1s"})
        stack.callback(daemon.remove)
        stack.enter_context(small_disk(daemon.state, "32m"))
        stack.callback(end, daemon)
        yield Failing(daemon, library, control)


@pytest.fixture
def failing(on_small_disk: Failing) -> Iterator[Failing]:
    """A running daemon for all tests of this module; its disk works at first."""
    process = on_small_disk.daemon.process
    if process is None or process.poll() is not None:
        on_small_disk.start()
    yield on_small_disk
    on_small_disk.clear_faults()


def test_on_a_full_disk_writes_are_refused_reads_continue_and_writes_resume_with_space(failing: Failing) -> None:
    daemon = failing.daemon
    ballast = daemon.state / "ballast"
    with Callers(daemon) as callers:
        fill(ballast)
        callers.wait_until_refused()
        assert cannot_write(daemon) == "database or disk is full"
        assert daemon.logged("storage.unavailable")["error"] == "database or disk is full"
        assert labels(daemon)
        ballast.unlink()
        eventually(lambda: not reasons(daemon))
        callers.wait_for_more(20)
    daemon.logged("storage.recovered")
    check_kept(daemon, callers)


def test_on_a_full_disk_of_postgresql_writes_are_refused_and_resume_with_space(
    pg_server: PostgresServer, make_daemon: StartDaemon
) -> None:
    with TemporaryDirectory(prefix="tminus-", dir="/tmp") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # the server runs as another user
        disk = stack.enter_context(small_disk(Path(folder, "disk"), "20m"))
        place = stack.enter_context(pg_server.tablespace(disk))
        database = stack.enter_context(pg_server.database(empty=True, tablespace=place))
        daemon = make_daemon(storage={"url": database.configured})
        admin = stack.enter_context(psycopg.connect(database.url.replace("+psycopg", ""), autocommit=True))
        daemon.start()
        stack.callback(end, daemon)
        ballast = disk / "ballast"
        with Callers(daemon) as callers:
            # A new connection must now write a file of the catalogue first. On a full disk it is refused for that.
            admin.execute("REINDEX TABLE pg_class")
            fill(ballast)
            callers.wait_until_refused()
            eventually(lambda: "No space left on device" in (cannot_write(daemon) or ""))
            assert labels(daemon)
            ballast.unlink()
            eventually(lambda: not reasons(daemon))
            callers.wait_for_more(10)
        assert callers.trouble == []
        stored = labels(daemon)
        assert len(stored) == len(set(stored))
        assert set(callers.made) <= set(stored)


@pytest.mark.parametrize("fault", ["sync", "write", "read-only"])
def test_a_failed_commit_is_never_acknowledged(failing: Failing, fault: str) -> None:
    daemon = failing.daemon
    with Callers(daemon) as callers:
        failing.set_faults(
            sync=errno.EIO if fault == "sync" else 0,
            write={"write": errno.EIO, "read-only": errno.EROFS}.get(fault, 0),
        )
        callers.wait_until_refused()
        known = len(callers.made)
        callers.wait_until_refused()
        assert len(callers.made) == known
        assert cannot_write(daemon) == "disk I/O error"
        assert labels(daemon)
        failing.clear_faults()
        eventually(lambda: not reasons(daemon))
        callers.wait_for_more(20)
    check_kept(daemon, callers)


def test_on_a_slow_disk_sessions_open_and_every_request_gets_a_response(failing: Failing) -> None:
    daemon = failing.daemon
    opens = daemon.make(label="Opens meanwhile", startTime=from_now(seconds=3))["id"]
    with Callers(daemon) as callers:
        failing.set_faults(slow=700)
        made = len(callers.made)
        begun = time.monotonic()
        assert not reasons(daemon)
        assert labels(daemon)
        assert time.monotonic() - begun < BOUND
        eventually(lambda: daemon.session(opens)["status"] == "new")
        assert len(callers.made) > made
        failing.clear_faults()
    assert [event["type"] for event in daemon.events(opens)] == ["session.scheduled", "session.ready"]
    assert callers.refused == []
    check_kept(daemon, callers)


def test_a_daemon_killed_and_started_on_a_failing_disk_has_every_acknowledged_change(failing: Failing) -> None:
    daemon = failing.daemon
    with Callers(daemon) as callers:
        due = daemon.make(label="Opens later", startTime=from_now(seconds=2.5))
        failing.set_faults(sync=errno.EIO)
        callers.wait_until_refused()
        daemon.kill()
    eventually(lambda: from_now(seconds=1) > due["startTime"])  # the first write after the start opens this session
    failing.start()
    assert set(callers.made) <= set(labels(daemon))
    refused = daemon.post("/supportsessions", {"type": "live", "label": "Lost"})
    assert (refused.status_code, refused.json()["refcode"]) == (503, 107503)
    assert cannot_write(daemon) == "disk I/O error"
    failing.clear_faults()
    eventually(lambda: daemon.session(due["id"])["status"] == "new")
    assert [event["type"] for event in daemon.events(due["id"])] == ["session.scheduled", "session.ready"]
    eventually(lambda: not reasons(daemon))
    check_kept(daemon, callers)
    assert daemon.terminate() == 0
    assert not daemon.log_lines("storage.damaged")


def test_no_acknowledged_change_is_lost_in_a_power_cut_or_on_a_disk_that_stops_writing(
    make_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon()
    disk = LoopDisk(tmp_path / "image", daemon.state)
    with ExitStack() as stack:
        stack.callback(disk.unmount)
        stack.callback(end, daemon)
        acknowledged: set[str] = set()
        for cut in (disk.cut_power, disk.fail):
            daemon.start()
            with Callers(daemon) as callers:
                # Only what was acknowledged before the cut: the kernel reports a flush during the cut as done, although
                # it drops the data.
                acknowledged |= set(callers.made)
                cut()
                callers.wait_until_refused()
                assert cannot_write(daemon)
                if cut == disk.fail:
                    assert labels(daemon)
            assert callers.trouble == []
            end(daemon)
            disk.remount()
        daemon.start()
        assert acknowledged <= check_whole(daemon)
        assert daemon.terminate() == 0


def test_no_acknowledged_change_is_lost_in_a_power_cut_or_on_a_failing_disk_of_postgresql(
    make_daemon: StartDaemon, tmp_path: Path
) -> None:
    with TemporaryDirectory(prefix="tminus-", dir="/tmp") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # the server runs as another user
        disk = LoopDisk(tmp_path / "image", Path(folder, "disk"), megabytes=256)
        stack.callback(disk.unmount)
        server = PostgresServer(disk.folder / "data", durable=True)
        stack.callback(server.kill)
        with server.database(empty=True) as database:
            daemon = make_daemon(storage={"url": database.configured})
            daemon.start()
            stack.callback(end, daemon)
            acknowledged: set[str] = set()
            for cut in (disk.cut_power, disk.fail):
                with Callers(daemon) as callers:
                    acknowledged |= set(callers.made)  # only these, as with SQLite
                    with server.cut_off():
                        cut()
                        callers.wait_until_refused()
                        assert cannot_write(daemon)
                    disk.remount()
                    server.start_again()
                    callers.wait_for_more(10)
                    eventually(lambda: not reasons(daemon))
                assert callers.trouble == [], daemon.log_lines("http.failed")
                acknowledged |= set(callers.made[-10:])
                stored = labels(daemon)
                assert acknowledged <= set(stored)
                assert len(stored) == len(set(stored))
            assert daemon.terminate() == 0


@pytest.fixture
def killed(make_daemon: StartDaemon) -> Daemon:
    """A daemon that was killed under load."""
    daemon = make_daemon()
    daemon.start()
    with Callers(daemon):
        daemon.kill()
    return daemon


def error_of_failed_start(daemon: Daemon) -> str:
    """Start a daemon that cannot start; return the error in its last log line."""
    daemon.spawn()
    assert daemon.process is not None
    try:
        code = daemon.process.wait(30)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the daemon has not ended: {daemon.log_text[-2000:]}") from None
    assert code == 1
    [*_, failed] = daemon.log_lines()
    assert failed["event"] == "daemon.failed"
    assert daemon.errors.read_text() == ""
    return str(failed["error"])


def damage(file: Path, at: int, size: int) -> None:
    """Invert every bit of a part of a file."""
    with file.open("r+b") as damaged:
        damaged.seek(at)
        content = damaged.read(size)
        damaged.seek(at)
        damaged.write(bytes(byte ^ 0xFF for byte in content))


def damage_root_page(database: Path, name: str) -> None:
    """Damage the root page of a table or an index."""
    with closing(sqlite3.connect(database, isolation_level=None)) as opened:
        assert opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        (page,) = opened.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        damage(database, (page - 1) * 4096, 4096)
        # After this commit, every other connection reads the damaged page again instead of the copy in its memory.
        opened.execute("UPDATE meta SET value = value")


def test_the_wal_file_of_a_running_daemon_shrinks_after_a_long_reader(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.start()
    wal = daemon.state / "tminus.db-wal"
    sessions = [{"type": "live", "label": "Large", "metaData": {"note": "x" * 16_000}}] * 900
    with closing(sqlite3.connect(daemon.state / "tminus.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM session").fetchone()
        for _ in range(3):
            assert daemon.post("/supportsessions/batch", {"sessions": sessions}).status_code == 200
        assert wal.stat().st_size > 2 * WAL_KEPT
        reader.execute("ROLLBACK")
        eventually(lambda: wal.stat().st_size <= WAL_KEPT)


def test_a_damaged_wal_file_is_reported_by_the_check_and_at_the_start(killed: Daemon) -> None:
    """SQLite itself drops the data after the damage without an error."""
    wal = killed.state / "tminus.db-wal"
    damage(wal, 100, 10)  # in the first frame
    logged = [line["seq"] for line in killed.log_lines() if "seq" in line]

    checked = killed.command("db", "check")
    killed.start()

    assert (checked.returncode, checked.stdout.partition(":")[0]) == (1, "wal")
    [line] = killed.log_lines("storage.damaged")
    assert f"{wal} is damaged after frame " in line["error"]
    assert "`tminus db check`" in line["message"]
    assert "restore a backup" in line["message"]
    [created] = killed.events(killed.make()["id"])
    assert created["seq"] > max(logged), "the number of a dropped event is not used again"


def test_a_damaged_page_is_reported_once_and_undamaged_sessions_stay_available(killed: Daemon) -> None:
    killed.start()
    session = killed.make()["id"]
    already = len(killed.log_lines())
    damage_root_page(killed.state / "tminus.db", "session")

    for answer in (
        killed.get(f"/supportsession/{session}"),
        killed.post("/supportsessions", {"type": "live", "label": "Lost"}),
        killed.delete(f"/supportsession/{session}"),
    ):
        assert (answer.status_code, answer.json()["refcode"]) == (503, 107503)
        assert int(answer.headers["Retry-After"]) >= 1
    assert killed.get("/me").status_code == 200
    assert "the database is damaged: database disk image is malformed" in reasons(killed)
    killed.logged("storage.damaged")
    lines = killed.log_lines()[already:]
    assert [line["error"] for line in lines if line["event"] == "storage.damaged"] == [
        "database disk image is malformed"
    ]
    assert "restore a backup" in next(line["message"] for line in lines if line["event"] == "storage.damaged")
    assert not [line for line in lines if line["event"] in ("http.failed", "library.said")]
    assert killed.terminate() == 0


def test_a_damaged_page_of_postgresql_is_reported_and_undamaged_sessions_stay_available(
    make_daemon: StartDaemon,
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())  # a separate one: this test stops and damages it
        database = stack.enter_context(server.database(empty=True))
        daemon = make_daemon(storage={"url": database.configured}, lifecycle={"lead": "1s"})
        stack.callback(end, daemon)
        daemon.start()
        template = daemon.make(startTime=from_now(days=1))["id"]
        assert daemon.terminate() == 0
        with tables_of(daemon) as tables:
            assert tables.scalar(text("SHOW data_checksums")) == "on"
            # Each page keeps room for a second version of all its rows. Otherwise PostgreSQL may put the new version of
            # a row of another page into the damaged page.
            tables.execute(text("ALTER TABLE session SET (fillfactor = 40, autovacuum_enabled = off)"))
            # PostgreSQL would read all pages of such a small table to count its rows or to find what is due. Requests
            # that need no row of the damaged page would then fail, too.
            tables.execute(text("ALTER ROLE CURRENT_USER SET enable_seqscan = off"))
            multiply(tables, template, 200)
            tables.execute(text("VACUUM ANALYZE"))
            placed = tables.execute(text("SELECT (ctid::text::point)[0]::int, id FROM session")).all()
            file = tables.scalar(text("SELECT pg_relation_filepath('session')"))
        daemon.start()
        # The event log reads the session of each event. It must have read all of them before one becomes unreadable.
        eventually(lambda: len(daemon.log_lines("session.scheduled")) == 200, 90)
        with server.stopped() as files:
            # In the middle of a page that is full of rows: only checksums detect this.
            damage(files / file, 5 * 8192 + 4096, 100)
        # The daemon still has connections from before the stop of the server; the first write on them fails.
        eventually(lambda: daemon.put(f"/supportsession/{template}", {"startTime": from_now(days=2)}).is_success, 90)
        eventually(lambda: reasons(daemon) == "", 90)  # the stop remains a reason for some seconds
        already = len(daemon.log_lines())
        damaged, intact = (next(session for at, session in placed if at == page) for page in (5, 7))

        move = {"startTime": from_now(days=2)}
        for answer in (
            daemon.get(f"/supportsession/{damaged}"),
            daemon.put(f"/supportsession/{damaged}", move),
            daemon.delete(f"/supportsession/{damaged}"),
            daemon.get("/supportsessions?scope=all&limit=1000"),
        ):
            assert (answer.status_code, answer.json()["refcode"]) == (503, 107503)
            assert int(answer.headers["Retry-After"]) >= 1
        assert daemon.put(f"/supportsession/{intact}", move).status_code == 200
        opens = daemon.make(startTime=from_now(seconds=1.5))["id"]
        eventually(lambda: daemon.session(opens)["status"] == "new")
        found = f'invalid page in block 5 of relation "{file}"'
        assert reasons(daemon) == f"the database is damaged: {found}"
        lines = daemon.log_lines()[already:]
        [damage_line] = [line for line in lines if line["event"] == "storage.damaged"]
        assert damage_line["error"] == found
        assert "restore a backup" in damage_line["message"]
        assert not [line for line in lines if line["event"] in ("http.failed", "clock.failed", "library.said")]

        with tables_of(daemon) as tables:
            tables.execute(text("ALTER ROLE CURRENT_USER RESET enable_seqscan"))
        checked = daemon.command("db", "check")
        assert checked.returncode == 1
        # Which checks fail depends on the plans of their queries.
        assert f": cannot be checked: {found}" in checked.stdout
        assert {line.partition(": ")[2] for line in checked.stdout.splitlines()} <= {
            f"cannot be checked: {found}", f"cannot be counted: {found}",
        }  # fmt: skip
        assert daemon.terminate() == 0

        # Postpone all sessions that are not on the damaged page, so that the scheduler must read that page first.
        with tables_of(daemon) as tables:
            for one in {session for page, session in placed if page != 5} | {opens}:
                tables.execute(text("UPDATE session SET due_at = due_at + 172800000 WHERE id = :id"), {"id": one})
            # Otherwise PostgreSQL may use an index-only scan, depending on statistics, and not read the page.
            tables.execute(text("ALTER ROLE CURRENT_USER SET enable_indexonlyscan = off"))
        failed = error_of_failed_start(daemon)
        assert f"the database is damaged ({found}): restore a backup" in failed


def test_a_start_on_a_database_with_a_damaged_page_fails_with_one_line(killed: Daemon) -> None:
    damage_root_page(killed.state / "tminus.db", "session_due")
    failed = error_of_failed_start(killed)
    assert f"{killed.state / 'tminus.db'}: the file is damaged" in failed
    assert "restore a backup" in failed


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_start_on_a_full_or_read_only_disk_is_reported_and_continues_when_the_disk_is_writable(
    make_daemon: StartDaemon, fault: str, is_new: bool
) -> None:
    daemon = make_daemon()
    with small_disk(daemon.state, "2m"):
        if not is_new:
            daemon.start()
            kept = daemon.make(startTime=from_now(days=1))
            daemon.kill()
        if fault == "full":
            fill(daemon.state / "ballast")
        else:
            mount("-o", "remount,ro", daemon.state)
        daemon.spawn()
        if is_new or fault == "read-only":
            error = daemon.logged("storage.unavailable")["error"]
            assert fault in error.lower()
            daemon.terminate()
            assert daemon.log_lines()[-1]["event"] == "daemon.stopped", "SIGTERM stops a daemon that waits for its disk"
            daemon.spawn()
            eventually(lambda: len(daemon.log_lines("storage.unavailable")) > 1)
        if fault == "full":
            (daemon.state / "ballast").unlink()
        else:
            mount("-o", "remount,rw", daemon.state)
        ready = eventually(lambda: daemon.log_lines("daemon.ready")[0 if is_new else 1 :])
        daemon.url = ready[0]["url"]
        if not is_new:
            assert daemon.session(kept["id"]) == kept
        assert daemon.log_lines("daemon.failed") == []
        assert daemon.terminate() == 0
