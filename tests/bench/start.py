"""Time to ready and memory of a daemon, beside those of a process that only imports the same modules."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.daemon import Daemon, megabytes
from tests.bench.workbench import Bench, Figure

TIMES = 7

_READY, _MEMORY = 1.3, 1.2

_IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        pass
print("ready", flush=True)
sys.stdin.read()
"""


def start(bench: Bench) -> list[Figure]:
    """Measure the time to ready and the resident memory on an empty database."""
    bench.say("which modules a daemon imports")
    with bench.scratch() as directory:
        modules = _modules(directory)
    times: list[float] = []
    memory: list[float] = []
    floor_times: list[float] = []
    floor_memory: list[float] = []
    bench.say("starts, beside a process that only imports")
    for _ in range(max(TIMES * bench.sizes.rounds // 3, 1)):
        took, taken = _only_import(modules)
        floor_times.append(took)
        floor_memory.append(taken)
        with bench.scratch() as directory, Daemon(directory) as daemon:
            times.append(daemon.start_seconds)
            memory.append(daemon.memory())
    took, took_floor = min(times), min(floor_times)  # other load on the machine can only make them longer
    beside = f"imports of {len(modules)} modules"
    ready, resident = took / took_floor, median(memory) / median(floor_memory)
    return [
        Figure(
            "start to ready", took * 1000, "ms", took_floor * 1000, beside, ready,
            f"≤ {_READY} × floor", ready <= _READY,
            {"each_ms": [round(one * 1000) for one in times], "floors_ms": [round(one * 1000) for one in floor_times]},
        ),
        Figure(
            "resident memory", median(memory), "MB", median(floor_memory), beside, resident,
            f"≤ {_MEMORY} × floor", resident <= _MEMORY,
            {"each_mb": [round(one) for one in memory], "floors_mb": [round(one) for one in floor_memory]},
        ),
    ]  # fmt: skip


def _modules(directory: Path) -> list[str]:
    """Return the modules of other packages that a daemon imports until it is ready, in order."""
    os.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    try:
        with Daemon(directory):
            pass
    finally:
        del os.environ["PYTHONPROFILEIMPORTTIME"]
    found: dict[str, None] = {}
    for line in (directory / "log").read_text(errors="replace").splitlines():
        if line.startswith("import time:") and line.count("|") == 2:
            name = line.rpartition("|")[2].strip()
            if name != "imported package" and not name.partition(".")[0].startswith(("tminus", "__")):
                found[name] = None
    return list(found)


def _only_import(modules: list[str]) -> tuple[float, float]:
    """Return the seconds until a process has imported these modules, and its resident memory in megabytes."""
    begun = time.monotonic()
    command = [sys.executable, "-c", _IMPORT, *modules]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        took, taken = time.monotonic() - begun, megabytes(process.pid, "VmRSS:")
        process.communicate(b"")
    return took, taken
