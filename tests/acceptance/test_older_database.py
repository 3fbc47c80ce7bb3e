"""The daemon upgrades a database of an older release with waiting sessions, and continues its schedule."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import JSON as JSON_COLUMN
from sqlalchemy import Connection, MetaData, Table, func, insert, inspect, select
from sqlmodel import SQLModel

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import parsed
from tests.support.factories import session
from tests.support.receivers import SECRET, Receiver
from tests.support.waiting import eventually
from tminus.domain import timestamps
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, EventType, ParticipantRole, SessionType, Status, Timeouts, Trigger
from tminus.storage import meta, migrate
from tminus.storage.engine import make_engine

pytestmark = pytest.mark.slow

REVISIONS = [script.revision for script in ScriptDirectory(migrate._MIGRATIONS).walk_revisions("base", "heads")][::-1]

OLDER = list(dict.fromkeys([REVISIONS[0], REVISIONS[-2]]))
"""The first schema, and the one before the newest."""

SOON = timedelta(seconds=6)
"""How long after the creation of the rows their deadlines are: longer than the daemon takes to start."""

LATE = timedelta(seconds=5)
"""Maximum delay of a transition after its deadline, on a slow machine."""

TIMEOUTS = Timeouts(
    lead=timedelta(minutes=10), new=timedelta(hours=1), empty=timedelta(minutes=15), max_active=timedelta(hours=8)
)
LIFECYCLE = {"lead": "10m", "new_timeout": "1h", "empty_timeout": "15m", "max_active": "8h"}

PIN = 345678


class OlderDatabase:
    """Writes rows with the columns of an older schema."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tables = MetaData()
        self.has = set(inspect(connection).get_table_names())

    def table(self, name: str) -> Table:
        return Table(name, self._tables, autoload_with=self._connection)

    def put(self, table: str, **values: Any) -> None:
        self._connection.execute(insert(self.table(table)), values)

    def add(self, row: SQLModel) -> None:
        table = self.table(str(row.__tablename__))
        values = {
            column.name: self._stored(getattr(row, column.name), isinstance(column.type, JSON_COLUMN))
            for column in table.c
            if getattr(row, column.name) is not None and column.name != "seq"
        }
        self._connection.execute(insert(table), values)

    @staticmethod
    def _stored(value: Any, is_json: bool) -> Any:
        if isinstance(value, datetime):
            return timestamps.milliseconds(value - timestamps.EPOCH)
        if isinstance(value, StrEnum):
            return value.value
        return orjson.loads(value) if is_json else value

    def session(self, one: Session, *history: tuple[EventType, Status]) -> None:
        """Store a session, and the events that led to its status."""
        self.add(one)
        before: Status | None = None
        for kind, status in history:
            fields: dict[str, Any] = {"start_time": one.start_time, "expires_at": one.expires_at}
            actor = CLOCK_ACTOR if kind is EventType.READY else "agent:7"
            self.add(
                Event(
                    session_id=one.id, type=kind, ts=one.updated_at, actor=actor, previous_status=before,
                    status=status, participants=one.participants if status is Status.ACTIVE else 0, **fields,
                )
            )  # fmt: skip
            before = status

    def last_seq(self) -> int:
        return int(self._connection.execute(select(func.max(self.table("event").c.seq))).scalar_one())


SCHEDULED = (EventType.SCHEDULED, Status.SCHEDULED)
READY = (EventType.READY, Status.NEW)
CREATED = (EventType.CREATED, Status.NEW)
ACTIVE = (EventType.ACTIVE, Status.ACTIVE)
JOINED = (EventType.JOINED, Status.ACTIVE)
LEFT = (EventType.LEFT, Status.ACTIVE)
CLOSED = (EventType.CLOSED, Status.CLOSED)


def store_sessions(older: OlderDatabase, now: datetime) -> dict[str, datetime]:
    """Store sessions of every status; return the next deadline of each."""
    due = dict.fromkeys(("opens", "expires", "idles", "ends"), now + SOON)
    due["overdue"] = now - timedelta(seconds=30)
    long_ago = now - timedelta(days=1)

    def put(name: str, *history: tuple[EventType, Status], **fields: Any) -> None:
        defaults: dict[str, Any] = {
            "id": name, "status": history[-1][1], "created_at": long_ago, "updated_at": now - timedelta(minutes=1),
            "external_session_object_id": name.ljust(32, "0"), "start_time": None, "expires_at": now + TIMEOUTS.new,
        }  # fmt: skip
        older.session(session(**defaults | fields), *history)

    for name, at in (("opens", due["opens"]), ("overdue", due["overdue"]), ("waits", now + timedelta(days=1))):
        start = at + TIMEOUTS.lead
        put(
            name, SCHEDULED, type=SessionType.SUPPORT, start_time=start, expires_at=start + TIMEOUTS.new, due_at=at,
            due_trigger=Trigger.OPEN,
        )  # fmt: skip
    put(
        "expires", CREATED, opened_at=long_ago, expires_at=due["expires"], due_at=due["expires"],
        due_trigger=Trigger.EXPIRE,
    )  # fmt: skip
    put(
        "open", SCHEDULED, READY, type=SessionType.SUPPORT, pin=PIN, start_time=now, opened_at=now - TIMEOUTS.lead,
        due_at=now + TIMEOUTS.new, due_trigger=Trigger.EXPIRE,
    )  # fmt: skip
    emptied = due["idles"] - TIMEOUTS.empty
    put(
        "idles", CREATED, ACTIVE, JOINED, LEFT, opened_at=long_ago, activated_at=emptied - timedelta(minutes=5),
        empty_since=emptied, due_at=due["idles"], due_trigger=Trigger.IDLE,
    )  # fmt: skip
    assert TIMEOUTS.max_active is not None
    put(
        "ends", CREATED, ACTIVE, JOINED, opened_at=long_ago, activated_at=due["ends"] - TIMEOUTS.max_active,
        participants=1, due_at=due["ends"], due_trigger=Trigger.TIME_LIMIT,
    )  # fmt: skip
    put("closed", CREATED, CLOSED, closed_at=now - timedelta(minutes=1), close_reason="closed")
    joined = due["ends"] - TIMEOUTS.max_active
    guest: dict[str, Any] = {"role": ParticipantRole.GUEST, "name": "Ada", "joined_at": joined}
    older.add(Participant(id="left", session_id="idles", left_at=emptied, **guest))
    older.add(Participant(id="stays", session_id="ends", **guest))
    older.put("meta", key=meta.TIMEOUTS, value=meta.timeouts_text(TIMEOUTS))
    return due


