"""Commands for many sessions at once: `tminus shift`, and what `schedule --file` and `close --filter` call."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from tminus.cli import output, views
from tminus.cli.connection import CONFLICT, REFUSED, Connection, fail, reporting_errors
from tminus.cli.options import NAME, SIGNED_DURATION, TIME, TYPES, Command, as_json
from tminus.client import ScreenMeetError
from tminus.domain import timestamps
from tminus.domain.durations import duration_text
from tminus.domain.types import OPEN_STATUSES

MAX_SHOWN = 20
"""Maximum number of errors, and of unknown names, of a file that are printed."""

BAR = 24
"""Width of the progress bar in characters."""

dry_run = click.option("--dry-run", is_flag=True, help="Show what would happen, and do nothing.")
scope = click.option(
    "--scope",
    type=click.Choice(["mine", "all"]),
    help="Your own sessions or all. Default: mine; over the local socket, all.",
)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar and what is done, until the block ends. It is on standard error, and only a terminal shows it.

    The block gets a function that fills the bar: its arguments are the numbers of steps that are done and of all steps.
    Within the block, nothing else may be printed.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _steps: None
        return
    shown = -1

    def fill(done: int, steps: int) -> None:
        nonlocal shown
        filled = BAR * done // max(1, steps)
        if filled != shown:
            output.draw_status(f"[{'#' * filled}{'-' * (BAR - filled)}] {what}")
            shown = filled

    fill(0, 1)
    try:
        yield fill
    finally:
        output.draw_status("")


def schedule_file(
    connection: Connection,
    file: Path,
    session_type: str | None,
    encoding: str,
    timezone: str | None,
    key: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Schedule the sessions of a file, all or none."""
    from tminus.cli import sheets  # noqa: PLC0415 - loads csv and time zones, which other commands do not need

    zone = None if timezone is None else _zone(timezone)
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        raise click.UsageError(f"There is no encoding {encoding!r}: name one such as cp1252.") from None
    try:
        with progress(f"reading {file.name}"):
            content = (
                sys.stdin.buffer.read(sheets.MAX_FILE + 1) if str(file) == "-" else _content(file, sheets.MAX_FILE + 1)
            )
    except OSError as error:
        raise fail(f"{file} cannot be read: {error.strerror or error}", REFUSED) from None
    ndjson = file.suffix.lower() in (".ndjson", ".jsonl") or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    try:
        sheet = sheets.read(content, ndjson=ndjson, encoding=encoding, zone=zone, session_type=session_type)
    except sheets.SheetError as found:
        raise _report(file, found.errors) from None
    if sheet.ignored:
        output.print_error(f"{file.name}: ignored, since not known: {', '.join(sheet.ignored[:MAX_SHOWN])}")
    count = _sessions(len(sheet.sessions))
    # Without --key, the key is a digest of the sessions: a command that is repeated by mistake schedules nothing more.
    digest = hashlib.sha256(repr(sheet.sessions).encode(errors="surrogatepass")).hexdigest()
    with reporting_errors(), connection.open() as daemon:
        try:
            with progress(f"{'checking' if dry_run else 'scheduling'} {count}") as fill:
                made = daemon.scheduleSessions(
                    sheet.sessions, dry_run=dry_run, idempotency_key=key or f"file {digest[:32]}", progress=fill
                )
        except ScreenMeetError as error:
            if error.refcode != 115400:
                raise
            listed = [_with_line(one, sheet.lines) for one in error.errors if one["field"] != "errors"]
            raise _report(file, listed, _number_of_all(error.errors)) from None
    _show(made, as_json, lambda: f"{count} would be scheduled" if dry_run else f"{count} scheduled")


