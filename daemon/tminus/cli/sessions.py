"""The commands that make, move, close and show sessions."""

from enum import StrEnum
from typing import Annotated, Any

from tminus import clock, instants
from tminus.cli import output, views
from tminus.cli.connection import USAGE, AsJson, Connection, Utc, Wide, fail, telling_errors
from tminus.cli.parsing import Argument, Option
from tminus.durations import parse_duration
from tminus.policy import PREFERENCE_OF
from tminus.vocabulary import SessionType, Status

Preference = StrEnum("Preference", {name: name for name in PREFERENCE_OF.values()})  # type: ignore[misc]


class Scope(StrEnum):
    MINE = "mine"
    ALL = "all"


SessionId = Annotated[str, Argument("ID", help="The session's id.")]
At = Annotated[str | None, Option("--at", metavar="TIME", help="RFC 3339, with Z or an offset.")]
In = Annotated[str | None, Option("--in", metavar="SPAN", help="From now on: 90s, 10m5s, 2h, 3d.")]
Type = Annotated[SessionType, Option("--type", help="What kind of session.")]
Label = Annotated[str, Option("--label", help="What people read.")]
Preferences = Annotated[list[Preference] | None, Option("--prefer", help="Ask for this setting; may be repeated.")]
ParentTable = Annotated[str | None, Option("--parent-table", help="Table of the object it is about.")]
ParentId = Annotated[str | None, Option("--parent-id", help="Id of the object it is about.")]
ParentName = Annotated[str | None, Option("--parent-name", help="What people call that object.")]
Key = Annotated[str | None, Option("--key", help="Idempotency key: the same key makes one session.")]


def _start(at: str | None, in_: str | None) -> str:
    """The start time, from exactly one of the two options."""
    if (at is None) == (in_ is None):
        raise fail("say when: --at TIME or --in SPAN, one of the two", USAGE)
    try:
        return at if at is not None else instants.text(clock.now() + parse_duration(in_))
    except (ValueError, OverflowError) as error:
        raise fail(f"--in {error}", USAGE) from None


def _make(
    connection: Connection,
    start: str | None,
    session_type: SessionType,
    label: str,
    asked: Any,
    parent: Any,
    key: str | None,
    as_json: bool,
) -> None:
    """Creates or schedules, and prints the session."""
    with telling_errors(), connection.open() as daemon:
        wanted = {preference.value: True for preference in asked or ()}
        rest = (session_type.value, *parent, label, wanted)
        if start is None:
            made = daemon.createSession(*rest, idempotency_key=key)
        else:
            made = daemon.scheduleSession(start, *rest, idempotency_key=key)
    _show(made, as_json)


def create(
    connection: Connection,
    type: Type,
    label: Label,
    prefer: Preferences = None,
    parent_table: ParentTable = None,
    parent_id: ParentId = None,
    parent_name: ParentName = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Create a session that is open at once."""
    _make(connection, None, type, label, prefer, (parent_table, parent_id, parent_name), key, as_json)


def schedule(
    connection: Connection,
    type: Type,
    label: Label,
    at: At = None,
    in_: In = None,
    prefer: Preferences = None,
    parent_table: ParentTable = None,
    parent_id: ParentId = None,
    parent_name: ParentName = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Schedule a session; it opens ahead of its start, by the lead time (10 minutes)."""
    start = _start(at, in_)
    _make(connection, start, type, label, prefer, (parent_table, parent_id, parent_name), key, as_json)


def reschedule(
    connection: Connection,
    session_id: SessionId,
    at: At = None,
    in_: In = None,
    if_version: Annotated[int | None, Option(help="Only if this is still its version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Move a scheduled session to another start."""
    start = _start(at, in_)
    with telling_errors(), connection.open() as daemon:
        moved = daemon.rescheduleSession(session_id, start, if_version=if_version)
    _show(moved, as_json)


def close(connection: Connection, session_id: SessionId, as_json: AsJson = False) -> None:
    """Close a session; everybody in it is disconnected."""
    with telling_errors(), connection.open() as daemon:
        done = daemon.closeSession(session_id)
    if as_json:
        output.put_json(done)
    else:
        output.put(f"session {session_id} is closed")


def show(connection: Connection, session_id: SessionId, as_json: AsJson = False) -> None:
    """Show one session."""
    with telling_errors(), connection.open() as daemon:
        session = daemon.getSession(session_id)
    _show(session, as_json)


def list_(
    connection: Connection,
    status: Annotated[list[Status] | None, Option(help="May be repeated; else all but closed.")] = None,
    type: Annotated[SessionType | None, Option(help="Only this kind.")] = None,
    scope: Annotated[Scope | None, Option(help="Yours or everybody's; all over the local socket.")] = None,
    start_from: Annotated[str | None, Option(metavar="TIME", help="Starting then or later.")] = None,
    start_to: Annotated[str | None, Option(metavar="TIME", help="Starting before then.")] = None,
    limit: Annotated[int, Option(least=1, most=1000)] = 20,
    offset: Annotated[int, Option(least=0)] = 0,
    utc: Utc = False,
    wide: Wide = False,
    as_json: AsJson = False,
) -> None:
    """List sessions, the newest first."""
    with telling_errors(), connection.open() as daemon:
        found = daemon.listSessions(
            status=[one.value for one in status] if status else None,
            type=type and type.value,
            scope=(scope or (Scope.ALL if connection.is_local else Scope.MINE)).value,
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
