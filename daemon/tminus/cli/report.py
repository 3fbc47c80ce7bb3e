"""`tminus report`: what happened in a period, as tables with a plot, as JSON, or as CSV."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from tminus.cli import output, tables, views
from tminus.cli.connection import USAGE, Connection, fail, reporting_errors
from tminus.cli.options import NAME, Command, Time, as_json, utc
from tminus.cli.tables import Column
from tminus.domain import timestamps
from tminus.domain.report_csv import COUNTS, NUMBERS, as_table

if TYPE_CHECKING:
    from tminus import schemas

BAR = 40
"""The width of the longest bar of the plot, in characters."""

WAIT = 60.0
"""Seconds that the answer may take beyond the client's time-out: a report on a million sessions takes some seconds."""

TITLES = {"waitingSeconds": "waiting, s", "lengthSeconds": "length, s", "lagMs": "scheduler late, ms"}
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


class _DayOrTime(Time):
    """A time, or a day, which begins at midnight in the time zone of the report."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not _DAY.fullmatch(value):
            return super().convert(value, param, ctx)
        try:
            datetime.fromisoformat(value)
        except ValueError as error:
            self.fail(f"{value!r} is not a valid day: {error}", param, ctx)
        return str(value)


DAY_OR_TIME = _DayOrTime()


@click.command(cls=Command)
@click.option(
    "--from",
    "since",
    type=DAY_OR_TIME,
    metavar="TIME",
    help="Begin at this time or day. Default: 30 days before the end.",
)
@click.option("--to", "until", type=DAY_OR_TIME, metavar="TIME", help="End before this time or day. Default: now.")
@click.option("--zone", type=NAME, default="UTC", metavar="ZONE", help="Time zone of days and hours: Europe/Berlin.")
@click.option(
    "--scope", type=click.Choice(["mine", "all"]), help="Your own sessions or all. Default as for `tminus list`."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@utc
@as_json
@click.pass_obj
def report(
    connection: Connection,
    since: str | None,
    until: str | None,
    zone: str,
    scope: str | None,
    as_csv: bool,
    utc: bool,
    as_json: bool,
) -> None:
    """Report on the sessions that closed in a period: by type, agent and outcome; waiting, length, punctuality."""
    if as_csv and as_json:
        raise fail("--csv and --json exclude each other", USAGE)
    params = {
        "since": _instant(since, zone),
        "until": _instant(until, zone),
        "zone": zone,
        "scope": scope or ("all" if connection.is_local else "mine"),
    }
    with reporting_errors(), connection.open() as daemon:
        found: schemas.Report = daemon.request(
            "GET", "/report", params={key: value for key, value in params.items() if value is not None}, wait=WAIT
        )
    if as_json:
        output.put_json(found)
    elif as_csv:
        output.put_text(as_table(found))
    else:
        _show(found, views.time_format(utc=utc))


def _instant(text: str | None, zone: str) -> str | None:
    """Return a time as it is, and a day as the time of its first midnight in the time zone."""
    if text is None or not _DAY.fullmatch(text):
        return text
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - needed only for days

    try:
        midnight = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    except (KeyError, ValueError, OSError):
        raise fail(f"{zone} is not a time zone of the IANA database, such as Europe/Berlin", USAGE) from None
    try:
        return timestamps.text(midnight)
    except OverflowError:
        raise fail(f"{text} is beyond the calendar", USAGE) from None


def _show(found: "schemas.Report", when: Any) -> None:
    since, until = when.text(found["since"]), when.text(found["until"])
    sessions = "1 session" if found["sessions"] == 1 else f"{found['sessions']} sessions"
    output.put(f"{sessions} closed from {since} to {until}")
    kinds = [row for row in found["byType"] if row["sessions"]]
    _counts("TYPE", [(row["type"], row) for row in kinds])
    _counts("AGENT", [(_agent(row), row) for row in found["byAgent"]])
    if found["moreAgents"]:
        output.put(f"{found['moreAgents']} more agents")
    _table(
        (Column("CLOSED BECAUSE"), Column("SESSIONS")),
        [[row["reason"], str(row["sessions"])] for row in found["byReason"]],
    )
    columns = (Column("MEASURE"), *(Column(name.upper()) for name in NUMBERS))
    _table(columns, [[name, *_cells(found, key)] for key, name in TITLES.items()])
    _table((Column("HOUR"), Column("BEGUN"), Column("", least=5)), _plot(found["byHour"]))


def _cells(found: Any, key: str) -> list[str]:
    return ["" if (number := found[key][name]) is None else f"{number:g}" for name in NUMBERS]


def _counts(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    columns = (
        Column(title, least=8),
        *(Column(name.upper()) for name in ("sessions", "attended", "no-shows", "cancelled")),
    )
    _table(columns, [[name, *(str(row[count]) for count in COUNTS)] for name, row in rows])


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table below an empty line, if it has rows."""
    if rows:
        output.put([[]])
        tables.show(columns, rows)


def _plot(hours: Sequence[int]) -> list[list[str]]:
    """Return the rows of a plot: the hour of the day, the number of sessions that began in it, and a bar."""
    most, full = max(hours) or 1, "\u2588" if output.is_utf8() else "#"
    return [[f"{hour:02}:00", str(number), full * -(-number * BAR // most)] for hour, number in enumerate(hours)]


def _agent(row: "schemas.ReportOfAgent") -> str:
    return f"{row['name']} ({row['agent']})" if row["name"] else f"agent {row['agent']}"
