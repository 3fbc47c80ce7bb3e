"""Write the log, to the journal or to standard output.

`log` writes a line of the catalogue (`catalogue.LOG_LINES`), `log_events` the lines of committed events. Names, levels
and messages come from the catalogue, so each line can be looked up in the documentation.
"""

import atexit
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, TextIO

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.events import NO_NAMES, ActorNames, LogEvent
from tminus.domain.text import escape
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS, log_fields
from tminus.logs.journald import PRIORITIES, Journal, JournalDestination, is_journal
from tminus.logs.writer import Destination, Line, LogWriter, Stream, json_line

if TYPE_CHECKING:
    from structlog.dev import ConsoleRenderer

EXIT_SECONDS = 1.0
"""Seconds that a process waits at its end for a log that cannot be written."""


def configure(
    level: str = "info", style: str = "auto", stream: TextIO | None = None, journal: Journal | None = None
) -> None:
    """Set the level and the style of all further lines.

    The styles are `json`, `console` and `journal`. `auto` is `journal` if systemd has connected `stream` (standard
    output) to the journal, `console` on a terminal, else `json`. Without a journal, its lines go to `stream` as JSON.
    """
    global _threshold  # noqa: PLW0603 - there is one log for the process
    _writer.destination = _destination(style, stream or sys.stdout, journal or _journal)
    _threshold = PRIORITIES[level]
    _route_libraries()


def _destination(style: str, stream: TextIO | None, journal: Journal) -> Destination:
    if stream is None:
        return _Discard()  # standard output is closed
    if style == "auto":
        style = _style_for(stream)
    match style:
        case "console":
            return Stream(stream, _Console(stream))
        case "journal":
            return JournalDestination(journal, Stream(stream, json_line))
        case _:
            return Stream(stream, json_line)


