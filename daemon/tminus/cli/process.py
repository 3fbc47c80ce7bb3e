"""Run a command as a process: set up its streams and signals, and determine its exit code."""

import os
import signal
import sys

from tminus.cli import output
from tminus.cli.output import OutputLost
from tminus.service.signals import runs_daemon


def run(arguments: list[str], *, interruptible: bool) -> int:
    """Run the command; return its exit code.

    `interruptible`: whether Ctrl-C interrupts the command; False if SIGINT is ignored, or has a handler already.
    """
    output.open_streams()
    output.escape_streams(stdout=not runs_daemon(arguments))  # the daemon's log has escapes of its own
    try:
        code = _called(arguments, interruptible=interruptible)
        sys.stdout.flush()
    except OutputLost as lost:
        # The request was executed: every command prints only after it has the answer.
        if lost.is_closed_pipe:
            return 0
        output.print_error(f"done, but standard output cannot be written: {lost}")
        return output.LOST
    return code


def _called(arguments: list[str], *, interruptible: bool) -> int:
    # Imported while Ctrl-C still ends the process at once, without a traceback from within an import.
    from click.exceptions import Exit  # noqa: PLC0415

    from tminus.cli import dispatch  # noqa: PLC0415

    if instruction := os.environ.get("_TMINUS_COMPLETE"):
        from tminus.cli import completion  # noqa: PLC0415 - needed only for completion

        return completion.answer(instruction)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        dispatch.call(arguments)
    except Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
