"""Somebody sets the machine's clock while the daemon runs."""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now, parsed, text
from tests.support.callers import Maker, Reader
from tests.support.databases import KINDS, PostgresServer
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


LEAD = timedelta(seconds=1)

SUMMER_TIME_BEGINS = datetime(2027, 3, 28, 1, tzinfo=UTC)
SUMMER_TIME_ENDS = datetime(2027, 10, 31, 1, tzinfo=UTC)
"""In Berlin."""


def opened_at(daemon: Daemon, session_id: str) -> datetime:
    """When it was opened, by the daemon's clock; fails unless that was once."""
    (event,) = [event for event in daemon.events(session_id) if event["type"] == "session.ready"]
    return parsed(event["ts"])


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_clock_does_each_is_opened_once_and_none_early_while_requests_run(
    kind: str, request: pytest.FixtureRequest, make_daemon: StartDaemon, library: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        sections = {"storage": {"retention": "3650d"}}
        if kind == "postgresql":
            database = stack.enter_context(request.getfixturevalue("pg_server").database(empty=True))
            sections["storage"]["url"] = database.configured
        shift = tmp_path / "shift"
        shift.write_text("0")
        daemon = make_daemon(lifecycle={"lead": "1s"}, **sections)
        daemon.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(shift), TZ="Europe/Berlin")
        starts: dict[str, datetime] = {}

        def make(start: datetime) -> str:
            made = daemon.make(startTime=text(start))
            starts[made["id"]] = parsed(made["startTime"])  # to the millisecond
            return str(made["id"])

        def clock() -> datetime:
            return datetime.now(UTC) + timedelta(seconds=int(shift.read_text()))

        def set_clock(time: datetime) -> None:
            noticed = len(daemon.log_lines("clock.stepped"))
            shift.write_text(f"{round((time - datetime.now(UTC)).total_seconds())}\n")
            # Two steps that make up for each other between two looks would be none.
            eventually(lambda: len(daemon.log_lines("clock.stepped")) > noticed)

        maker, reader = stack.enter_context(Maker(daemon, "maker")), stack.enter_context(Reader(daemon))
        passed_over = make(clock() + timedelta(minutes=40))
        set_clock(clock() + timedelta(hours=1))
        eventually(lambda: opened_at_last(daemon, passed_over), deadline=5)
        set_clock(clock() - timedelta(hours=1))
        after_the_step_back = make(clock() + timedelta(seconds=2))
        eventually(lambda: opened_at_last(daemon, after_the_step_back), deadline=8)
        for change in (SUMMER_TIME_BEGINS, SUMMER_TIME_ENDS):
            set_clock(change - timedelta(seconds=3))
            around = [make(change + timedelta(seconds=seconds)) for seconds in (0, 1, 2)]
            for one in around:
                eventually(partial(opened_at_last, daemon, one))
        maker.stop()
        reader.stop()

        for session_id, start in starts.items():
            assert opened_at(daemon, session_id) >= start - LEAD, "not early"
        for person in (maker, reader):
            assert [answer.text for answer in person.refused] == []
        assert len(daemon.log_lines("clock.stepped")) >= 4
        assert all(line["ts"].endswith("Z") for line in daemon.log_lines())
        check_health(daemon)


def opened_at_last(daemon: Daemon, session_id: str) -> bool:
    return "session.ready" in kinds(daemon, session_id)


def test_of_two_daemons_the_one_whose_clock_is_ahead_opens_each_once(
    pg_server: PostgresServer, make_daemon: StartDaemon, library: Path, tmp_path: Path
) -> None:
    with pg_server.database(empty=True) as database:
        shift = tmp_path / "shift"
        shift.write_text("60")
        right, ahead = (make_daemon(storage={"url": database.configured}, lifecycle={"lead": "1s"}) for _ in range(2))
        right.start()
        ahead.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(shift))
        start = from_now(seconds=30)
        ids = [daemon.make(startTime=start)["id"] for daemon in (right, ahead)]
        eventually(lambda: all(status(right, one) == "new" for one in ids), deadline=8)
        for one in ids:
            assert opened_at(right, one) == opened_at(ahead, one) >= parsed(start) - LEAD, "by the clock that is ahead"
        check_health(right)
        check_health(ahead)
