"""A file whose schema contains code, such as a trigger, is refused by the check, the backup and the restore."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from tests.support import reference
from tests.support.clocks import SettableClock

from tminus.domain.errors import CannotOpenDatabase, DatabaseCorrupt
from tminus.domain.types import Timeouts
from tminus.storage import Store, migrate, schema
from tminus.storage.backup import back_up
from tminus.storage.check import check_database
from tminus.storage.restore import restore

NOW = SettableClock().time

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
LEAK = "CREATE TRIGGER leak AFTER INSERT ON session BEGIN UPDATE session SET label = new.host_auth_token; END"
INSTEAD = "CREATE TRIGGER instead INSTEAD OF INSERT ON session BEGIN SELECT 1; END"

CHECKED = "replace(sql, 'PRIMARY KEY (id)', 'PRIMARY KEY (id), CHECK (length(zeroblob(1000000)) > 0)')"

DOCTORED = {
    "a trigger": (LEAK, 'trigger "leak" is not of tminus'),
    "a view": ("CREATE VIEW more AS SELECT pin FROM session", 'view "more" is not of tminus'),
    "a view in a table's place": (
        f"ALTER TABLE session RENAME TO aside; CREATE VIEW session AS SELECT * FROM aside; {INSTEAD}",
        'table "participant" is not as tminus makes it',
    ),
    "a view that never ends": (
        f"DROP TABLE delivery; CREATE VIEW delivery AS {ENDLESS} SELECT i AS id FROM n",
        'view "delivery" is not of tminus',
    ),
    "a revision that never ends": (
        f"DROP TABLE alembic_version; CREATE VIEW alembic_version AS {ENDLESS} SELECT max(i) AS version_num FROM n",
        "no database of tminus",
    ),
    "a virtual table": ("CREATE VIRTUAL TABLE found USING fts5(label)", 'table "found" is not of tminus'),
    "a generated column": (
        "ALTER TABLE session ADD COLUMN copied TEXT AS (host_auth_token)",
        'table "session" is not as tminus makes it',
    ),
    "a CHECK that never ends": (
        f"PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = {CHECKED} WHERE name = 'session'",
        'table "session" is not as tminus makes it',
    ),
    "an index over an expression": (
        "CREATE INDEX slow ON session (length(replace(hex(zeroblob(1000000)), '0', label)))",
        'index "slow" is not of tminus',
    ),
    "a table": ("CREATE TABLE aside AS SELECT * FROM session", 'table "aside" is not of tminus'),
    "a name that would colour a terminal": (
        'CREATE TABLE "\x1b[31m\u202e" (a)',
        'table "\\u001b[31m\\u202e" is not of tminus',
    ),
    "statistics of its own": ("CREATE VIEW sqlite_stat AS SELECT 1", None),
    "an index less": ("DROP INDEX session_pin", 'index "session_pin" is missing'),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Store(tmp_path / "tminus.db", SettableClock()).close()
    return tmp_path / "tminus.db"


@pytest.mark.parametrize("doctored", DOCTORED)
def test_a_foreign_schema_is_refused_before_it_is_executed(file: Path, doctored: str) -> None:
    script, expected = DOCTORED[doctored]
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        try:
            connection.executescript(script)
        except sqlite3.Error:
            assert expected is None, "SQLite refuses the script"
            return
        connection.commit()

    found = [problem.text for problem in check_database(file, Timeouts(), NOW).problems if problem.check == "schema"]
    with pytest.raises(DatabaseCorrupt) as backed_up:
        back_up(file, file.with_name("copy.db"), NOW)
    with pytest.raises(DatabaseCorrupt) as restored:
        restore(file.with_name("other.db"), file, NOW)

    assert expected is not None
    assert any(expected in text for text in found), found
    assert "tminus" in backed_up.value.problem
    assert "tminus" in restored.value.problem
    assert [one.name for one in file.parent.iterdir()] == ["tminus.db"], "neither command leaves a file"


@pytest.mark.slow
def test_the_check_of_a_huge_schema_is_cancelled(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tminus.storage.schema.MAX_SECONDS", 0.0)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("".join(f"CREATE VIEW v{number} AS SELECT 1;" for number in range(3000)))
    [problem] = check_database(file, Timeouts(), NOW).problems
    assert problem.text == "its schema is not read within 0 s"


def test_statistics_of_the_planner_are_ignored(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("ANALYZE")
    assert check_database(file, Timeouts(), NOW).problems == ()
    assert restore(file.with_name("other.db"), file, NOW).contents.sessions == 0


def test_a_value_of_another_type_is_reported_as_a_problem(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO meta VALUES ('timeouts', '[[[')")
        connection.commit()
    [problem] = check_database(file, Timeouts(), NOW).problems
    assert problem.check == "deadline"


def test_an_implausible_event_number_of_a_replaced_database_is_ignored(file: Path) -> None:
    back_up(file, file.with_name("copy.db"), NOW)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO sqlite_sequence VALUES ('event', 9223372036854775807)")
        connection.commit()
    restore(file, file.with_name("copy.db"), NOW)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'").fetchone()[0] in (
            0,
            None,
        )


@pytest.mark.parametrize("doctored", DOCTORED)
def test_a_daemon_does_not_start_on_a_foreign_schema(file: Path, doctored: str) -> None:
    change, problem = DOCTORED[doctored]
    if problem is None:  # SQLite refuses the change
        return
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(change)
    with pytest.raises(CannotOpenDatabase) as caught:
        Store(file, None)
    assert "this is not a database of tminus" in str(caught.value) or "its schema is not what" in str(caught.value)
    assert problem.replace("no database", "not a database") in str(caught.value) or " more): " in str(caught.value)


def test_a_new_database_has_the_schema_to_which_the_migrations_lead(tmp_path: Path) -> None:
    assert migrate.new_schema() == reference.schema(), "run `make docs`"
    Store(tmp_path / "new.db", SettableClock()).close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as new, create_engine("sqlite://").connect() as migrated:
        migrate.upgrade_to(migrated, "head")
        raw = migrated.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        assert schema._read(new) == schema._read(raw)
        for table in ("alembic_version", "meta"):
            named = "SELECT count(*) FROM " + table
            assert new.execute(named).fetchone() >= raw.execute(named).fetchone() > (0,)
