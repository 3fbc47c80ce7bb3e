"""The next release starts beside this one on one PostgreSQL and migrates; both serve requests.

The next release is this one with one more migration and one more column. By default the older daemon is this release.
To test with the previous release, run `pip install --target FOLDER tminus==…`, and set `TMINUS_OLDER=FOLDER`: it must
work after all migrations since. Do that for each release. `calls` sends the requests of the older release's callers.
Add a new call there one release later.
"""

import os
import shutil
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

import tminus
from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import JSON, Daemon, Section
from tests.acceptance.times import from_now
from tests.support.receivers import Receiver
from tests.support.releases import add_migration
from tests.support.waiting import eventually
from tminus.storage import migrate

NEXT = "9000"

MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{migrate.head()}"

def upgrade() -> None:
    op.add_column("session", sa.Column("colour", sa.Text(), nullable=True))
    op.add_column("event", sa.Column("weight", sa.BigInteger(), nullable=False, server_default="1"))
    op.create_table("palette", sa.Column("id", sa.BigInteger(), primary_key=True))
    op.create_index("session_colour", "session", ["colour"])
"""

OLDER = {"PYTHONPATH": os.environ["TMINUS_OLDER"]} if "TMINUS_OLDER" in os.environ else {}

OFTEN = 3
"""Rounds after which each statement has been used more than five times, so that the driver has prepared it for the old
tables.
"""


@pytest.fixture
def next_release(tmp_path: Path) -> dict[str, str]:
    """The environment in which `tminus` is the next release."""
    package = shutil.copytree(Path(tminus.__file__).parent, tmp_path / "tminus")
    add_migration(package / "storage/migrations", f"{NEXT}_next", MIGRATION)
    model = package / "domain/model.py"
    before, mark, after = model.read_text().partition("    participants: int = 0\n    version: int = 1\n")
    assert mark
    model.write_text(f'{before}    colour: str | None = "green"\n{mark}{after}')
    return {"PYTHONPATH": str(tmp_path)}


def calls(daemon: Daemon, name: str) -> dict[str, list[str]]:
    """Run callers for a while; return the events of each session that they created."""

    def send(method: str, path: str, body: JSON | None = None, **more: str) -> JSON:
        headers = {"Session-id": more.pop("token", daemon.tokens[more.pop("by", "admin")]), **more}
        answer = daemon.call(method, path, body, by=None, headers=headers)
        assert answer.status_code == 200, (name, method, path, answer.text)
        content: JSON = answer.json()
        return content

    order = {"type": "support", "label": f"{name} now"}
    made, again = (send("POST", "/supportsessions", order, **{"Idempotency-Key": name}) for _ in range(2))
    assert made["id"] == again["id"]
    send("GET", f"/support/{made['pin']}/meta")
    guest = {"role": "guest", "name": "Ada"}
    stays, leaves = (send("POST", f"/supportsession/{made['id']}/participants", guest, by="room") for _ in range(2))
    assert stays != leaves
    send("DELETE", f"/supportsession/{made['id']}/participants/{leaves['participantId']}", by="room")
    assert send("GET", f"/supportsession/{made['id']}")["status"] == "active"

    later = send("POST", "/supportsessions", {"type": "live", "label": f"{name} later", "startTime": from_now(hours=1)})
    send("PUT", f"/supportsession/{later['id']}", {"startTime": from_now(hours=2)})
    send("DELETE", f"/supportsession/{later['id']}")
    soon = send(
        "POST", "/supportsessions", {"type": "live", "label": f"{name} soon", "startTime": from_now(seconds=1.3)}
    )

    begun = send("POST", "/auth/token/authWithToken", {"session_token": daemon.tokens["anna"]})["session"]
    assert send("GET", "/me", token=begun["id"])["session"]["sid"] == begun["sid"]
    send("GET", "/auth/signout", token=begun["id"])

    assert send("GET", "/supportsessions?scope=all")["count"] >= 2
    assert send("GET", "/webhooks/desk")["state"] != "paused"
    ready = daemon.http.get(f"{daemon.url}/readyz")
    assert ready.status_code == 200, ready.text
    eventually(lambda: daemon.session(soon["id"])["status"] == "new", 20)
    send("DELETE", f"/supportsession/{made['id']}")
    send("DELETE", f"/supportsession/{soon['id']}")
    return {one["id"]: [event["type"] for event in daemon.events(one["id"])] for one in (made, later, soon)}


class Callers(threading.Thread):
    """Callers that send requests to one daemon repeatedly."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.rounds: list[dict[str, list[str]]] = []
        self.failed: Exception | None = None
        self.enough = threading.Event()
        self._daemon = daemon

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self.rounds.append(calls(self._daemon, f"older {len(self.rounds)}"))
        except Exception as error:
            self.failed = error

    def go_on(self, rounds: int) -> None:
        """Wait until the callers have completed a number of further rounds."""
        until = len(self.rounds) + rounds
        eventually(lambda: len(self.rounds) >= until or self.failed, 60)
        assert self.failed is None


@pytest.mark.slow
def test_the_next_release_migrates_while_this_one_serves_and_no_change_is_lost(
    make_daemon: StartDaemon,
    sections: dict[str, Section],
    receiver: Receiver,
    next_release: dict[str, str],
) -> None:
    older, newer = (make_daemon(**sections) for _ in range(2))
    older.fresh, newer.fresh = bool(OLDER), True
    older.start(**OLDER)
    callers = Callers(older)
    callers.start()
    try:
        callers.go_on(OFTEN)
        newer.start(**next_release)
        assert newer.logged("storage.migrated")["schema"] == NEXT
        callers.go_on(1)
        beside = [calls(newer, "newer beside it")]
        callers.go_on(1)
    finally:
        callers.enough.set()
        callers.join(60)
    assert callers.failed is None
    # Each daemon returns the sessions that the callers of the other created.
    for daemon, theirs in ((newer, callers.rounds[0] | callers.rounds[-1]), (older, beside[0])):
        for session_id, types in theirs.items():
            assert [event["type"] for event in daemon.events(session_id)] == types
    storage = sections["storage"]
    assert isinstance(storage, dict)
    url = make_url(storage["url"]).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        colours: dict[str, str | None] = dict(connection.execute("SELECT id, colour FROM session").fetchall())
    assert {colours[session_id] for one in callers.rounds for session_id in one} == {None}
    assert {colours[session_id] for session_id in beside[0]} == {"green"}

    # A stopped daemon of this release does not start again: it refuses the newer schema.
    assert older.terminate() == 0
    older.spawn(**OLDER)
    assert older.process is not None
    assert older.process.wait(30) == 1
    assert f"its schema is {NEXT}, of a newer tminus than this" in older.log_lines("daemon.failed")[-1]["error"]
    beside.append(calls(newer, "newer alone"))

    happened = [list(made.values()) for made in (*callers.rounds, *beside)]
    assert all(one == happened[0] for one in happened), "the same calls, the same events"
    events = newer.feed()
    made = [session_id for one in (*callers.rounds, *beside) for session_id in one]
    assert sorted({event["id"] for event in events}) == sorted(made)
    assert len(events) == sum(len(types) for one in happened for types in one), "none lost, none twice"
    eventually(lambda: set(receiver.seqs) == {event["seq"] for event in events}, 20)
    assert list(dict.fromkeys(receiver.seqs)) == [event["seq"] for event in events]
    for daemon in (older, newer):
        check_health(daemon)