def _style_for(stream: TextIO) -> str:
    if is_journal(stream, os.environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if stream.isatty() else "json"


def flush(seconds: float = EXIT_SECONDS) -> None:
    """Wait until all lines are written, for at most `seconds`."""
    _writer.flush(seconds)


def dropped() -> int:
    """Return the number of lines that this process has dropped since its start."""
    return _writer.dropped


def log(name: str, /, **fields: Any) -> None:
    """Write a line of the catalogue, which has its level and message. Fields that are None are left out.

    A separate thread formats and writes the line, so this neither waits nor raises. The caller must not change a value
    that it has passed.
    """
    line = LOG_LINES[name]
    if PRIORITIES[line.level] <= _threshold:
        _writer.put(partial(_made_late, clock.now(), line.level, name, fields))


def log_debug(name: str, /, **fields: Any) -> None:
    """Write a line of the catalogue with level `debug`, since another line reports the same."""
    if PRIORITIES["debug"] <= _threshold:
        _writer.put(partial(_made_late, clock.now(), "debug", name, fields))


def log_events(page: Sequence[LogEvent], done: Callable[[bool], None], names: ActorNames = NO_NAMES) -> None:
    """Write the lines of committed events, in order, with level `info`. (`clock.late` warns of late transitions.)

    `done` is called on another thread when they have been written or refused, with whether all were written. `names`
    has the names of actors.
    """
    lines = []
    for recorded in page if PRIORITIES["info"] <= _threshold else ():
        try:
            name = recorded.actor_name(names)
            fields = log_fields(recorded, name)
            lines.append(
                _assembled(recorded.event.ts, "info", recorded.event.type.value, recorded.sentence(name), fields)
            )
        except Exception:
            # An event that cannot be formatted must not prevent the others from being logged.
            logging.getLogger(__name__).exception("Event %d could not be logged", recorded.event.seq)
    _writer.put_batch(lines, done)


def _made_late(ts: datetime, level: str, name: str, fields: Mapping[str, Any]) -> Line:
    """Return a line of the catalogue, on the writer's thread. Never raises."""
    try:
        return _catalogued(ts, level, name, fields)
    except Exception:
        logging.getLogger(__name__).exception("The line %s could not be formatted", name)
        return _assembled(ts, level, name, name, {field: repr(value) for field, value in fields.items()})


def _catalogued(ts: datetime, level: str, name: str, fields: Mapping[str, Any]) -> Line:
    if None in fields.values():
        fields = {key: value for key, value in fields.items() if value is not None}
    return _assembled(ts, level, name, LOG_LINES[name].message(fields), fields)


def _assembled(ts: datetime, level: str, name: str, message: str, fields: Mapping[str, Any]) -> Line:
    return {
        "ts": timestamps.text(ts), "level": level, "event": name, "instance": instance(), "message": message, **fields,
    }  # fmt: skip


@cache
def instance() -> str:
    """Return the name of this process in the log: its host and its process id."""
    return f"{socket.gethostname()}/{os.getpid()}"


def error_fields(error: BaseException) -> dict[str, str]:
    """Return the log fields of an unexpected exception: its message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {
        "error": _described(error) + (f" (because {_described(error.__cause__)})" if error.__cause__ else ""),
        "traceback": " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)),
    }


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Discard:
    """Discards all lines: the destination if standard output is closed."""

    @staticmethod
    def write(lines: Sequence[Line]) -> int:
        return len(lines)


class _Console:
    """Formats lines for people: the message, then the fields that it does not contain.

    Times are in UTC, as in JSON lines, so that lines can be compared with the history and with other machines' logs.
    """

    def __init__(self, stream: TextIO) -> None:
        self._encoding = stream.encoding or "utf-8"
        self._colors = stream.isatty()

    @cached_property
    def _render(self) -> "ConsoleRenderer":
        from structlog.dev import ConsoleRenderer  # noqa: PLC0415 - takes 0.1 s to load, and a service never needs it

        return ConsoleRenderer(pad_event_to=0, colors=self._colors)

    def __call__(self, line: Line) -> bytes:
        name = line["event"]
        left_out = {"ts", "level", "event", "message", "instance", *_IN_MESSAGE.get(name, _IN_EVENT_MESSAGE)}
        fields = {field: value for field, value in line.items() if field not in left_out}
        rendered = {
            "timestamp": line["ts"],
            "level": line["level"],
            "event": escape(f"{name}: {line['message']}"),
            **dict(_plain(fields)),
        }
        # Characters that the terminal's encoding lacks are escaped.
        return f"{self._render(None, '', rendered)}\n".encode(self._encoding, "backslashreplace")


def _plain(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield fields as text: `sessions.new=0` for an object, `a,b` for a list, nothing for an empty list."""
    for name, value in fields.items():
        match value:
            case Mapping():
                yield from _plain(value, f"{prefix}{name}.")
            case list() | tuple():
                if value:
                    yield f"{prefix}{name}", escape(",".join(map(str, value)))
            case bool():
                yield f"{prefix}{name}", "yes" if value else "no"
            case _:
                yield f"{prefix}{name}", escape(str(value))


_IN_EVENT_MESSAGE = frozenset(EVENT_FIELDS) - {"lag_ms", "actor", "actor_name", "external_key", "record_name"}
"""The fields that the messages of events contain."""
_IN_MESSAGE = {name: line.field_names for name, line in LOG_LINES.items()}
"""The fields that the message of each other line contains, by the name of the line."""


class _LibraryHandler(logging.Handler):
    """Logs what uvicorn, APScheduler and other libraries report to the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        found = error_fields(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        text = record.getMessage()
        fields = {"error": f"{text}: {found['error']}" if found else text, "traceback": found.get("traceback")}
        log("library.said", logger=record.name, **fields)


def _route_libraries() -> None:
    root = logging.getLogger()
    root.handlers = [_LibraryHandler(level=logging.WARNING)]
    root.setLevel(logging.WARNING)
    # APScheduler warns of each run that it skips because the previous one is still running. Here that is intended.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _line(name: str, /, **fields: Any) -> Line:
    return _catalogued(clock.now(), LOG_LINES[name].level, name, fields)


def _dropped_notice(lines: int, since: datetime) -> Line:
    return _line("log.dropped", lines=lines, since=timestamps.text(since))


_journal = Journal()

_writer = LogWriter(_destination("console", sys.stdout, _journal), _dropped_notice)
atexit.register(flush)
os.register_at_fork(after_in_child=instance.cache_clear)
_threshold = PRIORITIES["info"]
