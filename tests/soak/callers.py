"""Callers: threads that create, change and read sessions."""

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tests.acceptance.daemons import JSON
from tests.acceptance.times import text
from tests.soak.mailbox import NOBODY
from tests.soak.model import Known, Model
from tests.soak.requests import Requester, Url

REMINDERS: Sequence[list[str] | None] = (None, [], ["500ms"], ["2s", "1s"], ["10s", "3s", "500ms"], ["1h", "29m"])

PEOPLE = (*(f"guest{number}@example.com" for number in range(5)), NOBODY)


class Caller(Requester):
    """A caller who creates, changes and reads single sessions.

    `delivered`: returns the number of the last event that the endpoint `desk` has received.
    """

    def __init__(
        self, name: str, model: Model, url: Url, randomness: random.Random, pause: float, delivered: Callable[[], int]
    ) -> None:
        super().__init__(name, model, url, randomness, pause)
        self._delivered = delivered
        self._own: list[Known] = []

    def acts(self) -> Mapping[Callable[[], None], int]:
        return {
            self._create: 14, self._schedule: 20, self._reschedule: 16, self._reschedule_into_past: 1, self._join: 12,
            self._leave: 8, self._close: 10, self._show: 6, self._list: 2, self._pin: 3, self._poll: 2,
            self._operate: 1,
        }  # fmt: skip

    # --- actions ------------------------------------------------------------------------------------------------------

    def _start(self) -> str:
        """Return a random start time: at once, within seconds, or so late that the session never opens in this run."""
        seconds = self._random.choice((0.2, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 20.0, 1800.0, 36000.0))
        return text(datetime.now(UTC) + timedelta(seconds=seconds + self._random.random()))

    def _create(self, start: str | None = None) -> None:
        one = Known(
            str(uuid.UUID(int=self._random.getrandbits(128))), self._random.choice(("support", "live", "cobrowse"))
        )
        body: JSON = {"type": one.type, "label": one.label, "metaData": {"n": 1}}
        if start:
            body["startTime"] = start
            one.reminders = self._random.choice(REMINDERS)
            body |= {} if one.reminders is None else {"reminders": one.reminders}
        if self._random.random() < 0.25:
            one.invitees = self._random.sample(PEOPLE, self._random.choice((1, 1, 2, 3)))
            body["invitees"] = [{"email": email} for email in one.invitees]
        answer, lost = self._send(
            "schedule" if start else "create", "POST", "/supportsessions", body, **{"Idempotency-Key": one.label}
        )
        if answer is not None and answer.status_code == 200:
            made = answer.json()
            one.id, one.pin = made["id"], made["pin"]
            one.starts += [start] if start else []
            if one.reminders is not None and made["reminders"] != one.reminders:
                self._model.add_problem(f"session {one.id} was requested with {one.reminders}: {made['reminders']}")
            self._own.append(one)
        elif not lost:
            return
        elif start:
            one.unconfirmed.add(start)
        self._model.add(one)

    def _schedule(self) -> None:
        self._create(self._start())

    def _movable(self) -> Known | None:
        movable = [one for one in self._own[-20:] if one.starts and not one.closed]
        return self._random.choice(movable) if movable else None

    def _reschedule(self) -> None:
        if (one := self._movable()) is None:
            return
        headers = {}
        if self._random.random() < 0.3:
            headers = {"If-Match": f'"{self._random.choice((1, 1, 2, 3))}"'}
        self._move(one, self._start(), **headers)

    def _move(self, one: Known, start: str, **headers: str) -> None:
        answer, lost = self._send("reschedule", "PUT", f"/supportsession/{one.id}", {"startTime": start}, **headers)
        if lost:
            one.unconfirmed.add(start)
        if answer is not None and answer.status_code == 200:
            one.starts.append(start)

    def _reschedule_into_past(self) -> None:
        if (one := self._movable()) is not None:
            self._move(one, text(datetime.now(UTC) - timedelta(minutes=10)))

    def _join(self) -> None:
        if (one := self._model.some(self._random)) is None or one.closed:
            return
        name = f"G{self._random.getrandbits(60):x}"
        one.requested_joins.add(name)
        answer, _ = self._send(
            "join", "POST", f"/supportsession/{one.id}/participants", {"role": "guest", "name": name}, "room",
            **{"Idempotency-Key": name},
        )  # fmt: skip
        if answer is not None and answer.status_code == 200:
            one.joined[name] = answer.json()["participantId"]

    def _leave(self) -> None:
        if (one := self._model.some(self._random)) is None or not one.joined:
            return
        who = self._random.choice(list(one.joined.values()))
        answer, _ = self._send("leave", "DELETE", f"/supportsession/{one.id}/participants/{who}", by="room")
        if answer is not None and answer.status_code == 200:
            one.left.add(who)

    def _close(self) -> None:
        if (one := self._model.some(self._random)) is None:
            return
        one.close_requested = True
        answer, _ = self._send("close", "DELETE", f"/supportsession/{one.id}", by="admin")
        if answer is not None and answer.status_code == 200:
            one.closed_at, one.closed = time.monotonic(), True

    def _show(self) -> None:
        if (one := self._model.some(self._random)) is None:
            return
        closed = one.closed
        answer, _ = self._send("show", "GET", f"/supportsession/{one.id}", by="admin")
        if answer is None:
            return
        if answer.status_code != 200:
            self._model.add_problem(f"session {one.id} was acknowledged, and its read was answered with {answer.text}")
        elif closed and answer.json()["status"] != "closed":
            self._model.add_problem(f"session {one.id} was closed, and has the status {answer.json()['status']}")

    def _list(self) -> None:
        self._send("list", "GET", "/supportsessions?limit=30&scope=all", by="admin")

    def _pin(self) -> None:
        if (one := self._model.some(self._random)) is not None and one.pin:
            self._send("pin", "GET", f"/support/{one.pin}/meta")

    def _poll(self) -> None:
        self._send("poll", "GET", "/events?after=now&wait=2", by="monitor")

    def _operate(self) -> None:
        """Pause, resume or replay an endpoint, as an operator does. A replay contains only delivered events."""
        name = self._random.choice(("desk", "extra", "mail"))
        what = self._random.choices(("pause", "resume", "replay"), (3, 6, 1))[0]
        body = {"fromSeq": max(1, self._delivered() - 150)} if what == "replay" else None
        if what == "replay" and name != "desk":
            return  # `extra` may not have received these events yet, and a replay sends mails again that were in doubt
        self._send(what, "POST", f"/webhooks/{name}/{what}", body, by="admin")
        if what == "pause":
            self.stopping.wait(self._random.uniform(0.5, 3))
            self._send("resume", "POST", f"/webhooks/{name}/resume", by="admin")
