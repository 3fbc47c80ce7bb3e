"""The commands for series: list, show, create, change and end."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tminus.cli import output, views
from tminus.cli.completion_values import series_ids
from tminus.cli.connection import REFUSED, Connection, fail, reporting_errors
from tminus.cli.options import DURATION, FILE, ID, NAME, PERSON, TYPES, Command, as_json, wide
from tminus.domain import strict_json
from tminus.domain.durations import duration_text
from tminus.domain.policy import PREFERENCE_OF

if TYPE_CHECKING:
    from tminus import schemas

PAGE = 100
"""Maximum number of series in one answer."""

MAX_BYTES = 1024 * 1024
"""Maximum size of a file in bytes. The daemon accepts less (`server.max_body`)."""

MEMBERS = ("rrule", "dtstart", "timezone", "exdates", "rdates", "horizon", "session")
"""The fields of a series that a request sends."""

series_id = click.argument("series_id", type=ID, metavar="ID", shell_complete=series_ids)
from_ = click.option(
    "--from", "from_here", type=NAME, metavar="TIME", help="Only sessions from this time on, in the series' time zone."
)


def series_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that describe a series to a command."""
    for option in reversed(
        [
            click.option("--rrule", type=NAME, metavar="RULE", help="Recurrence rule: FREQ=WEEKLY;BYDAY=MO,WE."),
            click.option("--dtstart", type=NAME, metavar="TIME", help="First possible start: 2026-12-01T09:00, local."),
            click.option("--timezone", type=NAME, metavar="ZONE", help="Zone of local times, such as Europe/Berlin."),
            click.option(
                "--exdate", type=NAME, multiple=True, metavar="TIME", help="A local time or date without a session."
            ),
            click.option("--rdate", type=NAME, multiple=True, metavar="TIME", help="A local time of one more session."),
            click.option("--horizon", type=DURATION, metavar="DURATION", help="How far ahead sessions are created."),
            click.option("--type", type=TYPES, help="The type of the sessions."),
            click.option("--label", type=NAME, help="The name that people see."),
            click.option(
                "--prefer", type=click.Choice(list(PREFERENCE_OF.values())), multiple=True, metavar="SETTING",
                help="Request this setting.",
            ),
            click.option(
                "--remind", type=DURATION, multiple=True, metavar="DURATION", help="Remind this long before the start."
            ),
            click.option("--no-reminders", is_flag=True, help="Remind nobody."),
            click.option("--invite", type=PERSON, multiple=True, metavar="PERSON", help="Invite a guest."),
            click.option("--invite-host", type=PERSON, multiple=True, metavar="PERSON", help="Invite a host."),
            click.option(
                "--file", type=FILE, metavar="FILE",
                help="Read the whole series from a JSON file, as the API takes it; - for standard input.",
            ),
        ]
    ):  # fmt: skip
        function = option(function)
    return function


def _given(
    *,
    rrule: str | None,
    dtstart: str | None,
    timezone: str | None,
    exdate: tuple[str, ...],
    rdate: tuple[str, ...],
    horizon: timedelta | None,
    type: str | None,
    label: str | None,
    prefer: tuple[str, ...],
    remind: tuple[timedelta, ...],
    no_reminders: bool,
    invite: tuple[tuple[str, str], ...],
    invite_host: tuple[tuple[str, str], ...],
) -> dict[str, Any]:
    """Return the fields of a series that the options give; `session` has the fields of its sessions."""
    if remind and no_reminders:
        raise click.UsageError("--remind and --no-reminders exclude each other.", click.get_current_context())
    session: dict[str, Any] = {"type": type, "label": label}
    session["agentPrefs"] = dict.fromkeys(prefer, True) or None
    session["reminders"] = [duration_text(span) for span in remind] if remind or no_reminders else None
    session["invitees"] = [*_invited(invite, "guest"), *_invited(invite_host, "host")] or None
    members: dict[str, Any] = {
        "rrule": rrule,
        "dtstart": dtstart,
        "timezone": timezone,
        "exdates": list(exdate) or None,
        "rdates": list(rdate) or None,
        "horizon": None if horizon is None else duration_text(horizon),
        "session": _present(session) or None,
    }
    return _present(members)


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _invited(people: Iterable[tuple[str, str]], role: str) -> list[dict[str, str]]:
    return [{"email": email, "name": name, "role": role} for name, email in people]


