"""Standard output and standard error of a command.

All text that a command prints, also from libraries, goes through an `EscapingStream`, so that no caller can forget to
escape characters that a terminal acts on. Only `styled` adds escape sequences, for colours, and `tminus watch` and
`draw_status`, to move the cursor.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, TextIO

from tminus.domain.text import cut, escape, escape_lines, json_text

LOST = 7
"""Exit code of a command that was executed, but whose output could not be written."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class OutputLost(Exception):
    """Standard output cannot be written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.is_closed_pipe = cause.errno == errno.EPIPE
        """Whether the reader has closed the pipe, as `head` does. That is not an error."""


class EscapingStream(io.TextIOWrapper):
    """A standard stream that escapes unprintable characters, and those that its encoding lacks."""

    lossy = False
    """Whether text that cannot be written is dropped, as on standard error: an error that cannot be printed does not
    change the exit code.
    """

    def write(self, text: str) -> int:
        self.write_raw(escape_lines(text))
        return len(text)

    def write_raw(self, text: str) -> None:
        """Write text that is escaped already and may contain escape sequences of our own."""
        try:
            super().write(text)
        except OSError as error:
            self._lose(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # Otherwise Python would try to write the buffer again at exit, and print an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not self.lossy:
            raise OutputLost(error) from error


class Span(NamedTuple):
    """A part of a line, and its style: names in `_STYLES`, separated by spaces."""

    text: str
    style: str = ""


Line = list[Span]


def open_streams() -> None:
    """Open closed standard streams (`>&-`) on /dev/null. Otherwise the next file or socket would take their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False, encoding="utf-8", errors="backslashreplace"))


def escape_streams(*, stdout: bool) -> None:
    """Replace standard error, and standard output if `stdout`, with an `EscapingStream`."""
    for name in ("stdout", "stderr") if stdout else ("stderr",):
        stream = getattr(sys, name)
        if isinstance(stream, EscapingStream):
            continue
        stream.flush()
        encoding, line_buffering = stream.encoding, stream.line_buffering or name == "stderr"
        printed = EscapingStream(
            stream.detach(), encoding=encoding, errors="backslashreplace", newline="\n", line_buffering=line_buffering
        )
        printed.lossy = name == "stderr"
        setattr(sys, name, printed)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def size() -> tuple[int, int]:
    """Return the columns and lines of the terminal: its current size, or else `$COLUMNS` and `$LINES`."""
    try:
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        columns, lines = 0, 0
    return columns or _number("COLUMNS") or 80, lines or _number("LINES") or 24


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def coloured() -> bool:
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def styled(line: Line, *, colour: bool) -> str:
    """Return a line as text for a terminal. The text is escaped, so only its styles add escape sequences."""
    text = ""
    for span in line:
        codes = ";".join(_STYLES[name] for name in span.style.split()) if colour else ""
        shown = escape(span.text)
        text += f"\x1b[{codes}m{shown}\x1b[0m" if codes and shown.strip() else shown
    return text.rstrip(" ")


def put(content: str | Iterable[Line]) -> None:
    """Print a sentence, or the lines of a table."""
    if isinstance(content, str):
        sys.stdout.write(f"{escape(content)}\n")
        return
    colour = coloured()
    for line in content:
        _raw(f"{styled(line, colour=colour)}\n")


def put_text(text: str) -> None:
    """Print text of several lines, each escaped."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def put_fields(cells: Iterable[str]) -> None:
    """Print a row for programs: cells separated by tabs. Tabs within a cell are escaped."""
    _raw("\t".join(map(escape, cells)) + "\n")


def _raw(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    if isinstance(stream, EscapingStream):
        stream.write_raw(text)
    else:  # in a test that calls a command in its own process
        stream.write(text)


def draw(text: str) -> None:
    """Print text that is escaped already to the terminal, and flush it."""
    _raw(text)
    sys.stdout.flush()


def draw_status(text: str) -> None:
    """Replace the line on standard error, which is a terminal, with this text; "" removes it."""
    _raw(f"\r\x1b[K{cut(escape(text), size()[0] - 1)}", sys.stderr)
    sys.stderr.flush()


def put_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON: in UTF-8, or in ASCII if standard output has another encoding."""
    sys.stdout.write(json_text(value, ascii_only=not is_utf8(), indent=indent) + "\n")


def is_utf8() -> bool:
    """Return whether standard output is UTF-8, and so can encode all characters."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def print_error(message: str) -> None:
    """Print an error to standard error, on one line."""
    sys.stderr.write(f"tminus: {escape(message)}\n")
