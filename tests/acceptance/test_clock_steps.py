"""Somebody sets the machine's clock while the daemon runs."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.waiting import eventually

SOURCE = Path(__file__).with_name("fixtures") / "shiftclock.c"
HOUR = 3600

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the clock cannot be shifted here")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What shifts the wall clock of the process that it is preloaded into."""
    built = tmp_path_factory.mktemp("shiftclock") / "shiftclock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, SOURCE, "-ldl"], check=True)
    return built


@pytest.fixture
def stepped(make_daemon: StartDaemon, library: Path, tmp_path: Path) -> tuple[Daemon, Callable[[int], None]]:
    """A running daemon, and what sets its clock to so many seconds from the true time."""
    shift = tmp_path / "shift"
    shift.write_text("0")
    daemon = make_daemon()
    daemon.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(shift))

    def set_clock(seconds: int) -> None:
        shift.write_text(f"{seconds}\n")

    return daemon, set_clock


def status(daemon: Daemon, session_id: str) -> str:
    shown: str = daemon.session(session_id)["status"]
    return shown


def kinds(daemon: Daemon, session_id: str) -> list[str]:
    return [event["type"] for event in daemon.events(session_id)]


def test_a_step_forward_opens_what_has_become_due_within_seconds(
    stepped: tuple[Daemon, Callable[[int], None]],
) -> None:
    daemon, set_clock = stepped
    session = daemon.make(startTime=from_now(minutes=40))

    set_clock(HOUR // 2 + 120)

    eventually(lambda: status(daemon, session["id"]) == "new", deadline=5)
    assert kinds(daemon, session["id"]) == ["session.scheduled", "session.ready"]
    assert daemon.logged("clock.stepped")["step_ms"] > 1_900_000
    check_health(daemon)


def test_after_a_step_back_nothing_is_repeated_and_the_next_deadline_is_kept(
    stepped: tuple[Daemon, Callable[[int], None]],
) -> None:
    daemon, set_clock = stepped
    opened = daemon.make(startTime=from_now(minutes=10, seconds=1))
    eventually(lambda: status(daemon, opened["id"]) == "new")

    set_clock(-HOUR)
    daemon.logged("clock.stepped")
    # On the daemon's clock this one opens in a second; a timer that waits by the old clock is an hour late.
    later = daemon.make(startTime=from_now(hours=-1, minutes=10, seconds=1))
    eventually(lambda: status(daemon, later["id"]) == "new", deadline=5)

    assert kinds(daemon, opened["id"]) == ["session.scheduled", "session.ready"]
    assert status(daemon, opened["id"]) == "new"
    check_health(daemon)
