"""The log: one line per event and per thing that went wrong, to the journal or on standard output.

`say` writes a line of the catalogue (`lines.LOG_LINES`), `say_events` those of committed events. Names and levels come
from the catalogue, so a line cannot have a name that nobody can look up.
"""

import atexit
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TextIO

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.events import NOBODY, ActorNames, News
from tminus.domain.text import escape
from tminus.logs.catalogue import EVENT_FIELDS, LOG_LINES, log_fields
from tminus.logs.journald import PRIORITIES, Journal, ToJournal, is_journal
from tminus.logs.writer import Destination, Line, LogWriter, Stream, json_line

if TYPE_CHECKING:
    from structlog.dev import ConsoleRenderer

LAST_SECONDS = 1.0
"""How long the end of a process waits for a log that stands still."""


def configure(
    level: str = "info", style: str = "auto", stream: TextIO | None = None, journal: Journal | None = None
) -> None:
    """Set level and style of all that follows.

    The styles are `json`, `console` and `journal`; `auto` is the journal where systemd has connected `stream` (standard
    output) to it, console on a terminal, else JSON. Where there is no journal its lines are JSON on `stream`.
    """
    global _threshold  # noqa: PLW0603 - the log is the process's, as is standard output
    _writer.destination = _destination(style, stream or sys.stdout, journal or _journal)
    _threshold = PRIORITIES[level]
    _route_libraries()


def _destination(style: str, stream: TextIO | None, journal: Journal) -> Destination:
    if stream is None:
        return _Nowhere()  # standard output is closed: nobody asked for a log
    if style == "auto":
        style = _fitting(stream)
    match style:
        case "console":
            return Stream(stream, _Console(stream))
        case "journal":
            return ToJournal(journal, Stream(stream, json_line))
        case _:
            return Stream(stream, json_line)


def _fitting(stream: TextIO) -> str:
    if is_journal(stream, os.environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if stream.isatty() else "json"


def flush(seconds: float = LAST_SECONDS) -> None:
    """Wait until all that was logged is written, no longer than so many seconds."""
    _writer.flush(seconds)


def dropped() -> int:
    """Return how many lines this process has dropped since its start."""
    return _writer.dropped


def log(name: str, /, **fields: Any) -> None:
    """Write a line of the catalogue; its level and its sentence stand there. Fields that are None are left out.

    The line is written by a thread of its own: nothing here waits or raises.
    """
    line = LOG_LINES[name]
    if PRIORITIES[line.level] <= _threshold:
        _writer.put(_catalogued(name, fields))


def log_debug(name: str, /, **fields: Any) -> None:
    """Write a line of the catalogue where `log.level` is `debug`: another line says as much."""
    if PRIORITIES["debug"] <= _threshold:
        _writer.put({**_catalogued(name, fields), "level": "debug"})


def log_events(page: Sequence[News], done: Callable[[bool], None], names: ActorNames = NOBODY) -> None:
    """Write the lines of committed events, in order. All are information; `clock.late` warns of late moves.

    `done` is called when that is over, on another thread: whether all of them were written. `names`: of actors.
    """
    lines = []
    for told in page if PRIORITIES["info"] <= _threshold else ():
        try:
            name = names.get(told.event.actor)
            fields = log_fields(told, name)
            lines.append(_put_together(told.event.ts, "info", told.event.type.value, told.sentence(name), fields))
        except Exception:
            # One that cannot be put into words must not keep the others out of the log.
            logging.getLogger(__name__).exception("Event %d could not be logged", told.event.seq)
    _writer.put_batch(lines, done)


def _catalogued(name: str, fields: Mapping[str, Any]) -> Line:
    line = LOG_LINES[name]
    fields = {key: value for key, value in fields.items() if value is not None}
    return _put_together(clock.now(), line.level, name, line.sentence(fields), fields)


def _put_together(ts: datetime, level: str, name: str, message: str, fields: Mapping[str, Any]) -> Line:
    return {
        "ts": timestamps.text(ts), "level": level, "event": name, "instance": instance(), "message": message, **fields,
    }  # fmt: skip


@cache
def instance() -> str:
    """Return the name of this process in the log: its host and its number, which no other that runs has."""
    return f"{socket.gethostname()}/{os.getpid()}"


def error_fields(error: BaseException) -> dict[str, str]:
    """The fields by which a line tells of a defect: what it was, and where."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {
        "error": _said(error) + (f" (because {_said(error.__cause__)})" if error.__cause__ else ""),
        "traceback": " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)),
    }


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Nowhere:
    """In the place of a standard output that is closed."""

    @staticmethod
    def write(lines: Sequence[Line]) -> int:
        return len(lines)


class _Console:
    """Lines for people. The sentence comes first; what it has said is not said again.

    Times are those of JSON lines, in UTC, so that a line is found again in the history and in another machine's log.
    """

    def __init__(self, stream: TextIO) -> None:
        self._encoding = stream.encoding or "utf-8"
        self._colors = stream.isatty()

    @cached_property
    def _render(self) -> "ConsoleRenderer":
        # Loaded with the first line on a terminal: that takes a tenth of a second, and a service writes no such line.
        from structlog.dev import ConsoleRenderer  # noqa: PLC0415 - as said

        return ConsoleRenderer(pad_event_to=0, colors=self._colors)

    def __call__(self, given: Line) -> bytes:
        name = given["event"]
        left_out = {"ts", "level", "event", "message", "instance", *_IN_SENTENCE.get(name, _IN_EVENT_SENTENCE)}
        fields = {field: value for field, value in given.items() if field not in left_out}
        line = {
            "timestamp": given["ts"],
            "level": given["level"],
            "event": escape(f"{name}: {given['message']}"),
            **dict(_plain(fields)),
        }
        # A terminal that lacks a letter loses no line.
        return f"{self._render(None, '', line)}\n".encode(self._encoding, "backslashreplace")


def _plain(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield fields as people write them: `sessions.new=0` of a table, `a,b` of a list, nothing of an empty one."""
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


_IN_EVENT_SENTENCE = frozenset(EVENT_FIELDS) - {"lag_ms", "actor", "actor_name", "external_key", "record_name"}
_IN_SENTENCE = {name: line.named for name, line in LOG_LINES.items()}


class _Library(logging.Handler):
    """What uvicorn, APScheduler and others say through the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        told = error_fields(record.exc_info[1]) if record.exc_info and record.exc_info[1] else {}
        text = record.getMessage()
        said = {"error": f"{text}: {told['error']}" if told else text, "traceback": told.get("traceback")}
        log("library.said", logger=record.name, **said)


def _route_libraries() -> None:
    root = logging.getLogger()
    root.handlers = [_Library(level=logging.WARNING)]
    root.setLevel(logging.WARNING)
    # It warns of each tick that a long one has made superfluous; that is by design here.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _line(name: str, /, **fields: Any) -> Line:
    return _catalogued(name, fields)


def _notice(lines: int, since: datetime) -> Line:
    return _line("log.dropped", lines=lines, since=timestamps.text(since))


_journal = Journal()

_writer = LogWriter(_destination("console", sys.stdout, _journal), _notice)
atexit.register(flush)
os.register_at_fork(after_in_child=instance.cache_clear)
_threshold = PRIORITIES["info"]
