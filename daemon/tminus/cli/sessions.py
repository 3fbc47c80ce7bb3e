"""The commands that make, move, close and show sessions."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from tminus import clock
from tminus.cli import output, views
from tminus.cli.connection import CONFLICT, Connection, fail, reporting_errors
from tminus.cli.options import NAME, NUMBER, PAGE, SPAN, SPAN_EITHER_WAY, TIME, Command, as_json, session_id, utc, wide
from tminus.domain import timestamps
from tminus.domain.policy import PREFERENCE_OF
from tminus.domain.types import SessionType, Status

if TYPE_CHECKING:
    from tminus import schemas

TYPES = click.Choice([one.value for one in SessionType])
STATUSES = click.Choice([one.value for one in Status])
PREFERENCES = click.Choice(list(PREFERENCE_OF.values()))

NAMED = 50
"""Names of people who were in a session that are shown."""

SEARCHED = 200
"""Sessions asked for at once of those that are searched for."""

at = click.option("--at", type=TIME, metavar="TIME", help="RFC 3339, with Z or an offset.")
in_ = click.option("--in", "in_", type=SPAN, metavar="SPAN", help="From now on: 90s, 10m5s, 2h, 3d.")


def described(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a new session is."""
    for option in reversed(
        [
            click.option("--type", type=TYPES, required=True, help="What kind of session."),
            click.option("--label", required=True, help="What people read."),
            click.option(
                "--prefer",
                type=PREFERENCES,
                multiple=True,
                metavar="SETTING",
                help="Ask for this setting; may be repeated.",
            ),
            click.option("--parent-table", type=NAME, help="Table of the object it is about."),
            click.option("--parent-id", type=NAME, help="Id of the object it is about."),
            click.option("--parent-name", help="What people call that object."),
            click.option("--key", help="Idempotency key: the same key makes one session."),
        ]
    ):
        function = option(function)
    return function


def _start(at: str | None, in_: timedelta | None, or_by: str = "") -> str:
    """The start time, from exactly one of the two options."""
    if at is not None and in_ is None:
        return at
    if in_ is None or at is not None:
        raise _one_of_the_times(or_by)
    return _after(clock.now(), in_, "--in")


def _one_of_the_times(or_by: str) -> click.UsageError:
    return click.UsageError(f"Say when, once: --at TIME or --in SPAN{or_by}.", click.get_current_context())


def _moved(session: "schemas.Session", by: timedelta) -> str:
    """The start of a session, moved. One that was never scheduled has none."""
    if "startTime" not in session:
        raise fail(f"session {session['id']} has no start: it was open at once", CONFLICT)
    return _after(timestamps.parse(session["startTime"]), by, "--by")


def _after(instant: datetime, span: timedelta, option: str) -> str:
    try:
        return timestamps.text(instant + span)
    except OverflowError:
        raise click.UsageError(f"{option} leads beyond the calendar.", click.get_current_context()) from None


def _parent(table: str | None, record_id: str | None, name: str | None) -> tuple[str | None, str | None, str | None]:
    """What the session is about. A part of it alone would be lost: table and id name it together."""
    if (table is None) != (record_id is None) or (name is not None and table is None):
        message = "--parent-table and --parent-id go together; --parent-name needs both."
        raise click.UsageError(message, click.get_current_context())
    return table, record_id, name


def _make(
    connection: Connection,
    start: str | None,
    session_type: str,
    label: str,
    asked: tuple[str, ...],
    parent: tuple[str | None, str | None, str | None],
    key: str | None,
    as_json: bool,
) -> None:
    """Creates or schedules, and prints the session."""
    with reporting_errors(), connection.open() as daemon:
        wanted = dict.fromkeys(asked, True)
        rest: tuple[Any, ...] = (session_type, *parent, label, wanted)
        if start is None:
            made = daemon.createSession(*rest, idempotency_key=key)
        else:
            made = daemon.scheduleSession(start, *rest, idempotency_key=key)
    _show(made, as_json)


