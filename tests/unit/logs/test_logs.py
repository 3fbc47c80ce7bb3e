"""The written log: lines, fields and destinations."""

import io
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import orjson
import pytest
from tests.support.clocks import NOW
from tests.support.factories import session
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.events import FeedEvent
from tminus.domain.model import Event
from tminus.domain.types import CLOCK_ACTOR, EventType, Status
from tminus.logs import output
from tminus.logs.writer import Line, LogWriter, Stream, json_line
from tminus.scheduler import timers
from tminus.scheduler.failures import FailureLog
from tminus.scheduler.timers import Timers
from tminus.system import threads

LogLines = Callable[[], list[dict[str, Any]]]


def _ready(lag: timedelta, actor: str = CLOCK_ACTOR) -> FeedEvent:
    event = Event(
        seq=1,
        session_id="xoKwKRBrbwRF",
        type=EventType.READY,
        ts=NOW,
        actor=actor,
        previous_status=Status.SCHEDULED,
        status=Status.NEW,
        start_time=NOW,
        expires_at=NOW,
        due_at=NOW - lag,
    )
    return FeedEvent(event, session(external_mapping="INC0010001"))


def log_event(event: FeedEvent) -> None:
    output.log_events([event], lambda _ok: None)


def test_a_line_has_time_level_name_message_and_fields(log_lines: LogLines) -> None:
    output.log("retention.removed", removed=3)
    [line] = log_lines()
    assert line.pop("ts").endswith("Z")
    assert line.pop("message")
    assert line.pop("instance") == f"{socket.gethostname()}/{os.getpid()}"
    assert line == {"level": "info", "event": "retention.removed", "removed": 3}


def test_a_field_without_a_value_is_left_out(log_lines: LogLines) -> None:
    output.log("auth.limited", remote_ip="::1", request_id=None, count=1)
    assert "request_id" not in log_lines()[0]


def test_a_name_that_is_not_in_the_catalogue_cannot_be_logged(log_lines: LogLines) -> None:
    with pytest.raises(KeyError):
        output.log("daemon.surprised")
    assert log_lines() == []


def test_the_line_of_an_event_has_session_record_statuses_and_lag(log_lines: LogLines) -> None:
    log_event(_ready(timedelta(milliseconds=7)))
    [line] = log_lines()
    found = {
        name: line[name]
        for name in ("event", "session_id", "external_key", "previous_status", "status", "lag_ms", "actor")
    }
    assert found == {
        "event": "session.ready",
        "session_id": "xoKwKRBrbwRF",
        "external_key": "INC0010001",
        "previous_status": "scheduled",
        "status": "new",
        "lag_ms": 7,
        "actor": "clock",
    }


def test_the_line_of_a_late_transition_has_the_level_info(log_lines: LogLines) -> None:
    log_event(_ready(timedelta(hours=1)))
    assert [(line["level"], line["lag_ms"]) for line in log_lines()] == [("info", 3_600_000)]


def test_a_truncated_line_has_its_time_level_and_name(log_lines: LogLines) -> None:
    log_event(_ready(timedelta(0)))
    output.log("retention.removed", removed=1)
    assert [list(line)[:5] for line in log_lines()] == [["ts", "level", "event", "instance", "message"]] * 2


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("config.rejected", {"faults": 1}, "reload rejected (1 error), previous configuration kept"),
        ("config.rejected", {"faults": 2}, "reload rejected (2 errors), previous configuration kept"),
        ("config.changed", {"key": "k", "new": "2"}, "k added: 2"),
        ("config.changed", {"key": "k", "old": "1"}, "k removed, it was 1"),
        ("config.changed", {"key": "k", "old": "1", "new": "2"}, "k changed from 1 to 2"),
        ("clock.failed", {"job": "clock tick", "error": "E"}, "clock tick failed (E), retrying"),
        ("clock.recovered", {"job": "clock tick"}, "clock tick works again"),
    ],
)
def test_a_message_has_correct_plurals_and_leaves_out_absent_fields(
    log_lines: LogLines, name: str, fields: dict[str, Any], sentence: str
) -> None:
    output.log(name, **fields)
    assert log_lines()[0]["message"] == sentence


