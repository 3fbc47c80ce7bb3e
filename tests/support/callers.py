"""Clients that call a daemon repeatedly during a fault, and store its answers."""

import threading
import time
from typing import Self

import httpx

from tests.acceptance.daemons import Daemon

PAUSE = 0.1


class Caller:
    """Calls the daemon on a separate thread until the block ends. A subclass defines the calls."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.refused: list[httpx.Response] = []
        self.slowest = 0.0
        self._http = httpx.Client(timeout=20, headers={"Session-id": daemon.token})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def ask(self, http: httpx.Client, url: str) -> httpx.Response:
        raise NotImplementedError

    def take(self, answer: httpx.Response) -> None:
        """Store a successful answer."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE):
            begun = time.monotonic()
            answer = self.ask(self._http, f"{self.daemon.url}/v3")
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if answer.is_success:
                self.take(answer)
            else:
                self.refused.append(answer)


class Reader(Caller):
    """Lists the sessions."""

    def ask(self, http: httpx.Client, url: str) -> httpx.Response:
        return http.get(f"{url}/supportsessions?limit=1")


class Maker(Caller):
    """Creates sessions, and repeats calls without an answer with the same idempotency key."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        super().__init__(daemon)
        self.name = name
        self.made: list[str] = []
        """The ids of the acknowledged sessions."""

    def ask(self, http: httpx.Client, url: str) -> httpx.Response:
        key = f"{self.name} {len(self.made)}"
        body = {"type": "live", "label": key}
        return http.post(f"{url}/supportsessions", json=body, headers={"Idempotency-Key": key})

    def take(self, answer: httpx.Response) -> None:
        self.made.append(answer.json()["id"])
