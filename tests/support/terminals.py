"""A command on a terminal of a given size, and what its screen shows."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tests.support.waiting import eventually
from tminus.domain.text import width

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")

_CLEAR = "\x1b[2J\x1b[H"

_CODE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|(\r)|(\n)")


class Terminal:
    """Runs a command on a terminal; use it as a context manager."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 80, rows: int = 24) -> None:
        self.columns, self.rows = columns, rows
        self._output = b""
        self._resized = False
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command, env={"TERM": "xterm", **env}, stdin=terminal, stdout=terminal, stderr=terminal
        )
        os.close(terminal)
        os.set_blocking(self._controller, False)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._controller)

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows, self._resized = columns, rows, True
        self._read()
        self._output = b""
        fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Wait until the command ends; return its exit code."""
        eventually(lambda: (self.raw, self.process.poll())[1] is not None)
        self._read()
        return self.process.wait(60)

    def _read(self) -> None:
        with suppress(OSError):  # nothing new, or the command has ended
            while part := os.read(self._controller, 1 << 20):
                self._output += part

    @property
    def raw(self) -> str:
        """Return all text that was written to the terminal."""
        self._read()
        return self._output.decode(errors="replace")

    def screen(self) -> list[str]:
        """Return the lines on the screen. A line that is wider than the terminal fails the test."""
        lines = self._drawn()
        for line in lines:
            assert width(line) <= self.columns, line
        return lines

    @property
    def fits(self) -> bool:
        """Return whether no line is wider than the terminal. After a resize, one more old frame may be drawn."""
        return all(width(line) <= self.columns for line in self._drawn())

    def _drawn(self) -> list[str]:
        """Interpret the escape sequences that `tminus` uses; any other fails the test."""
        lines, row, column = [""], 0, 0
        text, at = self.raw, 0
        if self._resized:  # text before the next clear was drawn for the previous size
            text = text[text.rindex(_CLEAR) :] if _CLEAR in text else ""
        while at < len(text):
            code = _CODE.match(text, at)
            if code is None:
                assert not _CONTROL.match(text[at]), f"the terminal gets {text[at - 20 : at + 20]!r}"
                lines[row] = lines[row][:column].ljust(column) + text[at] + lines[row][column + 1 :]
                column, at = column + 1, at + 1
                continue
            at = code.end()
            number, letter = code[1], code[2]
            if code[3]:
                column = 0
            elif code[4]:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            elif letter == "A":
                row -= int(number)
            elif letter == "H":
                lines, row, column = [""], 0, 0
            elif letter == "K":
                lines[row] = lines[row][:column]
            elif letter == "J":
                lines[row:] = [lines[row][:column]]
            else:
                assert letter == "m", f"the terminal gets {code[0]!r}"
        return lines
