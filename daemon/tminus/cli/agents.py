"""The commands for agents: list, shut-out, readmit and feed."""

from typing import TYPE_CHECKING, Any

import click

from tminus.cli import output, views
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.options import Command, as_json, utc, wide

if TYPE_CHECKING:
    from tminus import schemas

NUMBER = click.argument("number", type=click.IntRange(1, 2**31 - 1), metavar="NUMBER")

PAGE = 1000
"""Maximum number of agents in one answer."""


def _call(connection: Connection, method: str, path: str, **more: Any) -> Any:
    with reporting_errors(), connection.open() as daemon:
        return daemon.request(method, path, **more)


@click.command(cls=Command)
@utc
@wide
@as_json
@click.pass_obj
def list_(connection: Connection, utc: bool, wide: bool, as_json: bool) -> None:
    """Show all agents: those of the configuration, and those who signed in by OpenID Connect."""
    found: list[schemas.Agent] = []
    after: int | None = 0
    while after is not None:
        page: schemas.Agents = _call(connection, "GET", "/agents", params={"after": after, "limit": PAGE})
        found += page["agents"]
        after = page["next"]
    if as_json:
        output.put_json({"agents": found})
    elif not found:
        output.put("no agents")
    else:
        views.agents(found, views.time_format(utc=utc), wide=wide)


@click.command("shut-out", cls=Command)
@NUMBER
@as_json
@click.pass_obj
def shut_out(connection: Connection, number: int, as_json: bool) -> None:
    """Shut an agent out at once: end sign-ins and streams, disconnect hosts, refuse tokens and new sign-ins.

    The sessions that the agent owns are not closed.
    """
    answer: schemas.Agent = _call(connection, "POST", f"/agents/{number}/shutOut")
    _show(answer, as_json, "is shut out")


@click.command(cls=Command)
@NUMBER
@as_json
@click.pass_obj
def readmit(connection: Connection, number: int, as_json: bool) -> None:
    """Let an agent who was shut out sign in again. This restores nothing that `shut-out` has ended."""
    answer: schemas.Agent = _call(connection, "POST", f"/agents/{number}/readmit")
    _show(answer, as_json, "may sign in")


@click.command(cls=Command)
@NUMBER
@click.option("--revoke", is_flag=True, help="Revoke the address, and create no new one.")
@as_json
@click.pass_obj
def feed(connection: Connection, number: int, revoke: bool, as_json: bool) -> None:
    """Create the address at which calendar programs subscribe to an agent's calendar; an earlier address is revoked.

    Everybody who has the address can read when the agent's sessions are. The address is printed only once.
    """
    path = f"/agents/{number}/calendar"
    if revoke:
        answer: Any = _call(connection, "DELETE", path)
        output.put_json(answer) if as_json else output.put(f"agent {number}: the calendar has no address")
        return
    made: schemas.CalendarAddress = _call(connection, "POST", path)
    output.put_json(made) if as_json else output.put(made["url"])


def _show(answer: "schemas.Agent", as_json: bool, what: str) -> None:
    if as_json:
        output.put_json(answer)
    else:
        name = f" ({answer['name']})" if answer["name"] else ""
        output.put(f"agent {answer['id']}{name} {what}")
