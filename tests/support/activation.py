"""Pass sockets to a process as systemd does, without systemd."""

import json
import socket
import sys
from collections.abc import Sequence

_HAND_OVER = """
import fcntl, json, os, sys
descriptors, env, command = map(json.loads, sys.argv[1:])
free = [fcntl.fcntl(one, fcntl.F_DUPFD, 100) for one in descriptors]
for index, one in enumerate(free):
    os.dup2(one, 3 + index)
    os.close(one)
os.environ.update({"LISTEN_PID": str(os.getpid()), **env})
os.execv(command[0], command)
"""


def activated(
    command: Sequence[str], sockets: Sequence[socket.socket], **env: str
) -> tuple[list[str], tuple[int, ...]]:
    """Return a command line that runs `command` with these sockets, and the descriptors to pass to it."""
    descriptors = tuple(one.fileno() for one in sockets)
    given = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(["unit.socket"] * len(sockets)), **env}
    arguments = [json.dumps(one) for one in (descriptors, given, list(command))]
    return [sys.executable, "-c", _HAND_OVER, *arguments], descriptors