def _content(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(limit)


def _zone(name: str) -> Any:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415 - other commands do not need time zones

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise click.UsageError(f"There is no time zone {name!r}: name one such as Europe/Berlin.") from None


def _with_line(error: Any, lines: list[int]) -> str:
    """Return an error of the daemon with the line of the file in place of the index."""
    name, _, rest = error["field"].partition(".")
    number, _, field = rest.partition(".")
    if name != "sessions" or not number.isdigit() or int(number) >= len(lines):
        return f"{error['field']} {error['message']}"
    return f"line {lines[int(number)]}: {field or 'it'} {error['message']}"


def _number_of_all(errors: list[Any]) -> int | None:
    """Return the number of all errors, if the answer lists only some; its last one is "lists 1000 of 1500 errors"."""
    told = [re.search(r"of (\d+) errors$", one["message"]) for one in errors if one["field"] == "errors"]
    return int(told[0][1]) if told and told[0] else None


def _report(file: Path, errors: list[str], found: int | None = None) -> Exit:
    """Print the errors of a file, and return the exception for the caller to raise.

    `found`: their number, if `errors` has only the first of them.
    """
    found = found or len(errors)
    for error in errors[:MAX_SHOWN]:
        output.print_error(f"{file.name}: {error}")
    if found > MAX_SHOWN:
        output.print_error(f"{file.name}: and {found - MAX_SHOWN} more errors")
    return fail(f"nothing was scheduled; {file.name} has {found} error{'s' * (found != 1)}", REFUSED)


@click.command(cls=Command)
@click.option("--from", "from_", type=TIME, metavar="TIME", help="Only sessions that start at this time or later.")
@click.option("--to", type=TIME, metavar="TIME", help="Only sessions that start before this time.")
@click.option(
    "--by",
    type=SIGNED_DURATION,
    required=True,
    metavar="DURATION",
    help="Move the starts later (30m) or earlier (-30m).",
)
@click.option("--type", type=TYPES, help="Only sessions of this type.")
@click.option("--record", type=NAME, metavar="TABLE.ID", help="Only sessions of this record, such as incident.4711.")
@scope
@click.option("--key", help="Idempotency key: repeated calls with one key move the sessions once.")
@dry_run
@as_json
@click.pass_obj
def shift(
    connection: Connection,
    from_: str | None,
    to: str | None,
    by: timedelta,
    type: str | None,
    record: str | None,
    scope: str | None,
    key: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move the starts of all matching scheduled sessions by a duration: all of them, or none."""
    chosen = _filter(connection, scope, startFrom=from_, startTo=to, type=type, externalMapping=record)
    span = f"{'-' if by < timedelta() else ''}{duration_text(abs(by))}"
    with reporting_errors(), connection.open() as daemon:
        moved = daemon.rescheduleSessions(filter=chosen, by=span, dry_run=dry_run, idempotency_key=key)
    _show(moved, as_json, lambda: f"{_sessions(_count(moved))} {'would move' if dry_run else 'moved'} by {span}")


CONDITIONS = {
    "from": "startFrom", "to": "startTo", "type": "type", "status": "status", "record": "externalMapping"
}  # fmt: skip
"""Names of conditions of `--filter` -> their names in the API."""


def close_matching(
    connection: Connection, conditions: tuple[str, ...], scope: str | None, *, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Close all sessions that match and are not closed yet, all or none. On a terminal, ask for confirmation first."""
    given: dict[str, Any] = {}
    for condition in conditions:
        name, mark, value = condition.partition("=")
        if name not in CONDITIONS or not mark or not value or name in given:
            names = ", ".join(f"{one}=…" for one in CONDITIONS)
            raise click.UsageError(f"--filter {condition!r} must be one of {names}, each once.")
        given[name] = value.split(",") if name == "status" else value
    for name in ("from", "to"):
        if name in given:
            TIME.convert(given[name], None, click.get_current_context())
    unknown = set(given.get("status", ())) - set(OPEN_STATUSES)
    if unknown:
        raise click.UsageError(f"--filter status must be one of {', '.join(OPEN_STATUSES)}, not {', '.join(unknown)}.")
    chosen = _filter(connection, scope, **{CONDITIONS[name]: value for name, value in given.items()})
    with reporting_errors(), connection.open() as daemon:
        if not (dry_run or yes) and sys.stdin.isatty() and output.is_terminal():
            number = _count(daemon.closeSessions(filter=chosen, dry_run=True))
            if number and not click.confirm(f"Close {_sessions(number)}?"):
                raise Exit(CONFLICT)
        closed = daemon.closeSessions(filter=chosen, dry_run=dry_run)
    _show(closed, as_json, lambda: f"{_sessions(_count(closed))} {'would be ' * dry_run}closed")


def _filter(connection: Connection, scope: str | None, **conditions: Any) -> dict[str, Any]:
    chosen = {name: value for name, value in conditions.items() if value is not None}
    if not chosen:
        message = "Give at least one condition, such as --from TIME: without one, all sessions would match."
        raise click.UsageError(message, click.get_current_context())
    return chosen | {"scope": scope or ("all" if connection.is_local else "mine")}


def _count(answer: Any) -> int:
    return len(answer.get("planned", answer.get("sessions", ())))


def _sessions(number: int) -> str:
    return "1 session" if number == 1 else f"{number} sessions"


def _show(answer: Any, as_json: bool, summary: Callable[[], str]) -> None:
    """Print the sessions of a batch, or the plan of a dry run; print the summary to standard error."""
    if as_json:
        output.put_json(answer)
    elif "planned" in answer:
        for one in answer["planned"]:
            at = timestamps.text(timestamps.parse(one["startTime"])) if one["startTime"] else "now"
            output.put_fields([one["id"] or "-", one["status"], at, one["type"], one["label"]])
    elif answer["sessions"]:
        views.sessions(answer["sessions"], views.time_format(utc=False), wide=not output.is_terminal())
    sys.stdout.flush()
    sys.stderr.write(f"{summary()}\n")
