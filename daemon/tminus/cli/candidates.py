"""Ids and names that the daemon has, for whoever presses Tab."""

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

PATIENCE = 1.0
"""Seconds that somebody who pressed Tab waits at most; then there is nothing to complete."""

MOST = 200
"""Sessions that are looked at, the newest first."""

LONGEST = 40
"""Columns of what is shown beside a value."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Values that every shell takes as they are; others are left out."""


def session_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Ids of sessions, each with its label. What is scheduled alone can be moved."""
    status = ["scheduled"] if context.info_name == "reschedule" else None

    def ask(daemon: Any, connection: Connection) -> list[tuple[str, str]]:
        scope = "all" if connection.is_local else "mine"
        rows = daemon.listSessions(status=status, scope=scope, limit=MOST)["rows"]
        return [(row["id"], row["label"]) for row in rows]

    return _asked(context, incomplete, ask)


def webhook_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Names of endpoints, each with its state."""

    def ask(daemon: Any, connection: Connection) -> list[tuple[str, str]]:
        return [(row["name"], row["state"]) for row in daemon.request("GET", "/webhooks")["webhooks"]]

    return _asked(context, incomplete, ask)


class _TookTooLong(BaseException):
    """Nothing on the way catches it: a client tries again after a `TimeoutError`."""


def _asked(
    context: click.Context, incomplete: str, ask: Callable[[Any, Connection], list[tuple[str, str]]]
) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - loaded only to complete

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TookTooLong

    try:
        with redirect_stderr(StringIO()), context.obj.open() as daemon:
            before = signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            try:
                found = ask(daemon, context.obj)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
    except (Exception, _TookTooLong):
        return []  # whatever it is, there is nothing to complete, and the line that is being written stays as it is
    return [
        CompletionItem(value, help=text.cut(text.escape(str(shown)), LONGEST))
        for value, shown in found
        if isinstance(value, str) and _PLAIN.fullmatch(value) and value.startswith(incomplete)
    ]
