"""The commands for the clock: show, advance, next and to."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from tminus.cli import output, views
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.options import DURATION, TIME, Command, as_json, utc, wide
from tminus.domain.durations import duration_text

if TYPE_CHECKING:
    from tminus import schemas
    from tminus.cli.times import TimeFormat

WAIT = 60.0
"""Seconds that the answer to a move may take beyond the client's time-out. The daemon ends a move after about 10 s."""

PAGE = 1000
"""Maximum number of events in an answer."""


@click.command(cls=Command)
@utc
@as_json
@click.pass_obj
def show(connection: Connection, utc: bool, as_json: bool) -> None:
    """Show the time of the daemon's clock, whether it is a test clock, and the next deadline."""
    with reporting_errors(), connection.open() as daemon:
        found: schemas.Clock = daemon.request("GET", "/clock")
    if as_json:
        output.put_json(found)
        return
    when = views.time_format(utc=utc)
    kind = "test clock, stands at" if found["test"] else "real clock:"
    output.put(f"{kind} {when.text(found['now'], seconds=True)}{_next(found['nextDeadline'], when)}")


@click.command(cls=Command)
@click.argument("duration", type=DURATION)
@utc
@wide
@as_json
@click.pass_obj
def advance(connection: Connection, duration: timedelta, utc: bool, wide: bool, as_json: bool) -> None:
    """Move the test clock forward by DURATION, such as 10m, and print what happened meanwhile."""
    _move(connection, {"advance": duration_text(duration)}, utc=utc, wide=wide, as_json=as_json)


@click.command("next", cls=Command)
@utc
@wide
@as_json
@click.pass_obj
def next_(connection: Connection, utc: bool, wide: bool, as_json: bool) -> None:
    """Move the test clock to the next deadline, and print what happened there."""
    _move(connection, {"to": "next"}, utc=utc, wide=wide, as_json=as_json)


@click.command(cls=Command)
@click.argument("time", type=TIME)
@utc
@wide
@as_json
@click.pass_obj
def to(connection: Connection, time: str, utc: bool, wide: bool, as_json: bool) -> None:
    """Move the test clock to TIME, and print what happened meanwhile."""
    _move(connection, {"to": time}, utc=utc, wide=wide, as_json=as_json)


def _move(connection: Connection, move: dict[str, str], *, utc: bool, wide: bool, as_json: bool) -> None:
    """Move the clock, in as many requests as it takes, and print the events of each."""
    when = views.time_format(utc=utc)
    table = views.Events(when, wide=wide)
    with reporting_errors(), connection.open() as daemon:
        while True:
            moved: Any = daemon.request("POST", "/clock", json=move, wait=WAIT)
            if as_json:
                output.put_json(moved, indent=None)
            elif moved["events"]:
                table.show(moved["events"])
                _show_more(daemon, table, moved)
            if moved["reached"]:
                break
            move = {"to": moved["target"]}
    if not as_json:
        output.put(f"the clock stands at {when.text(moved['now'], seconds=True)}{_next(moved['nextDeadline'], when)}")


def _show_more(daemon: Any, table: views.Events, moved: Any) -> None:
    """Print the rest of a move's events, if one deadline caused more than fit into the answer."""
    page = moved
    while len(page["events"]) >= PAGE:
        page = daemon.feed(page["next"], limit=PAGE)
        table.show(page["events"])


def _next(deadline: str | None, when: "TimeFormat") -> str:
    return f"; next deadline {when.text(deadline, seconds=True)}" if deadline else "; nothing is due"
