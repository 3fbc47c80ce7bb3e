"""The figures of the daemon's own rooms: the time of joins, the cost of a participant, and the time until all are out.

The floor is an echo WebSocket on the same server, with the same clients: the cost of the transport and the clients.
"""

import asyncio
import resource
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median, quantiles
from typing import Any

import httpx
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.bench import rows
from tests.bench.daemon import Daemon, megabytes, processor_seconds
from tests.bench.trivial import CONNECTIONS, END, Trivial
from tests.bench.workbench import Bench, Figure
from tminus.rooms.protocol import SUBPROTOCOL

PEOPLE = 5
"""Participants of a session."""

AT_ONCE = 50
"""Number of participants who join at a time."""

_JOIN = '{"type":"join","name":"Grace"}'

CLOSERS = 20
"""Number of sessions that are closed at a time."""

OPENINGS = 100
"""Number of sessions that open meanwhile, to measure the lag of the scheduler."""

OPENING_GAP = 0.1
"""Seconds between the openings of two of these sessions."""

_LIMITS = f"connections = {CONNECTIONS}\nconnections_per_address = 0\nwebsockets_per_address = 0\n"


@dataclass
class Crowd:
    """The measurements of all participants together."""

    joins: list[float]
    """Seconds from the message `join` until `joined` arrived."""
    join_seconds: float
    """Seconds until all were in."""
    kilobytes: float
    """Memory of the server for each participant."""
    out_seconds: float
    """Seconds from the first close until the last participant was disconnected."""
    close_seconds: float
    """Seconds until the last close was answered."""
    join_cpu: float
    """Processor time of the server for each join, in milliseconds."""
    out_cpu: float
    """The same for each participant who was disconnected."""

    def milliseconds(self, percent: int) -> float:
        return quantiles(self.joins, n=100)[percent - 1] * 1000


