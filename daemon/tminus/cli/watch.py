"""`tminus watch`: show scheduled and open sessions, redrawn at an interval, within the size of the terminal."""

import time
from datetime import timedelta
from typing import Any

import click

from tminus import clock
from tminus.cli import output, tables, views
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.options import DURATION, PAGE, Command, utc
from tminus.cli.output import Line, Span
from tminus.cli.times import TimeFormat, time_of
from tminus.client import Unavailable
from tminus.domain import timestamps
from tminus.domain.types import OPEN_STATUSES, Status

Section = tuple[str, Any]
"""A title, and the page of sessions below it."""

FRAME = 4
"""Lines besides the tables: two titles, an empty line between the tables, and the last line."""


@click.command(cls=Command)
@click.option("--interval", type=DURATION, metavar="DURATION", default="1s", help="Time between two updates.")
@click.option(
    "--limit", type=PAGE, default=200, metavar="NUMBER", help="Maximum rows of each table; never more than fit."
)
@utc
@click.pass_obj
def watch(connection: Connection, interval: timedelta, limit: int, utc: bool) -> None:
    """Watch scheduled and open sessions, until Ctrl-C."""
    pause = interval.total_seconds()
    scope = "all" if connection.is_local else "mine"
    screen = Screen()
    with reporting_errors(), connection.open() as daemon:
        try:
            seen: list[Section] | None = None
            on_test_clock = bool(daemon.request("GET", "/clock")["test"])
            now = clock.now()
            while True:
                problem = ""
                columns, rows = output.size()
                try:
                    now = time_of(daemon) if on_test_clock else clock.now()
                    seen = _fetch(daemon, scope, min(limit, max(1, rows - FRAME)) if output.is_terminal() else limit)
                except Unavailable as error:
                    if seen is None:  # no daemon has answered yet: fail at once
                        raise
                    problem = f"{error.description}; trying again"
                times = views.time_format(utc=utc, now=now)
                screen.draw(frame(seen, times, timestamps.text(now), problem, columns, rows), (columns, rows))
                time.sleep(pause)
        except KeyboardInterrupt:
            screen.leave()


OPENED = [status.value for status in OPEN_STATUSES if status is not Status.SCHEDULED]


def _fetch(daemon: Any, scope: str, limit: int) -> list[Section]:
    opened = daemon.listSessions(status=OPENED, scope=scope, orderby="updatedAt", limit=limit)
    coming = daemon.listSessions(status=["scheduled"], scope=scope, orderby="startTime", orderdir="ASC", limit=limit)
    return [("Open", opened), ("Coming", coming)]


def frame(
    sections: list[Section], when: TimeFormat, now: str, problem: str, columns: int, rows: int
) -> tuple[list[Line], Line]:
    """Return the lines of both tables, and the last line, where the cursor stays.

    A table gets the lines that the other one does not need. `problem`: an error to show in the last line.
    """
    wanted = [len(page["rows"]) for _, page in sections]
    *above, end = tables.folded(
        problem or f"{now[:19].replace('T', ' ')}Z, times in {when.zone}, Ctrl-C ends", max(1, columns - 1)
    )
    above = above[: max(0, rows - FRAME)] if output.is_terminal() else []
    height = max(0, rows - FRAME - len(above))
    shares = shares_within(wanted, [page["count"] for _, page in sections], height)
    lines: list[Line] = []
    for (title, page), share in zip(sections, shares, strict=True):
        if lines:
            lines.append([])
        lines.append([Span(f"{title}: {page['count']}", "bold")])
        if share:
            lines += views.session_lines(page["rows"][:share], when, columns)
        if (more := page["count"] - min(share, len(page["rows"]))) > 0:
            lines.append([Span(f"{more} more", "dim")])
    style = "" if problem else "dim"
    lines += [[Span(line, style)] for line in above]
    return lines, [Span(views.cut_to(end, columns - 1), style)]


def shares_within(wanted: list[int], counts: list[int], height: int) -> list[int]:
    """Return the number of rows for each table. The tables fit into `height` lines, with column headings and
    "… more" lines, but without titles.
    """

    def lines(share: int, count: int) -> int:
        return share + (1 if share else 0) + (1 if count > share else 0)

    shares = list(wanted)
    while sum(map(lines, shares, counts)) > height and any(shares):
        largest = max(range(len(shares)), key=lambda at: shares[at])
        shares[largest] -= 1
    return shares


class Screen:
    """Draws each frame over the previous one. In a pipe, each frame that differs is printed below the previous one."""

    def __init__(self) -> None:
        self._height = 0
        self._size = (0, 0)
        self._before: list[Line] = []

    def leave(self) -> None:
        """Keep the last frame, and move the cursor to the line below it."""
        if self._height:
            output.draw("\n")

    def draw(self, frame: tuple[list[Line], Line], size: tuple[int, int]) -> None:
        """Draw a frame that was made for a terminal of this size. If the size has changed, clear the screen first."""
        lines, end = frame
        if not output.is_terminal():
            if lines != self._before:
                output.put([*lines, []])
                output.draw("")
                self._before = lines
            return
        colour = output.coloured()
        # After a change of its size, the terminal wraps lines differently, so nothing is where it was drawn.
        start = "\x1b[2J\x1b[H" if self._size != size and self._height else "\r"
        if self._height and self._size == size:
            start += f"\x1b[{self._height}A"
        text = "".join(f"\x1b[K{output.styled(line, colour=colour)}\n" for line in lines)
        output.draw(f"{start}{text}\x1b[J{output.styled(end, colour=colour)}")
        self._height, self._size = len(lines), size
