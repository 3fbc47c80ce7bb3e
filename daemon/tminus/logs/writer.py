"""The log writer: a thread that writes lines from a queue, so that logging waits for no pipe, disk or journal.

The queue is bounded. If no line can be written and the queue is full, further lines are dropped and counted; the next
line that is written is preceded by one with the count. The lines of events come in batches, one at a time, and are
never dropped: a batch reports whether it was written, and if not, the event log tries it again.
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
"""The fields of a log line, by name. Callers must not change a line that they have passed to the writer."""

LateLine = Callable[[], Line]
"""Returns a line. The writer's thread calls it when it writes: to format many lines one after the other takes less time
than to format each between other work.
"""

MAX_QUEUED = 2000
"""Maximum number of waiting lines, about 4 MB. Even under load the queue fills only while no line can be written."""

WRITE_PAUSE = 0.005
"""Seconds between two writes under load, so that one write takes many lines."""


class Destination(Protocol):
    """The destination of lines. Its methods are called on the writer's thread only."""

    def write(self, lines: Sequence[Line]) -> int:
        """Write the lines in order, however long that takes; return the number of lines written.

        If that is less than the number of lines, the next line was refused, for instance by a full disk.
        """


class LogWriter:
    """A queue of lines, and the thread that writes them. The first line starts the thread.

    Parameters
    ----------
    destination
        The destination of the lines. The attribute may be set to another one at any time.
    notice
        Returns the line that reports how many lines were dropped, and since when.
    """

    def __init__(self, destination: Destination, notice: Callable[[int, datetime], Line]) -> None:
        self.destination = destination
        self.dropped = 0
        """The number of lines that were dropped since the start."""
        self._notice = notice
        self._reset()
        # A forked child process has no such thread, and must not write its parent's lines.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Reentrant: the garbage collector may run while the lock is held, and asyncio then logs unfinished tasks.
        self._lock = threading.RLock()
        self._waiting = threading.Event()
        self._urgent = threading.Event()
        self._queue: deque[_Entry] = deque()
        self._unreported = 0
        """The number of dropped lines that no line has reported yet."""
        self._unreported_since: datetime | None = None
        self._refused = False
        """Whether the last write was refused. Then the next attempt waits for the next line."""
        self._thread: RestartingThread | None = None

    def put(self, line: Line | LateLine) -> None:
        """Append a line, or drop it if the queue is full. Any thread may call this; it never waits and never raises."""
        with self._lock:
            if len(self._queue) >= MAX_QUEUED:
                self._drop(1)
                return
            self._append(_Entry([line]))

    def put_batch(self, lines: Sequence[Line], done: Callable[[bool], None]) -> None:
        """Append lines that are not dropped. `done` is called on the writer's thread with whether all were written."""
        with self._lock:
            self._append(_Entry(lines, done))

    def flush(self, seconds: float) -> bool:
        """Wait until all lines so far are written, for at most `seconds`; return whether they are."""
        if self._thread is None:
            return True
        written = threading.Event()
        self.put_batch((), lambda _ok: written.set())
        self._urgent.set()
        return written.wait(seconds)

    def _append(self, entry: "_Entry") -> None:
        if self._unreported:
            self._queue.append(_Entry((), dropped=self._unreported, since=self._unreported_since))
            self._unreported, self._unreported_since = 0, None
        self._queue.append(entry)
        if self._thread is None or not self._thread.is_alive():
            # A daemon thread, so that the process can end while the thread waits for a pipe.
            self._thread = RestartingThread("log", self._run, daemon=True)
            self._thread.start()
        if not self._waiting.is_set():
            self._waiting.set()

    def _drop(self, lines: int, since: datetime | None = None) -> None:
        self.dropped += lines
        self._unreported += lines
        known = [instant for instant in (self._unreported_since, since) if instant is not None]
        self._unreported_since = min(known, default=None) or clock.now()

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
                with self._lock:  # for the restarted thread
                    self._queue.extendleft(reversed(entries))
                    self._waiting.set()
                raise
            with self._lock:
                if self._unreported and not self._queue and not self._refused:
                    self._append(_Entry(()))  # report the dropped lines now: the next line may come much later
            self._urgent.wait(WRITE_PAUSE)
            self._urgent.clear()

    def _write(self, entries: Sequence["_Entry"]) -> None:
        lines: list[Line] = []
        try:
            for entry in entries:
                entry.first = len(lines)
                if entry.dropped and entry.since is not None:
                    lines.append(self._notice(entry.dropped, entry.since))
                lines += [one() if callable(one) else one for one in entry.lines]
            written = self.destination.write(lines) if lines else 0
        except Exception:  # a defect in the formatting of a line, which cannot be logged
            written = 0
        self._refused = written < len(lines)
        for entry in entries:
            end = entry.first + len(entry.lines) + bool(entry.dropped)
            if entry.done is not None:
                with suppress(Exception):  # a defect in one callback must not cause all lines to be written again
                    entry.done(end <= written)
            elif end > written:
                with self._lock:
                    if entry.dropped:
                        self.dropped -= entry.dropped  # counted again below
                    self._drop(entry.dropped or len(entry.lines), entry.since)


class _Entry:
    """One entry of the queue: a line, a batch of lines, or the number of lines dropped before the next entry."""

    __slots__ = ("done", "dropped", "first", "lines", "since")

    def __init__(
        self,
        lines: Sequence[Line | LateLine],
        done: Callable[[bool], None] | None = None,
        dropped: int = 0,
        since: datetime | None = None,
    ) -> None:
        self.lines = lines
        self.done = done
        self.dropped = dropped
        self.since = since
        self.first = 0
        """The index of its first line in the current write; set by the writer's thread."""


class Stream:
    """Writes lines to a stream, each formatted by `encode`."""

    def __init__(self, stream: TextIO, encode: Callable[[Line], bytes]) -> None:
        self._encode = encode
        with suppress(OSError, ValueError):
            stream.flush()
        self._descriptor: int | None = None
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            self._descriptor = stream.fileno()
        self._stream = stream
        torn = self._descriptor is not None and _ends_within_a_line(self._descriptor)
        self._rest = b"\n" if torn else b""
        """Bytes to write first: the rest of a line of which the disk took only the beginning."""

    def write(self, lines: Sequence[Line]) -> int:
        """Write the lines, as `Destination` defines."""
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
        except Exception:  # a defect in the formatting; to try again would block all lines that follow
            return json_line({name: repr(value) for name, value in line.items()})

    def _write(self, data: memoryview) -> int:
        """Write some of the bytes; return how many. 0 if the descriptor is non-blocking and was not ready."""
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
            # Another process that shares the pipe or terminal may have made it non-blocking.
            ready = select.poll()
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll()
            return 0


def _ends_within_a_line(descriptor: int) -> bool:
    """Return whether a regular file ends within a line, as it may after a kill."""
    with suppress(OSError):
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_size:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:  # noqa: PTH123 - the name of a descriptor
                return os.pread(file.fileno(), 1, found.st_size - 1) != b"\n"
    return False


def json_line(line: Any) -> bytes:
    """Return a log line, or the value of a field, as JSON, also if its text cannot be encoded as UTF-8."""
    try:
        return orjson.dumps(line, default=str) + b"\n"
    except TypeError:  # a lone surrogate, as in a path that is not UTF-8, or an integer beyond 64 bits
        return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace") + b"\n"
