"""The native protocol of systemd's journal (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram for each log line."""

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from tminus.logs.writer import Line, Stream, json_line
from tminus.system import systemd

SOCKET = "/run/systemd/journal/socket"

SEND_TIMEOUT = 1.0
"""Seconds that one attempt to send may take. The journal is busy when thousands of lines arrive at once."""

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""The journal's number for each level; lower numbers are more severe."""

_FIXED = {"message": "MESSAGE", "ts": "TS", "event": "EVENT"}

_RESERVED = re.compile(
    r"MESSAGE(_ID)?|PRIORITY|ERRNO|TID|JOB_.*|CODE_.*|SYSLOG_.*|COREDUMP_.*|OBJECT_.*|DOCUMENTATION"
    r"|(USER_)?(UNIT|INVOCATION_ID)"
)
"""Field names to which systemd gives another meaning (systemd.journal-fields(7))."""

_TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Journal:
    """The journal's socket, opened with the first line. Only one thread may use it at a time."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def send(self, line: Mapping[str, Any]) -> bool:
        """Send a line, and wait as long as the journal is busy; return False if there is no journal."""
        data = encode(line)
        while True:
            try:
                self._send(data)
            except BlockingIOError:
                continue  # its queue is full; later lines wait, so that the order stays
            except OSError:
                return False
            return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            self._socket = systemd.datagram_socket(SEND_TIMEOUT)
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            _send_file(self._socket, data, self._path)


def _send_file(to: socket.socket, data: bytes, path: str) -> None:
    """Send data that is too large for a datagram: as the descriptor of a sealed file in memory."""
    descriptor = os.memfd_create("tminus-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        to.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))], 0, path)


class JournalDestination:
    """Writes lines to the journal, or to `fallback` while there is no journal."""

    def __init__(self, journal: Journal, fallback: Stream) -> None:
        self._journal = journal
        self._fallback = fallback

    def write(self, lines: Sequence[Line]) -> int:
        """Write the lines, as `writer.Destination` defines."""
        for written, line in enumerate(lines):
            if not (self._journal.send(line) or self._fallback.write([line])):
                return written
        return len(lines)


def is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Return whether `$JOURNAL_STREAM` (`device:inode`) names this stream, which systemd then sends to the journal."""
    with suppress(OSError, ValueError):
        found = os.fstat(stream.fileno())
        return journal_stream == f"{found.st_dev}:{found.st_ino}"
    return False


def encode(line: Mapping[str, Any]) -> bytes:
    """Return a log line in the journal's format: names in capital letters, lists and objects as JSON."""
    level = str(line["level"])
    parts = [b"SYSLOG_IDENTIFIER=tminus\n", b"PRIORITY=%d\n" % PRIORITIES[level]]
    parts += [_field(field_name(name), _text(value)) for name, value in line.items() if name != "level"]
    return b"".join(parts)


def field_name(name: str) -> str:
    """Return the name of a field in the journal. A name that systemd reserves gets the prefix `TMINUS_`."""
    if name in _FIXED:
        return _FIXED[name]
    plain = re.sub("[^A-Z0-9_]", "_", name.upper()).lstrip("_")
    if not plain or plain[0].isdigit() or _RESERVED.fullmatch(plain):
        plain = f"TMINUS_{plain}"
    return plain[:64]


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace")
    return json_line(value).rstrip(b"\n")


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
