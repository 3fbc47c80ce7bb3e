"""The figures of one and two daemons on one PostgreSQL: rates, herds, and the takeover after a kill."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx

from tests.bench import wrk
from tests.bench.daemon import Daemon
from tests.bench.deliveries import endpoint
from tests.bench.postgres import Connection, Postgres, check_opened, place, raw_moves, raw_schedules
from tests.bench.receiver import Receiver, Taken
from tests.bench.trivial import Trivial
from tests.bench.workbench import Bench, Figure
from tests.bench.wrk import Load, Run

POLL = 0.005
"""Seconds between two reads of the database while a herd opens, because each read takes time from the daemons."""

_OPENED = 'tminus_moves_total{trigger="open"}'
_NEWEST = "SELECT max(seq) FROM event"


def postgres(bench: Bench) -> list[Figure]:
    """Measure schedules per second, a herd, and a takeover."""
    with Postgres(bench.beside) as server:
        requests, herds = _requests(bench, server), _herds(bench, server)
        return [*requests, *herds, *_takeover(bench, server, (herds[0].floor or 0) / 1000)]


@contextmanager
def _daemons(bench: Bench, server: Postgres, name: str, number: int, more: str = "") -> Iterator[list[Daemon]]:
    """Run `number` daemons on one database, each with its own state directory. `more`: more lines of configuration."""
    with ExitStack() as stack:
        config = f'\n[storage]\nurl = "{server.url(name)}"\n{more}'
        yield [stack.enter_context(Daemon(stack.enter_context(bench.scratch()), config)) for _ in range(number)]


# --- requests ---------------------------------------------------------------------------------------------------------


def _requests(bench: Bench, server: Postgres) -> list[Figure]:
    """Measure durable schedules per second of one daemon and of two, with a load generator for each."""
    wrk.check_installed()
    sizes = bench.sizes
    alone, both, floors = [], [], []
    with server.database() as name, server.connect(name) as database:
        with _daemons(bench, server, name, 2) as daemons, Trivial() as trivial:
            for round_ in range(sizes.rounds):
                bench.say("the floor: an application that does nothing")
                floors.append(wrk.run("schedule", trivial.port, sizes.floor_seconds, token=daemons[0].token))
                alone.append(_ask(bench, daemons[:1], 2 + 2 * round_))
                both.append(_ask(bench, daemons, 3 + 2 * round_))
            for daemon in daemons:
                daemon.stop(signal.SIGKILL)  # what was acknowledged must be stored, however they end
        made = {session_id for loads in (*alone, *both) for one in loads for session_id, _ in one.made}
        stored = {row[0] for row in database.execute("SELECT id FROM session")}
        missing = len(made - stored)
        bench.say("the floor of schedules")
        raw = [raw_schedules(database, wrk.CONNECTIONS, sizes.floor_seconds) for _ in range(sizes.rounds)]
    failed = sum(one.failed for loads in (*alone, *both) for one in loads)
    one, two = (median(map(_sum, loads)) for loads in (alone, both))
    floor = median(load.per_second for load in floors)
    besides = {"failed": failed, "acknowledged_but_not_stored": missing}
    in_one = f"{wrk.CONNECTIONS} a transaction, psycopg"
    return [
        Figure(
            "PostgreSQL: durable schedules, one daemon", one, "/s", floor, "trivial POST", one / floor,
            "no failed request", not failed and not missing,
            besides | _each(alone) | {"floors": [round(load.per_second) for load in floors]},
        ),
        Figure(
            "PostgreSQL: durable schedules, two daemons", two, "/s", one, "one daemon", two / one,
            "no failed request", not failed and not missing, besides | _each(both),
        ),
        Figure(
            "PostgreSQL: schedules, beside raw statements", one, "/s", median(raw), in_one, one / median(raw),
            more={"floors": [round(one) for one in raw]},
        ),
    ]  # fmt: skip


def _ask(bench: Bench, daemons: list[Daemon], days: int) -> list[Load]:
    bench.say(f"schedule, {len(daemons)} on PostgreSQL, {wrk.CONNECTIONS} connections each")
    runs = [Run("schedule", one.port, bench.sizes.load_seconds, token=one.token, days=days) for one in daemons]
    return [run.finish() for run in runs]


def _sum(loads: list[Load]) -> float:
    return sum(one.per_second for one in loads)


def _each(rounds: list[list[Load]]) -> dict[str, object]:
    return {
        "each": [[round(one.per_second) for one in loads] for loads in rounds],
        "p50_ms": round(median(one.p50 for loads in rounds for one in loads) * 1000, 1),
        "p99_ms": round(median(one.p99 for loads in rounds for one in loads) * 1000, 1),
    }


# --- herds ------------------------------------------------------------------------------------------------------------


def _herds(bench: Bench, server: Postgres) -> list[Figure]:
    """Measure the largest herd with one daemon and with two, beside two raw statements on a copy of the rows."""
    number = max(bench.sizes.herds)
    pattern = bench.herd("live", number)
    floors: list[float] = []
    took: dict[int, list[float]] = {1: [], 2: []}
    shares: list[list[int]] = []
    for _ in range(bench.sizes.herd_runs):
        bench.say(f"the floor of {number:,} sessions in PostgreSQL")
        with server.database(pattern) as name, server.connect(name) as database:
            floors.append(raw_moves(database, place(database, time.time())))
        for daemons, times in took.items():
            seconds, moved = _herd(bench, server, pattern, number, daemons)
            times.append(seconds)
            if daemons > 1:
                shares.append(moved)
    floor = median(floors)

    def row(daemons: int, name: str, **more: object) -> Figure:
        value = median(took[daemons])
        each = {"each_ms": [round(one * 1000) for one in took[daemons]], "per_second": round(number / value)}
        return Figure(
            f"PostgreSQL: herd of {number:,}, {name}", value * 1000, "ms", floor * 1000, "UPDATE + INSERT…SELECT",
            value / floor, more=each | {"floors_ms": [round(one * 1000) for one in floors]} | more,
        )  # fmt: skip

    return [row(1, "one daemon"), row(2, "shared by two", moved_by_each=shares)]


def _herd(bench: Bench, server: Postgres, pattern: Path, number: int, daemons: int) -> tuple[float, list[int]]:
    """Return the seconds from the deadline to the last commit, and the number of sessions that each daemon opened."""
    with server.database(pattern) as name, server.connect(name) as database:
        with _daemons(bench, server, name, daemons) as running:
            bench.say(f"{number:,} sessions fall due in PostgreSQL, daemons: {daemons}")
            due_ms, before = _place(database, number)
            last = _reached(database, due_ms, before + number)
            moved = [_counted(one, _OPENED) for one in running]
            for one in running:
                one.stop(signal.SIGKILL)  # it would only write the rest of the log
        check_opened(database, number)
    if sum(moved) != number:
        raise RuntimeError(f"{number} sessions were opened, the daemons count {moved}")
    return last - due_ms / 1000, moved


def _place(database: Connection, number: int) -> tuple[int, int]:
    """Make all sessions due soon; return when (Unix time in milliseconds), and the number of the newest event."""
    due_ms = place(database, time.time() + 2 + number / 10_000)
    if time.time() > due_ms / 1000 - 0.5:
        raise RuntimeError("the herd was due before it was placed: the machine is too busy")
    return due_ms, _newest(database)


def _newest(database: Connection) -> int:
    ((seq,),) = database.execute(_NEWEST)
    return int(seq)


def _reached(database: Connection, due_ms: int, seq: int) -> float:
    """Wait until the event with this number is stored; return the time (Unix time)."""
    time.sleep(max(0.0, due_ms / 1000 - time.time()))
    until = time.time() + 180
    while time.time() < until:
        if _newest(database) >= seq:
            return time.time()
        time.sleep(POLL)
    raise RuntimeError("the herd was not opened within three minutes")


def _counted(daemon: Daemon, series: str) -> int:
    """Return the sum of a daemon's metrics whose series begin with this text."""
    transport = httpx.HTTPTransport(uds=str(daemon.directory / "tminus.sock"))
    with httpx.Client(base_url="http://localhost", transport=transport, timeout=60) as http:
        text = http.get("/metrics").raise_for_status().text
    found = (line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(series))
    return int(sum(map(float, found)))


