"""The load generator: a separate process, so that it does not share the interpreter lock of the bench.

It reads a `Plan` as JSON from standard input and writes its counts as JSON to standard output. The same generator
measures floor and figure. It uses little processor time: requests are prepared as bytes before the measurement, and of
an answer it reads only the status, the length and the id of a session.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from typing import Any

import uvloop

WARM_UP = 0.5
"""Seconds at the beginning that do not count."""

CONNECTIONS = 16

GROUP_INTERVAL = 0.002
"""Seconds between two groups of requests at a given rate."""

_ID = b'"id":"'


@dataclass
class Plan:
    """The requests of a run.

    `kind`: `schedule` (each with another start); `reschedule` (of the sessions in `ids`, one after the other); `mixed`
    (alternately a schedule and a read of one of `ids`). `rate`: requests per second, sent even if earlier ones were
    not answered; None: each connection sends the next request after each answer. A request waits for an idle
    connection, and the wait counts; if `impatient`, it is dropped instead.
    """

    kind: str
    port: int
    token: str
    seconds: float
    connections: int = CONNECTIONS
    rate: float | None = None
    impatient: bool = False
    ids: list[str] = field(default_factory=list)
    first_start: str = ""
    """The start time of the first schedule or reschedule; each one after it is a second later."""


@dataclass
class Load:
    """The counts of a run. `answers` and `per_second` exclude the warm-up, `failed` and `made` include it."""

    answers: int
    per_second: float
    failed: int
    statuses: dict[str, int]
    latencies: list[tuple[float, float, str]]
    """For each request: when it was due (Unix time), the seconds until its answer, and the status."""
    made: list[list[str]]
    """Session id and acknowledged start time, in the order of the answers."""

    def p(self, percent: float, since: float = 0.0, until: float = float("inf"), status: str = "") -> float:
        """Return a percentile, in seconds, of the requests in progress between two times.

        `status`: only of the requests that were answered with it.
        """
        some = sorted(
            took
            for due, took, answered in self.latencies
            if due + took >= since and due <= until and status in ("", answered)
        )
        return some[min(len(some) - 1, int(len(some) * percent / 100))] if some else float("nan")


def run(plan: Plan) -> Load:
    """Execute a plan in a separate process."""
    return finish(start(plan))


def start(plan: Plan) -> "subprocess.Popen[bytes]":
    """Start a plan; `finish` waits for its result."""
    command = [sys.executable, "-m", "tests.bench.load"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)).encode() + b"\n")
    process.stdin.flush()
    return process


def finish(process: "subprocess.Popen[bytes]") -> Load:
    out, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError("the load generator failed, see its traceback above")
    return Load(**json.loads(out))


# --- in the generator's process ---------------------------------------------------------------------------------------


def _requests(plan: Plan) -> Iterator[tuple[bytes, str]]:
    """Return an iterator of requests, each with the start time that it contains."""
    common = f"Host: 127.0.0.1:{plan.port}\r\nSession-id: {plan.token}\r\n"

    def get(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\n{common}\r\n".encode()

    def send(method: str, path: str, body: str) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\n{common}Content-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def schedule(at: str) -> bytes:
        return send("POST", "/v3/supportsessions", f'{{"type":"live","label":"Bench","startTime":"{at}"}}')

    starts = _starts(plan)
    if plan.kind == "schedule":
        return ((schedule(at), at) for at in starts)
    if plan.kind == "reschedule":
        moves = zip(cycle(plan.ids), starts, strict=False)
        return ((send("PUT", f"/v3/supportsession/{some}", f'{{"startTime":"{at}"}}'), at) for some, at in moves)
    shown = ((get(f"/v3/supportsession/{some}"), "") for some in cycle(plan.ids))
    return (pair for at in starts for pair in ((schedule(at), at), next(shown)))


def _starts(plan: Plan) -> Iterator[str]:
    if not plan.first_start:
        return iter(())
    first = datetime.fromisoformat(plan.first_start).astimezone(UTC)
    return (
        (first + timedelta(seconds=number)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for number in count()
    )


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # All requests that could be sent are prepared before the measurement.
        requests = _requests(plan)
        most = int(plan.seconds * (plan.rate or 8000)) + plan.connections
        self.ready = iter([next(requests) for _ in range(most)])
        self.statuses: dict[bytes, int] = {}
        self.latencies: list[tuple[float, float, bytes]] = []
        self.made: list[tuple[bytes, str]] = []
        self.answered_at: list[float] = []
        self.until = float("inf")
        self.idle: list[_Connection] = []
        self.waiting: list[float] = []

    async def run(self) -> Load:
        loop = asyncio.get_running_loop()
        for _ in range(self.plan.connections):
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.plan.port)
            self.idle.append(connection)
        begun = time.time()
        self.until = begun + self.plan.seconds
        if self.plan.rate is None:
            while self.idle:
                self.idle.pop(0).send(time.time())
            await asyncio.sleep(self.plan.seconds)
        elif self.plan.impatient:
            offered = 0
            while (now := time.time()) < self.until:
                wanted = int((now - begun) * self.plan.rate)
                for _ in range(min(wanted - offered, len(self.idle))):
                    self.idle.pop(0).send(time.time())
                offered = wanted
                await asyncio.sleep(GROUP_INTERVAL)
        else:
            for number in range(int(self.plan.seconds * self.plan.rate)):
                due = begun + number / self.plan.rate
                await asyncio.sleep(max(0.0, due - time.time()))
                # If all connections are busy it waits, and the wait counts.
                self.waiting.append(due)
                self.send_waiting()
        while len(self.idle) < self.plan.connections and time.time() < self.until + 30:  # noqa: ASYNC110 - rarely, and once
            await asyncio.sleep(0.01)
        # A request without an answer has failed.
        self.statuses[b"none"] = self.plan.connections - len(self.idle) + len(self.waiting)
        counted = [at for at in self.answered_at if begun + WARM_UP <= at <= self.until]
        return Load(
            answers=len(counted),
            per_second=len(counted) / (self.plan.seconds - WARM_UP),
            failed=sum(number for status, number in self.statuses.items() if status != b"200"),
            statuses={status.decode(): number for status, number in self.statuses.items() if number},
            latencies=[(due, took, status.decode()) for due, took, status in self.latencies],
            made=[[session_id.decode(), at] for session_id, at in self.made],
        )

    def send_waiting(self) -> None:
        """Send waiting requests on idle connections."""
        while self.waiting and self.idle:
            self.idle.pop(0).send(self.waiting.pop(0))

    def answered(self, connection: "_Connection", status: bytes, due: float, session: tuple[bytes, str] | None) -> None:
        now = time.time()
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.latencies.append((due, now - due, status))
        self.answered_at.append(now)
        if session is not None and status == b"200":
            self.made.append(session)
        if self.plan.rate is None and now < self.until:
            connection.send(now)
        else:
            self.idle.append(connection)
            self.send_waiting()


class _Connection(asyncio.Protocol):
    """A connection with one request in progress at a time."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._received = b""
        self._due = 0.0
        self._start = ""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self, due: float) -> None:
        request, self._start = next(self._generator.ready)
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            self._received = received
            return
        length = received.index(b"content-length: ", 0, head) + 16
        body = head + 4
        if len(received) < body + int(received[length : received.index(b"\r", length)]):
            self._received = received
            return
        self._received = b""
        session = None
        if self._start:
            begins = received.find(_ID, body) + len(_ID)
            session = (received[begins : received.find(b'"', begins)], self._start)
        status = received[9:12]
        if status == b"503" and (b"\r\nretry-after: " not in received or b'"refcode":105503,' not in received):
            status = b"invalid 503"
        self._generator.answered(self, status, self._due, session)

    def connection_lost(self, error: Exception | None) -> None:
        if self not in self._generator.idle:
            statuses = self._generator.statuses
            statuses[b"lost"] = statuses.get(b"lost", 0) + 1


def main() -> None:
    plan = Plan(**json.loads(sys.stdin.readline()))
    load = uvloop.run(_Generator(plan).run())
    json.dump(asdict(load), sys.stdout)


if __name__ == "__main__":
    main()
