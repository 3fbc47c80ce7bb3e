"""A command as a process: its streams, its signals, its exit code."""

import os
import signal
import sys

from tminus.cli import output
from tminus.cli.output import OutputLost


def run(arguments: list[str], *, interruptible: bool) -> int:
    """Run the command; returns its exit code.

    `interruptible`: whether Ctrl-C interrupts the command once it is loaded; else it is handled already, or ignored.
    """
    output.open_streams()
    is_daemon = _is_daemon(arguments)
    output.print_safely(stdout=not is_daemon)  # the daemon's log has escapes of its own
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


def _is_daemon(arguments: list[str]) -> bool:
    from tminus.cli.catalogue import split  # noqa: PLC0415 - loaded with Ctrl-C made harmless

    return split(arguments)[1][:1] == ["run"]


def _called(arguments: list[str], *, interruptible: bool) -> int:
    if "_TMINUS_COMPLETE" in os.environ:
        from tminus.cli import completion  # noqa: PLC0415 - what is not needed is not loaded

        completion.complete(arguments, os.environ["_TMINUS_COMPLETE"])
        return 0
    if not arguments or arguments == ["--help"]:
        from tminus.cli.catalogue import help_text  # noqa: PLC0415 - likewise

        output.put_text(help_text())
        return 0
    from tminus.cli import dispatch  # noqa: PLC0415 - likewise
    from tminus.cli.parsing import Exit  # noqa: PLC0415

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        dispatch.call(arguments)
    except Exit as ended:
        return ended.code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