# --- a takeover -------------------------------------------------------------------------------------------------------


def _takeover(bench: Bench, server: Postgres, raw: float) -> list[Figure]:
    """Kill the daemon that serves an endpoint in the middle of a herd, and measure how soon the other one takes over.

    `raw`: seconds that the raw statements take for a whole herd.
    """
    number = max(bench.sizes.herds)
    pattern = bench.herd("live", number)
    opened, delivered, firsts, all_delivered, lefts, twice = [], [], [], [], [], []
    for _ in range(bench.sizes.herd_runs):
        with (
            server.database(pattern) as name,
            server.connect(name) as database,
            Receiver() as receiver,
            bench.scratch() as secrets,
        ):
            receiver.up()
            with _daemons(bench, server, name, 2, endpoint(secrets, "desk", receiver)) as daemons:
                bench.say(f"{number:,} sessions fall due in PostgreSQL, one of two daemons is killed")
                due_ms, before = _place(database, number)
                _reached(database, due_ms, before + number // 10)
                holder = max(daemons, key=lambda one: _counted(one, "tminus_events_delivered_total"))
                _reached(database, due_ms, before + number // 2)
                left = number - (_newest(database) - before)
                killed = time.time()
                holder.stop(signal.SIGKILL)
                last = _reached(database, due_ms, before + number)
                _delivered(database)
            taken = receiver.take()
            check_opened(database, number)
            twice.append(_check_received(database, taken, number))
        lefts.append(left)
        opened.append(last - killed)
        delivered.append(min(came for begun, came in taken.requests_at if begun > killed) - killed)
        firsts.append(taken.first - due_ms / 1000)
        all_delivered.append(taken.last - killed)
    floor = raw * median(lefts) / number * 1000
    besides = {"left_to_open": lefts, "told_twice": twice}
    return [
        Figure(
            "PostgreSQL: killed → all sessions open", median(opened) * 1000, "ms",
            floor, "UPDATE + INSERT…SELECT", median(opened) * 1000 / floor,
            more=besides | {"each_ms": [round(one * 1000) for one in opened]},
        ),
        Figure(
            "PostgreSQL: killed → survivor delivers", median(delivered) * 1000, "ms",
            median(firsts) * 1000, "due → first delivery", median(delivered) / median(firsts), more={
                "each_ms": [round(one * 1000) for one in delivered],
                "all_delivered_after_ms": [round(one * 1000) for one in all_delivered],
            },
        ),
    ]  # fmt: skip


def _delivered(database: Connection) -> None:
    """Wait until the endpoint's cursor is at the newest event.

    The number of received requests does not show that, because some arrive twice.
    """
    until = time.time() + 180
    while time.time() < until:
        ((done,),) = database.execute("SELECT cursor = (SELECT max(seq) FROM event) FROM endpoint")
        if done:
            return
        time.sleep(10 * POLL)
    raise RuntimeError("not all was delivered within three minutes")


def _check_received(database: Connection, taken: Taken, number: int) -> int:
    """Check that all events arrived in order; return how many arrived twice. Raises `RuntimeError`."""
    seqs = [row[0] for row in taken.events]
    once = list(dict.fromkeys(seqs))
    wanted = [row[0] for row in database.execute("SELECT seq FROM event WHERE type = 'session.ready' ORDER BY seq")]
    if once != wanted:
        raise RuntimeError(f"of {number} events {len(once)} arrived, or in another order")
    return len(seqs) - len(once)
