"""The commands that create, schedule, reschedule, close and show sessions."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tminus.cli import batches, output, views
from tminus.cli.completion_values import session_ids
from tminus.cli.connection import CONFLICT, Connection, fail, reporting_errors
from tminus.cli.options import (
    DURATION,
    FILE,
    ID,
    NAME,
    NUMBER,
    PERSON,
    SIGNED_DURATION,
    TIME,
    TYPES,
    Command,
    as_json,
    session_id,
)
from tminus.cli.times import time_if_known, time_of
from tminus.domain import timestamps
from tminus.domain.durations import duration_text
from tminus.domain.policy import PREFERENCE_OF
from tminus.domain.types import Status

if TYPE_CHECKING:
    from tminus import schemas

PREFERENCES = click.Choice(list(PREFERENCE_OF.values()))

MAX_NAMES = 50
"""Maximum number of participants' names that are shown."""

at = click.option("--at", type=TIME, metavar="TIME", help="The start: RFC 3339, with Z or an offset.")
in_ = click.option(
    "--in", "in_", type=DURATION, metavar="DURATION", help="The start, counted from now: 90s, 10m5s, 2h, 3d."
)


def session_options(function: Callable[..., None], *, required: bool = True) -> Callable[..., None]:
    """Add the options that describe a new session to a command. `required`: click requires type and label."""
    for option in reversed(
        [
            click.option("--type", type=TYPES, required=required, help="The type of the session."),
            click.option("--label", required=required, help="The name that people see."),
            click.option(
                "--prefer",
                type=PREFERENCES,
                multiple=True,
                metavar="SETTING",
                help="Request this setting; may be repeated.",
            ),
            click.option("--parent-table", type=NAME, help="Table of the record that the session belongs to."),
            click.option("--parent-id", type=NAME, help="Id of that record."),
            click.option("--parent-name", help="Name of that record, as people see it."),
            click.option(
                "--invite",
                type=PERSON,
                multiple=True,
                metavar="PERSON",
                help="Invite a guest: joe@example.com, or 'Joe <joe@example.com>'; may be repeated.",
            ),
            click.option(
                "--invite-host",
                type=PERSON,
                multiple=True,
                metavar="PERSON",
                help="Invite a host, who gets the host's link; may be repeated.",
            ),
            click.option("--key", help="Idempotency key: repeated calls with one key create one session."),
        ]
    ):
        function = option(function)
    return function


def _start(connection: Connection, at: str | None, in_: timedelta | None, or_by: str = "") -> str:
    """Return the start time, from exactly one of the two options. `or_by`: the third option that an error names."""
    if at is not None and in_ is None:
        return at
    if in_ is None or at is not None:
        raise _start_error(or_by)
    with reporting_errors(), connection.open() as daemon:
        now = time_of(daemon)
    return _after(now, in_, "--in")


def _start_error(or_by: str) -> click.UsageError:
    return click.UsageError(f"Give the start once: --at TIME or --in DURATION{or_by}.", click.get_current_context())


def _moved(session: "schemas.Session", by: timedelta) -> str:
    """Return the start of a session, moved by a duration. Fails if the session was never scheduled."""
    if "startTime" not in session:
        raise fail(f"session {session['id']} has no start: it was open at once", CONFLICT)
    return _after(timestamps.parse(session["startTime"]), by, "--by")


def _after(instant: datetime, span: timedelta, option: str) -> str:
    try:
        return timestamps.text(instant + span)
    except OverflowError:
        raise click.UsageError(f"{option} leads beyond the calendar.", click.get_current_context()) from None


def _parent(table: str | None, record_id: str | None, name: str | None) -> tuple[str | None, str | None, str | None]:
    """Return the record that the session belongs to. Only table and id together identify it."""
    if (table is None) != (record_id is None) or (name is not None and table is None):
        message = "--parent-table and --parent-id go together; --parent-name needs both."
        raise click.UsageError(message, click.get_current_context())
    return table, record_id, name


def _invitees(guests: Iterable[tuple[str, str]], hosts: Iterable[tuple[str, str]]) -> "list[schemas.Invitee]":
    """Return the people to invite, each given as name and address."""
    invited: list[schemas.Invitee] = [{"email": email, "name": name, "role": "guest"} for name, email in guests]
    invited += [{"email": email, "name": name, "role": "host"} for name, email in hosts]
    return invited


def _create(
    connection: Connection,
    start: str | None,
    session_type: str,
    label: str,
    preferred: tuple[str, ...],
    parent: tuple[str | None, str | None, str | None],
    invitees: "list[schemas.Invitee]",
    key: str | None,
    as_json: bool,
    reminders: list[str] | None = None,
) -> None:
    """Create or schedule a session, and print it."""
    with reporting_errors(), connection.open() as daemon:
        preferences = dict.fromkeys(preferred, True)
        arguments: tuple[Any, ...] = (session_type, *parent, label, preferences)
        if start is None:
            session = daemon.createSession(*arguments, invitees=invitees, idempotency_key=key)
        else:
            session = daemon.scheduleSession(
                start, *arguments, invitees=invitees, reminders=reminders, idempotency_key=key
            )
        _show(daemon, session, as_json)


@click.command(cls=Command)
@session_options
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
    invite: tuple[tuple[str, str], ...],
    invite_host: tuple[tuple[str, str], ...],
    key: str | None,
    as_json: bool,
) -> None:
    """Create a session that is open at once."""
    parent, invitees = _parent(parent_table, parent_id, parent_name), _invitees(invite, invite_host)
    _create(connection, None, type, label, prefer, parent, invitees, key, as_json)


