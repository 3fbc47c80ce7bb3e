"""What the commands have in common: their class, and options that several of them take."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from tminus.cli import output
from tminus.cli.candidates import session_ids, webhook_names
from tminus.domain import timestamps
from tminus.domain.durations import parse_duration

EMPTY = "is empty: look at the variable that it comes from"

NUMBER = click.IntRange(0)
PAGE = click.IntRange(1, 1000)


class File(click.Path):
    """A path. An empty one is not the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail(EMPTY, param, ctx)
        return super().convert(value, param, ctx)


class Name(click.ParamType):  # type: ignore[type-arg]  # before 8.4 it is not generic
    """Text that must not be empty, as it is where a script's variable has no value."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "":
            self.fail(EMPTY, param, ctx)
        return str(value)


class Id(Name):
    """An id or a name as it stands in a path of the API, where a slash would end it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "/" in value:
            self.fail(f"{value!r} holds a slash, as no id and no name does", param, ctx)
        return super().convert(value, param, ctx)


class Time(click.ParamType):  # type: ignore[type-arg]  # likewise
    """An instant, handed on as it is written."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            timestamps.parse(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        return str(value)


class Span(click.ParamType):  # type: ignore[type-arg]  # likewise
    """A duration, which may have a sign where `signed`."""

    name = "span"

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


FILE = File(path_type=Path, readable=False)  # whether it can be read is seen when it is read
NAME = Name()
ID = Id()
TIME = Time()
SPAN = Span()
SPAN_EITHER_WAY = Span(signed=True)

AFTER_THE_COMMAND = "--config, --url, --token-file and --socket (see `tminus --help`) may also stand here."


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note in the `Connection` what was given. What stands later on the command line wins."""
    if value is not None and context.obj is not None:
        setattr(context.obj, parameter.name or "", value)


def daemon_options(*, are_first: bool) -> list[click.Option]:
    """Which daemon is meant: once before the command, where the environment counts, and again in every command."""

    def one(name: str, help_: str, variable: str = "", **more: Any) -> click.Option:
        return click.Option(
            [name], help=help_, hidden=not are_first, envvar=(variable or None) if are_first else None,
            show_envvar=True, expose_value=False, callback=_keep, **more,
        )  # fmt: skip

    return [
        one("--config", "The configuration file.", type=FILE, metavar="FILE"),
        one("--url", "The daemon's URL, in place of the local socket.", "TMINUS_URL", type=NAME, metavar="URL"),
        one("--token-file", "Holds the token; else $TMINUS_TOKEN.", "TMINUS_TOKEN_FILE", type=FILE, metavar="FILE"),
        one("--socket", "The daemon's local socket.", "TMINUS_SOCKET", type=FILE, metavar="PATH"),
    ]


def print_help(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the help as everything is printed; click itself would go past that."""
    if value and not context.resilient_parsing:
        output.put_text(context.get_help())
        context.exit()


class Command(click.Command):
    """A command. The options that say which daemon is meant may stand before its name or after it."""

    def __init__(self, name: str | None, **more: Any) -> None:
        super().__init__(name, **({"epilog": AFTER_THE_COMMAND} | more))
        self.params += daemon_options(are_first=False)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = print_help
        return option


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
utc = click.option("--utc", is_flag=True, help="Times in UTC, not in your zone.")
wide = click.option("--wide", is_flag=True, help="All columns, however wide; nothing is cut.")
session_id = click.argument("session_id", type=ID, metavar="ID", shell_complete=session_ids)
webhook_name = click.argument("name", type=ID, shell_complete=webhook_names)
