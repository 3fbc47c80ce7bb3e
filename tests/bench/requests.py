"""Requests per second, beside the same load on an application that does nothing, or that only stores rows."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.bench import rows, wrk
from tests.bench.daemon import Daemon
from tests.bench.rows_server import RowsServer
from tests.bench.trivial import Trivial
from tests.bench.workbench import Bench, Figure
from tminus.domain import timestamps

READ = 1000
"""Number of sessions that are read, one after the other."""

_IS_POST = {"schedule": True, "reschedule": True, "read": False, "healthz": False}

_WANTED = {"schedule": 0.25, "reschedule": 0.2, "read": 0.35, "healthz": 0.6}
"""Kind of request -> its minimum rate, as a share of the rate of the trivial application."""

_NAMES = {
    "schedule": "durable schedules",
    "reschedule": "reschedules",
    "read": "reads of one session",
    "healthz": "/healthz",
}


@dataclass
class _Pairs:
    """The runs of one kind, each with the run of the trivial application before it."""

    loads: list[wrk.Load] = field(default_factory=list)
    floors: list[wrk.Load] = field(default_factory=list)


def requests(bench: Bench) -> list[Figure]:
    """Measure schedules, reschedules, reads and `/healthz` of one daemon."""
    wrk.check_installed()
    sizes = bench.sizes
    pairs = {kind: _Pairs() for kind in _WANTED}
    acknowledged: dict[str, str] = {}
    with bench.scratch() as directory, Trivial() as trivial, Daemon(directory) as daemon:

        def measure(kind: str, seconds: float, days: int = 2) -> wrk.Load:
            bench.say(f"{kind}, {wrk.CONNECTIONS} connections")
            if kind == "healthz":
                return wrk.run("get", daemon.port, seconds, path="/healthz")
            ids = list(acknowledged) if kind == "reschedule" else list(acknowledged)[:READ]
            load = wrk.run(kind, daemon.port, seconds, token=daemon.token, ids=ids, days=days)
            acknowledged.update(load.made)
            return load

        def floor(kind: str, seconds: float) -> wrk.Load:
            bench.say("the floor: an application that does nothing")
            posts = "schedule" if _IS_POST[kind] else "get"
            return wrk.run(posts, trivial.port, seconds, token=daemon.token)

        for kind in _WANTED:  # a warm-up, which does not count
            floor(kind, 1)
            measure(kind, 1, 15 if kind == "reschedule" else 2)
        for number in range(sizes.rounds):
            for kind, pair in pairs.items():
                pair.floors.append(floor(kind, sizes.floor_seconds))
                pair.loads.append(measure(kind, sizes.load_seconds, number + (20 if kind == "reschedule" else 3)))
        # What was acknowledged must be stored, however the daemon ends.
        daemon.stop(signal.SIGKILL)
        missing = _missing(daemon.database, acknowledged)
        bench.say("the floor of schedules: a server that only stores rows")
        with RowsServer(daemon.database) as stores:
            runs = [wrk.run("schedule", stores.port, sizes.load_seconds) for _ in range(sizes.rounds)]
    figures = [_rate(kind, pair, missing if _IS_POST[kind] else 0) for kind, pair in pairs.items()]
    schedules, stored = figures[0].value, _middle(runs)(lambda load: load.per_second)
    share = stored / (figures[0].floor or 1)
    figures.append(
        Figure(
            "durable schedules, beside their rows", schedules, "/s", stored, "HTTP and group commits alone",
            schedules / stored,
            more={"floors": [round(load.per_second) for load in runs], "floor_beside_trivial_POST": round(share, 3)},
        )
    )  # fmt: skip
    return figures


def _rate(kind: str, pair: _Pairs, missing: int) -> Figure:
    ratios = [load.per_second / floor.per_second for load, floor in zip(pair.loads, pair.floors, strict=True)]
    failed = sum(load.failed for load in pair.loads)
    wanted, middle = _WANTED[kind], _middle(pair.loads)
    return Figure(
        _NAMES[kind],
        middle(lambda load: load.per_second),
        "/s",
        _middle(pair.floors)(lambda load: load.per_second),
        f"trivial {'POST' if _IS_POST[kind] else 'GET'}",
        median(ratios),
        f"≥ {wanted} × floor, no failed request",
        median(ratios) >= wanted and not failed and not missing,
        {
            "failed": failed,
            "acknowledged_but_not_stored": missing,
            "each": [round(load.per_second) for load in pair.loads],
            "floors": [round(load.per_second) for load in pair.floors],
            "ratios": [round(ratio, 3) for ratio in ratios],
            "p50_ms": round(middle(lambda load: load.p50) * 1000, 1),
            "p99_ms": round(middle(lambda load: load.p99) * 1000, 1),
        },
    )


def _middle(loads: list[wrk.Load]) -> Callable[[Callable[[wrk.Load], float]], float]:
    return lambda of: median(of(load) for load in loads)


def _missing(database: Path, acknowledged: dict[str, str]) -> int:
    """Return the number of sessions that are missing, or stored with an earlier start than was acknowledged last.

    A later start is correct: when wrk ends, 16 requests are unanswered, and each moves a session to a later start.
    """
    with rows.connect(database, readonly=True) as connection:
        stored = dict(connection.execute("SELECT id, start_time FROM session"))
    return sum(stored.get(session_id, 0) < _milliseconds(start) for session_id, start in acknowledged.items())


def _milliseconds(instant: str) -> int:
    return timestamps.milliseconds(timestamps.parse(instant) - timestamps.EPOCH)
