"""Handle signals that arrive before the daemon serves requests, so that none is lost.

By default SIGHUP ends a process, which a service manager takes for a clean exit. Importing the modules takes a second
or two, in which a reload may be requested. So signals are blocked from the first line of code on, until there are
handlers that record them.
"""

import signal
from collections.abc import Sequence

_BLOCKED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

_WITH_VALUE = ("--config", "--url", "--token-file", "--socket")
"""Options before the command's name that are followed by a value."""


def runs_daemon(arguments: Sequence[str]) -> bool:
    """Return whether these arguments run the daemon. This works without importing the command-line parser."""
    before = ""
    for argument in arguments:
        if before not in _WITH_VALUE and not argument.startswith("-"):
            return argument == "run"
        before = argument
    return False


def block(arguments: Sequence[str]) -> None:
    """Block signals if these arguments run the daemon, until `StartSignals.listen`. Signals end other commands."""
    if runs_daemon(arguments):
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)


class StartSignals:
    """The signals that the daemon has received before it serves requests."""

    def __init__(self) -> None:
        import threading  # noqa: PLC0415 - every command imports this module, but only the daemon needs threading

        self.stopping = threading.Event()
        """Set when the daemon must stop."""
        self.reload = threading.Event()
        """Set when the daemon must read its configuration again."""

    def listen(self) -> None:
        """Record all signals from now on, and those that were blocked."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: self.reload.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
