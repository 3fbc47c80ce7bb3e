"""The thread that writes the log: whoever logs appends to a queue, and never waits for a pipe, a disk or the journal.

The queue is bounded. While whatever reads the log stands still, lines that find the queue full are dropped and counted;
the next line that gets through is preceded by one that gives the count. The lines of events come in batches, one batch
at a time, and a batch reports whether it was written: the event log prints it again from the database if it was not.
"""

import json
import os
import select
import stat
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from io import TextIOWrapper
from itertools import accumulate
from typing import Any, Protocol, TextIO

import orjson

from tminus import clock
from tminus.system.threads import RestartingThread

Line = dict[str, Any]
"""A line of the log, by the names of its fields. It belongs to the writer once it was handed over."""

QUEUED = 2000
"""Lines that may wait, at most: about 4 MB. Under load it fills only while nothing is written."""

REST = 0.005
"""Seconds between two writes under load, so that one write takes many lines."""


class Destination(Protocol):
    """Where lines go. Its methods run on the writer's thread, one at a time."""

    def write(self, lines: Sequence[Line]) -> int:
        """Write the lines in order, for as long as that takes; return how many were written.

        Fewer than given: the next one was refused, by a full disk or a pipe that nobody reads.
        """


class LogWriter:
    """A queue of lines and the thread that writes them, which starts with the first line.

    Parameters
    ----------
    destination
        Where lines go from then on; may be replaced at any time.
    notice
        Makes the line that says how many lines were dropped, and since when.
    """

    def __init__(self, destination: Destination, notice: Callable[[int, datetime], Line]) -> None:
        self.destination = destination
        self.dropped = 0
        """Lines that were dropped since the start."""
        self._notice = notice
        self._reset()
        # A child process has no thread, and nothing of what waited here is its own.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Reentrant: a collection of garbage may begin in here, and asyncio logs what it then finds unfinished.
        self._lock = threading.RLock()
        self._waiting = threading.Event()
        self._urgent = threading.Event()
        self._queue: deque[_Entry] = deque()
        self._untold = 0
        """Lines that were dropped since the last one that got through."""
        self._untold_since: datetime | None = None
        self._refused = False
        """Whether the last write was refused: nothing is tried again before somebody logs."""
        self._thread: RestartingThread | None = None

    def put(self, line: Line) -> None:
        """Append a line, or drop and count it if the queue is full. Any thread; never waits, never raises."""
        with self._lock:
            if len(self._queue) >= QUEUED:
                self._drop(1)
                return
            self._append(_Entry([line]))

    def put_batch(self, lines: Sequence[Line], done: Callable[[bool], None]) -> None:
        """Append lines that are not dropped. `done` is called on the writer's thread: whether all were written."""
        with self._lock:
            self._append(_Entry(lines, done))

    def flush(self, seconds: float) -> bool:
        """Wait until everything that was logged so far is written, at most so long; return whether it is."""
        if self._thread is None:
            return True
        written = threading.Event()
        self.put_batch((), lambda _ok: written.set())
        self._urgent.set()
        return written.wait(seconds)

    def _append(self, entry: "_Entry") -> None:
        if self._untold:
            self._queue.append(_Entry((), dropped=self._untold, since=self._untold_since))
            self._untold, self._untold_since = 0, None
        self._queue.append(entry)
        if self._thread is None or not self._thread.is_alive():
            # A daemon thread: one that waits for a pipe must not keep the process from ending.
            self._thread = RestartingThread("log", self._run, daemon=True)
            self._thread.start()
        if not self._waiting.is_set():
            self._waiting.set()

    def _drop(self, lines: int, since: datetime | None = None) -> None:
        self.dropped += lines
        self._untold += lines
        known = [instant for instant in (self._untold_since, since) if instant is not None]
        self._untold_since = min(known, default=None) or clock.now()

    # --- on the writer's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._waiting.wait()
            self._waiting.clear()
            with self._lock:
                entries, self._queue = self._queue, deque()
            try:
                self._write(list(entries))
            except BaseException:
                with self._lock:  # for the next run, which begins in a second
                    self._queue.extendleft(reversed(entries))
                    self._waiting.set()
                raise
            with self._lock:
                if self._untold and not self._queue and not self._refused:
                    self._append(_Entry(()))  # nobody may log for long: what was dropped is said now
            self._urgent.wait(REST)
            self._urgent.clear()

    def _write(self, entries: Sequence["_Entry"]) -> None:
        lines: list[Line] = []
        try:
            for entry in entries:
                entry.first = len(lines)
                if entry.dropped and entry.since is not None:
                    lines.append(self._notice(entry.dropped, entry.since))
                lines += entry.lines
            written = self.destination.write(lines) if lines else 0
        except Exception:  # a defect in what renders a line; the log has no place to say so
            written = 0
        self._refused = written < len(lines)
        for entry in entries:
            end = entry.first + len(entry.lines) + bool(entry.dropped)
            if entry.done is not None:
                with suppress(Exception):  # a defect of one caller must not have the lines of all written again
                    entry.done(end <= written)
            elif end > written:
                with self._lock:
                    if entry.dropped:
                        self.dropped -= entry.dropped  # counted again below
                    self._drop(entry.dropped or len(entry.lines), entry.since)


