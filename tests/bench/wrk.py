"""The load generator for the maximum rate: wrk, which needs only a small part of a core."""

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.bench.workbench import Missing

CONNECTIONS = 16

_SCRIPT = Path(__file__).with_name("requests.lua")


@dataclass
class Load:
    """The counts of one run of wrk."""

    requests: int
    per_second: float
    failed: int
    """Number of answers other than 2xx, and of broken connections."""
    p50: float
    """In seconds, as is `p99`."""
    p99: float
    made: list[tuple[str, str]]
    """Id and acknowledged start time of each session, in the order of the answers."""


def check_installed() -> None:
    """Raise `Missing` if wrk is not installed."""
    if shutil.which("wrk") is None:
        raise Missing("wrk is not installed: apt-get install wrk")


class Run:
    """A run of wrk: requests of one kind over `CONNECTIONS` connections, each sent after the previous answer.

    Parameters
    ----------
    kind
        `get` (of `path`), `schedule`, `reschedule` or `read`; the last two take `ids` one after the other.
    days
        Days until the first session starts. Each later session starts a second after the previous one.
    """

    def __init__(
        self,
        kind: str,
        port: int,
        seconds: float,
        *,
        path: str = "/",
        token: str = "",
        ids: Sequence[str] = (),
        days: int = 2,
    ) -> None:
        first = datetime.now(UTC) + timedelta(days=days)
        self._directory = tempfile.TemporaryDirectory(prefix="tminus-wrk-")
        known, self._made = Path(self._directory.name) / "ids", Path(self._directory.name) / "made"
        known.write_text("".join(f"{one}\n" for one in ids), encoding="ascii")
        self._seconds = max(1, math.ceil(seconds))  # wrk accepts only whole seconds
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{self._seconds}s", "-s", str(_SCRIPT)]
        command += [f"http://127.0.0.1:{port}{path}", "--", kind, token or "-", str(int(first.timestamp()))]
        self._process = subprocess.Popen([*command, str(known), str(self._made)], stdout=subprocess.PIPE, text=True)

    def finish(self) -> Load:
        """Wait for its end and return its counts."""
        with self._directory:
            out, _ = self._process.communicate(timeout=self._seconds + 60)
            if self._process.returncode != 0:
                raise RuntimeError(f"wrk ended with {self._process.returncode}, see its error above")
            counted = json.loads(out.splitlines()[-1])
            lines = [line.split() for line in self._made.read_text(encoding="ascii").splitlines()]
        return Load(
            requests=counted["requests"],
            per_second=counted["requests"] / counted["microseconds"] * 1_000_000,
            failed=counted["refused"] + counted["broken"],
            p50=counted["p50"] / 1_000_000,
            p99=counted["p99"] / 1_000_000,
            made=[(one, start) for one, start in lines if one != "!"],
        )


def run(kind: str, port: int, seconds: float, **more: Any) -> Load:
    """Run wrk and return its counts; the arguments are those of `Run`."""
    return Run(kind, port, seconds, **more).finish()
