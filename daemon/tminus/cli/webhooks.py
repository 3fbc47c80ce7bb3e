"""The commands for webhooks: how far each endpoint is, what became of each try, and what to do about it."""

import base64
import secrets
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tminus.cli import tables
from tminus.cli.connection import REFUSED, USAGE, AsJson, fail, telling_errors

if TYPE_CHECKING:
    from tminus import wire

Name = Annotated[str, typer.Argument(metavar="NAME", help="The webhook's name in the configuration.")]

SECRET_BYTES = 32

PING_SECONDS = 300.0
"""How long a webhook's `timeout` may be: so long may it be before the daemon says that it was not reached."""


def webhooks(main: typer.Typer) -> None:
    """Adds these commands to the main one."""
    group = typer.Typer(no_args_is_help=True, help="Endpoints that are told what happens.")
    group.command("list")(list_)
    for command in (ping, pause, resume, deliveries, replay, secret):
        group.command()(command)
    main.add_typer(group, name="webhooks")


def _ask(context: typer.Context, method: str, path: str, **more: Any) -> Any:
    with telling_errors(), context.obj.open() as daemon:
        return daemon.request(method, path, **more)


def _path(name: str, action: str) -> str:
    return f"/webhooks/{quote(name, safe='')}/{action}"


def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """Every endpoint: its state, how far behind it is, its last error."""
    answer: wire.Webhooks = _ask(context, "GET", "/webhooks")
    tables.show(answer, as_json, lambda: tables.webhooks(answer["webhooks"]) if answer["webhooks"] else "no webhooks")


def ping(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Send a test, paused or not; exit code 1 if it does not arrive."""
    tried: wire.Delivery = _ask(context, "POST", _path(name, "ping"), wait=PING_SECONDS)
    if as_json or tried["ok"]:
        tables.show(tried, as_json, lambda: f"{name} answered {tried['status']} in {tried['ms']} ms")
    if not tried["ok"]:
        raise fail(f"{name} was not reached: {tried['error']}", REFUSED)


def pause(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Send nothing more until it is resumed; nothing is lost meanwhile."""
    answer: wire.Webhook = _ask(context, "POST", _path(name, "pause"))
    tables.show(answer, as_json, lambda: f"{name} is paused ({answer['pauseReason']})")


def resume(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Go on where it was, at once, whyever it had stopped."""
    answer: wire.Webhook = _ask(context, "POST", _path(name, "resume"))
    tables.show(answer, as_json, lambda: f"{name} goes on; {answer['backlog']} events are waiting")


def deliveries(
    context: typer.Context,
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Only those that failed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """The delivery log: every try, the newest first."""
    params = {"limit": limit, "failed": failed}
    answer: wire.Deliveries = _ask(context, "GET", _path(name, "deliveries"), params=params)
    tables.show(
        answer, as_json, lambda: tables.deliveries(answer["deliveries"]) if answer["deliveries"] else "no tries yet"
    )


def replay(
    context: typer.Context,
    name: Name,
    from_seq: Annotated[int | None, typer.Option(min=1, help="From the event with this number on.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="What happened then or later.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="What happened to this session.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell again what happened until now, with the same ids, paused or not. One of the three options."""
    given = {"fromSeq": from_seq, "since": since, "session": session}
    body = {key: value for key, value in given.items() if value is not None}
    if len(body) != 1:
        raise fail("say what: --from-seq NUMBER, --since TIME or --session ID, one of the three", USAGE)
    answer: wire.Replay = _ask(context, "POST", _path(name, "replay"), json=body)
    tables.show(answer, as_json, lambda: f"{name} is told again what happened up to event {answer['toSeq']}")


def secret() -> None:
    """Make a secret for a file of its own: the receiver needs the same."""
    print(f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}")
