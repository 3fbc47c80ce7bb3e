"""Requests that are retried until they are answered, and the thread that sends them."""

import random
import threading
import time
from collections.abc import Callable, Mapping

import httpx

from tests.acceptance.daemons import JSON, token_of
from tests.soak.model import Model

TIMEOUT = 5.0
RETRY_SECONDS = 90.0
"""Seconds for which a request is retried. After that its outcome counts as unknown."""

REFUSALS = {101400, 101404, 101409, 101412, 102404, 103409, 109404}
"""Refcodes that a caller may get because it competes with other callers and with the scheduler."""

TEMPORARY = {105503, 107503, 108503, 110503, 101503}

Url = Callable[[], str]


class Requester(threading.Thread):
    """A thread that performs random acts until it is stopped.

    `url`: returns the URL for the next request, since daemons alternate and their ports change at a start. `pause`: the
    mean number of seconds between two acts.
    """

    def __init__(self, name: str, model: Model, url: Url, randomness: random.Random, pause: float) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._model = model
        self._url = url
        self._random = randomness
        self._pause = pause
        self._http = httpx.Client(timeout=TIMEOUT)

    def acts(self) -> Mapping[Callable[[], None], int]:
        """Return the acts, and how often each is chosen."""
        raise NotImplementedError

    def run(self) -> None:
        acts = self.acts()
        while not self.stopping.wait(self._random.expovariate(1 / self._pause)):
            act = self._random.choices(list(acts), list(acts.values()))[0]
            try:
                act()
            except Exception as error:
                self._model.add_problem(f"{self.name} failed in {act.__name__}: {error!r}")
        self._http.close()

    def _send(
        self, call: str, method: str, path: str, body: JSON | bytes | None = None, by: str = "anna", **headers: str
    ) -> tuple[httpx.Response | None, bool]:
        """Send a request until there is a final answer; return it, or None, and whether an attempt was lost.

        If one was lost, the request may have been executed.
        """
        give_up = time.monotonic() + RETRY_SECONDS
        lost = False
        while time.monotonic() < give_up:
            try:
                answer = self._http.request(
                    method, f"{self._url()}/v3{path}", headers={"Session-id": token_of(by), **headers},
                    json=None if isinstance(body, bytes) else body, content=body if isinstance(body, bytes) else None,
                )  # fmt: skip
            except (httpx.TransportError, httpx.InvalidURL):
                lost = True
            else:
                if answer.status_code == 200:
                    self._model.count(call, "acknowledged")
                    return answer, lost
                refcode = self._refcode(answer)
                if refcode in REFUSALS:
                    self._model.count(call, "refused")
                    return answer, lost
                if refcode not in TEMPORARY:
                    self._model.count(call, "error")
                    self._model.add_problem(
                        f"{method} {path} was answered with {answer.status_code}: {answer.text[:300]}"
                    )
                    return answer, True
            self._model.count(call, "retried")
            time.sleep(self._random.uniform(0.05, 0.3))
        self._model.count(call, "unknown")
        return None, True

    @staticmethod
    def _refcode(answer: httpx.Response) -> int:
        try:
            return int(answer.json()["refcode"])
        except (ValueError, KeyError, TypeError):
            return 0
