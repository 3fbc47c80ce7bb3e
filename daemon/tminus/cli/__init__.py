"""The command: the daemon itself, and a client of it for people and scripts.

Exit codes, the same for every command:

====  =======================================================================
0     done
1     refused: the request, the configuration or the database is at fault
2     the command line is wrong
3     there is no such session, or no such webhook
4     the session's status or version does not allow it
5     no valid token, or not allowed
6     no answer, or one that asks to come back later
7     done, but standard output could not be written
====  =======================================================================

A command is one request, so loading Python's modules is most of its time. `main` loads only what the command needs: of
the commands only the one that is called (`dispatch`); their names and summaries come from a table (`catalogue`).
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command of `sys.argv`, and end the process with its exit code."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - `signal` would load enumerations first

    interruptible = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if interruptible:
        # While modules load, Ctrl-C ends the process at once, without a traceback out of the midst of one.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from tminus.service.signals import hold  # noqa: PLC0415 - with Ctrl-C made harmless

        hold(sys.argv[1:])
        from tminus.cli.process import run  # noqa: PLC0415 - likewise

        code = run(sys.argv[1:], interruptible=interruptible)
    except KeyboardInterrupt:
        code = 130  # as a shell counts an end by SIGINT
    sys.exit(code)
