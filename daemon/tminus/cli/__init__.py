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
====  =======================================================================
"""

from tminus.cli.commands import main

__all__ = ["main"]
