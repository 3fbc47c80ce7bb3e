"""All commands, by name: what each does, and where it is. The help needs no more."""

from collections.abc import Collection
from typing import NamedTuple


class Entry(NamedTuple):
    """A command."""

    module: str
    function: str
    summary: str


class Group(NamedTuple):
    """Commands under one word."""

    summary: str
    commands: dict[str, Entry]


COMMANDS = {
    "run": Entry("operate", "run", "Run the daemon in the foreground."),
    "check": Entry("operate", "check", "Check the configuration without starting anything."),
    "create": Entry("sessions", "create", "Create a session that is open at once."),
    "schedule": Entry("sessions", "schedule", "Schedule a session; it opens ahead of its start."),
    "reschedule": Entry("sessions", "reschedule", "Move a scheduled session to another start."),
    "close": Entry("sessions", "close", "Close a session; everybody in it is disconnected."),
    "show": Entry("sessions", "show", "Show one session."),
    "list": Entry("sessions", "list_", "List sessions, the newest first."),
    "events": Entry("feed", "events", "Print what happened, to one session or to all."),
    "watch": Entry("watch", "watch", "Watch what is coming and what is open."),
    "lifecycle": Entry("operate", "lifecycle", "Print the transition table as a diagram."),
    "advance": Entry("operate", "advance", "Do by hand, once, what the clock does."),
}

GROUPS = {
    "webhooks": Group(
        "Endpoints that are sent what happens.",
        {
            "list": Entry("webhooks", "list_", "Show every endpoint: its state, how far behind it is."),
            "ping": Entry("webhooks", "ping", "Send a test."),
            "pause": Entry("webhooks", "pause", "Send nothing more until it is resumed."),
            "resume": Entry("webhooks", "resume", "Go on where it was, at once."),
            "deliveries": Entry("webhooks", "deliveries", "Show every attempt, the newest first."),
            "replay": Entry("webhooks", "replay", "Send again what happened until now."),
            "secret": Entry("webhooks", "secret", "Make a secret for a file of its own."),
        },
    ),
    "token": Group(
        "Tokens of agents.",
        {
            "new": Entry("tokens", "new", "Make a token, for a new agent or one that is configured."),
            "list": Entry("tokens", "list_", "Show agents and the fingerprints of their tokens."),
            "revoke": Entry("tokens", "revoke", "Take a token out of the configuration."),
        },
    ),
    "db": Group(
        "The database.",
        {
            "backup": Entry("operate", "db_backup", "Copy the database, also while the daemon runs."),
            "restore": Entry("operate", "db_restore", "Put a backup in the database's place."),
            "check": Entry("operate", "db_check", "Look whether the database, or a backup, is whole."),
            "compact": Entry("operate", "db_compact", "Make the database's file as small as what is in it."),
            "upgrade": Entry("operate", "db_upgrade", "Bring the database's schema up to date."),
        },
    ),
}

SUMMARY = "Remote-support and meeting sessions: scheduled, opened on time, closed."

ALIASES = {"cancel": "close", "delete": "close", "move": "reschedule"}
"""Other names of commands, which work as the commands do."""

MEANT = {
    "add": "create", "closed": "list", "end": "close", "get": "show", "history": "events", "info": "show",
    "log": "events", "logs": "events", "ls": "list", "new": "create", "postpone": "reschedule", "remove": "close",
    "rm": "close", "serve": "run", "sessions": "list", "start": "run", "status": "list", "tail": "events",
    "tokens": "token", "unpause": "resume", "validate": "check", "webhook": "webhooks",
}  # fmt: skip
"""What somebody means who types a command that other tools have."""


def suggestion(word: str, commands: Collection[str]) -> str | None:
    """The command that is meant by a word that is none, if that is clear.

    A misspelled word has the first letter of the right one and most of the others. Whatever is less alike may be asking
    for something else: no command that changes more than that is ever suggested.
    """
    from difflib import SequenceMatcher  # noqa: PLC0415 - needed only to say what is wrong

    if (meant := MEANT.get(word)) in commands:
        return meant
    alike = [
        (SequenceMatcher(None, word, one).ratio(), one)
        for one in {*commands, *(alias for alias, name in ALIASES.items() if name in commands)}
        if one[0] == word[:1]
    ]
    likeness, best = max(alike, default=(0.0, ""))
    return best if likeness >= 0.8 else None
