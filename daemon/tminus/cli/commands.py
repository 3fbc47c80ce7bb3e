"""The commands that ask the daemon; `operate` has those that work without one."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape

from tminus import __version__, clock, instants
from tminus.cli import tables
from tminus.cli.connection import USAGE, AsJson, Connection, fail, telling_errors
from tminus.cli.operate import operate
from tminus.cli.webhooks import webhooks
from tminus.client import Unavailable
from tminus.config.values import parse_duration
from tminus.policy import PREFERENCE_OF
from tminus.vocabulary import EventPattern, SessionType, Status, event_types

if TYPE_CHECKING:
    from tminus import wire

main = typer.Typer(
    name="tminus",
    help="Remote-support and meeting sessions: scheduled, opened on time, closed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
operate(main)
webhooks(main)

Preference = StrEnum("Preference", {name: name for name in PREFERENCE_OF.values()})  # type: ignore[misc]


WAIT = 25
"""Seconds that the daemon holds a request for events which have not happened yet."""

AGAIN = 1.0
"""Seconds after which a daemon that has stopped answering is asked again."""


class Scope(StrEnum):
    MINE = "mine"
    ALL = "all"


SessionId = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="RFC 3339, with Z or an offset.")]
In = Annotated[str | None, typer.Option("--in", metavar="SPAN", help="From now on: 90s, 10m5s, 2h, 3d.")]
Type = Annotated[SessionType, typer.Option("--type", help="What kind of session.")]
Label = Annotated[str, typer.Option("--label", help="What people read.")]
Preferences = Annotated[
    list[Preference] | None, typer.Option("--prefer", help="Ask for this setting; may be repeated.")
]
ParentTable = Annotated[str | None, typer.Option("--parent-table", help="Table of the object it is about.")]
ParentId = Annotated[str | None, typer.Option("--parent-id", help="Id of the object it is about.")]
ParentName = Annotated[str | None, typer.Option("--parent-name", help="What people call that object.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: the same key makes one session.")]


@main.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", help="The configuration file.")] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="TMINUS_URL", help="The daemon's URL, in place of the local socket."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", envvar="TMINUS_TOKEN_FILE", help="Holds the token; else $TMINUS_TOKEN."),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option("--socket", envvar="TMINUS_SOCKET", help="The daemon's local socket.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    context.obj = Connection(config, url, token_file, socket)
    if version:
        print(f"tminus {__version__}")
        raise typer.Exit


def _start(at: str | None, in_: str | None) -> str:
    """The start time, from exactly one of the two options."""
    if (at is None) == (in_ is None):
        raise fail("say when: --at TIME or --in SPAN, one of the two", USAGE)
    try:
        return at if at is not None else instants.text(clock.now() + parse_duration(in_))
    except (ValueError, OverflowError) as error:
        raise fail(f"--in {error}", USAGE) from None


def _make(
    context: typer.Context,
    start: str | None,
    session_type: SessionType,
    label: str,
    asked: Any,
    parent: Any,
    key: str | None,
    as_json: bool,
) -> None:
    """Creates or schedules, and prints the session."""
    with telling_errors(), context.obj.open() as daemon:
        wanted = {preference.value: True for preference in asked or ()}
        rest = (session_type.value, *parent, label, wanted)
        if start is None:
            made = daemon.createSession(*rest, idempotency_key=key)
        else:
            made = daemon.scheduleSession(start, *rest, idempotency_key=key)
    tables.show(made, as_json, lambda: tables.session(made, clock.now()))


@main.command()
def create(
    context: typer.Context,
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
    _make(context, None, type, label, prefer, (parent_table, parent_id, parent_name), key, as_json)


@main.command()
def schedule(
    context: typer.Context,
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
    _make(context, start, type, label, prefer, (parent_table, parent_id, parent_name), key, as_json)


@main.command()
def reschedule(
    context: typer.Context,
    session_id: SessionId,
    at: At = None,
    in_: In = None,
    if_version: Annotated[int | None, typer.Option(help="Only if this is still its version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Move a scheduled session to another start."""
    start = _start(at, in_)
    with telling_errors(), context.obj.open() as daemon:
        moved = daemon.rescheduleSession(session_id, start, if_version=if_version)
    tables.show(moved, as_json, lambda: tables.session(moved, clock.now()))


@main.command()
def close(context: typer.Context, session_id: SessionId, as_json: AsJson = False) -> None:
    """Close a session; everybody in it is disconnected."""
    with telling_errors(), context.obj.open() as daemon:
        done = daemon.closeSession(session_id)
    tables.show(done, as_json, lambda: f"session {session_id} is closed")


@main.command()
def show(context: typer.Context, session_id: SessionId, as_json: AsJson = False) -> None:
    """Show one session."""
    with telling_errors(), context.obj.open() as daemon:
        session = daemon.getSession(session_id)
    tables.show(session, as_json, lambda: tables.session(session, clock.now()))


