"""Batches from the command line: a spreadsheet is scheduled, shifted and cancelled."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.daemons import Daemon, environment
from tests.acceptance.times import parsed
from tests.support.processes import TMINUS
from tests.support.terminals import Terminal

pytestmark = pytest.mark.slow

DAY = (datetime.now(UTC) + timedelta(days=30)).replace(hour=8, minute=0, second=0, microsecond=0)
ALONE = DAY + timedelta(days=321)
"""A day on which no other test has sessions: tests share the daemon."""


def sheet(rows: int, day: datetime = DAY) -> str:
    """Return a spreadsheet with an appointment every minute."""
    lines = [f'live,"Check-in, {n}",{day + timedelta(minutes=n):%Y-%m-%d %H:%M}' for n in range(rows)]
    return "\n".join(["type,label,start", *lines]) + "\n"


def test_a_spreadsheet_is_scheduled_shifted_by_half_an_hour_and_cancelled(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "sessions.csv"
    file.write_text(sheet(500, ALONE))
    day = (f"--from={ALONE:%Y-%m-%dT00:00:00Z}", f"--to={ALONE + timedelta(days=1):%Y-%m-%dT00:00:00Z}")
    schedule = ("schedule", "--file", str(file), "--timezone", "UTC")

    tried = daemon.command(*schedule, "--dry-run")
    assert tried.stderr == "500 sessions would be scheduled\n"
    done = daemon.command(*schedule, "--json")
    made = json.loads(done.stdout)["sessions"]
    assert done.stderr == "500 sessions scheduled\n"
    assert [one["label"] for one in made] == [f"Check-in, {n}" for n in range(500)]
    again = daemon.command(*schedule, "--json")
    assert [one["id"] for one in json.loads(again.stdout)["sessions"]] == [one["id"] for one in made]

    assert daemon.command("shift", *day, "--by", "30m", "--dry-run").stderr == "500 sessions would move by 30m\n"
    moved = daemon.command("shift", *day, "--by", "30m", "--json")
    assert moved.stderr == "500 sessions moved by 30m\n"
    starts = [parsed(one["startTime"]) for one in json.loads(moved.stdout)["sessions"]]
    assert starts == [ALONE + timedelta(minutes=30 + n) for n in range(500)]

    matching = [f"--filter={one.removeprefix('--')}" for one in day]
    assert daemon.command("close", *matching, "--dry-run").stderr == "500 sessions would be closed\n"
    closed = daemon.command("close", *matching)
    assert closed.stderr == "500 sessions closed\n"
    assert {daemon.session(one["id"])["closeReason"] for one in (made[0], made[499])} == {"cancelled"}
    assert daemon.command("close", *matching).stderr == "0 sessions closed\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + sheet(3).encode(),
        sheet(3).replace("\n", "\r\n").encode(),
        "\r\n".join(
            ["sep=;", "Type;Label;Start Time", *(f"live;Check-in, {n};{DAY:%d.%m.%Y %H}:0{n}" for n in range(3))]
        ).encode(),
        sheet(3).replace("\n", "\n\n,,\n").encode(),
        sheet(3).replace("type,label,start", "TYPE,Subject,start_time").encode("utf-16"),
        b"".join(
            json.dumps({"type": "live", "label": f"Check-in, {n}", "startTime": f"{DAY:%Y-%m-%dT%H}:0{n}:00Z"}).encode()
            + b"\r\n"
            for n in range(3)
        ),
    ],
    ids=["bom", "crlf", "semicolons", "empty lines", "utf-16", "ndjson"],
)  # fmt: skip
def test_files_of_other_programs_are_read(daemon: Daemon, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "sessions.csv"
    file.write_bytes(content)

    done = daemon.command("schedule", "--file", str(file), "--timezone", "UTC", "--dry-run", "--json")

    assert done.stderr == "3 sessions would be scheduled\n"
    planned = json.loads(done.stdout)["planned"]
    assert [one["label"] for one in planned] == ["Check-in, 0", "Check-in, 1", "Check-in, 2"]
    assert parsed(planned[1]["startTime"]) == DAY + timedelta(minutes=1)


def lines(rows: int) -> str:
    """Return NDJSON with an appointment every minute, all without a type."""
    at = (DAY + timedelta(minutes=n) for n in range(rows))
    return "".join(
        json.dumps({"label": f"Line {n}", "startTime": f"{start:%Y-%m-%dT%H:%M}Z"}) + "\n" for n, start in enumerate(at)
    )


@pytest.mark.parametrize("name", ["sessions.ndjson", "sessions.jsonl", "SESSIONS.NDJSON"])
def test_the_name_of_a_file_says_that_each_line_is_json(daemon: Daemon, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("\ufeff\n" + lines(3))
    done = daemon.command("schedule", "--file", str(file), "--type", "live", "--key", name, "--json")

    assert done.stderr == "3 sessions scheduled\n"
    made = json.loads(done.stdout)["sessions"]
    assert [one["label"] for one in made] == ["Line 0", "Line 1", "Line 2"]
    assert parsed(daemon.session(made[1]["id"])["startTime"]) == DAY + timedelta(minutes=1)

    file.write_text("[1]\n" + lines(1) + "type,label,start\n")  # by its content alone, this would be CSV
    refused = daemon.command("schedule", "--file", str(file), "--type", "live")
    first, second, last = refused.stderr.splitlines()
    assert first == f"tminus: {name}: line 1 is not an object: each line has one session"
    assert second.startswith(f"tminus: {name}: line 3 ")
    assert (refused.returncode, last) == (1, f"tminus: nothing was scheduled; {name} has 2 errors")


@pytest.mark.parametrize(("content", "label"), [(sheet(3), "Check-in, 1"), (lines(3), "Line 1")], ids=["csv", "ndjson"])
def test_the_standard_input_is_read_as_a_file(daemon: Daemon, content: str, label: str) -> None:
    def schedule(given: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [TMINUS, "schedule", "--file", "-", "--timezone", "UTC", "--type", "live", "--json"],
            input=given,
            env=environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config)),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = schedule(content)
    assert (done.returncode, done.stderr) == (0, "3 sessions scheduled\n")
    made = json.loads(done.stdout)["sessions"][1]
    assert (made["label"], made["type"], parsed(made["startTime"])) == (label, "live", DAY + timedelta(minutes=1))
    wrong = schedule(content.replace(label, "x" * 256))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert f"line {3 if 'Check' in label else 2}: label must have" in wrong.stderr
    assert schedule("").returncode == 1


def test_a_file_in_another_encoding_needs_its_name(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "sessions.csv"
    file.write_bytes(f"type;label;start\nlive;Überprüfung;{DAY:%Y-%m-%dT%H:%M:%SZ}\n".encode("cp1252"))

    refused = daemon.command("schedule", "--file", str(file))
    assert refused.returncode == 1
    assert "line 2 is not in utf-8: save the file as CSV UTF-8, or name its encoding" in refused.stderr
    done = daemon.command("schedule", "--file", str(file), "--encoding", "cp1252", "--dry-run", "--json")
    assert json.loads(done.stdout)["planned"][0]["label"] == "Überprüfung"
    unknown = daemon.command("schedule", "--file", str(file), "--encoding", "windows", "--dry-run")
    assert (unknown.returncode, unknown.stdout) == (2, "")


@pytest.mark.parametrize("dry_run", [False, True], ids=["", "dry run"])
@pytest.mark.parametrize("socket", [True, False], ids=["socket", "network"])
def test_the_bar_on_a_terminal_moves_with_the_work_until_it_is_full(
    daemon: Daemon, tmp_path: Path, dry_run: bool, socket: bool
) -> None:
    file = tmp_path / "sessions.csv"
    file.write_text(sheet(2000, ALONE + timedelta(days=20)))
    environ = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config))
    where = () if socket else ("--url", daemon.url)
    command = [TMINUS, "schedule", "--file", str(file), "--timezone", "UTC", "--key", str(file), "--json", *where]

    with Terminal([*command, *["--dry-run"] * dry_run], environ | {"TMINUS_TOKEN": daemon.token}) as terminal:
        assert terminal.end() == 0
        drawn, _, after = terminal.raw.rpartition("\r\x1b[K")

    bars = re.findall(rf"\[(#*)(-*)\] {'checking' if dry_run else 'scheduling'} 2000 sessions", drawn)
    filled = [len(done) for done, _ in bars]
    assert {len(done + left) for done, left in bars} == {24}
    assert filled == sorted(set(filled)), "it only rises"
    assert (filled[0], filled[-1]) == (0, 24)
    assert 12 in filled, "all sessions are sent"
    assert len([one for one in filled if 0 < one < 12]) >= 5
    assert len([one for one in filled if 12 < one < 24]) >= 2
    assert "[#" not in after
    assert f"2000 sessions {'would be ' * dry_run}scheduled" in after


def test_errors_name_the_line_of_the_file_and_nothing_is_scheduled(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "sessions.csv"
    lines = ["type,label,start,room", "phone,A,2030-01-01T09:00:00Z,1", "", "live,,2020-01-01T09:00:00Z,2"]
    file.write_text("\n".join(lines))

    refused = daemon.command("schedule", "--file", str(file))

    assert refused.returncode == 1
    errors = refused.stderr.splitlines()
    assert errors[0] == "tminus: sessions.csv: ignored, since not known: room"
    assert errors[1].startswith("tminus: sessions.csv: line 2: type must be")
    assert errors[2].startswith("tminus: sessions.csv: line 4: label must have")
    assert errors[-1].startswith("tminus: nothing was scheduled; sessions.csv has ")


def test_all_errors_of_a_file_are_counted(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "sessions.csv"
    file.write_text(sheet(1500).replace("live", "phone"))

    refused = daemon.command("schedule", "--file", str(file), "--timezone", "UTC")

    assert refused.returncode == 1
    *errors, more, last = refused.stderr.splitlines()
    assert [one.partition(" type")[0] for one in errors] == [f"tminus: sessions.csv: line {n + 2}:" for n in range(20)]
    assert more == "tminus: sessions.csv: and 1480 more errors"
    assert last == "tminus: nothing was scheduled; sessions.csv has 1500 errors"


def test_conditions_are_checked_before_anything_is_closed(daemon: Daemon) -> None:
    for arguments in (
        ("close",),
        ("close", "abc", "--filter", "type=live"),
        ("close", "--filter", "start=2026"),
        ("close", "--filter", "from=tomorrow"),
        ("close", "--filter", "status=closed"),
        ("shift", "--by", "30m"),
        ("schedule", "--file", "x.csv", "--label", "A"),
        ("schedule", "--type", "live", "--dry-run"),
    ):
        assert daemon.command(*arguments).returncode == 2, arguments
    assert daemon.command("schedule", "--file", "/nowhere.csv").returncode == 1
