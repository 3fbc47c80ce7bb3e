"""Planners: threads that schedule many sessions at a time, by batches and by series."""

import json
import random
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.acceptance.daemons import JSON
from tests.acceptance.times import text
from tests.soak.model import KnownBatch, KnownSeries, Model
from tests.soak.requests import Requester, Url

OWNER = "ben"
"""The agent of all batches and series."""

NDJSON = "application/x-ndjson"

LARGEST = 30
"""Maximum number of sessions of a batch."""

SHIFTS = ("30m", "-15m", "1h", "1s")

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC")

AHEAD = timedelta(days=1)
"""The horizon of all series: an occurrence is made by the scheduler this long before its start."""

OCCURRENCES = 30
EVERY = timedelta(seconds=9)
"""The time between two occurrences of a series."""


class Planner(Requester):
    """Creates batches and series, shifts, changes and ends them. It alone changes those that it has created."""

    def __init__(self, name: str, model: Model, url: Url, randomness: random.Random, pause: float) -> None:
        super().__init__(name, model, url, randomness, pause)
        self._batches: list[KnownBatch] = []
        self._series: list[KnownSeries] = []

    def acts(self) -> Mapping[Callable[[], None], int]:
        return {
            self._create_batch: 6, self._shift_batch: 8, self._close_batch: 3, self._create_series: 2,
            self._change_series: 3, self._end_series: 1, self._ask: 2,
        }  # fmt: skip

    def _key(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128)))

    # --- batches ------------------------------------------------------------------------------------------------------

    def _create_batch(self) -> None:
        # The start is so late that no session opens in this run: all sessions of a batch must have the same history.
        begin = datetime.now(UTC) + timedelta(hours=self._random.randint(12, 200))
        starts = [text(begin + timedelta(minutes=number)) for number in range(self._random.randint(1, LARGEST))]
        one = KnownBatch(f"batch {self._key()}", starts)
        sessions: list[JSON] = [
            {"type": "live", "label": f"{one.label} {number}", "startTime": start, "externalMapping": one.label,
             "parentObject": {"id": one.label}}
            for number, start in enumerate(starts)
        ]  # fmt: skip
        as_lines = self._random.random() < 0.3
        headers = {"Idempotency-Key": one.label}
        body: JSON | bytes = {"sessions": sessions}
        if as_lines:
            body = "".join(f"{json.dumps(session)}\n" for session in sessions).encode()
            headers |= {"Content-Type": NDJSON, "Accept": NDJSON}
        answer, lost = self._send("batch", "POST", "/supportsessions/batch", body, OWNER, **headers)
        if answer is None or answer.status_code != 200:
            if lost:
                self._model.batches.append(one)
            return
        made = [json.loads(line) for line in answer.text.splitlines()] if as_lines else answer.json()["sessions"]
        one.ids = [session["id"] for session in made]
        if [session["label"] for session in made] != [session["label"] for session in sessions]:
            self._model.add_problem(f"{one.label} was answered with other sessions, or in another order: {made}")
        self._model.batches.append(one)
        self._batches.append(one)

    def _open_batch(self) -> KnownBatch | None:
        found = [one for one in self._batches[-10:] if not one.close_requested]
        return self._random.choice(found) if found else None

    def _shift_batch(self) -> None:
        if (one := self._open_batch()) is None:
            return
        by_filter = self._random.random() < 0.3
        which: JSON = {"filter": {"externalMapping": one.label}} if by_filter else {"ids": one.ids}
        body = {"by": self._random.choice(SHIFTS), **which}
        path = "/supportsessions/batch/reschedule"
        answer, lost = self._send("shift", "POST", path, body, OWNER, **{"Idempotency-Key": self._key()})
        if answer is not None and answer.status_code == 200:
            one.shifts += 1
            if sorted(session["id"] for session in answer.json()["sessions"]) != sorted(one.ids):
                self._model.add_problem(f"a shift of {one.label} was answered with other sessions: {answer.text[:500]}")
        elif lost:
            one.unconfirmed += 1

    def _close_batch(self) -> None:
        if (one := self._open_batch()) is None:
            return
        one.close_requested = True
        body: JSON = {"ids": one.ids} if self._random.random() < 0.5 else {"filter": {"externalMapping": one.label}}
        answer, _ = self._send("close batch", "POST", "/supportsessions/batch/close", body, OWNER)
        if answer is not None and answer.status_code == 200:
            one.closed = True

    # --- series -------------------------------------------------------------------------------------------------------

    def _create_series(self) -> None:
        zone = self._random.choice(ZONES)
        first = datetime.now(ZoneInfo(zone)).replace(microsecond=0, tzinfo=None) + AHEAD - 5 * EVERY
        rdates = [(first + number * EVERY).isoformat() for number in range(OCCURRENCES)]
        one = KnownSeries(f"series {self._key()}", zone, rdates)
        answer, lost = self._send(
            "series", "POST", "/series", self._definition(one, []), OWNER, **{"Idempotency-Key": one.label}
        )
        if answer is not None and answer.status_code == 200:
            one.id = answer.json()["id"]
            self._series.append(one)
        elif not lost:
            return
        self._model.series.append(one)

    def _definition(self, one: KnownSeries, exdates: list[str]) -> JSON:
        return {
            "dtstart": one.rdates[0], "rdates": one.rdates[1:], "timezone": one.zone, "exdates": exdates,
            "horizon": "1d", "session": {"type": "live", "label": one.label},
        }  # fmt: skip

    def _running_series(self) -> KnownSeries | None:
        found = [one for one in self._series if not one.end_requested]
        return self._random.choice(found) if found else None

    def _change_series(self) -> None:
        """Exclude one occurrence. Its session may exist already."""
        if (one := self._running_series()) is None:
            return
        exdates = [*one.exdates, *one.unconfirmed, self._random.choice(one.rdates)]
        answer, lost = self._send("change series", "PUT", f"/series/{one.id}", self._definition(one, exdates), OWNER)
        if answer is not None and answer.status_code == 200:
            one.exdates = exdates
            one.unconfirmed = []
        elif lost:
            one.unconfirmed = exdates[len(one.exdates) :]

    def _end_series(self) -> None:
        if (one := self._running_series()) is None or len(self._series) < 3:
            return
        one.end_requested = True
        answer, _ = self._send("end series", "DELETE", f"/series/{one.id}", by=OWNER)
        if answer is not None and answer.status_code == 200:
            one.ended = True

    # --- questions ----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        what = self._random.choice(("freebusy", "report", "series list"))
        if what == "freebusy":
            form = self._random.choice(("", "?format=text/calendar"))
            self._send(what, "GET", f"/agents/8/freebusy{form}", by=OWNER)
        elif what == "report":
            self._send(what, "GET", "/report?scope=all&zone=Europe/Berlin", by="admin")
        else:
            self._send(what, "GET", "/series?limit=50", by=OWNER)