@main.command("list")
def list_(
    context: typer.Context,
    status: Annotated[list[Status] | None, typer.Option(help="May be repeated; else all but closed.")] = None,
    type: Annotated[SessionType | None, typer.Option(help="Only this kind.")] = None,
    scope: Annotated[Scope | None, typer.Option(help="Yours or everybody's; all over the local socket.")] = None,
    start_from: Annotated[str | None, typer.Option(metavar="TIME", help="Starting then or later.")] = None,
    start_to: Annotated[str | None, typer.Option(metavar="TIME", help="Starting before then.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    offset: Annotated[int, typer.Option(min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """List sessions, the newest first."""
    with telling_errors(), context.obj.open() as daemon:
        found = daemon.listSessions(
            status=[one.value for one in status] if status else None,
            type=type and type.value,
            scope=(scope or (Scope.ALL if context.obj.is_local else Scope.MINE)).value,
            startFrom=start_from,
            startTo=start_to,
            limit=limit,
            offset=offset,
        )
    tables.show(found, as_json, lambda: _listed(found, clock.now()))


def _listed(found: "wire.SessionList", now: datetime) -> Any:
    shown, count = len(found["rows"]), found["count"]
    if not shown:
        return "no sessions" if not count else f"nothing on this page; {count} in all"
    more = f"{shown} of {count}: --limit and --offset show others" if shown < count else f"{count} in all"
    return Group(tables.sessions(found["rows"], now), f"[dim]{more}[/]")


@main.command()
def events(
    context: typer.Context,
    session_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only this session's.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    type: Annotated[
        list[EventPattern] | None,
        typer.Option("--type", help="Only these: session.ready, participant.*; may be repeated."),
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=0, help="Begin after the event with this number; else with -f: now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What happened, oldest first: to one session, or to all. --json with -f prints one event a line."""
    types = [pattern.value for pattern in type or ()]
    with telling_errors(), context.obj.open() as daemon:
        if follow:
            _follow(daemon, session_id, types, "now" if after is None else after, as_json)
            return
        rows = list(_happened(daemon, session_id, types, after or 0))
    tables.show(rows, as_json, lambda: tables.events(rows))


def _happened(daemon: Any, session_id: str | None, types: Sequence[str], after: int) -> "Iterator[wire.Event]":
    """All that has happened so far. The history of a session needs no more than the right to see it."""
    wanted = event_types(types or ["*"])
    while True:
        page = daemon.getEvents(session_id, after) if session_id else daemon.feed(after, type=types, limit=1000)
        yield from (event for event in page["events"] if event["type"] in wanted)
        if not page["events"]:
            return
        after = page["next"]


def _follow(
    daemon: Any, session_id: str | None, types: Sequence[str], after: "int | Literal['now']", as_json: bool
) -> None:
    out = tables.console()
    answered = told = False
    try:
        while True:
            try:
                page = daemon.feed(after, type=types, wait=WAIT)
            except Unavailable as error:
                # One that answered a moment ago is restarting, or its database is away. That nobody is there at all is
                # for the caller to know at once.
                if not answered:
                    raise
                if not told:
                    print(f"tminus: {error.description}; it is asked again", file=sys.stderr)
                told = True
                time.sleep(AGAIN)
                continue
            answered, told = True, False
            after = page["next"]
            rows = [event for event in page["events"] if session_id in (None, event["id"])]
            for row in rows:
                if as_json:
                    print(json.dumps(row, ensure_ascii=False), flush=True)
                else:
                    out.print(tables.event(row))
    except KeyboardInterrupt:
        pass


@main.command()
def watch(
    context: typer.Context,
    interval: Annotated[str, typer.Option(metavar="SPAN", help="How often to look.")] = "1s",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Rows of each table.")] = 20,
) -> None:
    """Watch what is coming and what is open, until Ctrl-C."""
    try:
        pause = parse_duration(interval).total_seconds()
    except ValueError as error:
        raise fail(f"--interval {error}", USAGE) from None
    scope = "all" if context.obj.is_local else "mine"
    with telling_errors(), context.obj.open() as daemon:
        try:
            with Live(console=tables.console(), auto_refresh=False) as live:
                seen: Group | None = None
                while True:
                    try:
                        seen = _watched(daemon, scope, limit)
                        live.update(seen, refresh=True)
                    except Unavailable as error:
                        if seen is None:  # as in `_follow`
                            raise
                        live.update(Group(seen, f"{escape(error.description)}; it is asked again"), refresh=True)
                    time.sleep(pause)
        except KeyboardInterrupt:
            pass


def _watched(daemon: Any, scope: str, limit: int) -> Group:
    now = clock.now()
    coming = daemon.listSessions(status=["scheduled"], scope=scope, orderby="startTime", orderdir="ASC", limit=limit)
    opened = daemon.listSessions(status=["new", "active"], scope=scope, orderby="updatedAt", limit=limit)
    return Group(
        tables.sessions(opened["rows"], now, f"Open: {opened['count']}"),
        tables.sessions(coming["rows"], now, f"Coming: {coming['count']}"),
        f"[dim]{instants.text(now)[:19].replace('T', ' ')}Z, Ctrl-C ends[/]",
    )