@click.command(cls=Command)
@described
@as_json
@click.pass_obj
def create(
    connection: Connection,
    type: str,
    label: str,
    prefer: tuple[str, ...],
    parent_table: str | None,
    parent_id: str | None,
    parent_name: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Create a session that is open at once."""
    _make(connection, None, type, label, prefer, _parent(parent_table, parent_id, parent_name), key, as_json)


@click.command(cls=Command)
@at
@in_
@described
@as_json
@click.pass_obj
def schedule(
    connection: Connection,
    at: str | None,
    in_: timedelta | None,
    type: str,
    label: str,
    prefer: tuple[str, ...],
    parent_table: str | None,
    parent_id: str | None,
    parent_name: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Schedule a session; it opens ahead of its start, by the lead time (10 minutes)."""
    start = _start(at, in_)
    _make(connection, start, type, label, prefer, _parent(parent_table, parent_id, parent_name), key, as_json)


@click.command(cls=Command)
@session_id
@at
@in_
@click.option("--by", type=SPAN_EITHER_WAY, metavar="SPAN", help="From its start on: 1h later, -30m earlier.")
@click.option("--if-version", type=NUMBER, metavar="NUMBER", help="Only if this is still its version.")
@as_json
@click.pass_obj
def reschedule(
    connection: Connection,
    session_id: str,
    at: str | None,
    in_: timedelta | None,
    by: timedelta | None,
    if_version: int | None,
    as_json: bool,
) -> None:
    """Move a scheduled session to another start. Also `tminus move`."""
    if by is None:
        start = _start(at, in_, or_by=" or --by SPAN")
    elif at is not None or in_ is not None:
        raise _one_of_the_times(" or --by SPAN")
    with reporting_errors(), connection.open() as daemon:
        if by is not None:
            # Only if nobody moves it in between: of two who move it by an hour at once, one is refused.
            found = daemon.getSession(session_id)
            start = _moved(found, by)
            if_version = found["version"] if if_version is None else if_version
        moved = daemon.rescheduleSession(session_id, start, if_version=if_version)
    _show(moved, as_json)


@click.command(cls=Command)
@session_id
@as_json
@click.pass_obj
def close(connection: Connection, session_id: str, as_json: bool) -> None:
    """Close a session; everybody in it is disconnected. Also `tminus cancel`, `tminus delete`."""
    with reporting_errors(), connection.open() as daemon:
        done = daemon.closeSession(session_id)
    if as_json:
        output.put_json(done)
    else:
        output.put(f"session {session_id} is closed")


@click.command(cls=Command)
@session_id
@as_json
@click.pass_obj
def show(connection: Connection, session_id: str, as_json: bool) -> None:
    """Show one session."""
    with reporting_errors(), connection.open() as daemon:
        session = daemon.getSession(session_id)
        end = None if as_json or session["status"] != "closed" else _end(daemon, session_id)
    if as_json:
        output.put_json(session)
    else:
        views.session(session, views.moments(utc=True), end)


def _end(daemon: Any, session_id: str) -> views.End:
    """How a session ended, and who was in it, from its history."""
    closed_by, names, left_out, after = "", dict[str, None](), 0, 0
    while True:
        page = daemon.getEvents(session_id, after)
        for event in page["events"]:
            if event["type"] == "session.closed":
                closed_by = views.actor(event)
            elif event["type"] == "participant.joined":
                name = event["participant"]["name"] if "participant" in event else "somebody"
                if name in names or len(names) < NAMED:
                    names[name] = None
                else:
                    left_out += 1
        if page["next"] <= after:
            return views.End(closed_by, list(names), left_out)
        after = page["next"]


@click.command(cls=Command)
@click.option("--status", type=STATUSES, multiple=True, help="May be repeated; else all but closed.")
@click.option("--type", type=TYPES, help="Only this kind.")
@click.option("--scope", type=click.Choice(["mine", "all"]), help="Yours or everybody's; all over the local socket.")
@click.option("--start-from", type=TIME, metavar="TIME", help="Starting then or later.")
@click.option("--start-to", type=TIME, metavar="TIME", help="Starting before then.")
@click.option(
    "--record", type=NAME, metavar="NAME", help="Only of this record: INC0042, or its table and id, or its id."
)
@click.option(
    "--search", type=NAME, metavar="TEXT", help="Only if its label or record holds this, in upper or lower case."
)
@click.option("--limit", type=PAGE, default=20, metavar="NUMBER", help="How many, at most.")
@click.option("--offset", type=NUMBER, default=0, metavar="NUMBER", help="How many to leave out first.")
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
    wanted = {
        "status": list(status) or None,
        "type": type,
        "scope": scope or ("all" if connection.is_local else "mine"),
        "startFrom": start_from,
        "startTo": start_to,
        "search": search or record,
    }
    with reporting_errors(), connection.open() as daemon:
        if wanted["search"] is None:
            found = daemon.listSessions(**wanted, limit=limit, offset=offset)
        else:
            matching = (row for row in _searched(daemon, wanted) if _is_of(row, record) and _holds(row, search))
            rows = list(islice(matching, offset, offset + limit))
            found = {"count": len(rows), "rows": rows}
    if as_json:
        output.put_json(found)
        return
    shown, count = len(found["rows"]), found["count"]
    if not shown:
        closed = "" if status else " (closed ones: --status closed)"
        output.put(f"no sessions{closed}" if not count else f"nothing on this page; {count} in all")
        return
    when = views.moments(utc=utc)
    views.sessions(found["rows"], when, wide=wide)
    if output.is_terminal():
        is_part = shown < count or (wanted["search"] is not None and shown == limit)
        of = "" if wanted["search"] is not None else f" of {count}"
        more = f"{shown}{of}: --limit and --offset show others" if is_part else f"{count} in all"
        output.put([[output.Span(f"{more}; times in {when.zone}", "dim")]])


def _searched(daemon: Any, wanted: dict[str, Any]) -> "Iterator[schemas.Session]":
    """Whatever the daemon finds, page by page, each session once: what is made meanwhile moves the pages."""
    offset: int | None = 0
    seen = set[str]()
    while offset is not None:
        page = daemon.listSessions(**wanted, limit=SEARCHED, offset=offset)
        yield from (row for row in page["rows"] if row["id"] not in seen)
        seen.update(row["id"] for row in page["rows"])
        after = page.get("next")
        offset = after if after is not None and after > offset else None


def _is_of(row: "schemas.Session", record: str | None) -> bool:
    """Whether a session is about this record: by a word of its name, by table and id, or by its id."""
    if record is None:
        return True
    parent = row["parentObject"] or {}
    # As a word of its own: what a service desk calls "Case CS0010001" is searched for as CS0010001.
    wanted = re.compile(rf"(?<!\w){re.escape(record.casefold())}(?!\w)")
    names = (parent.get("name"), parent.get("id"), row["externalMapping"])
    return any(isinstance(name, str) and wanted.search(name.casefold()) is not None for name in names)


def _holds(row: "schemas.Session", search: str | None) -> bool:
    """Whether it holds the text that is searched for; the daemon was asked for one of the two."""
    name = (row["parentObject"] or {}).get("name")
    texts = (row["label"], row["externalMapping"], name)
    return search is None or any(search.casefold() in text.casefold() for text in texts if isinstance(text, str))


def _show(session: Any, as_json: bool) -> None:
    """Print one session."""
    if as_json:
        output.put_json(session)
    else:
        views.session(session, views.moments(utc=True))
