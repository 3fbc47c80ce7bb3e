"""Lists of a million closed sessions: their time, and the time of other reads meanwhile."""

import threading
import time
from statistics import median
from typing import Any

from tests.bench import rows
from tests.bench.daemon import Daemon
from tests.bench.workbench import Bench, Figure

LISTERS = 8
"""Number of lists that are requested at the same time."""

CLOSE = """
UPDATE session SET status = 'closed', close_reason = 'closed', closed_at = updated_at, due_at = NULL, due_trigger = NULL
"""


def lists(bench: Bench) -> list[Figure]:
    """Measure lists of all closed sessions of an agent with their exact count, and reads by id meanwhile."""
    number = bench.sizes.million
    with bench.scratch(bench.herd("live", number)) as directory:
        with rows.connect(directory / "tminus.db", "synchronous=OFF") as connection:
            bench.say(f"closing {number:,} sessions")
            connection.execute(CLOSE)
            one = connection.execute("SELECT id FROM session LIMIT 1").fetchone()[0]
        with Daemon(directory) as daemon, daemon.http() as http:
            page = _milliseconds(http, "/supportsessions?status=closed", 5)
            counted = http.get("/supportsessions?status=closed").json()["count"]
            alone = _milliseconds(http, f"/supportsession/{one}", 100)
            beside = _beside_lists(daemon, http, f"/supportsession/{one}")
    name = f"{number:,} closed sessions: "
    return [
        Figure(
            name + "a list and its count",
            page,
            "ms",
            wanted="all counted",
            met=counted == number,
            more={"counted": counted},
        ),
        Figure(name + "a read beside lists", beside, "ms", alone, "no list", beside / alone, "< 100 ms", beside < 100),
    ]


def _milliseconds(http: Any, path: str, times: int) -> float:
    took = []
    for _ in range(times):
        begun = time.monotonic()
        http.get(path).raise_for_status()
        took.append((time.monotonic() - begun) * 1000)
    return median(took)


def _beside_lists(daemon: Daemon, http: Any, path: str) -> float:
    """Return the time of a read while many lists are requested that have to be sorted."""
    stop = threading.Event()

    def ask() -> None:
        with daemon.http() as own:
            while not stop.is_set():
                own.get("/supportsessions?status=closed&orderby=updatedAt", timeout=60)

    listers = [threading.Thread(target=ask) for _ in range(LISTERS)]
    for lister in listers:
        lister.start()
    try:
        time.sleep(1)
        return _milliseconds(http, path, 100)
    finally:
        stop.set()
        for lister in listers:
            lister.join()
