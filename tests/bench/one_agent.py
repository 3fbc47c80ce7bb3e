"""One agent attacks the daemon with valid requests: it creates the largest sessions, and requests the largest answers.

`python -m tests.bench.one_agent [seconds]` prints the memory of the daemon, and the statuses of honest calls.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.bench.daemon import Daemon

SESSIONS = 300
ATTACKERS = 32
PAUSE = 0.02

_MORE = """
[[agents]]
id = {id}
name = "Honest"
roles = ["agent"]
token_sha256 = ["{digest}"]

[limits]
"""


@dataclass
class Seen:
    """The results of the honest calls and of the attack, by status; 0: no answer."""

    honest: Counter[int] = field(default_factory=Counter)
    attack: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    bytes: int = 0
    memory: int = 0
    """Maximum resident memory of the daemon, in bytes."""


def nested(size: int) -> list[object]:
    """Return a value that has the most objects for JSON of this length."""
    return [[] for _ in range(size // 3)]


async def fill(http: httpx.AsyncClient) -> Counter[int]:
    """Create the largest sessions that the daemon accepts."""
    codes: Counter[int] = Counter()
    for number in range(SESSIONS):
        for size in (60_000, 3_800):
            body = {
                "type": "live",
                "label": "\N{PILE OF POO}" * 255,
                "userDescription": "\N{PILE OF POO}" * 255,
                "externalMapping": "case.1",
                "parentObject": {"id": "1", "more": nested(size)},
                "metaData": {"more": nested(60_000 - size if size > 16_000 else 16_000)},
            }
            if size > 16_000:
                del body["metaData"]
            answer = await http.post("/supportsessions", json=body)
            codes[answer.status_code] += 1
            if answer.status_code == 200:
                if number == 0:
                    for minute in range(3):
                        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400 + 60 * minute))
                        await http.post("/supportsessions", json={**body, "startTime": start})
                break
    return codes


async def attack(http: httpx.AsyncClient, paths: list[str], seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        for path in paths:
            try:
                answer = await http.get(path)
            except httpx.HTTPError:
                seen.attack[0] += 1
                await asyncio.sleep(PAUSE)
                continue
            seen.attack[answer.status_code] += 1
            seen.bytes = max(seen.bytes, len(answer.content))


async def honest(http: httpx.AsyncClient, seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            made = await http.post("/supportsessions", json={"type": "support", "label": "honest"})
            seen.honest[made.status_code] += 1
            if made.status_code == 200:
                closed = await http.delete(f"/supportsession/{made.json()['id']}")
                seen.honest[closed.status_code] += 1
        except httpx.HTTPError:
            seen.honest[0] += 1
        seen.slowest = max(seen.slowest, time.monotonic() - begun)
        await asyncio.sleep(PAUSE)


def memory(pid: int, name: str = "VmHWM") -> int:
    """Return the resident memory of a process in bytes; by default its maximum so far."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


async def run(daemon: Daemon, seconds: float) -> tuple[Seen, Counter[int], int]:
    headers = {"Session-id": daemon.token}
    limits = httpx.Limits(max_connections=ATTACKERS + 4)
    base = f"{daemon.url}/v3"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60, limits=limits) as http:
        made = await fill(http)
        before = memory(daemon.pid, "VmRSS")
        listed = (await http.get("/supportsessions?limit=1")).json()["rows"][0]["id"]
        ids = [row["id"] for row in (await http.get("/supportsessions?limit=1000")).json()["rows"]]
        paths = [
            "/supportsessions?limit=1000&status=new&status=scheduled&status=closed",
            "/events?limit=1000",
            "/crmlookup/case.1",
            f"/supportsession/{listed}/events?limit=1000",
            f"/discovery?ids={','.join(ids)}",
        ]
        seen, until = Seen(), time.monotonic() + seconds
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as other:
            await asyncio.gather(
                honest(other, seen, until), *(attack(http, paths, seen, until) for _ in range(ATTACKERS))
            )
        seen.memory = memory(daemon.pid)
    return seen, made, before


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    with tempfile.TemporaryDirectory() as directory, Daemon(Path(directory)) as daemon:
        seen, made, before = asyncio.run(run(daemon, seconds))
    mib = 1024 * 1024
    print(f"requests to create sessions, by status: {dict(made)}")
    print(
        f"attack for {seconds:g} s by {ATTACKERS} connections: {dict(seen.attack)}; "
        f"largest answer {seen.bytes / mib:.1f} MiB"
    )
    print(f"honest calls: {dict(seen.honest)}; slowest pair {seen.slowest:.2f} s")
    print(f"memory: {before / mib:.0f} MiB before, {seen.memory / mib:.0f} MiB at most")


if __name__ == "__main__":
    main()
