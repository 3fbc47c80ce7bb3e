"""Whether database, feed, deliveries and logs agree with what callers know."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import RowMapping, select

from tests.acceptance.conftest import HARMLESS
from tests.acceptance.times import parsed
from tests.soak.model import Known
from tests.soak.stages import LONGEST_LEAD, OnPostgres, Stage
from tminus.domain.errors import WrongStatus
from tminus.domain.lifecycle import transition_for
from tminus.domain.types import CloseReason, EventType, Status, Trigger
from tminus.storage.tables import EVENTS, IDEMPOTENCY, PARTICIPANTS, SESSIONS

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
    "storage.blocked", "a line cut off",
}  # fmt: skip
"""Warnings and errors that any of the faults brings about."""

EXPLAINED_IF_DATABASE_WENT = {"storage.unavailable", "clock.failed"}
"""Besides, as it is taken away, or its disk fails: as long as their error is just that."""


@dataclass
class Fact:
    """One thing that is not as it must be; `kind` is `loss`, `duplicate` or `other`."""

    kind: str
    text: str
    session: str | None = None


@dataclass
class Findings:
    """What was found in one stage."""

    facts: list[Fact] = field(default_factory=list)
    sessions: int = 0
    events: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_type: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    """Lines of the logs of level warning and above, by name."""

    def count(self, kind: str) -> int:
        return sum(fact.kind == kind for fact in self.facts)


def judge(stage: Stage, settled_at: int, complaints: Sequence[str]) -> Findings:
    """Looks at all of a stage whose daemons have ended. Events up to `settled_at` must have been told to everybody."""
    found = Findings()
    found.facts += [Fact("other", text) for text in complaints]
    engine = stage.engine()
    with engine.connect() as connection:
        rows = {row["id"]: row for row in connection.execute(select(SESSIONS)).mappings()}
        retries = {row["key"]: row["session_id"] for row in connection.execute(select(IDEMPOTENCY)).mappings()}
        participants = {row["id"]: row for row in connection.execute(select(PARTICIPANTS)).mappings()}
        events = list(connection.execute(select(EVENTS).order_by(EVENTS.c.seq)).mappings())
    engine.dispose()
    found.sessions, found.events = len(rows), len(events)
    found.by_status.update(row["status"] for row in rows.values())
    found.by_type.update(event["type"] for event in events)
    histories: dict[str, list[RowMapping]] = defaultdict(list)
    for event in events:
        histories[event["session_id"]].append(event)

    found.facts += _sessions(stage, rows, retries, participants, histories)
    for session_id, row in rows.items():
        found.facts += _history(row, histories[session_id], steps=not isinstance(stage, OnPostgres))
    pins = Counter(row["pin"] for row in rows.values() if row["pin"])
    found.facts += [Fact("other", "two open sessions have one PIN") for number in pins.values() if number > 1]
    found.facts += _told(stage, [(event["seq"], event["session_id"], event["type"]) for event in events], settled_at)
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
    here: dict[str, list[RowMapping]] = defaultdict(list)
    for participant in participants.values():
        here[participant["session_id"]].append(participant)
    known = {one.label: one for one in stage.model.known}
    for label in by_label.keys() - known.keys():
        yield Fact("other", f"nobody asked for the session {label}, or it was refused", by_label[label][0])
    for label, one in known.items():
        ids = by_label.get(label, [])
        if len(ids) > 1:
            yield Fact("duplicate", f"the key {label} made {ids}", ids[0])
        if not ids:
            if one.id:
                yield Fact("loss", f"it was acknowledged with the key {label}, and is not there", one.id)
            continue
        if retries.get(label) != ids[0] or one.id not in (None, ids[0]):
            yield Fact("other", f"the key {label} says {retries.get(label)}, its maker was told {one.id}", ids[0])
        yield from _one(one, rows[ids[0]], histories[ids[0]], here[ids[0]])


def _one(one: Known, row: RowMapping, history: Sequence[RowMapping], here: Sequence[RowMapping]) -> Iterator[Fact]:
    session_id = row["id"]
    starts = [event["start_time"] for event in history if event["type"] in (EventType.SCHEDULED, EventType.RESCHEDULED)]
    allowed = {parsed(start) for start in (*one.starts, *one.unsure)}
    if one.starts and row["start_time"] not in {parsed(one.starts[-1]), *map(parsed, one.unsure)}:
        yield Fact("loss", f"its start is {row['start_time']}, the last acknowledged {one.starts[-1]}", session_id)
    for start in starts:
        if start not in allowed:
            yield Fact("other", f"nobody asked for the start {start}, or it was refused", session_id)
    rest, place = starts, 0
    for wanted in map(parsed, one.starts):
        try:
            place = rest.index(wanted, place)  # the same again is no event
        except ValueError:
            yield Fact("loss", f"the start {wanted} was acknowledged, and its history does not have it", session_id)
            break
    if one.closed and row["status"] != Status.CLOSED:
        yield Fact("loss", f"it was closed, and is {row['status']}", session_id)
    if row["close_reason"] in (CloseReason.CLOSED, CloseReason.CANCELLED) and not one.close_asked:
        yield Fact("other", "nobody asked to close it", session_id)
    names = Counter(participant["name"] for participant in here)
    ids = {participant["id"]: participant for participant in here}
    for name, number in names.items():
        if number > 1:
            yield Fact("duplicate", f"{name} joined {number} times", session_id)
        if name not in one.asked_joins:
            yield Fact("other", f"nobody asked {name} in", session_id)
    told = Counter((event["type"], event["participant_id"]) for event in history if event["participant_id"])
    for (event_type, who), number in told.items():
        if number > 1:
            yield Fact("duplicate", f"{event_type} of {who} was told {number} times", session_id)
    for name, who in one.joined.items():
        if who not in ids or told[EventType.JOINED, who] != 1:
            yield Fact("loss", f"the join of {name} was acknowledged, and is not there", session_id)
    for who in one.left:
        if who in ids and ids[who]["left_at"] is None:
            yield Fact("loss", f"the leaving of {who} was acknowledged, and is not there", session_id)


def _history(row: RowMapping, history: Sequence[RowMapping], *, steps: bool) -> Iterator[Fact]:
    """Whether it is a path of the transition table, told as the table says, and ends where the session stands."""
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
            move = transition_for(trigger, status)
        except WrongStatus:
            yield Fact("other", f"{event_type} ({first['seq']}) cannot happen in {status}", session_id)
            return
        wanted = move.events
        told, rest = rest[: len(wanted)], rest[len(wanted) :]
        if tuple(event["type"] for event in told) != tuple(wanted):
            yield Fact("other", f"the move at {first['seq']} is told as {[e['type'] for e in told]}", session_id)
            return
        for event in told:
            if (event["previous_status"], event["status"], event["reason"]) != (status, move.dest, move.reason):
                yield Fact("other", f"event {event['seq']} says another move than {move}", session_id)
        if trigger is Trigger.OPEN and not steps:
            early = first["start_time"] - timedelta(seconds=LONGEST_LEAD) - first["ts"]
            if early > timedelta(0):
                yield Fact("other", f"it opened {early} before its time", session_id)
        status = move.dest
    if status != row["status"]:
        yield Fact("other", f"its history ends in {status}, and it is {row['status']}", session_id)


# --- what was told ----------------------------------------------------------------------------------------------------


def _told(stage: Stage, events: list[tuple[int, str, str]], settled_at: int) -> Iterator[Fact]:
    seqs = [event[0] for event in events]
    if seqs != sorted(set(seqs)):
        yield Fact("other", "the numbers of events do not rise")
    told = stage.feed.told
    for before, after in pairwise(told):
        if after[0] <= before[0]:
            yield Fact("duplicate", f"the feed told {after} after {before}", after[1])
    committed = set(events)
    for one in told:
        if one not in committed:
            yield Fact("other", f"the feed told {one}, which the database does not have", one[1])
    for one in sorted({event for event in events if event[0] <= settled_at} - set(told)):
        yield Fact("loss", f"the feed did not tell {one}", one[1])
    session_of = {seq: session_id for seq, session_id, _ in events}
    for name, sink in stage.sinks.items():
        yield from (Fact("other", f"endpoint {name}: {text}") for text in sink.trouble)
        for seq in sorted({seq for seq in seqs if seq <= settled_at} - set(sink.told)):
            yield Fact("loss", f"endpoint {name} was not told {seq} in its turn", session_of[seq])
        for seq in set(sink.told) - set(seqs):
            yield Fact("other", f"endpoint {name} was told {seq}, which the database does not have")


def _logs(stage: Stage, found: Findings) -> Iterator[Fact]:
    for daemon in stage.daemons:
        for line in daemon.lines():
            if line["level"] in ("info", "debug"):
                continue
            found.lines[line["event"]] += 1
            away = line["event"] in EXPLAINED_IF_DATABASE_WENT and (
                line["event"] == "storage.unavailable" or line["error"].startswith("the database is not available:")
            )
            harmless = line["event"] == "library.said" and line.get("error", "").startswith(HARMLESS)
            session_event = line["event"].startswith(("session.", "participant."))  # late, after the daemon was down
            if not (line["event"] in EXPLAINED or away or harmless or session_event):
                yield Fact("other", f"{daemon.name} logged {line}", line.get("session_id"))
        if errors := daemon.errors.read_text():
            yield Fact("other", f"{daemon.name} wrote to standard error: {errors[-1500:]}")


def explain(stage: Stage, fact: Fact, lines: int = 12) -> Iterator[str]:
    """What else is known of the session of a fact: its history, and the last lines of the logs that name it."""
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
