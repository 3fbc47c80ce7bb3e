"""Time to ready and memory of a daemon, beside those of a process that only imports the libraries of the daemon.

A large configuration is measured beside none.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.bench.daemon import Daemon, megabytes
from tests.bench.deliveries import secret_file
from tests.bench.workbench import Bench, Figure

TIMES = 7

_READY, _MEMORY = 1.3, 1.2

_ON_DEMAND = ("alembic.command", "alembic.config", "alembic.script", "psycopg")
"""The libraries that a daemon imports only on PostgreSQL, or to migrate a database. The floor has them."""

AGENTS, WEBHOOKS, FILES = 2000, 300, 200

_LARGE = 1.0
"""Seconds that a large configuration may add to a start."""

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
    loaded_times: list[float] = []
    loaded_memory: list[float] = []
    for _ in range(max(TIMES * bench.sizes.rounds // 3, 1)):
        for floor, its_times, its_memory in (
            ([*modules, *_ON_DEMAND], floor_times, floor_memory),
            (modules, loaded_times, loaded_memory),
        ):
            took, taken = _only_import(floor)
            its_times.append(took)
            its_memory.append(taken)
        with bench.scratch() as directory, Daemon(directory) as daemon:
            times.append(daemon.start_seconds)
            memory.append(daemon.memory())
    took, took_floor = min(times), min(floor_times)  # other load on the machine can only make them longer
    beside = "imports of the libraries"
    loaded = f"beside_imports_of_the_{len(modules)}_modules_that_it_loads"
    ready, resident = took / took_floor, median(memory) / median(floor_memory)
    return [
        Figure(
            "start to ready", took * 1000, "ms", took_floor * 1000, beside, ready,
            f"≤ {_READY} × floor", ready <= _READY,
            {"each_ms": [round(one * 1000) for one in times], "floors_ms": [round(one * 1000) for one in floor_times],
             loaded: round(took / min(loaded_times), 2)},
        ),
        Figure(
            "resident memory", median(memory), "MB", median(floor_memory), beside, resident,
            f"≤ {_MEMORY} × floor", resident <= _MEMORY,
            {"each_mb": [round(one) for one in memory], "floors_mb": [round(one) for one in floor_memory],
             loaded: round(median(memory) / median(loaded_memory), 2)},
        ),
    ]  # fmt: skip


def large_configuration(bench: Bench) -> list[Figure]:
    """Measure the time to ready with many endpoints, and with many agents too, beside a daemon with neither."""
    seconds: dict[tuple[int, int], list[float]] = {(0, 0): [], (0, WEBHOOKS): [], (AGENTS, WEBHOOKS): []}
    for _ in range(max(TIMES * bench.sizes.rounds // 3, 1)):
        for (agents, webhooks), took in seconds.items():
            bench.say(f"a start with {agents:,} agents and {webhooks:,} webhooks")
            with bench.scratch() as directory:
                if webhooks:
                    _write_files(directory, agents, webhooks)
                with Daemon(directory) as daemon:
                    read = len(daemon.line("daemon.starting")["config_files"])
                    if read != (1 + FILES if webhooks else 1):
                        raise RuntimeError(f"the daemon has read {read} files of configuration")
                    took.append(daemon.start_seconds)
    floors = seconds.pop((0, 0))
    floor = min(floors)
    return [
        Figure(
            f"start to ready, {f'{agents:,} agents, ' if agents else ''}{webhooks:,} webhooks in {FILES} files",
            min(took) * 1000, "ms", floor * 1000, "none of them", min(took) / floor,
            f"≤ floor + {_LARGE:g} s", min(took) - floor <= _LARGE,
            {"each_ms": [round(one * 1000) for one in took], "floors_ms": [round(one * 1000) for one in floors]},
        )
        for (agents, webhooks), took in seconds.items()
    ]  # fmt: skip


def _write_files(directory: Path, agents: int, webhooks: int) -> None:
    """Write agents and webhooks into `FILES` files of equal size."""
    secret = secret_file(directory)
    texts = ["" for _ in range(FILES)]
    for number in range(agents):
        texts[number % FILES] += (
            f'[[agents]]\nid = {1000 + number}\nname = "Agent {number}"\nroles = ["agent"]\n'
            f'token_sha256 = ["{number:064x}"]\n'
        )
    for number in range(webhooks):
        texts[number % FILES] += (
            f'[[webhooks]]\nname = "endpoint-{number}"\nurl = "https://127.0.0.1:9/{number}"\n'
            f'secret_file = "{secret}"\n'
        )
    folder = directory / "conf.d"
    folder.mkdir()
    for number, content in enumerate(texts):
        (folder / f"{number:03}.toml").write_text(content)


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
