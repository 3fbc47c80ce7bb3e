"""A command as a process: its streams, its signals, its exit code."""

import os
import signal
import sys

from tminus.cli import output
from tminus.cli.output import OutputLost
from tminus.service.signals import runs_daemon


def run(arguments: list[str], *, interruptible: bool) -> int:
    """Run the command; returns its exit code.

    `interruptible`: whether Ctrl-C interrupts the command once it is loaded; else it is handled already, or ignored.
    """
    output.open_streams()
    output.print_safely(stdout=not runs_daemon(arguments))  # the daemon's log has escapes of its own
    try:
        code = _called(arguments, interruptible=interruptible)
        sys.stdout.flush()
    except OutputLost as lost:
        # What was asked for is done by then: every command prints when it has an answer.
        if lost.is_refused:
            return 0
        output.complain(f"done, but standard output cannot be written: {lost}")
        return output.LOST
    return code


def _called(arguments: list[str], *, interruptible: bool) -> int:
    # Loaded with Ctrl-C made harmless.
    from click.exceptions import Exit  # noqa: PLC0415

    from tminus.cli import dispatch  # noqa: PLC0415

    if asked := os.environ.get("_TMINUS_COMPLETE"):
        from tminus.cli import completion  # noqa: PLC0415 - what is not needed is not loaded

        return completion.answer(asked)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        dispatch.call(arguments)
    except Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
