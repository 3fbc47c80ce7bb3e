"""Check reminders, mails, batches and series against the model of the callers, when all daemons have ended."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import RowMapping

from tests.soak.mailbox import NOBODY, Posted
from tests.soak.model import Fact, KnownBatch, KnownSeries, Model
from tests.soak.planners import AHEAD
from tminus.domain.durations import parse_duration
from tminus.domain.types import CLOCK_ACTOR, CloseReason, EventType, MailState, Status

Histories = Mapping[str, Sequence[RowMapping]]
"""Session id -> its events."""

TOLD = (EventType.REMINDER, EventType.REMINDER_SKIPPED)
MOVED = (EventType.SCHEDULED, EventType.RESCHEDULED)
CHANGES = (EventType.CREATED, EventType.CLOSED, *MOVED)

IN_FLIGHT = 30.0
"""Seconds for which a mail may be on its way: while the daemon sends its text, or is stopped (SIGSTOP) before that."""

STEP = timedelta(hours=1)
"""The amount by which a fault sets the clock of a daemon."""


@dataclass(frozen=True)
class Records:
    """What is in the database at the end."""

    sessions: Mapping[str, RowMapping]
    histories: Histories
    mails: Sequence[RowMapping]
    series: Sequence[RowMapping]
    occurrences: Sequence[RowMapping]
    settled: datetime
    """When the daemons had done everything that was due."""


def check(model: Model, records: Records, posted: Sequence[Posted], *, mails_settled: bool) -> Iterator[Fact]:
    for session_id, row in records.sessions.items():
        yield from reminders(row, records.histories[session_id], records.settled)
    yield from mails(model, records, posted, settled=mails_settled)
    yield from batches(model.batches, records)
    yield from series(model.series, records)


# --- reminders --------------------------------------------------------------------------------------------------------


def reminders(row: RowMapping, history: Sequence[RowMapping], settled: datetime) -> Iterator[Fact]:
    """Each reminder of each start is recorded once, as sent or as skipped, and none after a close."""
    session_id = row["id"]
    spans = [parse_duration(one) for one in json.loads(row["reminders"] or "[]")]
    to_come: set[datetime] = set()
    recorded: set[datetime] = set()
    for event in history:
        if event["type"] in MOVED:
            to_come = {at for span in spans if (at := event["start_time"] - span) > event["ts"]}
            recorded = set()
        elif event["type"] in TOLD:
            at = event["due_at"]
            if event["status"] == Status.CLOSED:
                yield Fact("other", f"people were reminded at {event['seq']} after the close", session_id)
            if at in recorded:
                yield Fact("duplicate", f"the reminder of {at} was recorded twice, at {event['seq']}", session_id)
            elif at not in to_come:
                yield Fact("other", f"the reminder of {at} at {event['seq']} is none of its reminders", session_id)
            recorded.add(at)
        elif event["type"] == EventType.CLOSED:
            # The scheduler does what is due in order, so it reminds before it closes.
            late = [at for at in to_come - recorded if event["actor"] == CLOCK_ACTOR and at < event["due_at"]]
            if late:
                yield Fact("loss", f"it was closed at {event['due_at']} without its reminders of {late}", session_id)
            to_come = set()
    for at in to_come - recorded:
        if at < settled:
            yield Fact("loss", f"nobody was reminded at {at}, and it was not skipped", session_id)


# --- mails ------------------------------------------------------------------------------------------------------------


def mails(model: Model, records: Records, posted: Sequence[Posted], *, settled: bool) -> Iterator[Fact]:
    """Each event is mailed to each invitee at most once. The last change is mailed, or the table has the reason."""
    by_object = {row["external_session_object_id"]: row for row in records.sessions.values()}
    for key, number in Counter(
        (one.session, one.seq, one.invitee) for one in posted if one.may_be_delivered
    ).items():  # fmt: skip
        if number > 1:
            session_id = by_object[key[0]]["id"] if key[0] in by_object else None
            yield Fact("duplicate", f"the mail {key} was sent {number} times", session_id)
    closes = {one.id: one.closed_at for one in model.known if one.id and one.closed_at}
    cancelled: set[tuple[str, int]] = set()
    for one in posted:
        row = by_object.get(one.session)
        if row is None:
            yield Fact("other", f"a mail was sent about an unknown session: {one}")
            continue
        people = [invitee["email"] for invitee in _invitees(row)]
        if one.recipient not in people or people.index(one.recipient) + 1 != one.invitee:
            yield Fact("other", f"a mail was sent to somebody who is not invited: {one}", row["id"])
        who = (one.session, one.invitee)
        if one.method == "CANCEL":
            cancelled |= {who} if one.may_be_delivered else set()
            if row["status"] != Status.CLOSED:
                yield Fact("other", f"a cancellation was sent, and the session is {row['status']}: {one}", row["id"])
        elif who in cancelled:
            yield Fact("other", f"a mail was sent after the cancellation: {one}", row["id"])
        elif row["id"] in closes and one.at > closes[row["id"]] + IN_FLIGHT:
            late = one.at - closes[row["id"]]
            yield Fact("other", f"a mail was sent {late:.1f} s after the session was closed: {one}", row["id"])
    if settled:
        yield from _outcomes(records, posted)


def _invitees(row: RowMapping) -> list[dict[str, str]]:
    """Return the invitees of a session. The driver of PostgreSQL parses JSON, that of SQLite does not."""
    stored = row["invitees"] or []
    people: list[dict[str, str]] = json.loads(stored) if isinstance(stored, str) else stored
    return people


def _outcomes(records: Records, posted: Sequence[Posted]) -> Iterator[Fact]:
    """Each invitee has received the last change of a session, or the table of mails has the reason."""
    stored: dict[str, dict[int, RowMapping]] = defaultdict(dict)
    for row in records.mails:
        stored[row["session_id"]][row["position"]] = row
        if row["state"] == MailState.SENDING:
            yield Fact("other", f"the mail to invitee {row['position'] + 1} is still being sent", row["session_id"])
    accepted = {(one.session, one.seq, one.invitee) for one in posted if one.fate == "accepted"}
    for session_id, row in records.sessions.items():
        people = _invitees(row)
        last = next((one for one in reversed(records.histories[session_id]) if one["type"] in CHANGES), None)
        for position, person in enumerate(people):
            found = stored[session_id].get(position)
            if last is None or not _must_be_mailed(row, last, found, records.settled):
                continue
            if found is None or found["seq"] < last["seq"]:
                text = f"invitee {position + 1} was not told of {last['type']} at {last['seq']}"
                yield Fact("loss", f"{text}; the table of mails has {found and dict(found)}", session_id)
                continue
            key = (row["external_session_object_id"], found["seq"], position + 1)
            # A reminder that the server defers until the start is dropped. Its row stays as it is.
            types = {one["seq"]: one["type"] for one in records.histories[session_id]}
            dropped = types.get(found["seq"]) == EventType.REMINDER and (found["sent_seq"] or 0) >= last["seq"]
            if found["state"] == MailState.DEFERRED and not dropped:
                yield Fact("loss", f"the mail {key} is deferred, and nothing will send it", session_id)
            if found["state"] == MailState.SENT and key not in accepted:
                yield Fact("loss", f"the mail {key} counts as sent, and the server has not accepted it", session_id)
            if person["email"] == NOBODY and found["state"] not in (MailState.REFUSED, MailState.UNKNOWN):
                yield Fact("other", f"the mail {key} to nobody is {found['state']}", session_id)


def _must_be_mailed(row: RowMapping, last: RowMapping, found: RowMapping | None, settled: datetime) -> bool:
    """Return whether an invitee must have received a mail about the last change of a session."""
    if last["type"] != EventType.CLOSED:
        return True
    if found is None or (found["sent_seq"] is None and found["state"] != MailState.UNKNOWN):
        return False  # this person was never invited
    start = row["start_time"]
    # A close after the start needs no mail. The daemon's clock may have been ahead meanwhile.
    is_to_come = start is not None and start > max(settled, last["ts"]) + STEP
    return is_to_come and last["reason"] not in (CloseReason.EMPTY, CloseReason.TIME_LIMIT)


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(known: Sequence[KnownBatch], records: Records) -> Iterator[Fact]:
    """All sessions of a batch exist, or none does. All of them have the same history."""
    found: dict[str, dict[int, list[RowMapping]]] = defaultdict(lambda: defaultdict(list))
    for row in records.sessions.values():
        if row["label"].startswith("batch "):
            label, _, number = row["label"].rpartition(" ")
            found[label][int(number)].append(row)
    for label in found.keys() - {one.label for one in known}:
        yield Fact("other", f"no caller requested {label}, or it was refused")
    for one in known:
        rows = found.get(one.label)
        if rows is None:
            if one.ids:
                yield Fact("loss", f"{one.label} was acknowledged, and does not exist", one.ids[0])
            continue
        if any(len(same) > 1 for same in rows.values()):
            yield Fact("duplicate", f"{one.label} was created more than once", next(iter(rows.values()))[0]["id"])
            continue
        if sorted(rows) != list(range(len(one.starts))):
            yield Fact("other", f"{one.label} has only the sessions {sorted(rows)} of {len(one.starts)}")
            continue
        ids = [rows[number][0]["id"] for number in range(len(one.starts))]
        if one.ids and one.ids != ids:
            yield Fact("other", f"{one.label} was answered with other ids", ids[0])
        yield from _history(one, [records.histories[session_id] for session_id in ids], ids[0])


def _history(one: KnownBatch, histories: Sequence[Sequence[RowMapping]], first: str) -> Iterator[Fact]:
    shapes = Counter(
        tuple((event["type"], event["start_time"] - events[0]["start_time"]) for event in events)
        for events in histories
    )
    if len(shapes) > 1:
        yield Fact("other", f"the sessions of {one.label} have different histories: {shapes}", first)
    (shape, _), *_ = shapes.most_common(1)
    shifts = sum(event_type == EventType.RESCHEDULED for event_type, _ in shape)
    if shifts < one.shifts:
        yield Fact("loss", f"{one.label} was shifted {shifts} times, and {one.shifts} were acknowledged", first)
    if shifts > one.shifts + one.unconfirmed:
        yield Fact("duplicate", f"{one.label} was shifted {shifts} times, and {one.shifts} were acknowledged", first)
    is_closed = shape[-1][0] == EventType.CLOSED
    if one.closed and not is_closed:
        yield Fact("loss", f"{one.label} was closed, and is open", first)
    if is_closed and not one.close_requested:
        yield Fact("other", f"no caller requested to close {one.label}", first)


# --- series -----------------------------------------------------------------------------------------------------------


def series(known: Sequence[KnownSeries], records: Records) -> Iterator[Fact]:
    """Each occurrence of a series has exactly one session, and the series has no other sessions."""
    stored: dict[str, list[str]] = defaultdict(list)
    for row in records.series:
        stored[json.loads(row["definition"])["session"]["label"]].append(row["id"])
    made: dict[str, list[str]] = defaultdict(list)
    for row in records.occurrences:
        made[row["series_id"]].append(row["session_id"])
    sessions: dict[str, list[RowMapping]] = defaultdict(list)
    for row in records.sessions.values():
        if row["label"].startswith("series "):
            sessions[row["label"]].append(row)
    for label in (stored.keys() | sessions.keys()) - {one.label for one in known}:
        yield Fact("other", f"no caller requested {label}, or it was refused")
    for one in known:
        ids = stored[one.label]
        if len(ids) > 1:
            yield Fact("duplicate", f"{one.label} was created {len(ids)} times")
        if one.id is not None and ids != [one.id]:
            yield Fact("loss", f"{one.label} was acknowledged as {one.id}, and is stored as {ids}")
        if ids:
            yield from _series(one, sessions[one.label], set(made[ids[0]]), records)


def _series(one: KnownSeries, rows: Sequence[RowMapping], made: set[str], records: Records) -> Iterator[Fact]:
    def instants(local: Sequence[str]) -> set[datetime]:
        return {datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(one.zone)).astimezone(UTC) for text in local}

    everything, excluded, may_be_excluded = map(instants, (one.rdates, one.exdates, one.unconfirmed))
    # A session whose occurrence was excluded moves to another one of its day, or is cancelled.
    of_start: dict[datetime, list[str]] = defaultdict(list)
    for row in rows:
        if row["status"] == Status.CLOSED:
            continue
        of_start[row["start_time"]].append(row["id"])
        if row["id"] not in made:
            yield Fact("other", f"it is open, and no occurrence of {one.label}", row["id"])
        if one.ended:
            yield Fact("loss", f"{one.label} was ended, and it is scheduled", row["id"])
    for start, same in of_start.items():
        if len(same) > 1:
            yield Fact("duplicate", f"{one.label} has {len(same)} sessions at {start}", same[0])
        if start not in everything - excluded:
            yield Fact("other", f"{one.label} has no occurrence at {start}", same[0])
    if one.id is None or one.end_requested:
        return
    for start in sorted(everything - excluded - may_be_excluded - of_start.keys()):
        if start - AHEAD < records.settled:
            yield Fact("loss", f"{one.label} has no session at {start}")
