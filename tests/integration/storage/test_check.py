"""`tminus db check` accepts a correct database and reports each kind of problem. On both databases."""

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from tests.support.clocks import SettableClock
from tests.support.databases import Database, SqliteServer
from tests.support.factories import MINUTE
from tests.support.worlds import World

from tminus.domain.errors import CannotOpenDatabase
from tminus.domain.types import SessionType, Status, Timeouts
from tminus.scheduler import sweeps
from tminus.storage import Store, Transaction
from tminus.storage.check import CheckResult, check_database
from tminus.storage.invariants import MAX_PROBLEMS
from tminus.storage.tables import EVENTS, PARTICIPANTS, SESSIONS

HOUR = timedelta(hours=1)


def examined(world: World, database: Database) -> CheckResult:
    return check_database(database.url, world.settings.lifecycle.timeouts, world.now)


def problems(world: World, database: Database) -> list[tuple[str, str]]:
    return [(problem.check, problem.text) for problem in examined(world, database).problems]


def do(world: World, statement: Any) -> None:
    """Change a row without a command."""
    world.run(lambda tx: tx.execute(statement))


def test_the_check_finds_no_problem_after_all_kinds_of_events(world: World, database: Database) -> None:
    for kind in SessionType:
        world.schedule(2 * HOUR, kind)
        made = world.create(kind)
        left = world.join(made)
        world.join(made, "Ada")
        world.leave(made, left)
        world.close(world.create(kind))
        world.schedule(11 * MINUTE, kind)
    world.passes(minutes=5)
    sweeps.recompute_deadlines(world.store.submit, world.settings.lifecycle.timeouts)

    found = examined(world, database)

    assert found.problems == ()
    assert found.is_current
    assert (found.sessions, found.events) == (16, len(world.events()))
    assert found.last_seq == world.events()[-1].event.seq


def test_deadlines_by_the_configuration_or_by_the_stored_time_outs_are_correct(
    world: World, database: Database
) -> None:
    """A changed configuration that the daemon has not read yet makes no deadline wrong."""
    sweeps.recompute_deadlines(world.store.submit, world.settings.lifecycle.timeouts)
    world.schedule(2 * HOUR)
    active = world.create()
    world.leave(active, world.join(active))

    assert check_database(database.url, Timeouts(lead=MINUTE, empty=MINUTE, max_active=HOUR), world.now).problems == ()


def test_the_postponed_deadline_of_a_session_that_waits_for_a_pin_is_correct(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = world.schedule(2 * HOUR, SessionType.SUPPORT)
    monkeypatch.setattr(Transaction, "free_pins", lambda _tx, _count: [])

    assert world.passes(2 * HOUR).without_pin
    assert world.stored(waiting).due_at != waiting.due_at

    assert problems(world, database) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"due_at": None, "due_trigger": None}, "(scheduled) has the deadline none, but should have open at 2030-01-"),
        ({"due_trigger": "expire"}, "(scheduled) has the deadline expire at 2030-01-07T10:50:00.000Z, but should have"),
        ({"due_at": SettableClock().time}, "(scheduled) has the deadline open at 2030-01-07T09:00:00.000Z, but should"),
    ],
)
def test_a_wrong_deadline_is_reported(world: World, database: Database, change: dict[str, Any], problem: str) -> None:
    session = world.schedule(2 * HOUR, SessionType.SUPPORT)
    world.schedule(2 * HOUR)
    do(world, update(SESSIONS).where(SESSIONS.c.id == session.id).values(change))

    [(check, found)] = problems(world, database)

    assert check == "deadline"
    assert found.startswith(f"session {session.id} {problem}")


def test_a_closed_session_with_a_deadline_is_reported(world: World, database: Database) -> None:
    session = world.create()
    world.close(session)
    do(world, update(SESSIONS).values(due_at=world.now, due_trigger="expire"))

    [(check, found)] = problems(world, database)

    assert (check, found.endswith("but should have none")) == ("deadline", True)


def test_a_session_without_events_is_reported(world: World, database: Database) -> None:
    silent, _other = world.create(), world.create()
    do(world, delete(EVENTS).where(EVENTS.c.session_id == silent.id))

    assert problems(world, database) == [("events", f"session {silent.id} has no event")]


def test_a_status_other_than_that_of_the_last_event_is_reported(world: World, database: Database) -> None:
    session = world.create()
    world.join(session)
    last = world.events()[-1].event.seq
    do(world, update(EVENTS).where(EVENTS.c.seq == last).values(status=Status.CLOSED))

    assert problems(world, database) == [
        ("status", f"session {session.id} is active, but by its last event ({last}) it is closed")
    ]