def url_of(daemon: Daemon) -> Path | str:
    """Return the URL of the daemon's database."""
    if not daemon.database.startswith("sqlite"):
        return daemon.database
    daemon.state.mkdir(mode=0o700)
    return daemon.state / "tminus.db"


def wait_for_event(daemon: Daemon, session_id: str, kind: str) -> JSON:
    """Wait for the event of this type and return it."""
    return eventually(lambda: next((event for event in daemon.events(session_id) if event["type"] == kind), None) or {})


def is_gapless(seqs: Sequence[int]) -> bool:
    return list(seqs) == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("revision", OLDER)
def test_a_daemon_upgrades_an_older_database_and_meets_its_deadlines(
    storage: dict[str, Any], make_daemon: StartDaemon, receiver: Receiver, tmp_path: Path, revision: str
) -> None:
    secret = tmp_path / "desk"
    secret.write_text(SECRET)
    webhook = {"name": "desk", "url": receiver.url, "secret_file": str(secret)}
    daemon = make_daemon(storage=storage, lifecycle=LIFECYCLE, webhooks=[webhook])
    engine = make_engine(url_of(daemon), writes=True)
    with engine.connect() as connection:
        migrate.upgrade_to(connection, revision)
        with connection.begin():
            older = OlderDatabase(connection)
            due = store_sessions(older, timestamps.parse(datetime.now(UTC).isoformat()))
            last = delivered = older.last_seq()
            if "endpoint" in older.has:
                delivered = last - 4
                older.put("endpoint", name="desk", cursor=delivered, failures=0)
    engine.dispose()

    daemon.start()
    upgraded = daemon.logged("storage.migrated")
    assert (upgraded["previous_schema"], upgraded["schema"]) == (revision, REVISIONS[-1])
    assert daemon.log_lines("deadlines.moved") == [], "the stored deadlines are right: the time-outs have not changed"
    ready = parsed(daemon.logged("daemon.ready")["ts"])

    events = {
        "overdue": wait_for_event(daemon, "overdue", "session.ready"),
        "opens": wait_for_event(daemon, "opens", "session.ready"),
        "expires": wait_for_event(daemon, "expires", "session.closed"),
        "idles": wait_for_event(daemon, "idles", "session.closed"),
        "ends": wait_for_event(daemon, "ends", "session.closed"),
    }
    for name, event in events.items():
        at = parsed(event["ts"])
        assert due[name] <= at <= max(due[name], ready) + LATE, name
        assert event["lagMs"] == timestamps.milliseconds(at - due[name]), name
    reasons = [events[name].get("reason") for name in ("expires", "idles", "ends")]
    assert reasons == ["expired", "empty", "time_limit"]
    assert events["overdue"]["seq"] == last + 1, "the transition that fell due first is made first"
    assert daemon.session("waits")["status"] == "scheduled"
    assert daemon.session("ends")["participants"] == 0
    pins = [daemon.session(name)["pin"] for name in ("overdue", "opens", "open")]
    assert len(set(pins)) == 3
    assert all(pins)

    # Open sessions continue: the PIN is found, participants join, and the history has no gap.
    assert daemon.get(f"/support/{PIN}/meta", by=None).status_code == 200
    assert daemon.join("open").status_code == 200
    assert [event["type"] for event in daemon.events("open")] == [
        "session.scheduled", "session.ready", "session.active", "participant.joined",
    ]  # fmt: skip
    made = daemon.make()["id"]
    assert daemon.session(made)["status"] == "new"
    feed = daemon.feed()
    assert is_gapless([event["seq"] for event in feed]), "numbers continue after the last one of the older release"
    assert len(feed) == last + 8, "five transitions by the clock, two events of the guest, and a new session"
    eventually(lambda: receiver.seqs == [event["seq"] for event in feed[delivered:]])

    daemon.restart()
    assert len(daemon.log_lines("storage.migrated")) == 1
    assert daemon.feed() == feed
    check = daemon.command("db", "check")
    assert check.returncode == 0, check.stdout + check.stderr
    check_health(daemon)
