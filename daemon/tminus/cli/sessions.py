"""The commands that make, move, close and show sessions."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from tminus import clock, instants
from tminus.cli import output, views
from tminus.cli.connection import Connection, telling_errors
from tminus.cli.options import NUMBER, PAGE, SPAN, TIME, Command, as_json, session_id, utc, wide
from tminus.policy import PREFERENCE_OF
from tminus.vocabulary import SessionType, Status

TYPES = click.Choice([one.value for one in SessionType])
STATUSES = click.Choice([one.value for one in Status])
PREFERENCES = click.Choice(list(PREFERENCE_OF.values()))

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
            click.option("--parent-table", help="Table of the object it is about."),
            click.option("--parent-id", help="Id of the object it is about."),
            click.option("--parent-name", help="What people call that object."),
            click.option("--key", help="Idempotency key: the same key makes one session."),
        ]
    ):
        function = option(function)
    return function


def _start(at: str | None, in_: timedelta | None) -> str:
    """The start time, from exactly one of the two options."""
    if at is not None and in_ is None:
        return at
    if in_ is None or at is not None:
        raise click.UsageError("Say when: --at TIME or --in SPAN, one of the two.", click.get_current_context())
    try:
        return instants.text(clock.now() + in_)
    except OverflowError:
        raise click.UsageError("--in leads beyond the year 9999.", click.get_current_context()) from None


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
    with telling_errors(), connection.open() as daemon:
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
@click.option("--if-version", type=NUMBER, metavar="NUMBER", help="Only if this is still its version.")
@as_json
@click.pass_obj
def reschedule(
    connection: Connection,
    session_id: str,
    at: str | None,
    in_: timedelta | None,
    if_version: int | None,
    as_json: bool,
) -> None:
    """Move a scheduled session to another start. Also `tminus move`."""
    start = _start(at, in_)
    with telling_errors(), connection.open() as daemon:
        moved = daemon.rescheduleSession(session_id, start, if_version=if_version)
    _show(moved, as_json)


@click.command(cls=Command)
@session_id
@as_json
@click.pass_obj
def close(connection: Connection, session_id: str, as_json: bool) -> None:
    """Close a session; everybody in it is disconnected. Also `tminus cancel`, `tminus delete`."""
    with telling_errors(), connection.open() as daemon:
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
    with telling_errors(), connection.open() as daemon:
        session = daemon.getSession(session_id)
    _show(session, as_json)


@click.command(cls=Command)
@click.option("--status", type=STATUSES, multiple=True, help="May be repeated; else all but closed.")
@click.option("--type", type=TYPES, help="Only this kind.")
@click.option("--scope", type=click.Choice(["mine", "all"]), help="Yours or everybody's; all over the local socket.")
@click.option("--start-from", type=TIME, metavar="TIME", help="Starting then or later.")
@click.option("--start-to", type=TIME, metavar="TIME", help="Starting before then.")
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
    limit: int,
    offset: int,
    utc: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """List sessions, the newest first."""
    with telling_errors(), connection.open() as daemon:
        found = daemon.listSessions(
            status=list(status) or None,
            type=type,
            scope=scope or ("all" if connection.is_local else "mine"),
            startFrom=start_from,
            startTo=start_to,
            limit=limit,
            offset=offset,
        )
    if as_json:
        output.put_json(found)
        return
    shown, count = len(found["rows"]), found["count"]
    if not shown:
        output.put("no sessions" if not count else f"nothing on this page; {count} in all")
        return
    when = views.moments(utc=utc)
    views.sessions(found["rows"], when, wide=wide)
    if output.is_terminal():
        more = f"{shown} of {count}: --limit and --offset show others" if shown < count else f"{count} in all"
        output.put([[output.Span(f"{more}; times in {when.zone}", "dim")]])


def _show(session: Any, as_json: bool) -> None:
    """Print one session."""
    if as_json:
        output.put_json(session)
    else:
        views.session(session, views.moments(utc=True))