def test_only_warnings_of_libraries_are_logged(log_lines: LogLines) -> None:
    library = logging.getLogger("some.library")
    library.info("chat")
    library.warning("careful: %s", "hot")
    [line] = log_lines()
    assert (line["event"], line["logger"], line["error"]) == ("library.said", "some.library", "careful: hot")


def test_an_exception_is_logged_in_one_line_with_its_location() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        fields = output.error_fields(error)
    assert fields["error"] == "ValueError: first second"
    assert fields["traceback"].startswith("test_an_exception_is_logged_in_one_line_with_its_location (")


def test_on_a_terminal_the_name_and_the_message_come_first(log_lines: LogLines) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    output.configure("info", "console", stream)
    log_event(_ready(timedelta(0)))
    output.flush(10)
    written = stream.buffer.getvalue().decode("latin-1")
    assert r"session.ready: Session xoKwKRBrbwRF \u201cAda\u2019s meeting\u201d is open" in written
    assert socket.gethostname() not in written, "on a terminal, the instance is left out"


@pytest.fixture
def terminal(log_lines: LogLines) -> Callable[[], str]:
    """Write the log to a terminal, and return a function that returns the text so far."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    output.configure("info", "console", stream)

    def written() -> str:
        output.flush(10)
        return stream.buffer.getvalue().decode()

    return written


def test_on_a_terminal_a_line_has_its_date_and_zone(terminal: Callable[[], str]) -> None:
    log_event(_ready(timedelta(0)))
    assert terminal().startswith(NOW.isoformat(timespec="milliseconds").replace("+00:00", "Z") + " ")


def test_on_a_terminal_fields_are_not_written_as_python_does(terminal: Callable[[], str]) -> None:
    counts = {"scheduled": 2, "new": 0}
    files = {"config_files": ["a.toml", "b.toml"], "config": "a.toml", "config_fingerprint": "0"}
    output.log("daemon.starting", version="1", state="/var", sessions=counts, inherited=[], **files)
    text = terminal()
    assert "sessions.scheduled=2" in text
    assert "sessions.new=0" in text
    assert "config_files=a.toml,b.toml" in text
    assert "inherited" not in text
    assert not set("{}[]'") & set(text.partition("]")[2])


def test_on_a_terminal_untrusted_text_is_escaped(terminal: Callable[[], str]) -> None:
    output.log("library.said", logger="x", error="\x1b[2J\u202egone", traceback="\x9b31m")
    text = terminal()
    assert r"x: \x1b[2J\u202egone" in text
    assert r"traceback=\x9b31m" in text


@pytest.fixture
def full_disk(log_lines: LogLines) -> Iterator[TextIO]:
    """Write the log to a full disk."""
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, too
    output.configure("info", "json", full)
    yield full
    with suppress(OSError):
        full.close()


def test_a_log_that_cannot_be_written_raises_nothing(full_disk: TextIO) -> None:
    with pytest.raises(OSError, match="No space left"):
        print("x" * 100_000, file=full_disk, flush=True)
    output.log("retention.removed", removed=3)
    log_event(_ready(timedelta(0)))
    logging.getLogger("some.library").error("no")


def test_a_log_that_cannot_be_written_does_not_stop_the_clock(
    full_disk: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "SWEEP", timedelta(milliseconds=20))
    runs: list[int] = []

    def tick() -> None:
        runs.append(1)
        raise OSError(f"failure {len(runs)}")

    started = Timers(tick, {}, FailureLog())
    started.start()
    started.set_deadline(clock.now())
    try:
        eventually(lambda: len(runs) > 4)
    finally:
        started.stop()


def test_a_line_that_cannot_be_formatted_is_still_written(log_lines: LogLines) -> None:
    written = io.BytesIO()

    def encode(line: Line) -> bytes:
        raise ZeroDivisionError

    stream = Stream(io.TextIOWrapper(written, write_through=True), encode)
    assert stream.write([{"event": "one"}, {"event": "two"}]) == 2
    assert written.getvalue().count(b"\n") == 2


def test_a_line_with_text_that_is_not_utf_8_is_written(log_lines: LogLines) -> None:
    output.log("daemon.failed", error="\udcff", sessions=1 << 70)
    [line] = log_lines()
    assert line["error"] == "?"


def test_a_pipe_that_another_process_made_non_blocking_is_written() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        lines = [{"n": number, "text": "x" * 1000} for number in range(500)]
        outcomes: list[int] = []
        writer = threading.Thread(target=lambda: outcomes.append(Stream(stream, json_line).write(lines)))
        writer.start()
        for number in range(500):
            assert orjson.loads(reader.readline())["n"] == number
        writer.join(10)
    assert outcomes == [500]


@pytest.mark.parametrize("already", ["", "whole\n", "whole\nhal"])
def test_after_a_torn_line_a_file_continues_on_a_new_line(tmp_path: Path, already: str) -> None:
    file = tmp_path / "log"
    file.write_text(already)
    with file.open("a") as stream:
        Stream(stream, json_line).write([{"n": 1}])
    assert file.read_text().splitlines()[-1] == '{"n":1}'
    assert "" not in file.read_text().splitlines()


class _StoredLines:
    """A destination that stores the written lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, lines: Sequence[dict[str, Any]]) -> int:
        self.lines += lines
        return len(lines)


