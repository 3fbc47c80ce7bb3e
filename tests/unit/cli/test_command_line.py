"""Parsing of the command line, for all commands."""

import pytest
from tests.support.commands import invoke

from tminus import client
from tminus.cli import catalogue
from tminus.cli.connection import exit_code
from tminus.domain import errors

ALL = [(name,) for name in catalogue.COMMANDS] + [
    (group, name) for group, entry in catalogue.GROUPS.items() for name in entry.commands
]


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_has_help_and_refuses_unknown_arguments(command: tuple[str, ...]) -> None:
    helped = invoke(*command, "--help")
    assert (helped.exit_code, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"Usage: tminus {' '.join(command)} ")
    assert max(map(len, helped.stdout.splitlines())) <= 80
    for wrong in (("--nothing",), ("--json=1",), ("a", "b", "c"), ("--url",), ("--config",)):
        refused = invoke(*command, *wrong)
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), wrong
        assert " --help`" in refused.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("cancl", "cancel"), ("delte", "delete"), ("remove", "close"), ("end", "close"), ("ls", "list"),
        ("lst", "list"), ("lists", "list"), ("status", "list"), ("closed", "list"), ("get", "show"), ("shw", "show"),
        ("creat", "create"), ("shedule", "schedule"), ("schedul", "schedule"), ("reshedule", "reschedule"),
        ("advanc", "advance"), ("logs", "events"), ("wacth", "watch"), ("webhook", "webhooks"), ("start", "run"),
        ("unschedule", None), ("unpause", None), ("restart", None), ("stop", None), ("kill", None), ("all", None),
        ("clean", None), ("a", None), ("", None), ("vacuum", None), ("reset", None), ("open", None),
    ],
)  # fmt: skip
def test_a_mistyped_command_gets_a_suggestion_only_if_one_is_close(typed: str, meant: str | None) -> None:
    refused = invoke(typed)
    assert refused.exit_code == 2
    assert ("Did you mean" in refused.stderr) == (meant is not None), refused.stderr
    assert meant is None or f"Did you mean '{meant}'?" in refused.stderr


@pytest.mark.parametrize(
    ("group", "typed", "meant"),
    [
        ("db", "restart", None), ("db", "reset", None), ("db", "delete", None), ("db", "backups", "backup"),
        ("db", "chek", "check"), ("webhooks", "unpause", "resume"), ("webhooks", "pasue", "pause"),
        ("webhooks", "send", None), ("webhooks", "remove", None), ("webhooks", "cancel", None),
    ],
)  # fmt: skip
def test_a_mistyped_command_of_a_group_gets_a_suggestion_only_if_one_is_close(
    group: str, typed: str, meant: str | None
) -> None:
    refused = invoke(group, typed)
    assert refused.exit_code == 2
    assert ("Did you mean" in refused.stderr) == (meant is not None), refused.stderr
    assert meant is None or f"Did you mean '{meant}'?" in refused.stderr


@pytest.mark.parametrize(
    "cause",
    [
        errors.UnknownSession,
        errors.UnknownParticipant,
        errors.UnknownWebhook,
        errors.UnknownAgent,
        errors.UnknownSeries,
    ],
)
def test_an_unknown_object_has_exit_code_3_but_a_404_of_a_proxy_has_not(cause: type[errors.RequestError]) -> None:
    assert exit_code(client.NotFound("unknown", 404, cause.refcode)) == 3
    assert exit_code(client.NotFound("HTTP 404 Not Found", 404)) == 1


def test_an_alias_runs_the_command_that_it_names() -> None:
    for alias, name in catalogue.ALIASES.items():
        assert invoke(alias, "--help").stdout == invoke(name, "--help").stdout
