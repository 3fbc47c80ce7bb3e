"""Check that database, feed, deliveries and logs agree with the model of the callers."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import RowMapping, select

from tests.acceptance.conftest import HARMLESS
from tests.acceptance.times import parsed
from tests.soak import appointments
from tests.soak.appointments import Records
from tests.soak.model import Fact, Known
from tests.soak.stages import LONGEST_LEAD, OnPostgres, Stage
from tminus.domain.errors import WrongStatus
from tminus.domain.lifecycle import transition_for
from tminus.domain.types import CloseReason, EventType, Status, Trigger
from tminus.storage.tables import EVENTS, IDEMPOTENCY, MAILS, OCCURRENCES, PARTICIPANTS, SERIES, SESSIONS

TRIGGERS = {
    EventType.CREATED: Trigger.CREATE,
    EventType.SCHEDULED: Trigger.SCHEDULE,
    EventType.RESCHEDULED: Trigger.RESCHEDULE,
    EventType.READY: Trigger.OPEN,
    EventType.ACTIVE: Trigger.JOIN,
    EventType.JOINED: Trigger.JOIN,
    EventType.LEFT: Trigger.LEAVE,
}
CLOSED_BY = {
    CloseReason.EXPIRED: Trigger.EXPIRE,
    CloseReason.EMPTY: Trigger.IDLE,
    CloseReason.TIME_LIMIT: Trigger.TIME_LIMIT,
}
ONCE = (EventType.READY, EventType.ACTIVE, EventType.CLOSED)

EXPLAINED = {
    "daemon.crashed", "daemon.frozen", "webhook.failed", "webhook.paused", "clock.late", "clock.stepped", "pin.unknown",
    "storage.blocked", "http.malformed", "a line cut off", "mail.refused", "mail.deferred", "mail.unknown",
}  # fmt: skip
"""Names of log lines of level warning and above that the faults cause."""

EXPLAINED_WITHOUT_DATABASE = {"storage.unavailable", "clock.failed"}
"""The same for lines that an unavailable database causes, if their error says that it is unavailable."""

CUT_OFF = (
    "Error closing cursor: OperationalError: consuming input failed: server closed the connection",
    "Error closing cursor: AdminShutdown: terminating connection",
)
"""What SQLAlchemy logs when the server ends while a result is read."""


@dataclass
class Findings:
    """The findings of one stage, and its numbers for the report."""

    facts: list[Fact] = field(default_factory=list)
    sessions: int = 0
    events: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_type: Counter[str] = field(default_factory=Counter)
    mails: Counter[str] = field(default_factory=Counter)
    series: int = 0
    occurrences: int = 0
    lines: Counter[str] = field(default_factory=Counter)
    """Lines of the logs of level warning and above, by name."""

    def count(self, kind: str) -> int:
        return sum(fact.kind == kind for fact in self.facts)


def judge(stage: Stage, settled_at: int, complaints: Sequence[str], settled: datetime | None) -> Findings:
    """Check a stage whose daemons have ended. Events up to number `settled_at` must have been delivered everywhere.

    `settled`: when everything that was due was done, and all mails were sent; None: that did not happen.
    """
    found = Findings()
    found.facts += [Fact("other", text) for text in complaints]
    engine = stage.engine()
    with engine.connect() as connection:
        rows = {row["id"]: row for row in connection.execute(select(SESSIONS)).mappings()}
        retries = {row["key"]: row["session_id"] for row in connection.execute(select(IDEMPOTENCY)).mappings()}
        participants = {row["id"]: row for row in connection.execute(select(PARTICIPANTS)).mappings()}
        events = list(connection.execute(select(EVENTS).order_by(EVENTS.c.seq)).mappings())
        mails, series, occurrences = (
            list(connection.execute(select(table)).mappings()) for table in (MAILS, SERIES, OCCURRENCES)
        )
    engine.dispose()
    found.sessions, found.events = len(rows), len(events)
    found.by_status.update(row["status"] for row in rows.values())
    found.by_type.update(event["type"] for event in events)
    histories: dict[str, list[RowMapping]] = defaultdict(list)
    for event in events:
        histories[event["session_id"]].append(event)

    records = Records(
        sessions=rows, histories=histories, mails=mails, series=series, occurrences=occurrences,
        settled=settled or datetime.min.replace(tzinfo=UTC),
    )  # fmt: skip
    found.facts += appointments.check(stage.model, records, stage.mailbox.posted, mails_settled=settled is not None)
    found.mails.update(one.fate for one in stage.mailbox.posted)
    found.mails.update(f"in the database: {row['state']}" for row in mails)
    found.series, found.occurrences = len(series), len(occurrences)
    single = {key: row for key, row in rows.items() if not row["label"].startswith(("batch ", "series "))}
    found.facts += _sessions(stage, single, retries, participants, histories)
    for session_id, row in rows.items():
        transitions = [event for event in histories[session_id] if event["type"] not in appointments.TOLD]
        found.facts += _history(row, transitions, steps=not isinstance(stage, OnPostgres))
    pins = Counter(row["pin"] for row in rows.values() if row["pin"])
    found.facts += [Fact("other", "two open sessions have one PIN") for number in pins.values() if number > 1]
    found.facts += _deliveries(
        stage, [(event["seq"], event["session_id"], event["type"]) for event in events], settled_at
    )
    found.facts += _logs(stage, found)
    return found


# --- sessions ---------------------------------------------------------------------------------------------------------


def _sessions(
    stage: Stage,
    rows: dict[str, RowMapping],
    retries: dict[str, str],
    participants: dict[str, RowMapping],
    histories: dict[str, list[RowMapping]],
) -> Iterator[Fact]:
    by_label: dict[str, list[str]] = defaultdict(list)
    for session_id, row in rows.items():
        by_label[row["label"]].append(session_id)
    participants_of: dict[str, list[RowMapping]] = defaultdict(list)
    for participant in participants.values():
        participants_of[participant["session_id"]].append(participant)
    known = {one.label: one for one in stage.model.known}
    for label in by_label.keys() - known.keys():
        yield Fact("other", f"no caller requested the session {label}, or it was refused", by_label[label][0])
    for label, one in known.items():
        ids = by_label.get(label, [])
        if len(ids) > 1:
            yield Fact("duplicate", f"the key {label} created {ids}", ids[0])
        if not ids:
            if one.id:
                yield Fact("loss", f"it was acknowledged with the key {label}, and does not exist", one.id)
            continue
        if retries.get(label) != ids[0] or one.id not in (None, ids[0]):
            yield Fact(
                "other", f"the key {label} belongs to {retries.get(label)}, but its caller received {one.id}", ids[0]
            )
        yield from _one(one, rows[ids[0]], histories[ids[0]], participants_of[ids[0]])


def _one(
    one: Known, row: RowMapping, history: Sequence[RowMapping], participants_of: Sequence[RowMapping]
) -> Iterator[Fact]:
    session_id = row["id"]
    starts = [event["start_time"] for event in history if event["type"] in (EventType.SCHEDULED, EventType.RESCHEDULED)]
    allowed = {parsed(start) for start in (*one.starts, *one.unconfirmed)}
    if one.starts and row["start_time"] not in {parsed(one.starts[-1]), *map(parsed, one.unconfirmed)}:
        yield Fact("loss", f"its start is {row['start_time']}, but {one.starts[-1]} was acknowledged last", session_id)
    for start in starts:
        if start not in allowed:
            yield Fact("other", f"no caller requested the start {start}, or it was refused", session_id)
    rest, position = starts, 0
    for wanted in map(parsed, one.starts):
        try:
            position = rest.index(wanted, position)  # a reschedule to the same start records no event
        except ValueError:
            yield Fact("loss", f"the start {wanted} was acknowledged, and is not in its history", session_id)
            break
    if one.closed and row["status"] != Status.CLOSED:
        yield Fact("loss", f"it was closed, and is {row['status']}", session_id)
    if row["close_reason"] in (CloseReason.CLOSED, CloseReason.CANCELLED) and not one.close_requested:
        yield Fact("other", "no caller requested to close it", session_id)
    names = Counter(participant["name"] for participant in participants_of)
    ids = {participant["id"]: participant for participant in participants_of}
    for name, number in names.items():
        if number > 1:
            yield Fact("duplicate", f"{name} joined {number} times", session_id)
        if name not in one.requested_joins:
            yield Fact("other", f"no caller requested that {name} joins", session_id)
    recorded = Counter((event["type"], event["participant_id"]) for event in history if event["participant_id"])
    for (event_type, who), number in recorded.items():
        if number > 1:
            yield Fact("duplicate", f"{event_type} of {who} was recorded {number} times", session_id)
    for name, who in one.joined.items():
        if who not in ids or recorded[EventType.JOINED, who] != 1:
            yield Fact("loss", f"the join of {name} was acknowledged, and is not stored", session_id)
    for who in one.left:
        if who in ids and ids[who]["left_at"] is None:
            yield Fact("loss", f"the leave of {who} was acknowledged, and is not stored", session_id)


def _history(row: RowMapping, history: Sequence[RowMapping], *, steps: bool) -> Iterator[Fact]:
    """Check that a history follows the transition table, and ends in the status of its session."""
    session_id = row["id"]
    types = Counter(event["type"] for event in history)
    for event_type in ONCE:
        if types[event_type] > 1:
            yield Fact("duplicate", f"{event_type} happened {types[event_type]} times", session_id)
    status: Status | None = None
    rest = list(history)
    while rest:
        first = rest[0]
        event_type = EventType(first["type"])
        trigger = TRIGGERS.get(event_type) or CLOSED_BY.get(first["reason"], Trigger.CLOSE)
        try:
            transition = transition_for(trigger, status)
        except WrongStatus:
            yield Fact("other", f"{event_type} ({first['seq']}) cannot happen in {status}", session_id)
            return
        wanted = transition.events
        recorded, rest = rest[: len(wanted)], rest[len(wanted) :]
        if tuple(event["type"] for event in recorded) != tuple(wanted):
            yield Fact(
                "other", f"the transition at {first['seq']} recorded {[e['type'] for e in recorded]}", session_id
            )
            return
        for event in recorded:
            if (event["previous_status"], event["status"], event["reason"]) != (
                status,
                transition.dest,
                transition.reason,
            ):
                yield Fact("other", f"event {event['seq']} belongs to another transition than {transition}", session_id)
        if trigger is Trigger.OPEN and not steps:
            early = first["start_time"] - timedelta(seconds=LONGEST_LEAD) - first["ts"]
            if early > timedelta(0):
                yield Fact("other", f"it opened {early} before its time", session_id)
        status = transition.dest
    if status != row["status"]:
        yield Fact("other", f"its history ends in {status}, and its status is {row['status']}", session_id)


# --- deliveries -------------------------------------------------------------------------------------------------------


def _deliveries(stage: Stage, events: list[tuple[int, str, str]], settled_at: int) -> Iterator[Fact]:
    seqs = [event[0] for event in events]
    if seqs != sorted(set(seqs)):
        yield Fact("other", "the event numbers do not increase")
    returned = stage.feed.received
    for before, after in pairwise(returned):
        if after[0] <= before[0]:
            yield Fact("duplicate", f"the feed returned {after} after {before}", after[1])
    committed = set(events)
    for one in returned:
        if one not in committed:
            yield Fact("other", f"the feed returned {one}, which is not in the database", one[1])
    for one in sorted({event for event in events if event[0] <= settled_at} - set(returned)):
        yield Fact("loss", f"the feed did not return {one}", one[1])
    session_of = {seq: session_id for seq, session_id, _ in events}
    for name, sink in stage.sinks.items():
        yield from (Fact("other", f"endpoint {name}: {text}") for text in sink.problems)
        for seq in sorted({seq for seq in seqs if seq <= settled_at} - set(sink.received)):
            yield Fact("loss", f"endpoint {name} did not receive {seq} in order", session_of[seq])
        for seq in set(sink.received) - set(seqs):
            yield Fact("other", f"endpoint {name} received {seq}, which is not in the database")


def _logs(stage: Stage, found: Findings) -> Iterator[Fact]:
    for daemon in stage.daemons:
        for line in daemon.lines():
            if line["level"] in ("info", "debug"):
                continue
            found.lines[line["event"]] += 1
            unavailable = line["event"] in EXPLAINED_WITHOUT_DATABASE and (
                line["event"] == "storage.unavailable" or line["error"].startswith("the database is not available:")
            )
            harmless = line["event"] == "library.said" and line.get("error", "").startswith((*HARMLESS, *CUT_OFF))
            session_event = line["event"].startswith(("session.", "participant."))  # late, after the daemon was down
            if not (line["event"] in EXPLAINED or unavailable or harmless or session_event):
                yield Fact("other", f"{daemon.name} logged {line}", line.get("session_id"))
        if errors := daemon.errors.read_text():
            yield Fact("other", f"{daemon.name} wrote to standard error: {errors[-1500:]}")


def explain(stage: Stage, fact: Fact, lines: int = 12) -> Iterator[str]:
    """Yield the history of the session of a finding, its model, and the last log lines that name it."""
    if fact.session is None:
        return
    engine = stage.engine()
    with engine.connect() as connection:
        query = select(EVENTS).where(EVENTS.c.session_id == fact.session).order_by(EVENTS.c.seq)
        for event in connection.execute(query).mappings():
            shown: dict[str, Any] = {name: str(value) for name, value in event.items() if value is not None}
            yield f"    history: {shown}"
    engine.dispose()
    for one in stage.model.known:
        if one.id == fact.session:
            yield f"    known: {one}"
    for daemon in stage.daemons:
        mentioned = [str(line) for line in daemon.lines() if fact.session in str(line)]
        yield from (f"    {daemon.name}: {line}" for line in mentioned[-lines:])