class _Entry:
    """What was appended at once: an ordinary line, a batch, or how many lines were dropped before the next one."""

    __slots__ = ("done", "dropped", "first", "lines", "since")

    def __init__(
        self,
        lines: Sequence[Line],
        done: Callable[[bool], None] | None = None,
        dropped: int = 0,
        since: datetime | None = None,
    ) -> None:
        self.lines = lines
        self.done = done
        self.dropped = dropped
        self.since = since
        self.first = 0
        """Where it begins among the lines that are written together; the writer's thread sets it."""


class Stream:
    """Lines on a stream, each made into bytes by `encode`."""

    def __init__(self, stream: TextIO, encode: Callable[[Line], bytes]) -> None:
        self._encode = encode
        with suppress(OSError, ValueError):
            stream.flush()
        self._descriptor: int | None = None
        with suppress(OSError, ValueError):  # what is in memory has none
            self._descriptor = stream.fileno()
        self._stream = stream
        torn = self._descriptor is not None and _ends_within_a_line(self._descriptor)
        self._rest = b"\n" if torn else b""
        """What has to be written first: the end of a line whose beginning was all that the disk took."""

    def write(self, lines: Sequence[Line]) -> int:
        """Write the lines, as `Destination` says."""
        encoded = [self._encoded(line) for line in lines]
        data = memoryview(self._rest + b"".join(encoded))
        done = 0
        with suppress(OSError, ValueError):
            while done < len(data):
                done += self._write(data[done:])
            self._rest = b""
            return len(lines)
        ends = list(accumulate(map(len, encoded), initial=len(self._rest)))
        begun = bisect_left(ends, done)
        self._rest = bytes(data[done : ends[begun]])
        return bisect_right(ends, done, 1) - 1

    def _encoded(self, line: Line) -> bytes:
        try:
            return self._encode(line)
        except Exception:  # a defect in what renders it: tried again, it would hold up all that follow
            return json_line({name: repr(value) for name, value in line.items()})

    def _write(self, data: memoryview) -> int:
        """Write some of it, at least a byte; return how many."""
        if self._descriptor is None:
            if isinstance(self._stream, TextIOWrapper):
                self._stream.buffer.write(data)
            else:
                self._stream.write(str(data, "utf-8"))
            self._stream.flush()
            return len(data)
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            # Whoever shares the pipe or the terminal may have set it so.
            ready = select.poll()
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll()
            return 0


def _ends_within_a_line(descriptor: int) -> bool:
    """Whether what was appended last to a regular file is half a line, as a kill may leave it."""
    with suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - no path, but a descriptor's name
                return os.pread(file.fileno(), 1, found.st_size - 1) != b"\n"
    return False


def json_line(line: Any) -> bytes:
    """Return a line of the log, or a value of one, as JSON, whatever text is in it."""
    try:
        return orjson.dumps(line, default=str) + b"\n"
    except TypeError:  # half a surrogate pair, as in a path that is no UTF-8, or a number beyond 64 bits
        return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace") + b"\n"
