"""The commands for webhooks: list, ping, pause, resume, deliveries, replay and secret."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from tminus.cli import output, views
from tminus.cli.completion_values import session_ids, webhook_names
from tminus.cli.connection import REFUSED, USAGE, Connection, fail, reporting_errors
from tminus.cli.options import ID, PAGE, TIME, Command, as_json, utc, webhook_name, wide
from tminus.domain.types import EventType

if TYPE_CHECKING:
    from tminus import schemas


SECRET_BYTES = 32
"""Random bytes in a new signing secret."""

PING_WAIT = 300.0
"""Seconds that the answer to a ping or a sample may take beyond the client's time-out: the maximum of a webhook's
`timeout`.
"""


def _call(connection: Connection, method: str, path: str, **more: Any) -> Any:
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
    """Show all endpoints: state, number of waiting events, last error."""
    answer: schemas.Webhooks = _call(connection, "GET", "/webhooks")
    if as_json or not answer["webhooks"]:
        _show(answer, as_json, "no webhooks")
    else:
        views.webhooks(answer["webhooks"], views.time_format(utc=utc), wide=wide)


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def ping(connection: Connection, name: str, as_json: bool) -> None:
    """Send a test event, also to a paused endpoint; exit code 1 if the endpoint does not accept it."""
    attempt: schemas.Delivery = _call(connection, "POST", _path(name, "ping"), wait=PING_WAIT)
    if as_json or attempt["ok"]:
        _show(attempt, as_json, f"{name} answered {attempt['status']} in {attempt['ms']} ms")
    if not attempt["ok"]:
        raise fail(f"{name} did not accept the ping: {attempt['error']}", REFUSED)


@click.command(cls=Command)
@click.argument("type", type=click.Choice([kind.value for kind in EventType]), metavar="TYPE")
@click.option(
    "--to", "name", required=True, type=ID, shell_complete=webhook_names, metavar="ENDPOINT", help="The endpoint."
)
@as_json
@click.pass_obj
def sample_event(connection: Connection, type: str, name: str, as_json: bool) -> None:
    """Send a sample event of a TYPE such as session.ready; exit code 1 if the endpoint does not accept it.

    The event is marked as a sample, and signed as real events are. It is also sent to an endpoint that is paused or
    does not subscribe to the TYPE.
    """
    attempt: schemas.Delivery = _call(connection, "POST", _path(name, "sample"), json={"type": type}, wait=PING_WAIT)
    if as_json or attempt["ok"]:
        _show(attempt, as_json, f"{name} answered {attempt['status']} in {attempt['ms']} ms")
    if not attempt["ok"]:
        raise fail(f"{name} did not accept the event: {attempt['error']}", REFUSED)


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def pause(connection: Connection, name: str, as_json: bool) -> None:
    """Pause deliveries to an endpoint. Its events wait until `resume`."""
    answer: schemas.Webhook = _call(connection, "POST", _path(name, "pause"))
    _show(answer, as_json, f"{name} is paused ({answer['pauseReason']})")


@click.command(cls=Command)
@webhook_name
@as_json
@click.pass_obj
def resume(connection: Connection, name: str, as_json: bool) -> None:
    """Resume deliveries at once, beginning with the events that waited, whatever paused the endpoint."""
    answer: schemas.Webhook = _call(connection, "POST", _path(name, "resume"))
    _show(answer, as_json, f"{name} is resumed; events waiting: {answer['backlog']}")


@click.command(cls=Command)
@webhook_name
@click.option("--failed", is_flag=True, help="Only failed attempts.")
@click.option("--limit", type=PAGE, default=20, metavar="NUMBER", help="Maximum number of attempts.")
@utc
@wide
@as_json
@click.pass_obj
def deliveries(
    connection: Connection, name: str, failed: bool, limit: int, utc: bool, wide: bool, as_json: bool
) -> None:
    """Show the delivery log: all attempts, the newest first."""
    params = {"limit": limit, "failed": failed}
    answer: schemas.Deliveries = _call(connection, "GET", _path(name, "deliveries"), params=params)
    if as_json or not answer["deliveries"]:
        _show(answer, as_json, "no attempts yet")
    else:
        views.deliveries(answer["deliveries"], views.time_format(utc=utc), wide=wide)


@click.command(cls=Command)
@webhook_name
@click.option("--from-seq", type=click.IntRange(1), metavar="NUMBER", help="Events from this number on.")
@click.option("--since", type=TIME, metavar="TIME", help="Events since this time.")
@click.option("--session", type=ID, metavar="ID", shell_complete=session_ids, help="Events of this session.")
@as_json
@click.pass_obj
def replay(
    connection: Connection, name: str, from_seq: int | None, since: str | None, session: str | None, as_json: bool
) -> None:
    """Send past events again, with the same ids, also to a paused endpoint. Needs one of the three options."""
    given = {"fromSeq": from_seq, "since": since, "session": session}
    body = {key: value for key, value in given.items() if value is not None}
    if len(body) != 1:
        raise fail("give one of --from-seq NUMBER, --since TIME and --session ID", USAGE)
    answer: schemas.Replay = _call(connection, "POST", _path(name, "replay"), json=body)
    _show(answer, as_json, f"events up to number {answer['toSeq']} are sent to {name} again")


@click.command(cls=Command)
def secret() -> None:
    """Generate a signing secret. Store it in a separate file; the receiver needs the same secret."""
    import base64  # noqa: PLC0415 - only this command needs it
    import secrets  # noqa: PLC0415

    output.put(f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}")
