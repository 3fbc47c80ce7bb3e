"""Batches of 10,000 sessions: their rate beside raw statements, and the other work of the daemon meanwhile."""

import http.client
import json
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from tests.bench import load, rows
from tests.bench.daemon import Daemon
from tests.bench.load import Plan
from tests.bench.workbench import Bench, Figure

SESSIONS = 10_000
"""Sessions of a batch: the maximum."""

DUE = 150
"""Number of sessions that fall due while the daemon executes a batch."""

APART_MS = 20
"""Milliseconds between their deadlines."""


def _body(number: int) -> bytes:
    start = datetime.now(UTC) + timedelta(days=2)
    starts = ((start + timedelta(seconds=one)).isoformat(timespec="seconds") for one in range(number))
    sessions = [{"type": "live", "label": "Bench", "startTime": one} for one in starts]
    return json.dumps({"sessions": sessions}).encode()


def _send(daemon: Daemon, body: bytes) -> tuple[float, float]:
    """Send a batch, and return when it began and when its last byte arrived."""
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=120)
    begun = time.time()
    headers = {"Session-id": daemon.token, "Content-Type": "application/json"}
    connection.request("POST", "/v3/supportsessions/batch", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    ended = time.time()
    connection.close()
    if answer.status != 200 or content.count(b'"hostAuthToken"') != SESSIONS:
        raise AssertionError(f"a batch was answered with {answer.status}: {content[:200]!r}")
    return begun, ended


def _make_due(database: Path, first: float) -> None:
    """Make the scheduled sessions due one after the other, from a time (Unix time) on."""
    with rows.connect(database) as connection:
        connection.execute(
            """
            UPDATE session SET due_at = :at + :apart * place.number, start_time = :at + :apart * place.number + :lead
            FROM (SELECT id, row_number() OVER () AS number FROM session WHERE status = 'scheduled') AS place
            WHERE session.id = place.id
            """,
            {"at": int(first * 1000), "apart": APART_MS, "lead": rows.LEAD_MS},
        )


def _lags(database: Path) -> list[int]:
    with rows.connect(database, readonly=True) as connection:
        return sorted(
            lag for (lag,) in connection.execute("SELECT ts - due_at FROM event WHERE type = 'session.ready'")
        )


def batches(bench: Bench) -> list[Figure]:
    """Measure batches through one connection; and requests and the scheduler beside a batch."""
    sizes = bench.sizes
    body = _body(SESSIONS)
    rates, raw = [], []
    with bench.scratch() as directory, Daemon(directory) as daemon:
        bench.say(f"batches of {SESSIONS:,} sessions, one connection")
        for _ in range(sizes.rounds):
            begun, ended = _send(daemon, body)
            rates.append(SESSIONS / (ended - begun))
        memory = daemon.peak_memory()
        daemon.stop()
        with sqlite3.connect(daemon.database) as connection:
            stored = connection.execute("SELECT count(*) FROM session").fetchone()[0]
        assert stored == SESSIONS * sizes.rounds, stored
        bench.say("the floor of batches: raw statements")
        raw = [rows.raw_schedules(daemon.database, SESSIONS, sizes.floor_seconds) for _ in range(sizes.rounds)]
    rate, floor = median(rates), median(raw)
    with bench.scratch(bench.herd("live", DUE)) as directory:
        database = directory / "tminus.db"
        with rows.connect(database, readonly=True) as connection:
            ids = [row[0] for row in connection.execute("SELECT id FROM session")]
        due = time.time() + 6
        _make_due(database, due)
        with Daemon(directory) as daemon:
            bench.say(f"{sizes.steady_rate:.0f} requests/s beside a batch, and sessions that fall due")
            seconds = due - time.time() + 6
            plan = Plan(
                "mixed", daemon.port, daemon.token, seconds, 32, sizes.steady_rate, False, ids,
                (datetime.now(UTC) + timedelta(days=2)).isoformat(),
            )  # fmt: skip
            idle_since, generator = time.time(), load.start(plan)
            time.sleep(max(0.0, due - time.time()))
            begun, ended = _send(daemon, body)
            counted = load.finish(generator)
        lags = _lags(database)
    busy, idle = counted.p(99, begun, ended), counted.p(99, idle_since + 1, due)
    return [
        Figure(
            f"sessions of batches of {SESSIONS:,}", rate, "/s", floor, f"raw statements, {SESSIONS:,} a transaction",
            rate / floor, "≥ 0.50×", rate / floor >= 0.5, {"rates": [round(one) for one in rates], "memory_mb": memory},
        ),
        Figure(
            f"request p99 beside a batch of {SESSIONS:,}", busy * 1000, "ms", idle * 1000, "p99 when idle", busy / idle,
            "< 250 ms", busy < 0.25 and not counted.failed,
            {"batch_took_ms": round((ended - begun) * 1000), "failed": counted.failed},
        ),
        Figure(
            f"scheduler lag beside a batch of {SESSIONS:,}", lags[-1], "ms", None, "", None, "< 50 ms", lags[-1] < 50,
            {"p50_ms": lags[len(lags) // 2], "opened": len(lags)},
        ),
    ]  # fmt: skip
