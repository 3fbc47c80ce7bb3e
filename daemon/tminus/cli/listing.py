"""`tminus list`: list sessions, and search for them."""

import re
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from tminus.cli import output, views
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.options import NAME, NUMBER, PAGE, TIME, TYPES, Command, as_json, utc, wide
from tminus.cli.times import time_if_known
from tminus.domain.types import Status

if TYPE_CHECKING:
    from tminus import schemas

STATUSES = click.Choice([status.value for status in Status])

SEARCH_PAGE = 200
"""Maximum number of sessions in one answer to a search."""


@click.command(cls=Command)
@click.option(
    "--status",
    type=STATUSES,
    multiple=True,
    help="Only sessions with this status; may be repeated. Default: all but closed.",
)
@click.option("--type", type=TYPES, help="Only sessions of this type.")
@click.option(
    "--scope",
    type=click.Choice(["mine", "all"]),
    help="Your own sessions or all. Default: mine; over the local socket, all.",
)
@click.option("--start-from", type=TIME, metavar="TIME", help="Only sessions that start at this time or later.")
@click.option("--start-to", type=TIME, metavar="TIME", help="Only sessions that start before this time.")
@click.option(
    "--record", type=NAME, metavar="NAME", help="Only sessions of this record: INC0042, its table and id, or its id."
)
@click.option(
    "--search", type=NAME, metavar="TEXT", help="Only sessions whose label or record contains this; case is ignored."
)
@click.option("--limit", type=PAGE, default=20, metavar="NUMBER", help="Maximum number of sessions.")
@click.option("--offset", type=NUMBER, default=0, metavar="NUMBER", help="Number of sessions to skip.")
@utc
@wide
@as_json
@click.pass_obj
def list_(
    connection: Connection,
    status: tuple[str, ...],
    type: str | None,
    scope: str | None,
    start_from: str | None,
    start_to: str | None,
    record: str | None,
    search: str | None,
    limit: int,
    offset: int,
    utc: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """List sessions, the newest first."""
    criteria = {
        "status": list(status) or None,
        "type": type,
        "scope": scope or ("all" if connection.is_local else "mine"),
        "startFrom": start_from,
        "startTo": start_to,
        "search": search or record,
    }
    with reporting_errors(), connection.open() as daemon:
        if criteria["search"] is None:
            found = daemon.listSessions(**criteria, limit=limit, offset=offset)
        else:
            matching = (row for row in _search(daemon, criteria) if _belongs_to(row, record))
            rows = list(islice(matching, offset, offset + limit))
            found = {"count": len(rows), "rows": rows}
        now = None if as_json or not found["rows"] else time_if_known(daemon)
    if as_json:
        output.put_json(found)
        return
    shown, count = len(found["rows"]), found["count"]
    if not shown:
        closed = "" if status else " (closed ones: --status closed)"
        output.put(f"no sessions{closed}" if not count else f"nothing on this page; {count} in all")
        return
    times = views.time_format(utc=utc, now=now)
    views.sessions(found["rows"], times, wide=wide)
    if output.is_terminal():
        is_part = shown < count or (criteria["search"] is not None and shown == limit)
        of = "" if criteria["search"] is not None else f" of {count}"
        more = f"{shown}{of}: --limit and --offset show others" if is_part else f"{count} in all"
        output.put([[output.Span(f"{more}; times in {times.zone}", "dim")]])


def _search(daemon: Any, criteria: dict[str, Any]) -> "Iterator[schemas.Session]":
    """Yield all sessions that the daemon finds, page by page.

    New sessions shift the pages, so a session may be on two of them; it is yielded once.
    """
    offset: int | None = 0
    seen = set[str]()
    while offset is not None:
        page = daemon.listSessions(**criteria, limit=SEARCH_PAGE, offset=offset)
        yield from (row for row in page["rows"] if row["id"] not in seen)
        seen.update(row["id"] for row in page["rows"])
        after = page.get("next")
        offset = after if after is not None and after > offset else None


def _belongs_to(row: "schemas.Session", record: str | None) -> bool:
    """Return whether a session belongs to the record that has this word in its name, this table and id, or this id.

    The daemon has searched for the text of `--search`, or else for the record anywhere in a session's texts.
    """
    if record is None:
        return True
    parent = row["parentObject"] or {}
    # As a whole word: CS0010001 finds the record "Case CS0010001".
    pattern = re.compile(rf"(?<!\w){re.escape(record.casefold())}(?!\w)")
    names = (parent.get("name"), parent.get("id"), row["externalMapping"])
    return any(isinstance(name, str) and pattern.search(name.casefold()) is not None for name in names)
