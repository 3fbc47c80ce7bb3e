"""The output of commands on a terminal of 80 columns and 24 lines."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon, environment
from tests.acceptance.times import from_now
from tests.support.processes import TMINUS
from tests.support.receivers import SECRET
from tests.support.terminals import Terminal
from tests.support.waiting import eventually
from tminus.cli import catalogue

pytestmark = pytest.mark.slow

LABEL = "Weekly meeting with the customer of the north, room 4711"


@pytest.fixture(scope="module")
def busy() -> Iterator[Daemon]:
    """A daemon with more sessions than fit on a screen."""
    daemon = Daemon()
    try:
        daemon.start()
        for number in range(30):
            parent = {"id": f"{number:032}", "type": "incident", "name": f"INC00100{number:02}"}
            daemon.make(
                type="support" if number % 3 else "live",
                label=f"{number:02} {LABEL}",
                externalMapping=f"incident.{number:032}",
                parentObject=parent,
                **({"startTime": from_now(days=1 + number)} if number % 2 else {}),
            )
        daemon.make(type="live", label="会議 " * 20)
        yield daemon
    finally:
        daemon.remove()


def _terminal(daemon: Daemon, *arguments: str, columns: int = 80, rows: int = 24, zone: str = "UTC") -> Terminal:
    environ = environment(STATE_DIRECTORY=str(daemon.state), TMINUS_CONFIG=str(daemon.config), TZ=zone)
    return Terminal([TMINUS, *arguments], environ, columns=columns, rows=rows)


def _screen(daemon: Daemon, *arguments: str, zone: str = "UTC") -> list[str]:
    with _terminal(daemon, *arguments, zone=zone) as terminal:
        assert terminal.end() == 0
        return terminal.screen()


def test_list_fits_the_important_columns_into_80_columns(busy: Daemon) -> None:
    shown = _screen(busy, "list", "--limit", "100", zone="Europe/Berlin")
    assert shown[0].split() == ["ID", "STATUS", "START", "PIN", "RECORD", "LABEL"]
    assert len([line for line in shown if LABEL[:12] in line]) == 30, "each session has its own line"
    row: JSON = busy.get("/supportsessions?status=new&type=support&limit=1").json()["rows"][0]
    (line,) = [line for line in shown if line.startswith(row["id"])]
    assert str(row["pin"]) in line
    assert row["parentObject"]["name"] in line
    assert re.search(r" new .* \d\d-\d\d \d\d:\d\d ", line)
    assert line.endswith("…")
    assert "times in CE" in shown[-2]


def test_a_start_is_printed_in_the_local_zone_or_in_utc(busy: Daemon) -> None:
    row: JSON = busy.get("/supportsessions?status=scheduled&orderby=startTime&orderdir=ASC&limit=1").json()["rows"][0]
    hour = int(row["startTime"][11:13])
    for arguments, zone, hours in ((("--utc",), "Asia/Kolkata", 0), ((), "Etc/GMT-3", 3), ((), "no/such zone", 0)):
        shown = _screen(busy, "list", "--limit", "100", *arguments, zone=zone)
        (line,) = [line for line in shown if line.startswith(row["id"])]
        assert f" {(hour + hours) % 24:02}:{row['startTime'][14:16]} " in line, zone


def test_a_wide_list_cuts_nothing(busy: Daemon) -> None:
    with _terminal(busy, "list", "--wide", "--limit", "100", columns=400) as terminal:
        assert terminal.end() == 0
        shown = terminal.screen()
    assert shown[0].split()[-4:] == ["TYPE", "NEXT", "IN", "OWNER"]
    assert len([line for line in shown if LABEL in line]) == 30


def test_a_wide_list_in_a_narrow_window_is_a_block_for_each_session(busy: Daemon) -> None:
    row: JSON = busy.get("/supportsessions?status=scheduled&limit=1").json()["rows"][0]
    shown = _screen(busy, "list", "--wide", "--status", "scheduled", "--limit", "2", zone="UTC")
    block = dict(re.split(" {2,}", line, maxsplit=1) for line in shown[: shown.index("")])
    assert block["id"] == row["id"]
    assert LABEL in " ".join(shown)
    assert re.fullmatch("opens in .*, starts in .*", block["next"])
    assert [line for line in shown if line.startswith("id ")] == [shown[0], shown[shown.index("") + 1]]


def test_wide_events_fold_in_a_narrow_window(busy: Daemon) -> None:
    with _terminal(busy, "events", "--wide", "--type", "session.scheduled", columns=100) as terminal:
        assert terminal.end() == 0
        shown = terminal.screen()
    assert shown[0].split() == ["SEQ", "WHEN", "EVENT", "BY", "WHAT"]
    assert [line for line in shown[1:] if line.startswith(" " * 40)], "long text continues below, in its own column"


def test_events_are_printed_in_full_in_80_columns(busy: Daemon) -> None:
    shown = _screen(busy, "events", "--type", "session.scheduled")
    assert shown[0].split() == ["SEQ", "WHEN", "BY", "WHAT"]
    row: JSON = busy.get("/supportsessions?status=scheduled&limit=1").json()["rows"][0]
    text = " ".join(" ".join(shown).split())
    assert f"Session {row['id']} “{row['label']}” was scheduled for {row['startTime']}" in text


def test_watch_fits_its_window_and_counts_the_hidden_rows(busy: Daemon) -> None:
    with _terminal(busy, "watch", "--interval", "50ms") as terminal:
        for columns, rows in ((80, 24), (60, 12), (40, 8)):
            if (columns, rows) != (80, 24):
                terminal.resize(columns, rows)

            def drawn(rows: int = rows) -> bool:
                """Return whether all sessions are shown or counted, and the screen fills nearly the whole window."""
                shown = terminal.screen() if terminal.fits else []
                more = [int(line.split()[0]) for line in shown if line.endswith(" more")]
                sessions = [line for line in shown if re.match(r"[A-Za-z0-9]{6,12} +(new|scheduled)", line)]
                headings = [line for line in shown if line.startswith(("Open: 16", "Coming: 15"))]
                found = (len(headings), len(more), len(sessions) + sum(more))
                return found == (2, 2, 31) and rows - 2 < len(shown) <= rows

            eventually(drawn)
        assert terminal.interrupt() == 0


def test_in_a_pipe_columns_are_separated_by_tabs_and_not_padded_or_cut(busy: Daemon) -> None:
    heading, *rows = busy.command("list", "--limit", "100", COLUMNS="40").stdout.splitlines()
    assert heading == "ID\tSTATUS\tSTART\tPIN\tRECORD\tLABEL"
    assert len(rows) == 31
    cells = [row.split("\t") for row in rows]
    assert all(len(row) == 6 and row == [cell.strip() for cell in row] for row in cells[1:])
    assert {row[-1][3:] for row in cells[1:]} == {LABEL}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", row[2]) for row in cells)
    events = busy.command("events", "--utc").stdout.splitlines()
    assert events[0] == "SEQ\tWHEN\tEVENT\tBY\tWHAT"
    assert all(len(row.split("\t")) == 5 for row in events)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", events[1].split("\t")[1])


def test_the_help_of_each_command_fits_in_80_columns(busy: Daemon) -> None:
    groups = [(group, name) for group, entry in catalogue.GROUPS.items() for name in entry.commands]
    for arguments in ((), *((name,) for name in (*catalogue.COMMANDS, *catalogue.GROUPS)), *groups):
        _screen(busy, *arguments, "--help")


def test_other_commands_fit_in_80_columns(make_daemon: StartDaemon, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    endpoint = {"name": "a-receiver-with-a-long-name", "url": "http://127.0.0.1:9/", "secret_file": str(secret)}
    daemon = make_daemon(webhooks=[endpoint])
    daemon.start()
    made = daemon.make(type="live", label=LABEL)
    daemon.logged("webhook.failed")
    start = ("--dtstart", "2037-01-05T09:00", "--timezone", "Europe/Berlin", "--rrule", "FREQ=DAILY")
    _screen(daemon, "series", "create", "--type", "live", "--label", LABEL, *start)
    series = json.loads(daemon.command("series", "list", "--json").stdout)["series"]
    for arguments in (  # without `show`, which cuts no link, so that people can copy it
        ("series",),
        ("series", "show", series[0]["id"]),
        ("events", made["id"]),
        ("webhooks",),
        ("webhooks", "deliveries", endpoint["name"]),
        ("agents",),
        ("token", "list"),
        ("check",),
        ("clock",),
        ("db", "check"),
        ("lifecycle",),
        ("close", made["id"]),
        ("report",),
    ):
        assert _screen(daemon, *arguments)


def test_the_plot_of_a_report_has_bars_and_fits_in_80_columns(make_daemon: StartDaemon) -> None:
    daemon = make_daemon()
    daemon.arguments = ["--test-clock", "2027-03-01T09:30:00Z"]
    daemon.start()
    for hour, sessions in ((9, 3), (14, 1), (23, 2)):
        daemon.post("/clock", {"to": f"2027-03-01T{hour:02}:30:00Z"})
        made = [daemon.make(by="anna", type="support", label=LABEL)["id"] for _ in range(sessions)]
        for session_id in made:
            assert daemon.join(session_id).status_code == 200
        daemon.post("/clock", {"advance": "20m"})
        for session_id in made:
            assert daemon.delete(f"/supportsession/{session_id}").status_code == 200
    daemon.post("/clock", {"advance": "1d"})
    period = ("report", "--from", "2027-03-01", "--to", "2027-03-02", "--zone", "UTC", "--utc")

    shown = [line.split() for line in _screen(daemon, *period)]

    assert ["6", "sessions", "closed", "from"] in [words[:4] for words in shown]
    assert ["support", "6", "6", "0", "0"] in shown, "people were in all of them"
    assert any(words[:2] == ["length,", "s"] and "1200" in words for words in shown)
    plot = shown[shown.index(["HOUR", "BEGUN"]) + 1 :][:24]
    bars = {9: "█" * 40, 14: "█" * 14, 23: "█" * 27}
    numbers = {9: "3", 14: "1", 23: "2"}
    assert plot == [[f"{h:02}:00", numbers.get(h, "0"), *([bars[h]] if h in bars else [])] for h in range(24)]


def test_watch_prints_the_whole_error_and_leaves_a_line_for_the_prompt(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with _terminal(daemon, "watch", "--interval", "50ms", columns=60, rows=12) as terminal:
        eventually(lambda: terminal.screen()[-1].endswith("ends"))
        assert daemon.terminate() == 0
        eventually(lambda: terminal.screen()[-1].endswith("trying again"))
        shown = terminal.screen()
        assert "No answer from" in " ".join(shown)
        assert len(shown) <= 12
        assert terminal.interrupt() == 0
        assert terminal.screen()[-1] == ""
