"""Complete ids and names from the daemon when the user presses Tab."""

import re
import signal
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tminus.cli.connection import Connection
from tminus.domain import text

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

TIMEOUT = 1.0
"""Seconds after which Tab shows no values, if the daemon has not sent them."""

MAX_SESSIONS = 200
"""Maximum number of sessions to complete from, the newest first."""

MAX_HELP = 40
"""Maximum columns of the text that is shown beside a value."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Values that need no quoting in any shell. Others are left out."""


def session_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Return the ids of sessions with their labels; for `reschedule`, only the ids of scheduled sessions."""
    status = ["scheduled"] if context.info_name == "reschedule" else None

    def fetch(daemon: Any, connection: Connection) -> list[tuple[str, str]]:
        scope = "all" if connection.is_local else "mine"
        rows = daemon.listSessions(status=status, scope=scope, limit=MAX_SESSIONS)["rows"]
        return [(row["id"], row["label"]) for row in rows]

    return _completions(context, incomplete, fetch)


def webhook_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Return the names of endpoints with their states."""

    def fetch(daemon: Any, connection: Connection) -> list[tuple[str, str]]:
        return [(row["name"], row["state"]) for row in daemon.request("GET", "/webhooks")["webhooks"]]

    return _completions(context, incomplete, fetch)


def series_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Return the ids of series with their labels; only for `show`, also the ids of series that have ended."""

    def fetch(daemon: Any, connection: Connection) -> list[tuple[str, str]]:
        rows = daemon.listSeries(scope="all" if connection.is_local else "mine", limit=MAX_SESSIONS)["series"]
        also_ended = context.info_name == "show"
        return [(row["id"], row["session"]["label"]) for row in rows if also_ended or row["endedAt"] is None]

    return _completions(context, incomplete, fetch)


class _TimedOut(BaseException):
    """The time-out has passed. The client catches a `TimeoutError` and retries, so this is no `Exception`."""


def _completions(
    context: click.Context, incomplete: str, fetch: Callable[[Any, Connection], list[tuple[str, str]]]
) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - needed only for completion

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimedOut

    try:
        with redirect_stderr(StringIO()), context.obj.open() as daemon:
            before = signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, TIMEOUT)
            try:
                found = fetch(daemon, context.obj)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
    except (Exception, _TimedOut):
        return []  # an error message would appear in the middle of the command line
    return [
        CompletionItem(value, help=text.cut(text.escape(str(help_)), MAX_HELP))
        for value, help_ in found
        if isinstance(value, str) and _PLAIN.fullmatch(value) and value.startswith(incomplete)
    ]