def test_a_pin_of_two_sessions_is_reported_without_the_pin(world: World, database: Database) -> None:
    first, second = (world.create(SessionType.SUPPORT) for _ in range(2))
    do(world, text("DROP INDEX session_pin"))
    try:
        do(world, update(SESSIONS).where(SESSIONS.c.id == second.id).values(pin=first.pin))
        found = problems(world, database)
    finally:
        do(world, update(SESSIONS).where(SESSIONS.c.id == second.id).values(pin=second.pin))
        do(world, text("CREATE UNIQUE INDEX session_pin ON session (pin) WHERE pin <> 0"))

    shares = "shares its PIN with another open session"
    assert [one for one in found if one[0] == "pin"] == [
        ("pin", f"session {id_} {shares}") for id_ in sorted((first.id, second.id))
    ]
    assert str(first.pin) not in str(found)


def test_an_unexpected_pin_and_a_missing_pin_are_reported(world: World, database: Database) -> None:
    live, support = world.create(), world.create(SessionType.SUPPORT)
    do(world, update(SESSIONS).where(SESSIONS.c.id == support.id).values(pin=0))
    do(world, update(SESSIONS).where(SESSIONS.c.id == live.id).values(pin=123456))

    assert set(problems(world, database)) == {
        ("pin", f"session {live.id} (new) has a PIN, and should have none"),
        ("pin", f"session {support.id} (new) has no PIN"),
    }


def test_a_wrong_number_of_participants_is_reported(world: World, database: Database) -> None:
    crowded, empty, right = (world.create(preferences={"knock": True}) for _ in range(3))
    for session in (crowded, right):
        world.join(session)
        world.join(session)
    world.knock(right)
    do(world, update(SESSIONS).where(SESSIONS.c.id == empty.id).values(participants=1))
    gone = world.participants(crowded)[0].id
    do(world, update(PARTICIPANTS).where(PARTICIPANTS.c.id == gone).values(left_at=world.now))

    assert set(problems(world, database)) == {
        ("participants", f"session {crowded.id} counts 2 participants, but 1 are in"),
        ("participants", f"session {empty.id} counts 1 participants, but 0 are in"),
    }


def test_a_hundred_problems_of_one_kind_are_reported_and_the_rest_counted(world: World, database: Database) -> None:
    world.put(*(world.create().model_copy(update={"id": f"s{number}"}) for number in range(MAX_PROBLEMS + 3)))

    found = problems(world, database)

    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == ("events", "and 3 sessions more")


def test_a_missing_or_newer_schema_is_reported(empty_database: Database) -> None:
    clock = SettableClock()
    if empty_database.kind == "sqlite":
        with pytest.raises(CannotOpenDatabase, match="there is no such file"):
            check_database(empty_database.url, Timeouts(), clock())
    else:
        [none] = check_database(empty_database.url, Timeouts(), clock()).problems
        assert "no database of tminus" in none.text
    store = empty_database.open(clock)
    store.submit(lambda tx: tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))).result(30)

    found = check_database(empty_database.url, Timeouts(), clock())

    assert [problem.text for problem in found.problems] == ["its schema is 9999, of a newer tminus than this"]
    assert not found.is_current


# --- only on SQLite ---------------------------------------------------------------------------------------------------


def test_rows_without_their_session_are_reported(sqlite_server: SqliteServer) -> None:
    with sqlite_server.database() as database:
        world = World(database.open(clock := SettableClock()), clock)
        session = world.create()
        world.store.close()
        with sqlite3.connect(database.url.removeprefix("sqlite:///")) as connection:
            connection.execute("UPDATE event SET session_id = 'gone'")
        connection.close()

        found = check_database(database.url, Timeouts(), clock()).problems

    assert ("foreign_keys", "row 1 of event belongs to a session that does not exist") in [
        (problem.check, problem.text) for problem in found
    ]
    assert ("events", f"session {session.id} has no event") in [(problem.check, problem.text) for problem in found]


def test_damage_of_any_single_page_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "tminus.db"
    store = Store(f"sqlite:///{path}", SettableClock())
    world = World(store, SettableClock())
    for _ in range(40):
        world.create(SessionType.SUPPORT)
    store.close()
    sound = path.read_bytes()
    assert check_database(f"sqlite:///{path}", Timeouts(), world.now).problems == ()
    damaged = tmp_path / "spoilt.db"

    for page in range(0, len(sound), 4096):
        content = bytearray(sound)
        content[page : page + 4096] = bytes(byte ^ 0xFF for byte in content[page : page + 4096])
        damaged.write_bytes(content)

        assert check_database(f"sqlite:///{damaged}", Timeouts(), world.now).problems, f"page {1 + page // 4096}"


def test_the_check_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    Store(f"sqlite:///{path}", SettableClock()).close()
    before = path.read_bytes()
    path.chmod(0o400)

    check_database(f"sqlite:///{path}", Timeouts(), SettableClock().time)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "problem"), [("/", "this is a directory, not a file"), ("/dev/null", "this is not a regular file")]
)
def test_what_is_no_file_is_refused_with_what_it_is(path: str, problem: str) -> None:
    with pytest.raises(CannotOpenDatabase, match=problem):
        check_database(Path(path), Timeouts(), SettableClock()())