def test_lines_survive_an_exception_in_the_writer_and_an_ended_thread_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = _StoredLines()
    writer = LogWriter(stored, lambda lines, since: {"lines": lines, "since": since})
    with monkeypatch.context() as patched:
        patched.setattr(LogWriter, "_run", lambda _self: None)
        writer.put({"number": 1})
        assert writer._thread is not None
        writer._thread.join(30)
    failures = [MemoryError(), SystemExit()]
    write = LogWriter._write

    def failing(self: LogWriter, entries: Any) -> None:
        if failures:
            raise failures.pop()
        write(self, entries)

    monkeypatch.setattr(LogWriter, "_write", failing)
    monkeypatch.setattr(threads, "RESTART_DELAY", 0.0)
    writer.put({"number": 2})
    assert writer.flush(30)
    assert stored.lines == [{"number": 1}, {"number": 2}]
    assert (failures, writer.dropped) == ([], 0)


def test_a_line_may_be_made_when_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = _StoredLines()
    writer = LogWriter(stored, lambda lines, since: {"lines": lines, "since": since})
    makers: list[threading.Thread] = []

    def make() -> dict[str, Any]:
        makers.append(threading.current_thread())
        return {"number": 2}

    writer.put({"number": 1})
    writer.put(make)
    writer.put({"number": 3})

    assert writer.flush(30)
    assert stored.lines == [{"number": 1}, {"number": 2}, {"number": 3}]
    assert makers == [writer._thread]


def test_a_line_that_cannot_be_formatted_is_reported_and_loses_no_other(log_lines: LogLines) -> None:
    output.log("http.request", method="GET")  # lacks the other fields of its message
    output.log("retention.removed", removed=3)
    eventually(lambda: len(log_lines()) == 3)

    [said] = [line for line in log_lines() if line["event"] == "library.said"]
    others = [line for line in log_lines() if line["event"] != "library.said"]
    assert said["error"] == "The line http.request could not be formatted: KeyError: 'route'"
    assert (others[0]["event"], others[0]["message"], others[0]["method"]) == ("http.request", "http.request", "'GET'")
    assert others[1]["removed"] == 3
