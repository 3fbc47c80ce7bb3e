"""Standard output and standard error of a command: what may be written there, and what if that fails.

All text that a command prints goes through a `Printed` stream, whoever prints it: a table, an error, a library. It
escapes what a terminal would obey, so no caller can forget to. Only `styled` text carries codes, and they are made
here.
"""

import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from tminus.domain.text import escape, escape_lines, json_text

LOST = 7
"""Exit code of a command that was done, and whose output could not be written."""

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class OutputLost(Exception):
    """Standard output takes nothing more."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.strerror or str(cause))
        self.is_refused = cause.errno == errno.EPIPE
        """Whether its reader has gone, as `head` does when it has enough: that is no fault."""


class Printed(io.TextIOWrapper):
    """A standard stream for people: unprintable characters are escaped, those that it cannot encode, too."""

    lossy = False
    """Whether what cannot be written is dropped: a command does not fail because nobody reads its errors."""

    def write(self, text: str) -> int:
        self.write_raw(escape_lines(text))
        return len(text)

    def write_raw(self, text: str) -> None:
        """Write text that holds codes for the terminal, and is escaped already."""
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
        # What is buffered would be tried again at the end, by Python, which complains then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not self.lossy:
            raise OutputLost(error) from error


class Span(NamedTuple):
    """A piece of a line, and how it looks: names of `_STYLES`, separated by blanks."""

    text: str
    style: str = ""


Line = list[Span]


def open_streams() -> None:
    """Open what the caller has closed (`>&-`) on /dev/null: the next file or socket would become standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False, encoding="utf-8", errors="backslashreplace"))


def print_safely(*, stdout: bool) -> None:
    """Make standard error, and standard output if wanted, `Printed` streams."""
    for name in ("stdout", "stderr") if stdout else ("stderr",):
        stream = getattr(sys, name)
        if isinstance(stream, Printed):
            continue
        stream.flush()
        encoding, line_buffering = stream.encoding, stream.line_buffering or name == "stderr"
        printed = Printed(
            stream.detach(), encoding=encoding, errors="backslashreplace", newline="\n", line_buffering=line_buffering
        )
        printed.lossy = name == "stderr"
        setattr(sys, name, printed)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def size() -> tuple[int, int]:
    """Columns and lines of the terminal: its own word first, which follows the window."""
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


def drawn(line: Line, *, colour: bool) -> str:
    """A line as a terminal takes it. Its text is escaped here: no code gets in but those of its styles."""
    text = ""
    for span in line:
        codes = ";".join(_STYLES[name] for name in span.style.split()) if colour else ""
        shown = escape(span.text)
        text += f"\x1b[{codes}m{shown}\x1b[0m" if codes and shown.strip() else shown
    return text.rstrip(" ")


def put(what: str | Iterable[Line]) -> None:
    """Print a sentence, or lines of a table."""
    if isinstance(what, str):
        sys.stdout.write(f"{escape(what)}\n")
        return
    colour = coloured()
    for line in what:
        _raw(f"{drawn(line, colour=colour)}\n")


def put_text(text: str) -> None:
    """Print lines as they are, each escaped."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def put_fields(cells: Iterable[str]) -> None:
    """Print a row for programs: cells between tabs, each escaped, so that a tab within one is none."""
    _raw("\t".join(map(escape, cells)) + "\n")


def _raw(text: str) -> None:
    if isinstance(sys.stdout, Printed):
        sys.stdout.write_raw(text)
    else:  # in a test, which calls a command within its own process
        sys.stdout.write(text)


def draw(text: str) -> None:
    """Print codes and escaped text to the terminal, now."""
    _raw(text)
    sys.stdout.flush()


def put_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON: UTF-8, or ASCII where standard output is in another encoding."""
    sys.stdout.write(json_text(value, ascii_only=not is_utf8(), indent=indent) + "\n")


def is_utf8() -> bool:
    """Whether standard output takes every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def complain(message: str) -> None:
    """Print what went wrong to standard error, on one line."""
    sys.stderr.write(f"tminus: {escape(message)}\n")
