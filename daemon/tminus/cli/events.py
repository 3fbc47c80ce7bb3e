"""`tminus events`: print the past events of one session or of all, and follow new ones."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import click

from tminus.cli import output, views
from tminus.cli.completion_values import session_ids
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.options import ID, NUMBER, Command, as_json, utc, wide
from tminus.client import Forbidden, Unavailable
from tminus.domain.text import json_text
from tminus.domain.types import EventPattern, event_types

if TYPE_CHECKING:
    from tminus import schemas

WAIT = 25
"""Seconds for which the daemon holds a request while there are no new events."""

RETRY_INTERVAL = 1.0
"""Seconds between two requests to a daemon that has stopped answering."""

PAGE = 200
"""Maximum number of events in one answer, which limits the memory needed here and in the daemon."""


@click.command(cls=Command)
@click.argument("session_id", type=ID, metavar="[ID]", required=False, shell_complete=session_ids)
@click.option("--follow", "-f", is_flag=True, help="Continue with new events, until Ctrl-C.")
@click.option(
    "--type",
    type=click.Choice([pattern.value for pattern in EventPattern]),
    multiple=True,
    metavar="TYPE",
    help="Only events of this type, such as session.ready or participant.*; may be repeated.",
)
@click.option(
    "--after", type=NUMBER, metavar="NUMBER", help="Begin after the event with this number. Default with -f: now."
)
@utc
@wide
@as_json
@click.pass_obj
def events(
    connection: Connection,
    session_id: str | None,
    follow: bool,
    type: tuple[str, ...],
    after: int | None,
    utc: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Print the events of one session, or of all, the oldest first. With -f, --json prints one event per line."""
    types = list(type)
    table = views.Events(views.time_format(utc=utc), wide=wide)
    with reporting_errors(), connection.open() as daemon:
        if follow:
            _follow(daemon, session_id, types, "now" if after is None else after, None if as_json else table)
            return
        pages = _past_pages(daemon, session_id, types, after or 0)
        if as_json:
            _print_array(pages)
        else:
            for page in pages:
                table.show(page)


def _past_pages(
    daemon: Any, session_id: str | None, types: Sequence[str], after: int
) -> "Iterator[Sequence[schemas.Event]]":
    """Yield the events that exist at the call, page by page. With later ones, a busy daemon would cause endless output.

    The feed shows which event is the newest. A caller who may see the session but not the feed also gets later events.
    """
    wanted = event_types(types or ["*"])
    first = daemon.getEvents(session_id, after) if session_id else None
    try:
        newest = daemon.feed("now", limit=1)["next"]
    except Forbidden:
        if first is None:
            raise
        newest = None
    while True:
        if first is not None:
            page, first = first, None
        elif session_id:
            page = daemon.getEvents(session_id, after)
        else:
            page = daemon.feed(after, type=types, limit=PAGE)
        yield [
            event for event in page["events"] if event["type"] in wanted and (newest is None or event["seq"] <= newest)
        ]
        if page["next"] <= after or (newest is not None and page["next"] >= newest):
            return
        after = page["next"]


def _print_array(pages: "Iterator[Sequence[schemas.Event]]") -> None:
    """Print one JSON array, an element at a time."""
    is_first = True
    for page in pages:
        for event in page:
            sys.stdout.write("[\n" if is_first else ",\n")
            text = json_text(event, ascii_only=not output.is_utf8(), indent=2)
            sys.stdout.write("\n".join(f"  {line}" for line in text.split("\n")))
            is_first = False
    sys.stdout.write("[]\n" if is_first else "\n]\n")


def _follow(
    daemon: Any,
    session_id: str | None,
    types: Sequence[str],
    after: "int | Literal['now']",
    table: "views.Events | None",
) -> None:
    answered = reported = False
    try:
        while True:
            try:
                page = daemon.feed(after, type=types, wait=WAIT)
            except Unavailable as error:
                # A daemon that has answered before is restarting, or its database is unreachable: wait for it. If no
                # daemon has answered yet, fail at once.
                if not answered:
                    raise
                if not reported:
                    output.print_error(f"{error.description}; trying again")
                reported = True
                time.sleep(RETRY_INTERVAL)
                continue
            answered, reported = True, False
            after = page["next"]
            rows = [event for event in page["events"] if session_id in (None, event["id"])]
            if table is not None:
                table.show(rows)
                continue
            for row in rows:
                output.put_json(row, indent=None)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
