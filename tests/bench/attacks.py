"""Attack a daemon with connections, and count the honest calls that are answered: `python -m tests.bench.attacks`.

The attacker at 127.0.0.2 opens as many connections as the daemon accepts, and replaces those that end. The honest
caller at 127.0.0.1 opens a connection for each call, as a script does.
"""

import os
import resource
import selectors
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event, Thread

import httpx

from tests.acceptance.daemons import Daemon, token_of

CONNECTIONS = 2000
"""The default of `limits.connections`."""

SECONDS = 15
"""Length of each attack in seconds: longer than all of the daemon's time-outs except that of idle connections."""

OPENED_AT_ONCE = 10
"""Maximum number of connections that the attacker opens in a twentieth of a second. More would be a flood, which
exhausts the processor instead of the connections.
"""

CALLS = 10
"""Honest calls per second."""

_POST = b"POST /v3/supportsessions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
_ASSET = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n"
_MONITOR = f"Session-id: {token_of('monitor')}\r\n\r\n".encode()

ATTACKS = {
    "nothing is sent": b"",
    "a head that does not end": b"GET / HTTP/1.1\r\nHost: ",
    "a byte of a body, and again after 408": _POST,
    "a large answer that is not read": _ASSET,
    "64 large answers that are not read": _ASSET * 64,
    "streams, with a monitor's token": b"GET /v3/events?after=now HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n"
    + _MONITOR,
    "waiting requests, with a monitor's token": b"GET /v3/events?after=now&wait=60 HTTP/1.1\r\nHost: a\r\n" + _MONITOR,
}


def resident(daemon: Daemon) -> int:
    assert daemon.process is not None
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack(address: tuple[str, int], data: bytes, over: Event) -> None:
    """Hold `CONNECTIONS` connections that have sent this and read nothing; replace those that end."""
    with ExitStack() as stack:
        ended = stack.enter_context(selectors.DefaultSelector())

        def connect() -> None:
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.bind(("127.0.0.2", 0))
            one.settimeout(5)
            with suppress(OSError):
                one.connect(address)
                one.sendall(data)
                one.setblocking(False)
                ended.register(one, selectors.EVENT_READ)
                return
            one.close()

        while not over.is_set():
            for _ in range(min(CONNECTIONS - len(ended.get_map()), OPENED_AT_ONCE)):
                if over.is_set():
                    break
                connect()
            over.wait(0.05)
            for key, _ in ended.select(0):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                with suppress(BlockingIOError):
                    try:
                        gone = not one.recv(1, socket.MSG_PEEK) or one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    except ConnectionError:
                        gone = True
                    if gone or one.recv(12, socket.MSG_PEEK).startswith(b"HTTP/1.1 408"):
                        ended.unregister(one)
                        one.close()
        for key in list(ended.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]


def measure(name: str, seconds: float) -> str:
    """Return a row: the attack, honest calls answered, the slowest of them, memory before and during."""
    daemon = Daemon()
    try:
        daemon.start()
        assert daemon.process is not None
        _, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (4096, max(hard, 4096)))
        daemon.make()
        before, most = resident(daemon), 0
        over = Event()
        host, _, port = daemon.url.rpartition("/")[2].rpartition(":")
        attacking = Thread(target=attack, args=((host, int(port)), ATTACKS[name], over))
        attacking.start()
        answered = calls = 0
        slowest = 0.0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            calls += 1
            with suppress(httpx.HTTPError):
                headers = {"Session-id": token_of("admin")}
                answer = httpx.get(f"{daemon.url}/v3/me", headers=headers, timeout=5, trust_env=False)
                answered += answer.status_code == 200
            took = time.monotonic() - begun
            slowest = max(slowest, took)
            most = max(most, resident(daemon))
            time.sleep(max(1 / CALLS - took, 0))
        over.set()
        attacking.join()
        mib = 2**20
        return f"| {name} | {answered} of {calls} | {slowest:.2f} s | {before / mib:.0f} MiB | {most / mib:.0f} MiB |"
    finally:
        daemon.remove()


def main() -> None:
    wanted = 2 * CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, wanted), hard), hard))
    print("| attack | honest calls answered | the slowest | memory before | memory during |\n|---|---|---|---|---|")
    for name in ATTACKS:
        if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
            print(measure(name, SECONDS), flush=True)


if __name__ == "__main__":
    main()
