"""Reports of a real daemon on a test clock: by the API and by the command, as tables, JSON and CSV."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.acceptance.conftest import check_health, storage_of
from tests.acceptance.daemons import JSON, Daemon
from tests.support.databases import KINDS

FORMULA = ' =HYPERLINK("http://evil.example")'
"""A name that a spreadsheet would execute."""


@pytest.fixture(scope="module", params=KINDS)
def week(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon on each database, with four sessions: attended, expired, cancelled, closed while empty."""
    with ExitStack() as stack:
        daemon = Daemon(lifecycle={"new_timeout": "1h"}, storage=storage_of(request, stack))
        stack.callback(daemon.remove)
        daemon.config.write_text(daemon.config.read_text().replace('"Anna Agent"', json.dumps(FORMULA)))
        daemon.arguments = ["--test-clock", "2027-03-28T00:30:00Z"]  # half an hour before summer time begins in Berlin
        daemon.start()
        attended = daemon.make(by="anna", type="support")
        move_clock(daemon, advance="40m")
        person = daemon.join(attended["id"]).json()["participantId"]
        move_clock(daemon, advance="30m")
        daemon.delete(f"/supportsession/{attended['id']}/participants/{person}", by="room")
        daemon.delete(f"/supportsession/{attended['id']}")
        daemon.make(by="anna")
        cancelled = daemon.make(startTime="2027-03-29T00:00:00Z")
        daemon.delete(f"/supportsession/{cancelled['id']}")
        closed = daemon.make()
        daemon.delete(f"/supportsession/{closed['id']}")
        move_clock(daemon, advance="1d")
        yield daemon
        check_health(daemon)


def move_clock(daemon: Daemon, **body: str) -> None:
    assert daemon.post("/clock", body).status_code == 200


def report(daemon: Daemon, query: str = "", by: str = "admin") -> JSON:
    answer = daemon.get(f"/report?{query}", by=by)
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def test_a_report_counts_outcomes_and_measures_time(week: Daemon) -> None:
    found = report(week, "scope=all&zone=Europe/Berlin")

    outcome = {name: found[name] for name in ("sessions", "attended", "noShows", "cancelled")}
    assert outcome == {"sessions": 4, "attended": 1, "noShows": 2, "cancelled": 1}
    assert {one["type"]: one["sessions"] for one in found["byType"]} == {
        "support": 1, "cobrowse": 0, "live": 3, "replay": 0
    }  # fmt: skip
    assert [(one["agent"], one["name"], one["sessions"]) for one in found["byAgent"]] == [
        (7, FORMULA, 2), (32593, "System Administrator", 2)
    ]  # fmt: skip
    assert {one["reason"]: one["sessions"] for one in found["byReason"]} == {"cancelled": 1, "closed": 2, "expired": 1}
    assert [hour for hour, number in enumerate(found["byHour"]) if number] == [3], "01:10Z is 03:10 in Berlin"
    assert found["waitingSeconds"] == {"count": 1, "mean": 2400, "p50": 2400, "p99": 2400, "max": 2400}
    assert found["lengthSeconds"] == {"count": 1, "mean": 1800, "p50": 1800, "p99": 1800, "max": 1800}
    assert found["lagMs"] == {"count": 1, "mean": 0, "p50": 0, "p99": 0, "max": 0}
    assert (found["until"], found["since"]) == ("2027-03-29T01:40:00.000Z", "2027-02-27T01:40:00.000Z")


def test_an_agent_sees_its_own_sessions_only(week: Daemon) -> None:
    assert report(week, by="anna")["sessions"] == 2
    assert report(week, "since=2027-03-28T02:00:00Z", by="anna")["sessions"] == 1
    assert week.get("/report?scope=all", by="anna").status_code == 403
    assert week.get("/report", by="room").status_code == 403


WRONG = [
    ("zone=Mars/Olympus", "zone"),
    ("zone=../../etc/passwd", "zone"),
    ("zone=Europe", "zone"),
    ("zone=localtime", "zone"),
    ("zone=" + "x" * 65, "zone"),
    ("since=2027-03-29T00:00:00Z&until=2027-03-28T00:00:00Z", "since"),
    ("since=2020-01-01T00:00:00Z", "since"),
    ("since=yesterday", "since"),
    ("scope=ours", "scope"),
]


def test_a_wrong_parameter_is_refused(week: Daemon) -> None:
    for query, field in WRONG:
        answer = week.get(f"/report?{query}")

        assert answer.status_code == 400, query
        assert [one["field"] for one in answer.json()["errors"]] == [field], query


def test_the_first_and_the_last_time_of_the_calendar_are_accepted(week: Daemon) -> None:
    assert report(week, "until=0001-01-01T00:00:00Z&zone=Pacific/Apia")["sessions"] == 0
    assert report(week, "until=9999-12-31T23:59:59Z&zone=Pacific/Apia")["sessions"] == 0


def test_the_command_prints_tables_json_and_csv(week: Daemon) -> None:
    period = ("--from", "2027-03-28", "--to", "2027-03-30", "--zone", "Europe/Berlin")
    shown, as_json, as_csv = (week.command("report", *period, *form) for form in ((), ("--json",), ("--csv",)))

    found = json.loads(as_json.stdout)
    assert (found["since"], found["until"]) == ("2027-03-27T23:00:00.000Z", "2027-03-29T22:00:00.000Z")
    assert found["sessions"] == 4
    assert shown.stdout.startswith("4 sessions closed from ")
    assert "03:00\t1\t" + "\u2588" * 40 in shown.stdout
    rows = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert {row["value"] for row in rows if (row["section"], row["measure"]) == ("total", "noShows")} == {"2"}
    assert {row["name"] for row in rows if row["section"] == "agent"} == {f"'{FORMULA}", "System Administrator"}
    assert len([row for row in rows if row["section"] == "hour"]) == 24
    assert [row["value"] for row in rows if (row["section"], row["measure"]) == ("lagMs", "p99")] == ["0"]


def test_the_api_answers_with_the_same_csv(week: Daemon) -> None:
    period = "since=2027-03-27T23:00:00Z&until=2027-03-29T22:00:00Z&zone=Europe/Berlin&scope=all"
    printed = week.command(
        "report", "--from", "2027-03-28", "--to", "2027-03-30", "--zone", "Europe/Berlin", "--csv"
    ).stdout
    for answer in (
        week.get(f"/report?{period}", headers={"Accept": "text/csv"}),
        week.get(f"/report?{period}&format=text/csv"),
    ):
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["vary"] == "accept"
        assert answer.text == printed.replace("\n", "\r\n")
    as_json = week.get(f"/report?{period}&format=application/json", headers={"Accept": "text/csv"})
    assert as_json.json()["sessions"] == 4


def test_the_command_refuses_wrong_options(week: Daemon) -> None:
    wrong = [
        ("--from", "2027-02-30"),
        ("--from", "soon"),
        ("--csv", "--json"),
        ("--to", "2027-03-01", "--zone", "Mars"),
    ]
    for options in wrong:
        done = week.command("report", *options)
        assert (done.returncode, done.stdout) == (2, ""), options
    assert week.command("report", "--zone", "Mars").returncode == 1
