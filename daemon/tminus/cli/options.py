"""The class of all commands, parameter types, and options that several commands have."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from tminus.cli import output
from tminus.cli.completion_values import session_ids, webhook_names
from tminus.domain import timestamps
from tminus.domain.durations import parse_duration
from tminus.domain.types import SessionType

EMPTY = "is empty: check the variable that it comes from"

NUMBER = click.IntRange(0)
PAGE = click.IntRange(1, 1000)
TYPES = click.Choice([session_type.value for session_type in SessionType])


class File(click.Path):
    """A path. An empty text is an error; otherwise click would take it for the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail(EMPTY, param, ctx)
        return super().convert(value, param, ctx)


class Name(click.ParamType):  # type: ignore[type-arg]  # click before 8.4 has no generic type here
    """Text that must not be empty, as it is if a script's variable is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "":
            self.fail(EMPTY, param, ctx)
        return str(value)


class Id(Name):
    """An id or a name in a path of the API. It must not contain a slash, which would begin a new part of the path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "/" in value:
            self.fail(f"{value!r} contains a slash, which no id or name does", param, ctx)
        return super().convert(value, param, ctx)


class Time(click.ParamType):  # type: ignore[type-arg]  # likewise
    """An instant, passed on as it is written."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            timestamps.parse(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        return str(value)


class Duration(click.ParamType):  # type: ignore[type-arg]  # likewise
    """A duration, which may have a sign if `signed`."""

    name = "duration"

    def __init__(self, *, signed: bool = False) -> None:
        self.signed = signed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        sign, digits = (value[0], value[1:]) if self.signed and value[:1] in ("+", "-") else ("", value)
        try:
            span = parse_duration(digits)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return -span if sign == "-" else span


class Person(click.ParamType):  # type: ignore[type-arg]  # likewise
    """A mail address, or a name and an address: `joe@example.com`, `Joe Guest <joe@example.com>`."""

    name = "person"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return name and address. The daemon checks the address."""
        if isinstance(value, tuple):
            return value
        name, bracket, email = value.strip().rpartition("<")
        if not bracket:
            return "", email
        if not email.endswith(">"):
            self.fail(f"{value!r} has no > at its end", param, ctx)
        return name.strip(), email[:-1]


FILE = File(path_type=Path, readable=False)  # not checked here; reading it reports errors
NAME = Name()
PERSON = Person()
ID = Id()
TIME = Time()
DURATION = Duration()
SIGNED_DURATION = Duration(signed=True)

AFTER_THE_COMMAND = "--config, --url, --token-file and --socket (see `tminus --help`) are also accepted here."


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store the option in the `Connection`. The last option on the command line wins."""
    if value is not None and context.obj is not None:
        setattr(context.obj, parameter.name or "", value)


def daemon_options(*, are_first: bool) -> list[click.Option]:
    """Return the options that name the daemon. Before the command (`are_first`), environment variables may set them."""

    def option(name: str, help_: str, variable: str = "", **more: Any) -> click.Option:
        return click.Option(
            [name], help=help_, hidden=not are_first, envvar=(variable or None) if are_first else None,
            show_envvar=True, expose_value=False, callback=_keep, **more,
        )  # fmt: skip

    return [
        option("--config", "The configuration file.", type=FILE, metavar="FILE"),
        option("--url", "The daemon's URL, in place of the local socket.", "TMINUS_URL", type=NAME, metavar="URL"),
        option(
            "--token-file",
            "File with the token. Default: $TMINUS_TOKEN.",
            "TMINUS_TOKEN_FILE",
            type=FILE,
            metavar="FILE",
        ),
        option("--socket", "The daemon's local socket.", "TMINUS_SOCKET", type=FILE, metavar="PATH"),
    ]


def print_help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the help through `output`, which escapes it; click would write to the stream directly."""
    if value and not context.resilient_parsing:
        output.put_text(context.get_help())
        context.exit()


class Command(click.Command):
    """A command. The options that name the daemon may stand before or after its name."""

    def __init__(self, name: str | None, **more: Any) -> None:
        super().__init__(name, **({"epilog": AFTER_THE_COMMAND} | more))
        self.params += daemon_options(are_first=False)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = print_help
        return option


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
utc = click.option("--utc", is_flag=True, help="Print times in UTC, not in your time zone.")
wide = click.option("--wide", is_flag=True, help="Print all columns, and cut nothing.")
session_id = click.argument("session_id", type=ID, metavar="ID", shell_complete=session_ids)
webhook_name = click.argument("name", type=ID, shell_complete=webhook_names)
