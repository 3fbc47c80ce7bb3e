"""The figures of one daemon on SQLite. Each function returns rows of the report."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, median
from typing import Any

from tests.bench import load, rows
from tests.bench.batches import batches
from tests.bench.commands import commands
from tests.bench.daemon import Daemon
from tests.bench.deliveries import webhooks
from tests.bench.lists import lists
from tests.bench.load import Plan
from tests.bench.requests import requests
from tests.bench.rooms import rooms as participants
from tests.bench.shared import postgres
from tests.bench.start import large_configuration, start
from tests.bench.workbench import Bench, Figure

POLL = 0.0005
"""Seconds between two reads of the database shortly before sessions are due."""

CROWD = 1000
"""Number of connections of an overload."""

SLOW_POLL = 0.005
"""Seconds between two reads after a herd has begun to open: each read takes time from the daemon."""


def _ahead(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="milliseconds")


# --- herds ------------------------------------------------------------------------------------------------------------


@dataclass
class Opening:
    """When a herd was due, and when another process first read its first and its last commit (Unix times)."""

    due: float
    first: float
    last: float


def watch(database: Path, due_ms: int) -> Opening:
    """Wait until all sessions that are due at a time have opened, as another process reads it in the database."""
    due, first, until = due_ms / 1000, 0.0, time.time() + 180
    with rows.connect(database, readonly=True) as connection:
        newest = "SELECT max(seq) FROM event"
        (before,) = connection.execute(newest).fetchone()
        time.sleep(max(0.0, due - time.time() - 0.02))
        while time.time() < until:
            if not first and connection.execute(newest).fetchone()[0] > before:
                first = time.time()
            left = connection.execute("SELECT 1 FROM session WHERE due_at <= ? LIMIT 1", (due_ms,)).fetchone()
            if left is None:
                return Opening(due, first, time.time())
            time.sleep(SLOW_POLL if first else POLL)
    raise RuntimeError("the herd was not opened within three minutes")


def herds(bench: Bench) -> list[Figure]:
    """Measure live sessions that are due at the same time, beside two raw statements on a copy of the rows."""
    return [_herd(bench, "live", number, 1.8 if number <= 10_000 else 2.2) for number in bench.sizes.herds]


def support_herds(bench: Bench) -> list[Figure]:
    """Measure the same for sessions with PINs."""
    return [_herd(bench, "support", number, 5.0) for number in bench.sizes.herds]


def _margin(number: int) -> float:
    """Return seconds that suffice to place the rows and start a daemon on a busy machine."""
    return 2 + 2 * Daemon.slowest_start + number / 25_000


def _herd(bench: Bench, session_type: str, number: int, wanted: float) -> Figure:
    pattern = bench.herd(session_type, number)
    floors, took, firsts, lags = [], [], [], []
    for _ in range(bench.sizes.herd_runs):
        with bench.scratch(pattern) as directory:
            bench.say(f"the floor of {number:,} {session_type} sessions")
            floors.append(rows.raw_moves(directory / "tminus.db", rows.place(directory / "tminus.db", time.time())))
        with bench.scratch(pattern) as directory:
            due_ms = rows.place(directory / "tminus.db", time.time() + _margin(number))
            with Daemon(directory) as daemon:
                if time.time() > due_ms / 1000 - 0.5:
                    raise RuntimeError("the daemon was not ready before the herd: the machine is too busy")
                bench.say(f"{number:,} {session_type} sessions fall due")
                opening = watch(daemon.database, due_ms)
                daemon.stop(signal.SIGKILL)  # it would only write the rest of the log
            lags.append(_check_opened(daemon.database, number))
        took.append(opening.last - opening.due)
        firsts.append(opening.first - opening.due)
    floor, value, first = median(floors), median(took), max(firsts)
    return Figure(
        f"herd of {number:,}, {session_type}",
        value * 1000,
        "ms",
        floor * 1000,
        "UPDATE + INSERT…SELECT",
        value / floor,
        f"≤ {wanted} × floor, first ≤ 50 ms",
        value / floor <= wanted and first <= 0.05,
        {
            "first_ms": [round(one * 1000, 1) for one in firsts],
            "each_ms": [round(one * 1000) for one in took],
            "floors_ms": [round(one * 1000) for one in floors],
            "per_second": round(number / value),
            "worst_lag_in_events_ms": max(lags),
        },
    )


def _check_opened(database: Path, number: int) -> int:
    """Check that each session was opened once; return the greatest lag that the events record."""
    with rows.connect(database, readonly=True) as connection:
        opened, worst = connection.execute(
            "SELECT count(DISTINCT session_id), max(ts - due_at) FROM event WHERE type = 'session.ready'"
        ).fetchone()
        (events,) = connection.execute("SELECT count(*) FROM event WHERE type = 'session.ready'").fetchone()
        (new,) = connection.execute("SELECT count(*) FROM session WHERE status = 'new'").fetchone()
    if not opened == events == new == number:
        raise RuntimeError(
            f"of {number} sessions {new} are open, {opened} have an event, and there are {events} events"
        )
    return int(worst)


def latency(bench: Bench) -> list[Figure]:
    """Measure the latency of requests (half schedules, half reads) at a steady rate while the largest herd opens."""
    sizes, number = bench.sizes, max(bench.sizes.herds)
    with bench.scratch(bench.herd("live", number)) as directory:
        database = directory / "tminus.db"
        due_ms = rows.place(database, time.time() + _margin(number) + sizes.steady_seconds)
        with rows.connect(database, readonly=True) as connection:
            ids = [row[0] for row in connection.execute("SELECT id FROM session LIMIT 1000")]
        with Daemon(directory) as daemon:
            bench.say(f"{sizes.steady_rate:.0f} requests/s, then {number:,} sessions fall due")
            seconds = due_ms / 1000 - time.time() + 15
            plan = Plan("mixed", daemon.port, daemon.token, seconds, 32, sizes.steady_rate, False, ids, _ahead(2))
            begun, generator = time.time(), load.start(plan)
            opening = watch(daemon.database, due_ms)
            logged = daemon.wait_for_lines("session.ready", number)
            counted = load.finish(generator)
    idle = counted.p(99, begun + 2, opening.due)
    busy = counted.p(99, opening.due, opening.last)
    return [
        Figure(
            f"request p99 while {number:,} open",
            busy * 1000,
            "ms",
            idle * 1000,
            "p99 when idle",
            busy / idle,
            "< 250 ms",
            busy < 0.25 and not counted.failed,
            {
                "failed": counted.failed,
                "opening_took_ms": round((opening.last - opening.due) * 1000),
                "p50_ms": round(counted.p(50, opening.due, opening.last) * 1000, 1),
                "worst_ms": round(counted.p(100, opening.due, opening.last) * 1000, 1),
                "idle_p50_ms": round(counted.p(50, begun + 2, opening.due) * 1000, 1),
                "p99_until_all_is_in_the_log_ms": round(counted.p(99, opening.due, logged) * 1000, 1),
                "all_in_the_log_after_ms": round((logged - opening.due) * 1000),
            },
        )
    ]


# --- overload ---------------------------------------------------------------------------------------------------------


def overload(bench: Bench) -> list[Figure]:
    """Measure ten times the maximum load (half schedules, half reads), beside the latency at the maximum load."""
    sizes = bench.sizes
    with bench.scratch() as directory, Daemon(directory) as daemon, daemon.http() as http:

        def ask(kind: str, seconds: float, *more: Any) -> load.Load:
            return load.run(Plan(kind, daemon.port, daemon.token, seconds, *more))

        first = ask("schedule", sizes.floor_seconds, load.CONNECTIONS, None, False, [], _ahead(2))
        ids = [session_id for session_id, _ in first.made[:1000]]
        bench.say("the maximum load")
        at_maximum = ask("mixed", sizes.load_seconds, load.CONNECTIONS, None, False, ids, _ahead(20))
        rate = at_maximum.per_second * 10
        bench.say(f"{rate:,.0f} requests/s, {CROWD} connections")
        # Twice: the memory of the first run (connections, buffers, caches) must suffice for the second.
        ask("mixed", sizes.load_seconds, CROWD, rate, True, ids, _ahead(40))
        before = daemon.memory()
        start = datetime.now(UTC) + timedelta(milliseconds=rows.LEAD_MS, seconds=1 + sizes.load_seconds / 2)
        order = {"type": "live", "label": "Due", "startTime": start.isoformat(timespec="milliseconds")}
        due = http.post("/supportsessions", json=order).raise_for_status().json()["id"]
        much = ask("mixed", sizes.load_seconds, CROWD, rate, True, ids, _ahead(60))
        after = daemon.memory()
        lag = next(
            event["lagMs"]
            for event in http.get(f"/supportsession/{due}/events").raise_for_status().json()["events"]
            if event["type"] == "session.ready"
        )
    answered = sum(much.statuses.values())
    refused = much.statuses.get("503", 0)
    worst, floor = much.p(99, status="200"), at_maximum.p(99)
    return [
        Figure(
            "p99 of accepted requests at ten times the load",
            worst * 1000,
            "ms",
            floor * 1000,
            "p99 at the maximum load",
            worst / floor,
            "< 2 s, refusals as promised, lag < 250 ms, memory flat",
            worst < 2 and set(much.statuses) <= {"200", "503"} and lag < 250 and after - before < 10,
            {
                "maximum_per_second": round(at_maximum.per_second),
                "accepted_per_second": round(much.statuses.get("200", 0) / sizes.load_seconds),
                "refused_percent": round(100 * refused / answered),
                "refused_p99_ms": round(much.p(99, status="503") * 1000),
                "statuses": much.statuses,
                "memory_before_mb": round(before),
                "memory_after_mb": round(after),
                "lag_of_one_due_meanwhile_ms": lag,
            },
        )
    ]


# --- scale ------------------------------------------------------------------------------------------------------------

_OFTEN = '\n[log]\nheartbeat = "20s"\n'
"""The heartbeat, which counts the sessions, is logged at least once during the idle seconds."""


@dataclass
class _Idle:
    start_seconds: float
    memory: float
    cpu: float
    lag_ms: float
    event_lag_ms: float


def scale(bench: Bench) -> list[Figure]:
    """Measure a daemon with many scheduled sessions, beside one with an empty database."""
    number = bench.sizes.million
    with bench.scratch() as directory:
        empty = _measure_idle(bench, directory, "an empty database")
    full = _measure_idle(bench, bench.herd("live", number), f"{number:,} sessions")
    name = f"{number:,} sessions stored: "
    beside = "empty database"

    def row(what: str, unit: str, value: float, floor: float, bound: float, shown: str, **more: Any) -> Figure:
        return Figure(
            name + what, value, unit, floor, beside, value / floor if floor else None, shown, value < bound, more
        )

    return [
        row("start to ready", "s", full.start_seconds, empty.start_seconds, 3, "≤ 3 s"),
        row("resident memory", "MB", full.memory, empty.memory, 200, "< 200 MB"),
        row("CPU when idle", "%", full.cpu, empty.cpu, 1, "< 1 % of a core"),
        row(
            "lag of one session", "ms", full.lag_ms, empty.lag_ms, 50, "< 50 ms",
            lag_in_its_event_ms=full.event_lag_ms,
        ),
    ]  # fmt: skip


def _measure_idle(bench: Bench, directory: Path, what: str) -> _Idle:
    with Daemon(directory, _OFTEN) as daemon, daemon.http() as http:
        bench.say(f"idle, {what}")
        time.sleep(2)
        before, began = daemon.cpu_seconds(), time.monotonic()
        time.sleep(bench.sizes.idle_seconds)
        cpu = (daemon.cpu_seconds() - before) / (time.monotonic() - began) * 100
        memory = daemon.memory()
        lags = [_lag(daemon.database, http) for _ in range(5)]
        return _Idle(
            daemon.start_seconds, memory, cpu, max(seen for seen, _ in lags), mean(recorded for _, recorded in lags)
        )


def _lag(database: Path, http: Any) -> tuple[float, float]:
    """Return the lag of a session in milliseconds: until its event was read, and as the event records it."""
    start = datetime.now(UTC) + timedelta(milliseconds=rows.LEAD_MS + 700)
    order = {"type": "live", "label": "Lag", "startTime": start.isoformat(timespec="milliseconds")}
    answer = http.post("/supportsessions", json=order)
    answer.raise_for_status()
    with rows.connect(database, readonly=True) as connection:
        for _ in range(20_000):
            found = connection.execute(
                "SELECT ts, due_at FROM event WHERE session_id = ? AND type = 'session.ready'", (answer.json()["id"],)
            ).fetchone()
            if found:
                seen = time.time() * 1000
                return seen - found[1], found[0] - found[1]
            time.sleep(POLL)
    raise RuntimeError("the session was not opened")


FIGURES: dict[str, Callable[[Bench], list[Figure]]] = {
    "commands": commands,
    "requests": requests,
    "batches": batches,
    "start": start,
    "configuration": large_configuration,
    "herds": herds,
    "support": support_herds,
    "latency": latency,
    "overload": overload,
    "scale": scale,
    "lists": lists,
    "rooms": participants,
    "webhooks": webhooks,
    "postgres": postgres,
}
