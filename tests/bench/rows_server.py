"""The floor of durable schedules: the daemon's server, and nothing for each request but its rows, in group commits.

There is no caller, validation, command, answer or log line. What remains is what any daemon of one process needs to
store a session with its event before it answers: HTTP, the change to the writer's thread and back, two insertions,
and an fsync that waiting requests share.

`python -m tests.bench.rows_server DATABASE` serves it on a free port of 127.0.0.1, and writes the port to standard
output. It stores copies of the first session of the database.
"""

import asyncio
import sys
import threading
from collections import deque
from pathlib import Path

import uvloop
from starlette.types import Receive, Scope, Send

from tests.bench import rows
from tests.bench.trivial import Trivial, answer, serve
from tminus.domain import ids

TOGETHER = 128
"""Maximum number of sessions in a transaction, as in the daemon's writer."""


class Writer:
    """Stores sessions on a thread of its own; those that wait at the same time share a transaction."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._arriving: list[asyncio.Future[None]] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._wake = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    async def store(self) -> None:
        """Store a session; return after the commit."""
        stored: asyncio.Future[None] = self._loop.create_future()
        if not self._arriving:
            self._loop.call_soon(self._hand_over)
        self._arriving.append(stored)
        await stored

    def _hand_over(self) -> None:
        arrived, self._arriving = self._arriving, []
        with self._wake:
            self._waiting.extend(arrived)
            self._wake.notify()

    def _run(self) -> None:
        with rows.for_writing(self._database) as raw:
            session, event = rows.first_session(raw)
            prefix = ids.SharedPrefix()
            while True:
                with self._wake:
                    while not self._waiting:
                        self._wake.wait()
                    some = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER))]
                drawn = [(first := prefix.take(12)) + ids.base62(12 - len(first)) for _ in some]
                raw.execute("BEGIN IMMEDIATE")
                rows.insert(raw, "session", [session | {"id": one} for one in drawn])
                rows.insert(raw, "event", [event | {"session_id": one} for one in drawn])
                raw.execute("COMMIT")
                self._loop.call_soon_threadsafe(_finish, some)


def _finish(some: list[asyncio.Future[None]]) -> None:
    for stored in some:
        if not stored.done():
            stored.set_result(None)


class RowsServer(Trivial):
    """The server as a process, which ends with the context."""

    def __init__(self, database: Path) -> None:
        self._command = ("tests.bench.rows_server", str(database))


async def _serve(database: Path) -> None:
    writer = Writer(database)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await writer.store()
        await answer(send)

    await serve(application)


if __name__ == "__main__":
    sys.setswitchinterval(0.002)  # as in the daemon
    uvloop.run(_serve(Path(sys.argv[1])))
