"""The log: one line per event and per thing that went wrong, to the journal or on standard output.

`say` writes a line of the catalogue (`events.LOG_LINES`), `say_event` one for a committed event. Names and levels come
from the catalogue, so a line cannot have a name that nobody can look up.
"""

import logging
import os
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from string import Formatter
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from tminus import clock, instants
from tminus.events import EVENT_FIELDS, LOG_LINES, News, log_fields
from tminus.journal import Journal, JournalLogger, is_journal
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
    processors: list[Any] = [_stamp]
    factory: Any
    match style:
        case "console":
            processors += [_for_people, structlog.dev.ConsoleRenderer(pad_event_to=0, colors=stream.isatty())]
            factory = structlog.PrintLoggerFactory(stream)
        case "journal":
            logger = JournalLogger(journal or _journal, stream.buffer)
            factory = lambda *_arguments: logger  # noqa: E731 - that is all it is
        case _:
            processors.append(_as_json)
            factory = structlog.BytesLoggerFactory(stream.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    global _log  # noqa: PLW0603 - the log is the process's, as is standard output
    _log = structlog.get_logger().bind()  # bound here once: the proxy would bind itself anew for each line
    _route_libraries()


def _fitting(stream: TextIO) -> str:
    if is_journal(stream, os.environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if stream.isatty() else "json"


def say(name: str, /, **fields: Any) -> None:
    """Writes a line of the catalogue; its level and its sentence stand there. Fields that are None are left out."""
    line = LOG_LINES[name]
    fields = {key: value for key, value in fields.items() if value is not None}
    _write(line.level, name, message=line.says.format(**fields), **fields)


def say_event(told: News) -> None:
    """Writes the line of a committed event: a warning if the clock made the move late."""
    level = "warning" if (told.lag_ms or 0) >= LATE_MS and told.event.actor == CLOCK_ACTOR else "info"
    _write(level, told.event.type.value, message=told.message, **log_fields(told))


def _write(level: str, name: str, **fields: Any) -> None:
    # A full disk, or a pipe whose reader is gone, stops the log and nothing else: not the clock, not the writer.
    with suppress(OSError, ValueError):
        getattr(_log, level)(name, **fields)


def failure(error: BaseException) -> dict[str, str]:
    """The fields by which a line tells of a defect: what it was, and where."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {
        "error": _said(error) + (f" (because {_said(error.__cause__)})" if error.__cause__ else ""),
        "traceback": " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)),
    }


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _stamp(_logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    return {"ts": instants.text(clock.now()), "level": method, **line}


def _as_json(_logger: WrappedLogger, _method: str, line: EventDict) -> bytes:
    return orjson.dumps(line, default=str)


def _for_people(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """On a terminal the sentence comes first; what it has said is not said again, and the time of day is enough."""
    line["timestamp"] = line.pop("ts")[11:-1]
    name = line["event"]
    for said in _IN_SENTENCE.get(name, _IN_EVENT_SENTENCE):
        line.pop(said, None)
    line["event"] = f"{name}: {line.pop('message')}"
    return line


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

_log: FilteringBoundLogger = structlog.get_logger()
