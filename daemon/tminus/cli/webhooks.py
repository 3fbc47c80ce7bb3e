"""The commands for webhooks: how far each endpoint is, what became of each try, and what to do about it."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from tminus.cli import output, views
from tminus.cli.candidates import session_ids
from tminus.cli.connection import REFUSED, USAGE, Connection, fail, reporting_errors
from tminus.cli.options import ID, PAGE, TIME, Command, as_json, utc, webhook_name, wide

if TYPE_CHECKING:
    from tminus import schemas


SECRET_BYTES = 32

PING_SECONDS = 300.0
"""How long a webhook's `timeout` may be: so long may it be before the daemon says that it was not reached."""


def _ask(connection: Connection, method: str, path: str, **more: Any) -> Any:
    with reporting_errors(), connection.open() as daemon:
        return daemon.request(method, path, **more)


def _show(answer: Any, as_json: bool, sentence: str) -> None:
    if as_json:
        output.put_json(answer)
    else:
        output.put(sentence)


def _path(name: str, action: str) -> str:
    return f"/webhooks/{quote(name, safe='', errors='surrogateescape')}/{action}"


@click.command(cls=Command)
@utc
@wide
@as_json
@click.pass_obj
def list_(connection: Connection, utc: bool, wide: bool, as_json: bool) -> None:
    """Every endpoint: its state, how far behind it is, its last error."""
    answer: schemas.Webhooks = _ask(connection, "GET", "/webhooks")
    if as_json or not answer["webhooks"]:
        _show(answer, as_json, "no webhooks")
    else:
        views.webhooks(answer["webhooks"], views.moments(utc=utc), wide=wide)


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def ping(connection: Connection, name: str, as_json: bool) -> None:
    """Send a test, paused or not; exit code 1 if it does not arrive."""
    tried: schemas.Delivery = _ask(connection, "POST", _path(name, "ping"), wait=PING_SECONDS)
    if as_json or tried["ok"]:
        _show(tried, as_json, f"{name} answered {tried['status']} in {tried['ms']} ms")
    if not tried["ok"]:
        raise fail(f"{name} was not reached: {tried['error']}", REFUSED)


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def pause(connection: Connection, name: str, as_json: bool) -> None:
    """Send nothing more until it is resumed; nothing is lost meanwhile."""
    answer: schemas.Webhook = _ask(connection, "POST", _path(name, "pause"))
    _show(answer, as_json, f"{name} is paused ({answer['pauseReason']})")


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def resume(connection: Connection, name: str, as_json: bool) -> None:
    """Go on where it was, at once, whyever it had stopped."""
    answer: schemas.Webhook = _ask(connection, "POST", _path(name, "resume"))
    _show(answer, as_json, f"{name} goes on; {answer['backlog']} events are waiting")


@click.command(cls=Command)
@webhook_name
@click.option("--failed", is_flag=True, help="Only those that failed.")
@click.option("--limit", type=PAGE, default=20, metavar="NUMBER", help="How many, at most.")
@utc
@wide
@as_json
@click.pass_obj
def deliveries(
    connection: Connection, name: str, failed: bool, limit: int, utc: bool, wide: bool, as_json: bool
) -> None:
    """The delivery log: every try, the newest first."""
    params = {"limit": limit, "failed": failed}
    answer: schemas.Deliveries = _ask(connection, "GET", _path(name, "deliveries"), params=params)
    if as_json or not answer["deliveries"]:
        _show(answer, as_json, "no attempts yet")
    else:
        views.deliveries(answer["deliveries"], views.moments(utc=utc), wide=wide)


@click.command(cls=Command)
@webhook_name
@click.option("--from-seq", type=click.IntRange(1), metavar="NUMBER", help="From the event with this number on.")
@click.option("--since", type=TIME, metavar="TIME", help="What happened then or later.")
@click.option("--session", type=ID, metavar="ID", shell_complete=session_ids, help="What happened to this session.")
@as_json
@click.pass_obj
def replay(
    connection: Connection, name: str, from_seq: int | None, since: str | None, session: str | None, as_json: bool
) -> None:
    """Tell again what happened until now, with the same ids, paused or not. One of the three options."""
    given = {"fromSeq": from_seq, "since": since, "session": session}
    body = {key: value for key, value in given.items() if value is not None}
    if len(body) != 1:
        raise fail("say what: --from-seq NUMBER, --since TIME or --session ID, one of the three", USAGE)
    answer: schemas.Replay = _ask(connection, "POST", _path(name, "replay"), json=body)
    _show(answer, as_json, f"{name} is told again what happened up to event {answer['toSeq']}")


@click.command(cls=Command)
def secret() -> None:
    """Make a secret for a file of its own: the receiver needs the same."""
    import base64  # noqa: PLC0415 - the other commands need neither
    import secrets  # noqa: PLC0415

    output.put(f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}")
