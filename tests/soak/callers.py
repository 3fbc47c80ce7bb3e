"""Callers: threads that make, move, close and look at sessions, and ask again until they have an answer."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx

from tests.acceptance.daemons import JSON, token_of
from tests.acceptance.times import text
from tests.soak.model import Known, Model

TIMEOUT = 5.0
PATIENCE = 90.0
"""Seconds for which something is asked again; then it is not known."""

REFUSALS = {101400, 101404, 101409, 101412, 102404, 103409, 109404}
"""Answers that a caller who races with others and with the clock may get."""

COME_BACK = {105503, 107503, 108503, 110503, 101503}

Url = Callable[[], str]


class Caller(threading.Thread):
    """One caller. `url` says where to ask now: another daemon each time, or another port after a start;
    `told` up to which event the endpoint `desk` has been told.
    """

    def __init__(
        self, name: str, model: Model, url: Url, dice: random.Random, pause: float, told: Callable[[], int]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self._model = model
        self._url = url
        self._dice = dice
        self._pause = pause
        self._told = told
        self._own: list[Known] = []
        self._http = httpx.Client(timeout=TIMEOUT)

    def run(self) -> None:
        acts: dict[Callable[[], None], int] = {
            self._create: 14, self._schedule: 20, self._reschedule: 16, self._past: 1, self._join: 12, self._leave: 8,
            self._close: 10, self._show: 6, self._list: 2, self._pin: 3, self._poll: 2, self._steer: 1,
        }  # fmt: skip
        while not self.stopping.wait(self._dice.expovariate(1 / self._pause)):
            act = self._dice.choices(list(acts), list(acts.values()))[0]
            try:
                act()
            except Exception as error:
                self._model.complain(f"{self.name} failed in {act.__name__}: {error!r}")
        self._http.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(
        self, call: str, method: str, path: str, body: JSON | None = None, by: str = "anna", **headers: str
    ) -> tuple[httpx.Response | None, bool]:
        """Asks until there is a final answer, or None; and whether some try was lost, so that it may have been done."""
        give_up = time.monotonic() + PATIENCE
        lost = False
        while time.monotonic() < give_up:
            try:
                answer = self._http.request(
                    method, f"{self._url()}/v3{path}", json=body, headers={"Session-id": token_of(by), **headers}
                )
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
                if refcode not in COME_BACK:
                    self._model.count(call, "trouble")
                    self._model.complain(f"{method} {path} was answered {answer.status_code}: {answer.text[:300]}")
                    return answer, True
            self._model.count(call, "again")
            time.sleep(self._dice.uniform(0.05, 0.3))
        self._model.count(call, "unknown")
        return None, True

    @staticmethod
    def _refcode(answer: httpx.Response) -> int:
        try:
            return int(answer.json()["refcode"])
        except (ValueError, KeyError, TypeError):
            return 0

    # --- what it does -------------------------------------------------------------------------------------------------

    def _start(self) -> str:
        """Some open at once, most within seconds, some never."""
        seconds = self._dice.choice((0.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 20.0, 1800.0, 36000.0))
        return text(datetime.now(UTC) + timedelta(seconds=seconds + self._dice.random()))

    def _create(self, start: str | None = None) -> None:
        one = Known(str(uuid.UUID(int=self._dice.getrandbits(128))), self._dice.choice(("support", "live", "cobrowse")))
        body: JSON = {"type": one.type, "label": one.label, "metaData": {"n": 1}}
        if start:
            body["startTime"] = start
        answer, lost = self._ask(
            "schedule" if start else "create", "POST", "/supportsessions", body, **{"Idempotency-Key": one.label}
        )
        if answer is not None and answer.status_code == 200:
            made = answer.json()
            one.id, one.pin = made["id"], made["pin"]
            one.starts += [start] if start else []
            self._own.append(one)
        elif not lost:
            return
        elif start:
            one.unsure.add(start)
        self._model.add(one)

    def _schedule(self) -> None:
        self._create(self._start())

    def _movable(self) -> Known | None:
        movable = [one for one in self._own[-20:] if one.starts and not one.closed]
        return self._dice.choice(movable) if movable else None

    def _reschedule(self) -> None:
        if (one := self._movable()) is None:
            return
        headers = {}
        if self._dice.random() < 0.3:
            headers = {"If-Match": f'"{self._dice.choice((1, 1, 2, 3))}"'}
        self._move(one, self._start(), **headers)

    def _move(self, one: Known, start: str, **headers: str) -> None:
        answer, lost = self._ask("reschedule", "PUT", f"/supportsession/{one.id}", {"startTime": start}, **headers)
        if lost:
            one.unsure.add(start)
        if answer is not None and answer.status_code == 200:
            one.starts.append(start)

    def _past(self) -> None:
        if (one := self._movable()) is not None:
            self._move(one, text(datetime.now(UTC) - timedelta(minutes=10)))

    def _join(self) -> None:
        if (one := self._model.some(self._dice)) is None or one.closed:
            return
        name = f"G{self._dice.getrandbits(60):x}"
        one.asked_joins.add(name)
        answer, _ = self._ask(
            "join", "POST", f"/supportsession/{one.id}/participants", {"role": "guest", "name": name}, "room",
            **{"Idempotency-Key": name},
        )  # fmt: skip
        if answer is not None and answer.status_code == 200:
            one.joined[name] = answer.json()["participantId"]

    def _leave(self) -> None:
        if (one := self._model.some(self._dice)) is None or not one.joined:
            return
        who = self._dice.choice(list(one.joined.values()))
        answer, _ = self._ask("leave", "DELETE", f"/supportsession/{one.id}/participants/{who}", by="room")
        if answer is not None and answer.status_code == 200:
            one.left.add(who)

    def _close(self) -> None:
        if (one := self._model.some(self._dice)) is None:
            return
        one.close_asked = True
        answer, _ = self._ask("close", "DELETE", f"/supportsession/{one.id}", by="admin")
        if answer is not None and answer.status_code == 200:
            one.closed = True

    def _show(self) -> None:
        if (one := self._model.some(self._dice)) is None:
            return
        closed = one.closed
        answer, _ = self._ask("show", "GET", f"/supportsession/{one.id}", by="admin")
        if answer is None:
            return
        if answer.status_code != 200:
            self._model.complain(f"session {one.id} was acknowledged, and is {answer.text}")
        elif closed and answer.json()["status"] != "closed":
            self._model.complain(f"session {one.id} was closed, and is shown as {answer.json()['status']}")

    def _list(self) -> None:
        self._ask("list", "GET", "/supportsessions?limit=30&scope=all", by="admin")

    def _pin(self) -> None:
        if (one := self._model.some(self._dice)) is not None and one.pin:
            self._ask("pin", "GET", f"/support/{one.pin}/meta")

    def _poll(self) -> None:
        self._ask("poll", "GET", "/events?after=now&wait=2", by="monitor")

    def _steer(self) -> None:
        """An operator's hand at an endpoint. Nothing is told again from beyond what has been told."""
        name = self._dice.choice(("desk", "extra"))
        what = self._dice.choices(("pause", "resume", "replay"), (3, 6, 1))[0]
        body = {"fromSeq": max(1, self._told() - 150)} if what == "replay" else None
        if what == "replay" and name == "extra":
            return  # it may have been told nothing there
        self._ask(what, "POST", f"/webhooks/{name}/{what}", body, by="admin")
        if what == "pause":
            self.stopping.wait(self._dice.uniform(0.5, 3))
            self._ask("resume", "POST", f"/webhooks/{name}/resume", by="admin")
