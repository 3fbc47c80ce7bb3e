"""Webhooks: events per second, and the cost of an endpoint that is down for a while."""

import asyncio
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import orjson

from tests.bench import rows
from tests.bench.daemon import Daemon
from tests.bench.receiver import Receiver, Row, Taken
from tests.bench.workbench import Bench, Figure

BATCH = 100
"""Number of events in a request: the default of `batch`."""

CACHES = 32
"""Megabytes by which memory may grow: two page caches of SQLite, which fill when another connection reads at the same
time. 50,000 events in memory would take 166 MB.
"""

BESIDE = 0.9
"""Minimum rate of an endpoint while another endpoint is down, as a share of its rate before."""

_ENDPOINT = """
[[webhooks]]
name = "{name}"
url = "{url}"
secret_file = "{secret}"
from = "{since}"
"""


def endpoint(directory: Path, name: str, receiver: Receiver, since: str = "now") -> str:
    """Return the configuration of an endpoint, and write its secret into a file."""
    return _ENDPOINT.format(name=name, url=receiver.url, secret=secret_file(directory), since=since)


def secret_file(directory: Path) -> Path:
    """Write a secret of endpoints into a file, and return its path."""
    secret = directory / "secret"
    secret.write_text("whsec_" + "c2VjcmV0IG9mIGEgYmVuY2htYXJrJ3MgcmVjZWl2ZXI=\n")
    return secret


def webhooks(bench: Bench) -> list[Figure]:
    """Measure events per second, beside a client that only sends the same requests; then an endpoint that is down
    while a herd opens.
    """
    number = max(bench.sizes.herds) // 2
    pattern = bench.herd("live", number * 2)
    with bench.scratch(pattern) as directory:
        bodies = _bodies(directory, number)
    rates, floors = [], []
    for _ in range(bench.sizes.rounds):
        floors.append(_floor(bench, bodies))
        with bench.scratch(pattern) as directory:
            rates.append(_rate(bench, directory, number))
    rate, floor = median(rates), median(floors)
    delivered = Figure(
        "events delivered by webhook", rate, "/s", floor, f"httpx, {BATCH} a request", rate / floor, "", None,
        {
            "each": [round(one) for one in rates], "floors": [round(one) for one in floors],
            "bytes_an_event": round(sum(map(len, bodies)) / len(bodies) / BATCH),
        },
    )  # fmt: skip
    return [delivered, *_outage(bench, number, floor)]


# --- events per second ------------------------------------------------------------------------------------------------


def _rate(bench: Bench, directory: Path, number: int) -> float:
    """Return the events per second that an otherwise idle daemon delivers; they are stored already."""
    with Receiver() as receiver, Daemon(directory, endpoint(directory, "desk", receiver, "beginning")) as daemon:
        daemon.line("webhook.failed")  # the start is complete, so it is not part of the measurement
        bench.say(f"{number:,} events to a webhook")
        receiver.up()
        _resume(daemon, "desk")
        return _received(daemon, receiver, 0, number).per_second


def _bodies(directory: Path, number: int) -> list[bytes]:
    """Return the bodies that webhooks send, made from the feed, which has the same events."""
    bodies: list[bytes] = []
    after = 0
    with Daemon(directory) as daemon, _local(daemon) as http:
        while len(bodies) < number // BATCH:
            answer = http.get("/v3/events", params={"after": after, "limit": BATCH}).raise_for_status()
            events = orjson.loads(answer.content)["events"]
            after = events[-1]["seq"]
            bodies.append(orjson.dumps(events))
    return bodies


def _floor(bench: Bench, bodies: list[bytes]) -> float:
    """Return the events per second of a client that only sends the same bodies over one connection."""
    bench.say(f"{len(bodies) * BATCH:,} events with httpx alone")
    with Receiver() as receiver:
        receiver.up()
        asyncio.run(_post(receiver.url, bodies))
        return receiver.take().per_second


