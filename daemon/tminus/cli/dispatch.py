"""From the arguments of a process to the one function that they call."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from tminus.cli import catalogue, output
from tminus.cli.catalogue import Entry
from tminus.cli.connection import USAGE, Connection
from tminus.cli.parsing import Exit, HelpWanted, Option, UsageError, help_of, parameters, parse, suggestion


def _before(
    config: Annotated[Path | None, Option("--config")] = None,
    url: Annotated[str | None, Option("--url", env="TMINUS_URL")] = None,
    token_file: Annotated[Path | None, Option("--token-file", env="TMINUS_TOKEN_FILE")] = None,
    socket: Annotated[Path | None, Option("--socket", env="TMINUS_SOCKET")] = None,
    version: Annotated[bool, Option("--version")] = False,
    install_completion: Annotated[bool, Option("--install-completion")] = False,
    show_completion: Annotated[bool, Option("--show-completion")] = False,
) -> None:
    """What stands before the command's name."""


def call(arguments: list[str]) -> None:
    """Call the command. Raises `Exit` and whatever the command raises."""
    before, rest = catalogue.split(arguments)
    usage = "tminus"
    try:
        given = parse(parameters(_before), before, os.environ)
        if given["version"]:
            from tminus import __version__  # noqa: PLC0415 - reading it takes as long as a request

            output.put(f"tminus {__version__}")
            return
        if given["install_completion"] or given["show_completion"]:
            from tminus.cli import completion  # noqa: PLC0415 - asked for once in a shell's life

            shell = completion.shell(rest, os.environ)
            (completion.install if given["install_completion"] else completion.show)(shell)
            return
        connection = Connection(given["config"], given["url"], given["token_file"], given["socket"])
        usage, entry, rest = find(rest)
        function = load(entry)
        values = parse(parameters(function), rest, os.environ)
    except HelpWanted:
        output.put_text(_help(usage, before, rest))
        return
    except UsageError as error:
        output.complain(f"{error} (`{usage} --help` says what there is)")
        raise Exit(USAGE) from None
    if "connection" in function.__code__.co_varnames[: function.__code__.co_argcount]:
        values["connection"] = connection
    function(**values)


def find(arguments: list[str]) -> tuple[str, Entry, list[str]]:
    """The command that is named: how it is written, what it is, and the arguments that follow. Raises `UsageError`."""
    if not arguments:
        raise UsageError("a command is missing")
    name, *rest = arguments
    if name in catalogue.COMMANDS:
        return f"tminus {name}", catalogue.COMMANDS[name], rest
    if name not in catalogue.GROUPS:
        known = catalogue.COMMANDS | catalogue.GROUPS
        raise UsageError(f"there is no command {name!r}{suggestion(name, known)}")
    commands = catalogue.GROUPS[name].commands
    if not rest or rest[0] == "--help":
        raise HelpWanted
    if rest[0] not in commands:
        raise UsageError(f"there is no command `{name}` {rest[0]!r}{suggestion(rest[0], commands)}")
    return f"tminus {name} {rest[0]}", commands[rest[0]], rest[1:]


def load(entry: Entry) -> Callable[..., Any]:
    """The function of a command; only its module is loaded."""
    function: Callable[..., Any] = getattr(import_module(f"tminus.cli.{entry.module}"), entry.function)
    return function


def _help(usage: str, before: list[str], rest: list[str]) -> str:
    if "--help" in before:
        return catalogue.help_text()
    if usage == "tminus":
        return catalogue.group_help(rest[0])
    words = usage.split()[1:]
    entry = catalogue.COMMANDS[words[0]] if len(words) == 1 else catalogue.GROUPS[words[0]].commands[words[1]]
    return help_of(usage, load(entry), min(output.size()[0], 100))
