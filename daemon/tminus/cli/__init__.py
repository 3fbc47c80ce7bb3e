"""The command `tminus`: it runs the daemon, and is the daemon's client in a terminal or a script.

Exit codes, the same for every command:

====  =======================================================================
0     done
1     refused: there is an error in the request, the configuration or the database
2     the command line is wrong
3     there is no such session, series, webhook, agent or token
4     the session's status or version does not allow it, or the user declined
5     no valid token, or not allowed
6     no answer, or an answer that allows a later retry
7     done, but standard output could not be written
130   ended by Ctrl-C
====  =======================================================================

A command makes one request, so importing modules takes most of its time. `main` imports only the command that is called
(`dispatch`); the names and summaries of the others come from a table (`catalogue`).
"""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command in `sys.argv`, and end the process with its exit code."""
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415 - `signal` takes longer to load

    interruptible = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if interruptible:
        # While modules are imported, Ctrl-C ends the process at once. Python's own handler would print a traceback from
        # within an import.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from tminus.service.signals import block  # noqa: PLC0415 - only after the handler of Ctrl-C is set

        block(sys.argv[1:])
        # Otherwise pydantic searches all installed packages for plugins, which takes 30 ms. tminus uses none, and one
        # that is there by chance must not change what is valid.
        os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
        from tminus.cli.process import run  # noqa: PLC0415 - only after signals are blocked

        code = run(sys.argv[1:], interruptible=interruptible)
    except KeyboardInterrupt:
        code = 130  # a shell's exit code for SIGINT
    sys.exit(code)
