"""Compare a daemon's calendar, free-busy answer and report with the database, when nothing changes any more."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import RowMapping, select

from tests.acceptance.times import text
from tests.soak.calendars import AGENT, entries
from tests.soak.stages import Stage
from tests.support.waiting import eventually
from tminus.domain.types import CloseReason, Status
from tminus.storage.tables import SESSIONS

LENGTH = timedelta(hours=1)
"""The length of an appointment."""

MOST = 1000
"""Maximum number of entries of a calendar."""

CANCELLED = CloseReason.CANCELLED


def differences(stage: Stage) -> list[str]:
    """Return where answers differ from the database.

    Sessions may still expire meanwhile. So the comparison is repeated until the answers and the rows are of one moment.
    """
    found: list[str] = []

    def agree() -> bool:
        found[:] = _differences(stage)
        time.sleep(0.3 if found else 0)
        return not found

    try:
        eventually(agree, 30)
    except AssertionError:
        return found
    return []


def _differences(stage: Stage) -> list[str]:
    daemon = stage.daemons[0]
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    busy_until, since, until = day + timedelta(days=300), day - timedelta(days=1), day + timedelta(days=2)
    engine = stage.engine()
    try:
        with engine.connect() as connection:
            rows = list(connection.execute(select(SESSIONS)).mappings())
    finally:
        engine.dispose()
    report = daemon.get(f"/report?scope=all&since={text(since)}&until={text(until)}")
    busy = daemon.get(f"/agents/{AGENT}/freebusy?start={text(day)}&end={text(busy_until)}")
    calendar = daemon.http.get(f"{daemon.url}{stage.subscriber.path}") if stage.subscriber.path else None
    own = [row for row in rows if row["agent_id"] == AGENT and row["start_time"] is not None]
    found = [*_report(report, [row for row in rows if row["closed_at"] and since <= row["closed_at"] < until])]
    found += _busy(busy, [row["start_time"] for row in own if row["status"] != Status.CLOSED], day, busy_until)
    if calendar is not None:
        found += _calendar(calendar, own)
    return found


def _calendar(answer: httpx.Response, rows: Sequence[RowMapping]) -> Iterator[str]:
    if answer.status_code != 200:
        yield f"the calendar was answered with {answer.status_code}: {answer.text[:300]}"
        return
    shown = {
        uid: (entry[0], entry[1]["DTSTART"], entry[1]["STATUS"] == "CANCELLED")
        for uid, entry in entries(answer.text).items()
    }
    expected = {
        f"{row['external_session_object_id']}@tminus": (
            row["version"] - 1, f"{row['start_time']:%Y%m%dT%H%M%SZ}", row["close_reason"] == CANCELLED,
        )
        for row in rows
    }  # fmt: skip
    if len(shown) != min(len(expected), MOST):
        yield f"the calendar has {len(shown)} entries of {len(expected)} sessions"
    for uid, entry in shown.items():
        if expected.get(uid) != entry:
            yield f"the calendar's entry {uid} is {entry}, and its session {expected.get(uid)}"


def _busy(answer: httpx.Response, starts: Iterable[datetime], since: datetime, until: datetime) -> Iterator[str]:
    expected: list[list[datetime]] = []
    for start in sorted(starts):
        begin, end = max(start, since), min(start + LENGTH, until)
        if begin >= end:
            continue
        if expected and begin <= expected[-1][1]:
            expected[-1][1] = max(expected[-1][1], end)
        else:
            expected.append([begin, end])
    shown = answer.json()["busy"] if answer.status_code == 200 else answer.text
    if shown != [{"start": text(begin), "end": text(end)} for begin, end in expected]:
        yield f"free-busy answers {shown}, and the sessions are at {expected}"


def _report(answer: httpx.Response, rows: Sequence[RowMapping]) -> Iterator[str]:
    if answer.status_code != 200:
        yield f"the report was answered with {answer.status_code}: {answer.text[:300]}"
        return
    shown: Any = answer.json()
    counted = _counts(rows)
    for name, number in counted.items():
        if shown[name] != number:
            yield f"the report has {shown[name]} {name} of {number}"
    for by, key, column in (("byType", "type", "type"), ("byAgent", "agent", "agent_id")):
        for one in shown[by]:
            expected = _counts([row for row in rows if row[column] == one[key]])
            if {name: one[name] for name in expected} != expected:
                yield f"the report has {one}, and the sessions {expected}"
    reasons = Counter(str(row["close_reason"]) for row in rows)
    if {one["reason"]: one["sessions"] for one in shown["byReason"]} != reasons:
        yield f"the report has {shown['byReason']}, and the sessions {reasons}"


def _counts(rows: Sequence[RowMapping]) -> dict[str, int]:
    attended = sum(row["activated_at"] is not None for row in rows)
    cancelled = sum(row["activated_at"] is None and row["close_reason"] == CANCELLED for row in rows)
    return {
        "sessions": len(rows), "attended": attended, "cancelled": cancelled,
        "noShows": len(rows) - attended - cancelled,
    }  # fmt: skip
