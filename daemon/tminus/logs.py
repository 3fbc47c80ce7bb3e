"""The log: one line per event and per thing that went wrong, to the journal or on standard output.

`say` writes a line of the catalogue (`lines.LOG_LINES`), `say_event` one for a committed event. Names and levels come
from the catalogue, so a line cannot have a name that nobody can look up.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOWrapper
from string import Formatter
from typing import Any, TextIO

from structlog.dev import ConsoleRenderer

from tminus import clock, instants
from tminus.events import News
from tminus.journal import PRIORITIES, Journal, JsonLines, ToJournal, Write, is_journal
from tminus.lines import EVENT_FIELDS, LOG_LINES, log_fields
from tminus.vocabulary import CLOCK_ACTOR

LATE_MS = 1000
"""From here on a move of the clock is a warning, not just information."""


def configure(
    level: str = "info", style: str = "auto", stream: TextIO | None = None, journal: Journal | None = None
) -> None:
    """Sets level and style of all that follows.

    The styles are `json`, `console` and `journal`; `auto` is the journal where systemd has connected `stream` (standard
    output) to it, console on a terminal, else JSON. While the journal takes no lines they are JSON on `stream`.
    """
    stream = stream or sys.stdout
    if style == "auto":
        style = _fitting(stream)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter loses no line
    global _write, _threshold  # noqa: PLW0603 - the log is the process's, as is standard output
    match style:
        case "console":
            _write = _Console(stream)
        case "journal":
            _write = ToJournal(journal or _journal, stream.buffer)
        case _:
            _write = JsonLines(stream.buffer)
    _threshold = PRIORITIES[level]
    _route_libraries()


def _fitting(stream: TextIO) -> str:
    if is_journal(stream, os.environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if stream.isatty() else "json"


def say(name: str, /, **fields: Any) -> None:
    """Writes a line of the catalogue; its level and its sentence stand there. Fields that are None are left out."""
    line = LOG_LINES[name]
    if PRIORITIES[line.level] <= _threshold:
        fields = {key: value for key, value in fields.items() if value is not None}
        _put(line.level, name, line.says.format(**fields), fields)


def say_event(told: News) -> None:
    """Writes the line of a committed event: a warning if the clock made the move late."""
    level = "warning" if (told.lag_ms or 0) >= LATE_MS and told.event.actor == CLOCK_ACTOR else "info"
    if PRIORITIES[level] <= _threshold:
        _put(level, told.event.type.value, told.message, log_fields(told))


def _put(level: str, name: str, message: str, fields: Mapping[str, Any]) -> None:
    # A full disk, or a pipe whose reader is gone, stops the log and nothing else: not the clock, not the writer.
    with suppress(OSError, ValueError):
        _write({"ts": instants.text(clock.now()), "level": level, "message": message, **fields, "event": name})


def failure(error: BaseException) -> dict[str, str]:
    """The fields by which a line tells of a defect: what it was, and where."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {
        "error": _said(error) + (f" (because {_said(error.__cause__)})" if error.__cause__ else ""),
        "traceback": " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)),
    }


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Console:
    """Lines for people. The sentence comes first; what it has said is not said again, and the time of day is enough."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._render = ConsoleRenderer(pad_event_to=0, colors=stream.isatty())

    def __call__(self, line: dict[str, Any]) -> None:
        line["timestamp"] = line.pop("ts")[11:-1]
        name = line["event"]
        for said in _IN_SENTENCE.get(name, _IN_EVENT_SENTENCE):
            line.pop(said, None)
        line["event"] = f"{name}: {line.pop('message')}"
        self._stream.write(f"{self._render(None, '', line)}\n")
        self._stream.flush()


_IN_EVENT_SENTENCE = frozenset(EVENT_FIELDS) - {"lag_ms", "actor", "external_key"}
_IN_SENTENCE = {
    name: [field for _, field, _, _ in Formatter().parse(line.says) if field] for name, line in LOG_LINES.items()
}


class _Library(logging.Handler):
    """What uvicorn, APScheduler and others say through the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        told = failure(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        text = record.getMessage()
        said = {"error": f"{text}: {told['error']}" if told else text, "traceback": told.get("traceback")}
        say("library.said", logger=record.name, **said)


def _route_libraries() -> None:
    root = logging.getLogger()
    root.handlers = [_Library(level=logging.WARNING)]
    root.setLevel(logging.WARNING)
    # It warns of each tick that a long one has made superfluous; that is by design here.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


_journal = Journal()

_write: Write = _Console(sys.stdout)
_threshold = PRIORITIES["info"]