def rooms(bench: Bench) -> list[Figure]:
    """Measure participants in many rooms at the same time, beside an echo."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        number = bench.sizes.rooms
        bench.say(f"the floor: an echo for {number * PEOPLE:,} WebSockets")
        with Trivial() as trivial:
            floor = uvloop.run(_echo(trivial, number * PEOPLE))
        bench.say(f"{number * PEOPLE:,} participants in {number} rooms")
        with bench.scratch() as directory, Daemon(directory, limits=_LIMITS) as daemon:
            crowd, lags = uvloop.run(_meet(daemon, number))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    name, beside = f"{number * PEOPLE:,} participants in {number} rooms: ", "echo"

    def row(what: str, unit: str, value: float, baseline: float, **more: Any) -> Figure:
        return Figure(name + what, value, unit, baseline, beside, value / baseline if baseline else None, more=more)

    return [
        row(
            "join, p50", "ms", crowd.milliseconds(50), floor.milliseconds(50),
            all_in_after_s=round(crowd.join_seconds, 2), floor_all_in_after_s=round(floor.join_seconds, 2),
        ),
        row("join, p99", "ms", crowd.milliseconds(99), floor.milliseconds(99)),
        row("memory of a participant", "kB", crowd.kilobytes, floor.kilobytes),
        row(
            "first close until all are out", "s", crowd.out_seconds, floor.out_seconds,
            last_close_answered_s=round(crowd.close_seconds, 2),
        ),
        row("processor time of a join", "ms", crowd.join_cpu, floor.join_cpu),
        row("processor time of a participant who is put out", "ms", crowd.out_cpu, floor.out_cpu),
        Figure(
            name + "the clock's lag meanwhile", max(lags), "ms",
            more={"openings": len(lags), "median_ms": round(median(lags), 1)},
        ),
    ]  # fmt: skip


# --- participants -----------------------------------------------------------------------------------------------------


async def _gather(urls: list[str], message: str, subprotocol: Subprotocol | None, answer: str, pid: int) -> "_Gathered":
    """Connect to each URL, send a message, and wait for a message that contains `answer`."""
    gate = asyncio.Semaphore(AT_ONCE)
    joins: list[float] = []
    before, cpu, begun = megabytes(pid, "VmRSS:"), processor_seconds(pid), time.perf_counter()

    async def join(url: str) -> ClientConnection:
        async with gate:
            connection = await connect(
                url, subprotocols=[subprotocol] if subprotocol else None, compression=None, ping_interval=None,
                open_timeout=60, max_queue=None,
            )  # fmt: skip
            sent = time.perf_counter()
            await connection.send(message)
            while answer not in str(await connection.recv()):
                pass
            joins.append(time.perf_counter() - sent)
        return connection

    connections = await asyncio.gather(*map(join, urls))
    seconds = time.perf_counter() - begun
    kilobytes = (megabytes(pid, "VmRSS:") - before) * 1024 / len(urls)
    join_cpu = (processor_seconds(pid) - cpu) * 1000 / len(urls)
    return _Gathered(pid, connections, joins, seconds, kilobytes, join_cpu)


@dataclass
class _Gathered:
    pid: int
    connections: list[ClientConnection]
    joins: list[float]
    seconds: float
    kilobytes: float
    join_cpu: float

    async def until_out(self, close: Callable[[], Awaitable[None]]) -> Crowd:
        """Read the messages of all participants, close the rooms, and wait until all are disconnected with 4410."""
        readers = [asyncio.create_task(_read(connection)) for connection in self.connections]
        await asyncio.sleep(1)  # until the last lists of participants have arrived
        cpu, begun = processor_seconds(self.pid), time.perf_counter()
        await close()
        answered = time.perf_counter() - begun
        ends = await asyncio.gather(*readers)
        wrong = {code for _, code in ends} - {4410}
        if wrong:
            raise RuntimeError(f"participants were disconnected with {wrong}")
        out_cpu = (processor_seconds(self.pid) - cpu) * 1000 / len(ends)
        out = max(at for at, _ in ends) - begun
        return Crowd(self.joins, self.seconds, self.kilobytes, out, answered, self.join_cpu, out_cpu)


async def _read(connection: ClientConnection) -> tuple[float, int | None]:
    """Read until the connection ends; return the time and the close code."""
    try:
        while True:
            await connection.recv()
    except ConnectionClosed:
        return time.perf_counter(), connection.close_code


async def _echo(trivial: Trivial, number: int) -> Crowd:
    """Measure WebSockets that receive their own messages back."""
    url = f"ws://127.0.0.1:{trivial.port}/"
    gathered = await _gather([url] * number, _JOIN, None, "join", trivial.pid)

    async def close() -> None:
        await gathered.connections[0].send(END)

    return await gathered.until_out(close)


async def _meet(daemon: Daemon, number: int) -> tuple[Crowd, list[float]]:
    """Measure participants of this many rooms; return also the lags of sessions that open meanwhile."""
    limits = httpx.Limits(max_connections=CLOSERS)
    headers = {"Session-id": daemon.token}
    async with httpx.AsyncClient(base_url=f"{daemon.url}/v3", headers=headers, timeout=60, limits=limits) as http:

        async def make(start: datetime | None = None) -> str:
            order = {"type": "live", "label": "Bench"} | ({"startTime": start.isoformat()} if start else {})
            answer = await http.post("/supportsessions", json=order)
            answer.raise_for_status()
            return str(answer.json()["id"])

        ids = await asyncio.gather(*(make() for _ in range(number)))
        first = datetime.now(UTC) + timedelta(milliseconds=rows.LEAD_MS, seconds=1)
        opening = await asyncio.gather(
            *(make(first + timedelta(seconds=OPENING_GAP) * turn) for turn in range(OPENINGS))
        )
        base = f"ws://127.0.0.1:{daemon.port}/v3/rooms/"
        urls = [base + session_id for session_id in ids for _ in range(PEOPLE)]
        gathered = await _gather(urls, _JOIN, Subprotocol(SUBPROTOCOL), '"type":"joined"', daemon.pid)

        async def close() -> None:
            answers = await asyncio.gather(*(http.delete(f"/supportsession/{session_id}") for session_id in ids))
            for answer in answers:
                answer.raise_for_status()

        crowd = await gathered.until_out(close)
        left = first - timedelta(milliseconds=rows.LEAD_MS) + timedelta(seconds=OPENING_GAP) * OPENINGS
        await asyncio.sleep(max(0.0, (left - datetime.now(UTC)).total_seconds()) + 1)
    return crowd, _lags(daemon, opening)


def _lags(daemon: Daemon, opened: list[str]) -> list[float]:
    """Return by how many milliseconds each of these sessions has opened late."""
    with rows.connect(daemon.database, readonly=True) as database:
        found = database.execute("SELECT session_id, ts - due_at FROM event WHERE type = 'session.ready'").fetchall()
    lags = dict(found)
    return [float(lags[session_id]) for session_id in opened]