@click.command(cls=Command)
@at
@in_
@click.option(
    "--remind",
    type=DURATION,
    multiple=True,
    metavar="DURATION",
    help="Remind people this long before the start: 15m, 1d; may be repeated. Default: as the daemon is configured.",
)
@click.option("--no-reminders", is_flag=True, help="Remind nobody.")
@partial(session_options, required=False)
@click.option(
    "--file", type=FILE, metavar="FILE", help="Schedule all sessions of a CSV or NDJSON file; - for standard input."
)
@click.option("--timezone", type=NAME, metavar="NAME", help="With --file: time zone of times without an offset.")
@click.option("--encoding", default="utf-8", metavar="NAME", help="With --file: encoding of the file, such as cp1252.")
@batches.dry_run
@as_json
@click.pass_obj
def schedule(
    connection: Connection,
    at: str | None,
    in_: timedelta | None,
    remind: tuple[timedelta, ...],
    no_reminders: bool,
    type: str | None,
    label: str | None,
    prefer: tuple[str, ...],
    parent_table: str | None,
    parent_id: str | None,
    parent_name: str | None,
    invite: tuple[tuple[str, str], ...],
    invite_host: tuple[tuple[str, str], ...],
    key: str | None,
    file: Path | None,
    timezone: str | None,
    encoding: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Schedule a session, or all sessions of a file. They open before their start, by the lead time (10 minutes)."""
    if file is not None:
        of_one = (
            at,
            in_,
            remind,
            no_reminders,
            label,
            prefer,
            parent_table,
            parent_id,
            parent_name,
            invite,
            invite_host,
        )
        if any(of_one):
            message = "--file goes with --type, --timezone, --encoding, --key, --dry-run and --json only."
            raise click.UsageError(message, click.get_current_context())
        batches.schedule_file(connection, file, type, encoding, timezone, key, dry_run=dry_run, as_json=as_json)
        return
    if dry_run or timezone is not None:
        raise click.UsageError("--dry-run and --timezone go with --file.", click.get_current_context())
    if type is None or label is None:
        _missing("type" if type is None else "label")
    start = _start(connection, at, in_)
    if remind and no_reminders:
        raise click.UsageError("--remind and --no-reminders exclude each other.", click.get_current_context())
    reminders = [duration_text(span) for span in remind] if remind or no_reminders else None
    parent, invitees = _parent(parent_table, parent_id, parent_name), _invitees(invite, invite_host)
    _create(connection, start, type, label, prefer, parent, invitees, key, as_json, reminders)


@click.command(cls=Command)
@session_id
@at
@in_
@click.option("--by", type=SIGNED_DURATION, metavar="DURATION", help="Move the start later (1h) or earlier (-30m).")
@click.option("--if-version", type=NUMBER, metavar="NUMBER", help="Only if the session still has this version.")
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
        start = _start(connection, at, in_, or_by=" or --by DURATION")
    elif at is not None or in_ is not None:
        raise _start_error(" or --by DURATION")
    with reporting_errors(), connection.open() as daemon:
        if by is not None:
            # The request carries the version: if two callers move the session by an hour at once, one is refused.
            found = daemon.getSession(session_id)
            start = _moved(found, by)
            if_version = found["version"] if if_version is None else if_version
        moved = daemon.rescheduleSession(session_id, start, if_version=if_version)
        _show(daemon, moved, as_json)


def _missing(name: str) -> NoReturn:
    """Raise click's error for a required option that is missing."""
    context = click.get_current_context()
    option = next(one for one in context.command.params if one.name == name)
    raise click.MissingParameter(ctx=context, param=option)


@click.command(cls=Command)
@click.argument("session_id", type=ID, metavar="ID", required=False, shell_complete=session_ids)
@click.option(
    "--filter",
    "conditions",
    multiple=True,
    metavar="NAME=VALUE",
    help="Close all sessions that match, in place of one: from=TIME, to=TIME, type, status, record; may be repeated.",
)
@batches.scope
@batches.dry_run
@click.option("--yes", is_flag=True, help="With --filter: do not ask on a terminal.")
@as_json
@click.pass_obj
def close(
    connection: Connection,
    session_id: str | None,
    conditions: tuple[str, ...],
    scope: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Close a session, or all that match, and disconnect their participants. Also `tminus cancel`, `tminus delete`."""
    if conditions:
        if session_id is not None:
            raise click.UsageError("Give an id or --filter, not both.", click.get_current_context())
        batches.close_matching(connection, conditions, scope, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    if scope is not None or dry_run or yes:
        raise click.UsageError("--scope, --dry-run and --yes go with --filter.", click.get_current_context())
    if session_id is None:
        _missing("session_id")
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
        _show(daemon, session, as_json, end)


def _end(daemon: Any, session_id: str) -> views.End:
    """Return how a session ended and who took part in it, from its events."""
    closed_by, names, left_out, after = "", dict[str, None](), 0, 0
    while True:
        page = daemon.getEvents(session_id, after)
        for event in page["events"]:
            if event["type"] == "session.closed":
                closed_by = views.actor(event)
            elif event["type"] == "participant.joined":
                name = event["participant"]["name"] if "participant" in event else "somebody"
                if name in names or len(names) < MAX_NAMES:
                    names[name] = None
                else:
                    left_out += 1
        if page["next"] <= after:
            return views.End(closed_by, list(names), left_out)
        after = page["next"]


def _show(daemon: Any, session: Any, as_json: bool, end: views.End | None = None) -> None:
    """Print one session."""
    if as_json:
        output.put_json(session)
        return
    # Only these statuses are shown with a time until a deadline, which counts from the daemon's time.
    now = time_if_known(daemon) if session["status"] in (Status.SCHEDULED, Status.NEW) else None
    views.session(session, views.time_format(utc=True, now=now), end)
