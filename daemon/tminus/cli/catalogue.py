"""All commands, by name: what each does, and where it is. Nothing else is loaded to print the help."""

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
    "token": Group("Tokens of agents.", {"new": Entry("operate", "token_new", "Make a token.")}),
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

VALUES = frozenset({"--config", "--url", "--token-file", "--socket"})
"""The options before the command that take a value."""

OPTIONS = (
    ("--config FILE", "The configuration file."),
    ("--url URL", "The daemon's URL, in place of the local socket ($TMINUS_URL)."),
    ("--token-file FILE", "Holds the token; else $TMINUS_TOKEN."),
    ("--socket PATH", "The daemon's local socket ($TMINUS_SOCKET)."),
    ("--version", "Print the version."),
    ("--install-completion", "Make your shell complete commands and options."),
    ("--show-completion", "Print what does that."),
    ("--help", "Print this; `tminus COMMAND --help` has more."),
)
"""The options before the command, for the help."""


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the command's name, and the rest, which begins with it."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in VALUES else 1
    return arguments[:at], arguments[at:]


def help_text() -> str:
    """What `tminus --help` prints; it fits in 80 columns."""
    commands = {name: entry.summary for name, entry in COMMANDS.items()}
    for name, group in GROUPS.items():
        commands[name] = f"{group.summary[:-1]}: {', '.join(group.commands)}."
    usage = "Usage: tminus [OPTIONS] COMMAND [ARGUMENTS]"
    return "\n".join(
        [usage, "", SUMMARY, "", "Options:", *_listed(OPTIONS), "", "Commands:", *_listed(tuple(commands.items()))]
    )


def group_help(name: str) -> str:
    """What `tminus GROUP --help` prints."""
    group = GROUPS[name]
    rows = tuple((command, entry.summary) for command, entry in group.commands.items())
    return "\n".join([f"Usage: tminus {name} COMMAND [ARGUMENTS]", "", group.summary, "", "Commands:", *_listed(rows)])


def _listed(rows: tuple[tuple[str, str], ...]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    parts = []
    for name, summary in rows:
        line = f"  {name:<{width}}  "
        for word in summary.split(" "):
            if len(line) + len(word) > 80:
                parts.append(line.rstrip())
                line = " " * (width + 4)
            line += f"{word} "
        parts.append(line.rstrip())
    return parts
