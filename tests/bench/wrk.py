"""The load generator for requests without a pause: wrk, which takes a small part of a core for them."""

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.bench.workbench import Missing

CONNECTIONS = 16

_SCRIPT = Path(__file__).with_name("requests.lua")


@dataclass
class Load:
    """What wrk counted in one run."""

    requests: int
    per_second: float
    failed: int
    """Answers other than 2xx, and connections that broke."""
    p50: float
    """Seconds; so is `p99`."""
    p99: float
    made: list[tuple[str, str]]
    """Id and acknowledged start time of each session, in the order of the answers."""


def check_installed() -> None:
    """Raise `Missing` where there is no wrk."""
    if shutil.which("wrk") is None:
        raise Missing("wrk is not installed, and nothing else sends requests fast enough: apt-get install wrk")


def run(
    kind: str, port: int, seconds: float, *, path: str = "/", token: str = "", ids: Sequence[str] = (), days: int = 2
) -> Load:
    """Send requests of one kind over `CONNECTIONS` connections, each as soon as the one before it was answered.

    Parameters
    ----------
    kind
        `get` (of `path`), `schedule`, `reschedule` or `read`; the last two take `ids` one after the other.
    days
        How far ahead the first session starts. Each one after it starts a second later.
    """
    first = datetime.now(UTC) + timedelta(days=days)
    with tempfile.TemporaryDirectory(prefix="tminus-wrk-") as directory:
        known, made = Path(directory) / "ids", Path(directory) / "made"
        known.write_text("".join(f"{one}\n" for one in ids), encoding="ascii")
        whole = max(1, math.ceil(seconds))  # wrk takes no parts of a second
        command = [
            "wrk",
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{whole}s",
            "-s",
            str(_SCRIPT),
            f"http://127.0.0.1:{port}{path}",
        ]
        command += ["--", kind, token or "-", str(int(first.timestamp())), str(known), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=whole + 60)
        counted = json.loads(done.stdout.splitlines()[-1])
        lines = [line.split() for line in made.read_text(encoding="ascii").splitlines()]
    return Load(
        requests=counted["requests"],
        per_second=counted["requests"] / counted["microseconds"] * 1_000_000,
        failed=counted["refused"] + counted["broken"],
        p50=counted["p50"] / 1_000_000,
        p99=counted["p99"] / 1_000_000,
        made=[(one, start) for one, start in lines if one != "!"],
    )
