"""The time that a command takes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.daemon import Daemon
from tests.bench.workbench import Bench, Figure

TIMES = 15

WANTED = {"--help": 0.15, "list": 0.2}
"""Seconds that a command may take, from its start to its end."""


def commands(bench: Bench) -> list[Figure]:
    """Measure the help, and a list over the local socket, beside a Python process that does nothing."""
    bench.say("commands")
    tminus = str(Path(sys.executable).with_name("tminus"))
    with bench.scratch() as directory, Daemon(directory):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TMINUS_")}
        environment["STATE_DIRECTORY"] = str(directory)
        floor = median(_times([sys.executable, "-c", "pass"], environment))
        took = {name: _times([tminus, name], environment) for name in WANTED}
    return [
        Figure(
            f"tminus {name}", median(times) * 1000, "ms", floor * 1000, "python -c pass", median(times) / floor,
            f"< {WANTED[name] * 1000:.0f} ms", median(times) < WANTED[name],
            {"fastest_ms": round(min(times) * 1000), "slowest_ms": round(max(times) * 1000)},
        )
        for name, times in took.items()
    ]  # fmt: skip


def _times(command: list[str], environment: dict[str, str]) -> list[float]:
    took = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - begun)
    return took
