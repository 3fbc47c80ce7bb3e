"""Parse the command line, import the command that it calls, and call it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.exceptions import Exit

from tminus.cli import catalogue, output
from tminus.cli.catalogue import Entry
from tminus.cli.connection import USAGE, Connection, fail
from tminus.cli.imports import without_collections
from tminus.cli.options import daemon_options, print_help

MAX_HELP_WIDTH = 100
"""Maximum columns of the help."""


class Commands(click.Group):
    """A group of commands of the catalogue. Its help and its completion need only the catalogue."""

    def __init__(
        self,
        name: str,
        entries: dict[str, Entry],
        aliases: Mapping[str, str] | None = None,
        default: str = "",
        **more: Any,
    ) -> None:
        super().__init__(name, **more)
        self.default = default
        self.entries = entries
        self.aliases = aliases or {}
        for command, entry in entries.items():
            self.add_command(click.Command(command, short_help=entry.summary))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:  # a shell that completes asks for the names of all commands
            args = [self.default or "--help"]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(self.commands)  # in the order of the catalogue, and not sorted as click does

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in self.commands and (alias := self.aliases.get(word)):
            args = [alias, *args[1:]]
        elif word not in self.commands and not word.startswith("-") and not ctx.resilient_parsing:
            similar = catalogue.suggestion(word, self.commands)
            hint = f" Did you mean {similar!r}?" if similar else ""
            raise click.UsageError(f"No such command {word!r}.{hint}", ctx)
        name, command, rest = super().resolve_command(ctx, args)
        if name in self.entries:
            command = load(self.entries[name])
        return name, command, rest

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = print_help
        return option


def load(entry: Entry) -> click.Command:
    """Import the module of a command, and return the command."""
    with without_collections():
        command: click.Command = getattr(import_module(f"tminus.cli.{entry.module}"), entry.function)
    return command


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from tminus import __version__  # noqa: PLC0415 - reading the version takes as long as a request

        output.put(f"tminus {__version__}")
        context.exit()


def _completion(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        from tminus.cli import completion  # noqa: PLC0415 - rarely needed

        {"install_completion": completion.install, "show_completion": completion.show}[parameter.name or ""](value)
        context.exit()


def _global_option(name: str, help_: str, **more: Any) -> click.Option:
    return click.Option([name], help=help_, is_eager=True, expose_value=False, **more)


def application() -> Commands:
    """Return the command `tminus` with all its commands, none of which is imported yet."""
    for_shell = {"is_flag": False, "flag_value": "", "metavar": "[SHELL]", "callback": _completion}
    root = Commands(
        "tminus",
        catalogue.COMMANDS,
        catalogue.ALIASES,
        help=catalogue.SUMMARY,
        params=[
            *daemon_options(are_first=True),
            _global_option("--version", "Print the version.", is_flag=True, callback=_version),
            _global_option("--install-completion", "Install the completion script of your shell.", **for_shell),
            _global_option("--show-completion", "Print the completion script of your shell.", **for_shell),
        ],
    )
    for name, group in catalogue.GROUPS.items():
        summary = f"{group.summary[:-1]}: {', '.join(group.commands)}."
        options: list[click.Parameter] = [*daemon_options(are_first=False)]
        root.add_command(
            Commands(
                name,
                group.commands,
                default=group.default,
                help=group.summary,
                short_help=summary,
                params=options,
            )
        )
    return root


def context_settings() -> dict[str, Any]:
    """Return the settings of click's context for a command line."""
    return {"obj": Connection(), "terminal_width": min(output.size()[0], MAX_HELP_WIDTH), "show_default": True}


def call(arguments: list[str]) -> None:
    """Call the command of a command line. Raises `Exit` if the exit code is not 0, and whatever the command raises."""
    root = application()
    try:
        # Not click's `main`, which writes to the standard streams itself, and handles Ctrl-C and broken pipes.
        with root.make_context("tminus", list(arguments), **context_settings()) as context:
            root.invoke(context)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "tminus"
        message = " ".join(error.format_message().split()).removesuffix(".")
        see = " See" if message.endswith("?") else "; see"
        raise fail(f"{message}{see} `{where} --help`", USAGE) from None
    except Exit as ended:
        if ended.exit_code:
            raise
