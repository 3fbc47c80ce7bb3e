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

A command is one request, so loading Python's modules is most of its time. `main` loads only what the command needs: the
help is printed from a table (`catalogue`), and Typer gets the one command that is called (`application`).
"""

import sys
from typing import NoReturn

from tminus.signals import hold

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command of `sys.argv`, and end the process with its exit code."""
    hold(sys.argv[1:])
    try:
        from tminus.cli.process import run  # noqa: PLC0415 - within what handles Ctrl-C

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130  # as a shell counts an end by SIGINT
    sys.exit(code)
