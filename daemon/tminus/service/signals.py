"""The signals of a daemon that does not serve yet: none is lost, and none ends it without a word.

By default SIGHUP ends a process, and a service manager takes that for a clean exit. Loading what serves takes a second
or two, in which a reload may be asked for. So the signals are held back from the first line that runs, until there are
handlers that note them.
"""

import signal
from collections.abc import Sequence

_HELD = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

_VALUED = ("--config", "--url", "--token-file", "--socket")
"""Options before the command's name that are followed by a value."""


def runs_daemon(arguments: Sequence[str]) -> bool:
    """Whether these arguments run the daemon; answered before anything that reads a command line is loaded."""
    before = ""
    for argument in arguments:
        if before not in _VALUED and not argument.startswith("-"):
            return argument == "run"
        before = argument
    return False


def block(arguments: Sequence[str]) -> None:
    """Hold the signals back if these arguments run the daemon: `Told.listen` lets them through. Other commands end."""
    if runs_daemon(arguments):
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


class StartSignals:
    """What the daemon was told before it serves, by signals."""

    def __init__(self) -> None:
        import threading  # noqa: PLC0415 - every command loads this module, and the daemon alone needs it

        self.stopping = threading.Event()
        """Set once it is to stop."""
        self.reload = threading.Event()
        """Set when it is to read its configuration again."""

    def listen(self) -> None:
        """Note every signal from now on, and those that were held back."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: self.reload.set())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
