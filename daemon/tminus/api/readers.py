"""Threads that read for requests. What arrives together is read together: in one transaction, with one look each."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from tminus import clock
from tminus.domain.errors import TminusError
from tminus.storage import Store, View

T = TypeVar("T")

TOGETHER = 16
"""Reads that share a transaction at most: whoever is first waits for the last."""

PATIENCE = 0.005
"""Seconds for which a read waits for a thread that is reading already, before another thread takes it."""


@dataclass(slots=True)
class _Read:
    look: Callable[[View], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    arrived: float = 0.0
    result: Any = None
    error: BaseException | None = None

    def finish(self) -> None:
        if self.future.done():  # whoever asked has gone away
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class Readers:
    """Run reads on threads of their own.

    A thread for each read would contend with the event loop for the interpreter, which took longer than the read.
    """

    def __init__(self, store: Store, threads: int) -> None:
        self._store = store
        self._arriving: list[_Read] = []
        """What the present turn of the event loop has brought."""
        self._lock = threading.Lock()
        """Of the two below."""
        self._waiting: deque[_Read] = deque()
        self._busy = 0
        """Threads that read, or were woken to."""
        self._checked_by: asyncio.AbstractEventLoop | None = None
        """The loop that is about to look whether a read has waited too long."""
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        """True: a thread is to read; False: one is to end."""
        self._threads = [threading.Thread(target=self._run, name=f"read_{number}") for number in range(threads)]
        self._started = False

    async def query(self, look: Callable[[View], T]) -> T:
        """Run `look` on a view that holds all that was committed until now; return what it returned."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._arriving:
            loop.call_soon(self._hand_over, loop)
        self._arriving.append(_Read(look, future, loop))
        return await future

    def close(self) -> None:
        """Return when the reads that are running have ended."""
        if self._started:
            for _ in self._threads:
                self._wakes.put(False)
            for thread in self._threads:
                thread.join()

    # --- on the event loop --------------------------------------------------------------------------------------------

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        arrived, self._arriving = self._arriving, []
        now = clock.monotonic()
        for read in arrived:
            read.arrived = now
        with self._lock:
            self._waiting.extend(arrived)
            wake = not self._busy
            self._busy += wake
        if wake:
            self._wakes.put(True)
        elif self._checked_by is not loop:
            self._checked_by = loop
            loop.call_later(PATIENCE, self._look_again, loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake another thread for reads that have waited too long for those that are busy."""
        with self._lock:
            waits = bool(self._waiting)
            late = waits and clock.monotonic() - self._waiting[0].arrived >= PATIENCE
            wake = late and self._busy < len(self._threads)
            self._busy += wake
        self._checked_by = loop if waits else None
        if waits:
            loop.call_later(PATIENCE, self._look_again, loop)
        if wake:
            self._wakes.put(True)

    # --- on a thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wakes.get():
            while batch := self._take():
                self._read(batch)
                self._answer(batch)

    def _take(self) -> Sequence[_Read]:
        with self._lock:
            if not self._waiting:
                self._busy -= 1
            return [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]

    def _read(self, batch: Sequence[_Read]) -> None:
        """Run all looks in one transaction, which begins after they have arrived: none misses an earlier commit."""

        def look(view: View) -> None:
            for read in batch:
                try:
                    read.result, read.error = read.look(view), None
                except TminusError as refusal:
                    read.error = refusal

        try:
            self._store.read(look)
        except BaseException as error:
            if len(batch) == 1 or isinstance(error, TminusError):  # the database is away, for all alike
                for read in batch:
                    read.error = error
                return
            for read in batch:  # one of them has failed: the others are none the worse for it
                self._read([read])

    @staticmethod
    def _answer(batch: Sequence[_Read]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Read]] = {}
        for read in batch:
            loops.setdefault(read.loop, []).append(read)
        for loop, reads in loops.items():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_finish, reads)


def _finish(reads: Sequence[_Read]) -> None:
    for read in reads:
        read.finish()
