"""`tminus db backup`, `restore` and `check` beside a running daemon."""

import json
import threading

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.waiting import eventually


class Callers:
    """Two threads that create, join and close sessions until they are stopped."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self.made: list[str] = []
        """Ids of the sessions whose creation the daemon acknowledged."""
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                session = self._daemon.make(type="support", label="x" * 255)["id"]
                self.made.append(session)
                assert self._daemon.join(session).status_code == 200
                assert self._daemon.delete(f"/supportsession/{session}").status_code == 200
            except Exception as error:
                self.failed.append(repr(error))

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.made) > 30)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_a_backup_under_load_is_complete_and_a_new_daemon_starts_on_it(
    start_daemon: StartDaemon, make_daemon: StartDaemon
) -> None:
    """The backup contains every change acknowledged before it; no request of the running daemon fails."""
    daemon = start_daemon(lifecycle={"lead": "1s"})
    falls_due = daemon.make(startTime=from_now(seconds=1.5), label="Falls due meanwhile")["id"]
    copies = daemon.home / "copies"
    copies.mkdir()
    with Callers(daemon) as callers:
        before = list(callers.made)
        done = daemon.command("db", "backup", str(copies), "--keep", "3", "--json")
        during = len(callers.made)
    checked = daemon.command("db", "check")
    refused = daemon.command("db", "restore", json.loads(done.stdout)["file"])
    assert (done.returncode, done.stderr) == (0, "")
    backup = json.loads(done.stdout)
    assert during > len(before), "the daemon served requests during the backup"
    assert callers.failed == []
    assert (checked.returncode, checked.stdout[:13]) == (0, "nothing wrong"), checked.stdout
    assert refused.returncode == 1
    assert f"{daemon.state}: another tminus is running here" in refused.stderr

    new = make_daemon(lifecycle={"lead": "1s"})
    daemon.logged("session.ready", session_id=falls_due)  # after the backup, so the new daemon opens it again, late
    restored = new.command("db", "restore", backup["file"], "--json")
    assert (restored.returncode, restored.stderr) == (0, "")
    assert json.loads(restored.stdout)["sessions"] == backup["sessions"]
    new.start()
    found = new.get("/supportsessions?scope=all&status=closed&status=new&status=active&limit=1000").json()
    assert found["count"] == backup["sessions"]
    assert {falls_due, *before} <= {row["id"] for row in found["rows"]}
    ready = new.events(falls_due)[-1]
    assert (ready["type"], ready["actor"], ready["lagMs"] >= 0) == ("session.ready", "clock", True)
    ids = {events[0]["eventId"].partition("-")[0] for events in (daemon.events(falls_due), new.events(falls_due))}
    assert len(ids) == 2, "the events of the two daemons have ids with different prefixes"
    assert new.terminate() == 0
