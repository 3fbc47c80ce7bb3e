"""`tminus db …` on the command line: messages, JSON, exit codes."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.commands import Result, invoke

from tminus.config import lock, paths


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with an empty database, in which the commands run."""
    config = tmp_path / "tminus.toml"
    config.touch()
    state = tmp_path / "state"
    monkeypatch.setenv("TMINUS_CONFIG", str(config))
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    assert tminus("db", "upgrade").exit_code == 0
    return state


def tminus(*arguments: str) -> Result:
    return invoke(*arguments)


def test_a_backup_prints_what_it_wrote_and_removed(state: Path, tmp_path: Path) -> None:
    old = tmp_path / "tminus-20200101T000000Z.db"
    old.touch()

    done = tminus("db", "backup", str(tmp_path), "--keep", "1")

    assert done.exit_code == 0
    wrote, removed = done.stdout.splitlines()
    [copy] = tmp_path.glob("tminus-*.db")
    assert wrote.startswith(f"{copy}: 0 sessions, 0 events, the last is 0, 0.4 MB, in 0.")
    assert removed == f"{old}: removed"
    result = json.loads(tminus("db", "backup", str(tmp_path / "other.db"), "--json").stdout)
    size = (tmp_path / "other.db").stat().st_size
    assert {**result, "seconds": 0} == {
        "file": str(tmp_path / "other.db"), "sessions": 0, "events": 0, "lastSeq": 0, "bytes": size, "seconds": 0,
        "removed": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-",), 2, "tminus: a backup is a file: name one, or a directory\n"),
        (
            ("copy.db", "--keep", "3"),
            2,
            "tminus: --keep needs a directory, and copy.db is not a directory\n",
        ),
        (("{there}",), 1, "tminus: {there}: exists already: name another file, or overwrite it with --force\n"),
    ],
)
def test_a_failed_backup_prints_the_reason(state: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    there = str(state.parent / "tminus.toml")

    done = tminus("db", "backup", *(argument.format(there=there) for argument in arguments))

    assert (done.exit_code, done.stdout, done.stderr) == (code, "", message.format(there=there))


def test_a_backup_of_postgresql_prints_the_tool_for_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMINUS_STORAGE__URL", "postgresql+psycopg://db.invalid/tminus")

    done = tminus("db", "backup", "copy.db")

    assert (done.exit_code, "pg_dump" in done.stderr) == (1, True)


def test_a_restore_prints_what_it_restored_and_where_the_old_database_is(state: Path, tmp_path: Path) -> None:
    copy = str(tmp_path / "copy.db")
    tminus("db", "backup", copy)

    done = tminus("db", "restore", copy)

    assert done.exit_code == 0
    [aside] = state.glob("tminus.db.*")
    restored, moved = done.stdout.splitlines()
    assert restored.startswith(f"{state / 'tminus.db'}: 0 sessions, ")
    assert moved == f"{aside}: the previous database"
    aside.unlink()
    result = json.loads(tminus("db", "restore", copy, "--json").stdout)
    assert (result["movedTo"], result["schema"]) == (str(next(state.glob("tminus.db.*"))), result["schemaBefore"])
    assert result["databaseId"] not in restored


def test_a_check_prints_a_line_for_each_problem(state: Path, tmp_path: Path) -> None:
    sound = tminus("db", "check")
    assert (sound.exit_code, sound.stdout) == (0, "nothing wrong: 0 sessions, 0 events, the last is 0\n")
    copy = tmp_path / "copy.db"
    tminus("db", "backup", str(copy))
    content = bytearray(copy.read_bytes())
    content[8192:12288] = bytes(byte ^ 0xFF for byte in content[8192:12288])
    copy.write_bytes(content)
    with closing(sqlite3.connect(state / "tminus.db", isolation_level=None)) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(event)")]
        connection.execute(f"INSERT INTO event VALUES ({', '.join('?' * len(names))})", range(1, len(names) + 1))

    damaged = tminus("db", "check", str(copy))
    orphaned = tminus("db", "check", "--json")

    assert (damaged.exit_code, damaged.stdout.partition(":")[0]) == (1, "integrity")
    assert "malformed" in damaged.stdout
    assert orphaned.exit_code == 1
    result = json.loads(orphaned.stdout)
    assert result["problems"] == [
        {"check": "foreign_keys", "session": None, "text": "row 1 of event belongs to a session that does not exist"}
    ]
    assert (result["sessions"], result["events"], result["examined"]) == (0, 1, True)


def test_advance_creates_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(state))

    done = tminus("advance")

    message = f"tminus: {state}/tminus.db: no such file: the daemon or `tminus db upgrade` creates it\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", message)
    assert not state.exists()


@pytest.mark.parametrize("command", [("advance",), ("db", "check"), ("db", "backup", "copy.db"), ("db", "upgrade")])
def test_a_command_finds_the_database_of_the_service(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.delenv("TMINUS_CONFIG")
    monkeypatch.setattr(paths, "SERVICE_STATE", state)
    monkeypatch.setattr(paths, "SYSTEM_FILE", tmp_path / "tminus.toml")
    monkeypatch.chdir(tmp_path)

    done = tminus(*command)

    assert done.exit_code == 0, done.stderr
    assert not (tmp_path / "var").exists()


def test_a_database_is_compacted_while_no_daemon_runs(state: Path) -> None:
    done = tminus("db", "compact")
    assert (done.exit_code, done.stdout) == (0, f"{state / 'tminus.db'}: 0.4 MB -> 0.4 MB\n")
    result = json.loads(tminus("db", "compact", "--json").stdout)
    assert set(result) == {"database", "bytesBefore", "bytes"}
    with lock(state, state / "tminus.db"):
        refused = tminus("db", "compact")
    assert refused.exit_code == 1
    assert "process" in refused.stderr