async def _post(url: str, bodies: list[bytes]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        for body in bodies:
            answer = await client.post(url, content=body, headers={"Content-Type": "application/json"})
            answer.raise_for_status()


# --- an endpoint that is down -----------------------------------------------------------------------------------------


def _outage(bench: Bench, number: int, floor: float) -> list[Figure]:
    """Open a herd while two endpoints are up, then another while one of them is down; measure memory and rates."""
    with (
        bench.scratch(bench.herd("live", number * 2)) as directory,
        Receiver() as steady,
        Receiver() as failing,
    ):
        endpoints = endpoint(directory, "steady", steady) + endpoint(directory, "failing", failing)
        steady.up()
        failing.up()
        with Daemon(directory, endpoints) as daemon:
            seq = 2 * number  # the events of the creation, which are not delivered
            bench.say(f"{number:,} sessions fall due, two endpoints are up")
            _open(daemon, number)
            both = _received(daemon, steady, seq, number)
            _received(daemon, failing, seq, number)
            daemon.wait_for_lines("session.ready", number)
            before = daemon.memory()

            seq += number
            bench.say(f"{number:,} sessions fall due, one endpoint is down")
            failing.down()
            daemon.reset_peak()
            _open(daemon, number)
            alone = _received(daemon, steady, seq, number)
            daemon.wait_for_lines("session.ready", 2 * number)
            daemon.line("webhook.failed")
            after, peak_down = daemon.memory(), daemon.peak_memory()

            bench.say("the endpoint is back")
            failing.up()
            daemon.reset_peak()
            resumed = time.time()
            _resume(daemon, "failing")
            caught_up = _received(daemon, failing, seq, number)
            end, peak_up = daemon.memory(), daemon.peak_memory()
    seconds, peak = caught_up.last - resumed, max(peak_down, peak_up)
    return [
        Figure(
            f"memory, endpoint down for {number:,} events",
            peak, "MB", before, "before, both up", peak / before,
            f"≤ floor + {CACHES} MB", peak <= before + CACHES,
            {
                "before": round(before, 1), "after_the_events": round(after, 1), "caught_up": round(end, 1),
                "peak_while_down": round(peak_down, 1), "peak_catching_up": round(peak_up, 1),
            },
        ),
        Figure(
            "events to the other endpoint", alone.per_second, "/s", both.per_second, "both up",
            alone.per_second / both.per_second, f"≥ {BESIDE} × floor", alone.per_second >= BESIDE * both.per_second,
        ),
        Figure(
            "events after the outage", number / seconds, "/s", floor, f"httpx, {BATCH} a request",
            number / seconds / floor, "", None,
            {"events": number, "seconds": round(seconds, 2)},
        ),
    ]  # fmt: skip


def _open(daemon: Daemon, number: int) -> None:
    """Make this number of further sessions due now."""
    rows.place(daemon.database, time.time(), number)


def _received(daemon: Daemon, receiver: Receiver, after: int, number: int) -> Taken:
    """Wait until a receiver has this number of events, check them, and return them."""
    receiver.wait(number)
    taken = receiver.take()
    _check(daemon.database, taken, after, at_least=number)
    return taken


def _check(database: Path, taken: Taken, after: int, at_least: int) -> None:
    """Check that the received events are those of the table, each once, in order. Raises `RuntimeError`."""
    with rows.connect(database, readonly=True) as connection:
        stored: list[Row] = [
            list(row)
            for row in connection.execute(
                "SELECT seq, type, session_id, status FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, max(at_least, len(taken.events))),
            )
        ]
    if taken.events != stored:
        pairs = zip(taken.events, stored, strict=False)
        wrong = next((pair for pair in pairs if pair[0] != pair[1]), None)
        raise RuntimeError(
            f"{len(taken.events)} events were received, {len(stored)} are stored; first difference: {wrong}"
        )


def _resume(daemon: Daemon, name: str) -> None:
    """End the pause after a failure, which is not part of the measurement."""
    with _local(daemon) as http:
        http.post(f"/v3/webhooks/{name}/resume").raise_for_status()


def _local(daemon: Daemon) -> httpx.Client:
    """Return an HTTP client for the local socket."""
    transport: Any = httpx.HTTPTransport(uds=str(daemon.directory / "tminus.sock"))
    return httpx.Client(base_url="http://localhost", transport=transport, timeout=60)