def _read(file: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the series in a JSON file."""
    if given:
        raise click.UsageError("--file has the whole series: give no other option for it.", click.get_current_context())
    try:
        with click.open_file(str(file), "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise fail(f"{file} cannot be read: {error.strerror or error}", REFUSED) from None
    if len(content) > MAX_BYTES:
        raise fail(f"{file} has more than {MAX_BYTES} bytes", REFUSED)
    try:
        found = strict_json.loads(content.decode(json.detect_encoding(content)))
    except UnicodeDecodeError as error:
        raise fail(f"{file} is not JSON: {error}", REFUSED) from None
    except ValueError as error:
        raise fail(f"{file} {error}", REFUSED) from None
    if not isinstance(found, dict):
        raise fail(f"{file} does not contain a JSON object", REFUSED)
    return found


@click.command(cls=Command)
@click.option("--scope", type=click.Choice(["mine", "all"]), help="Your own series, or those of all agents.")
@click.option("--ended", is_flag=True, help="Also those that have ended.")
@wide
@as_json
@click.pass_obj
def list_(connection: Connection, scope: str | None, ended: bool, wide: bool, as_json: bool) -> None:
    """Show series that have not ended: of all agents on the local socket, otherwise your own."""
    found: list[schemas.Series] = []
    after: str | None = ""
    with reporting_errors(), connection.open() as daemon:
        while after is not None:
            page = daemon.listSeries(scope=scope or ("all" if connection.is_local else "mine"), after=after, limit=PAGE)
            found += [one for one in page["series"] if ended or one["endedAt"] is None]
            after = page["next"]
    if as_json:
        output.put_json({"series": found})
    elif not found:
        output.put("no series")
    else:
        views.series_list(found, wide=wide)


@click.command(cls=Command)
@series_id
@as_json
@click.pass_obj
def show(connection: Connection, series_id: str, as_json: bool) -> None:
    """Show a series and its next sessions."""
    with reporting_errors(), connection.open() as daemon:
        found = daemon.getSeries(series_id)
    _show(found, as_json)


@click.command(cls=Command)
@series_options
@click.option("--key", help="Idempotency key: repeated calls with one key create one series.")
@as_json
@click.pass_obj
def create(connection: Connection, /, file: Path | None, key: str | None, as_json: bool, **options: Any) -> None:
    """Create a series of sessions. Needs --dtstart, --timezone, --type and --label, or --file.

    Without --rrule, the series has a session at --dtstart and at each --rdate. --exdate, --rdate, --prefer, --remind,
    --invite and --invite-host may be repeated.
    """
    given = _given(**options)
    if file is not None:
        given = _read(file, given)
    else:
        has = {**given, **given.get("session", {})}
        for name in ("dtstart", "timezone", "type", "label"):
            if name not in has:
                raise click.UsageError(f"Missing option '--{name}'.", click.get_current_context())
    with reporting_errors(), connection.open() as daemon:
        made = daemon.createSeries(given, idempotency_key=key)
    _show(made, as_json)


@click.command(cls=Command)
@series_id
@series_options
@from_
@as_json
@click.pass_obj
def change(
    connection: Connection, /, series_id: str, file: Path | None, from_here: str | None, as_json: bool, **options: Any
) -> None:
    """Change a series from now on, or --from a local time on. What no option names stays as it is.

    --exdate and --rdate add times to the series; each other option replaces a value. With --from, the series ends at
    that time, and a new one continues it. To move or cancel ONE session, use `tminus reschedule` or `tminus close` with
    its id, which `tminus series show` prints. Later changes of the series leave that session as it is.
    """
    given = _given(**options)
    if file is None and not given:
        raise click.UsageError("Give what is to change, or --file.", click.get_current_context())
    whole = None if file is None else _read(file, given)
    with reporting_errors(), connection.open() as daemon:
        if whole is None:
            whole = _merged(daemon.getSeries(series_id), given)
        changed = daemon.changeSeries(series_id, whole, from_here=from_here)
    _show(changed, as_json)


def _merged(present: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the present series with the changes that the options give."""
    whole = {name: present[name] for name in MEMBERS if present.get(name) is not None}
    for name, value in given.items():
        if name in ("exdates", "rdates"):
            whole[name] = list(dict.fromkeys([*whole.get(name, ()), *value]))
        elif name == "session":
            whole[name] = {**whole.get(name, {}), **value}
        else:
            whole[name] = value
    return whole


@click.command(cls=Command)
@series_id
@from_
@as_json
@click.pass_obj
def end(connection: Connection, series_id: str, from_here: str | None, as_json: bool) -> None:
    """End a series and cancel its sessions, from now on or --from a local time on. A session that is open stays open.

    To cancel ONE session, use `tminus close` with its id.
    """
    with reporting_errors(), connection.open() as daemon:
        ended = daemon.endSeries(series_id, from_here=from_here)
    if as_json:
        output.put_json(ended)
    else:
        at = f" at {ended['ends']} ({ended['timezone']})" if from_here is not None and ended["ends"] else ""
        output.put(f"series {series_id} {'ends' if at else 'has ended'}{at}")


def _show(found: "schemas.Series", as_json: bool) -> None:
    if as_json:
        output.put_json(found)
    else:
        views.series(found)
