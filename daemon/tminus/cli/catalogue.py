"""The table of all commands: the summary of each for the help, and the function that implements it."""

from collections.abc import Collection
from typing import NamedTuple


class Entry(NamedTuple):
    """A command."""

    module: str
    function: str
    summary: str


class Group(NamedTuple):
    """A group of commands under one name, such as `tminus webhooks`."""

    summary: str
    commands: dict[str, Entry]
    default: str = ""
    """The command to run if the command line names none; "": print the help."""


COMMANDS = {
    "run": Entry("operate", "run", "Run the daemon in the foreground."),
    "check": Entry("operate", "check", "Check the configuration without starting anything."),
    "create": Entry("sessions", "create", "Create a session that is open at once."),
    "schedule": Entry("sessions", "schedule", "Schedule a session, which opens before its start."),
    "shift": Entry("batches", "shift", "Move all scheduled sessions of a period."),
    "reschedule": Entry("sessions", "reschedule", "Move a scheduled session to another start."),
    "close": Entry("sessions", "close", "Close a session and disconnect its participants."),
    "show": Entry("sessions", "show", "Show one session."),
    "list": Entry("listing", "list_", "List sessions, the newest first."),
    "events": Entry("events", "events", "Print the events of one session or of all."),
    "watch": Entry("watch", "watch", "Watch scheduled and open sessions."),
    "report": Entry("report", "report", "Report on the sessions that closed in a period."),
    "sample-event": Entry("webhooks", "sample_event", "Send a sample event to an endpoint."),
    "lifecycle": Entry("operate", "lifecycle", "Print the transition table as a diagram."),
    "advance": Entry("operate", "advance", "Run the transitions that are due, once."),
}

GROUPS = {
    "series": Group(
        "Series: sessions that recur.",
        {
            "list": Entry("series", "list_", "Show series that have not ended."),
            "show": Entry("series", "show", "Show a series and its next sessions."),
            "create": Entry("series", "create", "Create a series of sessions."),
            "change": Entry("series", "change", "Change a series, from now or from a time on."),
            "end": Entry("series", "end", "End a series and cancel its sessions."),
        },
        default="list",
    ),
    "webhooks": Group(
        "Endpoints that receive events.",
        {
            "list": Entry("webhooks", "list_", "Show all endpoints: state, backlog, last error."),
            "ping": Entry("webhooks", "ping", "Send a test event."),
            "pause": Entry("webhooks", "pause", "Pause deliveries to an endpoint."),
            "resume": Entry("webhooks", "resume", "Resume deliveries to a paused endpoint at once."),
            "deliveries": Entry("webhooks", "deliveries", "Show all delivery attempts, the newest first."),
            "replay": Entry("webhooks", "replay", "Send past events again."),
            "secret": Entry("webhooks", "secret", "Generate a signing secret."),
        },
    ),
    "agents": Group(
        "Agents who may sign in.",
        {
            "list": Entry("agents", "list_", "Show all agents and their last sign-in."),
            "shut-out": Entry("agents", "shut_out", "Sign an agent out everywhere, and refuse sign-ins."),
            "readmit": Entry("agents", "readmit", "Let an agent who was shut out sign in again."),
            "feed": Entry("agents", "feed", "Create or revoke the address of an agent's calendar."),
        },
        default="list",
    ),
    "clock": Group(
        "The clock of the daemon, and moves of a test clock.",
        {
            "show": Entry("clock", "show", "Show the clock's time, and the next deadline."),
            "advance": Entry("clock", "advance", "Move the test clock forward by a duration."),
            "next": Entry("clock", "next_", "Move the test clock to the next deadline."),
            "to": Entry("clock", "to", "Move the test clock to a time."),
        },
        default="show",
    ),
    "token": Group(
        "Tokens of agents.",
        {
            "new": Entry("tokens", "new", "Create a token for a new or a configured agent."),
            "list": Entry("tokens", "list_", "Show agents and the fingerprints of their tokens."),
            "revoke": Entry("tokens", "revoke", "Remove a token from the configuration."),
        },
    ),
    "db": Group(
        "The database.",
        {
            "backup": Entry("database", "backup", "Copy the database, also while the daemon runs."),
            "restore": Entry("database", "restore", "Replace the database with a backup."),
            "check": Entry("database", "check", "Check the database or a backup for damage."),
            "compact": Entry("database", "compact", "Shrink the database file to the size of its data."),
            "upgrade": Entry("database", "upgrade", "Upgrade the database's schema."),
        },
    ),
}

SUMMARY = "Remote-support and meeting sessions: scheduled, opened on time, closed."

ALIASES = {"cancel": "close", "delete": "close", "move": "reschedule"}
"""Other names of commands, which work in the same way."""

SIMILAR = {
    "add": "create", "closed": "list", "end": "close", "get": "show", "history": "events", "info": "show",
    "log": "events", "logs": "events", "ls": "list", "new": "create", "postpone": "reschedule", "remove": "close",
    "rm": "close", "serve": "run", "sessions": "list", "start": "run", "status": "list", "tail": "events",
    "tokens": "token", "unpause": "resume", "validate": "check", "webhook": "webhooks",
}  # fmt: skip
"""Names of commands in other tools, and the command to suggest for each."""


def suggestion(word: str, commands: Collection[str]) -> str | None:
    """Return the command to suggest for an unknown word; None if no command is similar enough.

    A word counts as misspelled if it has the first letter of a command and most of its other letters. Words that are
    less similar get no suggestion, since the suggested command might do much more than the user wants.
    """
    from difflib import SequenceMatcher  # noqa: PLC0415 - needed only for this error

    if (similar := SIMILAR.get(word)) in commands:
        return similar
    ratios = [
        (SequenceMatcher(None, word, name).ratio(), name)
        for name in {*commands, *(alias for alias, name in ALIASES.items() if name in commands)}
        if name[0] == word[:1]
    ]
    ratio, best = max(ratios, default=(0.0, ""))
    return best if ratio >= 0.8 else None
