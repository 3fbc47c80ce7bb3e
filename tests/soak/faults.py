"""The faults of a stage: one after the other, chosen at random, each ended before the next begins."""

import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable

import httpx

from tests.acceptance.daemons import token_of
from tests.acceptance.times import from_now
from tests.soak.lives import LongLived
from tests.soak.model import Known
from tests.soak.stages import OnPostgres, OnSqlite, Stage
from tests.support.waiting import eventually

BURST = 120
"""Number of simultaneous requests of a burst."""

CROWD = 300
"""Number of connections that send no complete request."""

Log = Callable[[str], None]


class FaultInjector(threading.Thread):
    """Injects faults into one stage until it is stopped.

    Parameters
    ----------
    stage
        The stage.
    seconds
        The length of the run. In its last part no daemon is restarted, so that memory growth can be measured.
    log
        Called with a line for each fault.
    """

    def __init__(self, stage: Stage, seconds: float, log: Log) -> None:
        super().__init__(name=f"{stage.name} faults", daemon=True)
        self.stopping = threading.Event()
        self.counted: Counter[str] = Counter()
        self.problems: list[str] = []
        self._stage = stage
        self._random = stage.random
        self._log = log
        self._no_restart_after = time.monotonic() + seconds * 0.6
        self._faults: dict[Callable[[], None], int] = {
            self._kill: 4, self._terminate: 2, self._reload: 3, self._suspend: 2, self._burst: 2, self._garbage: 2,
            self._crowd: 1,
        }  # fmt: skip
        for mood in stage.moods:
            mood.log = self._log_line
        if isinstance(stage, OnSqlite) and stage.has_compiler:
            self._faults |= {self._step_clock: 3, self._disk: 3}
        if isinstance(stage, OnPostgres):
            self._faults |= {
                self._cut: 3, self._slow: 2, self._drop_packets: 2, self._reset: 2, self._terminate_backends: 2,
                self._kill_backend: 1,
            }  # fmt: skip

    def run(self) -> None:
        while not self.stopping.wait(self._random.uniform(0.5, 4)):
            fault = self._random.choices(list(self._faults), list(self._faults.values()))[0]
            if fault in (self._kill, self._terminate) and time.monotonic() > self._no_restart_after:
                continue
            try:
                fault()
            except Exception as error:
                self.problems.append(f"{fault.__name__} failed: {error!r}")
                self._log_line(f"{fault.__name__} failed: {error!r}")
            with contextlib.suppress(Exception):
                self._stage.calm()
            self._revive()

    def _log_line(self, what: str) -> None:
        self._log(f"{self._stage.name:9} {what}")

    def _count(self, kind: str, what: str = "") -> None:
        self.counted[kind] += 1
        self._log_line(f"{kind} {what}".strip())

    def _wait(self, least: float, most: float) -> None:
        self.stopping.wait(self._random.uniform(least, most))

    def _any_daemon(self) -> LongLived:
        return self._random.choice(self._stage.daemons)

    def _revive(self) -> None:
        """Start the daemons that have ended by themselves, and record that as a problem, since no fault ends them."""
        for daemon in self._stage.daemons:
            if daemon.process is not None and daemon.process.poll() is not None:
                if daemon.wanted:
                    self.problems.append(f"{daemon.name} ended by itself with code {daemon.process.poll()}")
                try:
                    daemon.start()
                except Exception as error:
                    self.problems.append(f"{daemon.name} does not start: {error}")

    # --- daemons ------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        several = len(self._stage.daemons) > 1 and self._random.random() < 0.2
        daemons = self._stage.daemons if several else [self._any_daemon()]
        self._count("SIGKILL", " and ".join(daemon.name for daemon in daemons))
        for daemon in daemons:
            daemon.wanted = False
            daemon.kill()
        self._wait(0, 2)
        for daemon in daemons:
            daemon.start()

    def _terminate(self) -> None:
        daemon = self._any_daemon()
        self._count("SIGTERM", daemon.name)
        daemon.wanted = False
        code = daemon.terminate()
        if code != 0:
            self.problems.append(f"{daemon.name} was stopped and exited with code {code}")
        self._wait(0, 1)
        daemon.start()

    def _reload(self) -> None:
        extra = self._random.random() < 0.6
        self._count("reload", "with a second endpoint" if extra else "without it")
        self._stage.reload(extra=extra)

    def _suspend(self) -> None:
        daemon = self._any_daemon()
        # The longest exceeds the time that other daemons wait.
        seconds = self._random.choice((1.0, 2.0, 3.0, 6.0, 12.0))
        self._count("SIGSTOP", f"{daemon.name} for {seconds:.0f} s")
        daemon.signal(signal.SIGSTOP)
        self.stopping.wait(seconds)
        daemon.signal(signal.SIGCONT)

    # --- clock, disk, database ----------------------------------------------------------------------------------------

    def _step_clock(self) -> None:
        assert isinstance(self._stage, OnSqlite)
        hour = self._random.choice((3600, -3600))
        self._count("clock set", f"by {hour:+} s")
        self._stage.set_clock(hour)
        self._wait(1, 5)
        self._stage.set_clock(0)

    def _disk(self) -> None:
        assert isinstance(self._stage, OnSqlite)
        kind = self._random.choice(("full", "failing", "slow"))
        self._count("disk", kind)
        match kind:
            case "full":
                self._stage.fail_disk(write=errno.ENOSPC)
            case "failing":
                self._stage.fail_disk(sync=errno.EIO)
            case _:
                self._stage.fail_disk(slow=300)
        self._wait(0.5, 4)
        self._stage.fail_disk()

    def _cut(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        self._count("database cut off")
        self._stage.proxy.cut()
        self._wait(0.2, 5)
        self._stage.proxy.end_faults()

    def _slow(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        delay = self._random.choice((0.005, 0.02, 0.1))
        self._count("database slow", f"by {delay * 1000:.0f} ms")
        self._stage.proxy.delay = delay
        self._wait(1, 4)
        self._stage.proxy.delay = 0

    def _drop_packets(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        self._count("database silent")
        self._stage.proxy.drop_packets()
        self._wait(1, 8)
        self._stage.proxy.end_faults()

    def _reset(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        after = self._random.randrange(200)
        self._count("answer cut off", f"after {after} bytes")
        self._stage.proxy.reset_in_answer(after)

    def _terminate_backends(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        rows = self._stage.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'soak' AND pid <> pg_backend_pid() AND random() < 0.6"
        )
        self._count("backends ended", f"{len(rows)} of them")

    def _kill_backend(self) -> None:
        assert isinstance(self._stage, OnPostgres)
        rows = self._stage.query("SELECT pid FROM pg_stat_activity WHERE datname = 'soak' AND pid <> pg_backend_pid()")
        if rows:
            pid = self._random.choice(rows)[0]
            self._count("backend SIGKILL", f"{pid}: the server recovers")
            os.kill(pid, signal.SIGKILL)
            # A daemon cannot start while the server recovers, and this fault does not test that.
            eventually(self._stage.has_recovered, 60)

    # --- hostile clients ---------------------------------------------------------------------------------------------

    def _burst(self) -> None:
        known = [Known(str(uuid.UUID(int=self._random.getrandbits(128))), "live") for _ in range(BURST)]
        self._count("burst", f"of {BURST} calls")
        asyncio.run(self._all_at_once(known))

    async def _all_at_once(self, known: list[Known]) -> None:
        limits = httpx.Limits(max_connections=BURST)
        async with httpx.AsyncClient(timeout=10, limits=limits, headers={"Session-id": token_of("anna")}) as http:
            await asyncio.gather(*(self._schedule(http, one) for one in known))

    async def _schedule(self, http: httpx.AsyncClient, one: Known) -> None:
        start = from_now(seconds=2)
        model = self._stage.model
        one.unconfirmed.add(start)
        model.add(one)
        try:
            answer = await http.post(
                f"{self._stage.url()}/v3/supportsessions",
                json={"type": "live", "label": one.label, "startTime": start},
                headers={"Idempotency-Key": one.label},
            )
        except httpx.TransportError:
            model.count("burst", "unknown")
            return
        if answer.status_code == 200:
            one.starts.append(start)
            one.id = answer.json()["id"]
            model.count("burst", "acknowledged")
        elif answer.status_code in (503, 400):
            model.count("burst", "refused")
        else:
            model.add_problem(f"a request of a burst was answered with {answer.status_code}: {answer.text[:300]}")

    def _crowd(self) -> None:
        self._count("crowd", f"of {CROWD} connections, some of which send a byte now and then")
        _, _, port = self._any_daemon().url.rpartition(":")
        with contextlib.ExitStack() as stack:
            crowd = []
            for _ in range(CROWD):
                with contextlib.suppress(OSError):
                    crowd.append(stack.enter_context(socket.create_connection(("127.0.0.1", int(port)), timeout=2)))
            for byte in b"GET /v3/me":
                for one in crowd[::10]:
                    with contextlib.suppress(OSError):
                        one.sendall(bytes([byte]))
                self._wait(0.1, 0.5)

    def _garbage(self) -> None:
        self._count("garbage")
        _, _, port = self._any_daemon().url.rpartition(":")
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                with contextlib.suppress(OSError):
                    one = stack.enter_context(socket.create_connection(("127.0.0.1", int(port)), timeout=2))
                    one.sendall(_garbage_bytes(self._random))
            self._wait(0, 1)


def _garbage_bytes(randomness: random.Random) -> bytes:
    """Return bytes that are not a request, or only the beginning of one."""
    return randomness.choice(
        (
            randomness.randbytes(300),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + randomness.randbytes(64),
            b"POST /v3/supportsessions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
            b"GET /v3/events HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 3000,
            b"POST /v3/supportsessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"",
        )
    )
