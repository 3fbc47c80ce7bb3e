"""Every query of callers, timers and operators uses an index, or is bounded and continues at its position.

Each query runs on a database with 20,000 closed sessions, of which few or none match, and with current statistics.
The query plan scans no large table, and the work that the database counts is bounded. `make bench` measures a million.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import product
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, Engine, event, text
from tests.support.clocks import NOW
from tests.support.databases import Database, PostgresServer, SqliteServer
from tests.support.factories import add, put, session

from tminus import storage
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import TABLE, Change, Transition, transition_for
from tminus.domain.model import (
    AgentSession,
    Batch,
    BatchRecord,
    CalendarFeed,
    ChallengeUse,
    Delivery,
    Event,
    IdempotencyRecord,
    MailCount,
    Occurrence,
    Participant,
    Presence,
    Replay,
    Series,
    SignInCode,
)  # fmt: skip
from tminus.domain.types import (
    BatchKind,
    DeliveryKind,
    EventType,
    MailState,
    ParticipantRole,
    SessionType,
    Status,
    Timeouts,
    Trigger,
)
from tminus.storage import (
    EventFilter,
    SessionFilter,
    Transaction,
    View,
    agents,
    appointments,
    batches,
    calendar_feeds,
    challenges,
    due,
    log_positions,
    mails,
    outbox,
    presence,
    reminders,
    reports,
    retention,
    series,
    test_clock,
    view,
)
from tminus.storage.engine import make_engine
from tminus.storage.reports import Period
from tminus.storage.tables import SESSIONS
from tminus.storage.transitions import Cause, Named, Requested, execute

CLOSED = 20_000
SCHEDULED = {"sqlite": 4000, "postgresql": 1000}
"""Number of scheduled sessions of another agent that are not due: a query for due sessions must read none of them. With
more of them, PostgreSQL would assume that many belong to agent 7 and would read the whole of this small table.
"""

HOUR = timedelta(hours=1)
TIMEOUTS = Timeouts()
LARGE = (
    "session", "event", "participant", "delivery", "agent_session", "signin_code", "challenge_use", "retry", "presence",
    "agent", "series", "occurrence", "batch_part",
)  # fmt: skip

PAGES = 500
"""Maximum number of pages that a query reads on PostgreSQL. A scan of the sessions reads 1,200, of the events 700."""

WRITTEN = 1000
"""The same for a statement that writes: it reads a few pages of each index for each row."""

ALL_PAGES = 1500
"""The same for a query that all sessions match: it reads each of them at most once."""

STEPS = 60_000
"""Maximum number of SQLite's instructions for a query. A scan of the sessions takes more than 200,000."""

ALL = 400_000
"""The same for a query that all sessions match: it counts or sorts their entries in one index."""

Job = Callable[[Transaction], object]


def lists() -> Iterator[tuple[str, Job]]:
    """Yield one list of each kind that a caller can request. Few or no sessions match, except with "(all match)"."""
    statuses: dict[str, tuple[Status, ...]] = {"open": (Status.SCHEDULED, Status.NEW, Status.ACTIVE)}
    statuses |= {"closed": (Status.CLOSED,), "any": tuple(Status)}
    orders = ("created_at", "updated_at", "start_time", "expires_at")
    limits = {"": {}, " of a type": {"type": SessionType.SUPPORT}, " from": {"start_from": NOW + 100 * HOUR}}
    limits[" to"] = {"start_to": NOW - 100_000 * HOUR}
    limits[" of a record"] = {"external_mapping": "incident/1"}
    for (name, selected), order, down, agent, (more, fields) in product(
        statuses.items(), orders, (True, False), (7, None), limits.items()
    ):
        wanted = SessionFilter(agent, selected, order_by=order, descending=down, **fields)  # type: ignore[arg-type]
        matches_all = " (all match)" if name != "open" and not fields else ""
        whose = "everybody's" if agent is None else "an agent's"
        direction = "down" if down else "up"
        yield f"view.sessions {whose} {name}{more} by {order} {direction}{matches_all}", partial(_list, wanted=wanted)


def _list(tx: Transaction, wanted: SessionFilter) -> object:
    return tx.sessions(wanted)


NEW = session(id="new", start_time=None, status=Status.NEW, due_at=NOW + HOUR, due_trigger=Trigger.EXPIRE)
REPLAY = Replay(id=1, endpoint="desk", cursor=0, until=40_000)
ATTEMPT = Delivery(endpoint="desk", kind=DeliveryKind.EVENTS, webhook_id="msg", at=NOW, ok=True, ms=1)
NEW_AGENT_SESSION = AgentSession(
    secret_sha256="new", agent_id=7, token_sha256="t", started_at=NOW, expires_at=NOW, client_app="", user_agent="",
    remote_ip="",
)  # fmt: skip
CODE = SignInCode(
    code_sha256="new", provider="azure", instance_url="*", receiver="https://a/", agent_id=7, token_sha256="t",
    expires_at=NOW,
)  # fmt: skip
CHALLENGE_USE = ChallengeUse(uuid="new", guessed_at=NOW, kept_until=NOW)
GUEST = Participant(id="guest", session_id="c1", role=ParticipantRole.GUEST, name="Ada", joined_at=NOW)
PRESENCE = Presence(
    participant_id="guest", session_id="c1", resume_sha256="new", daemon="d2", connection="new", gone_at=None
)
BATCH = BatchRecord(agent_id=7, key="k", body_sha256="", session_ids='["c1"]', created_at=NOW)
UNFINISHED = Batch(
    id="b2", kind=BatchKind.CREATE, agent_id=7, key="k2", caller="{}", session_ids='["n1","n2"]', starts="[0,null]",
    remaining=2, created_at=NOW,
)  # fmt: skip
NEW_ROW = batches.new_row(dict(session(id="n9", due_at=None, start_time=NOW)))
NEW_EVENT = batches.new_event(
    session_id="n9", type="session.created", ts=0, actor="agent:7", status="new", expires_at=0
)
HALF_DONE = batches.State("b1", BatchKind.CREATE, {}, {"new": [100001]}, 2, NOW)
KEY = IdempotencyRecord(agent_id=7, key="k", body_sha256="", session_id="c1", created_at=NOW)
SERIES = Series(
    id="new", agent_id=7, caller="{}", definition="{}", template="{}", made_through="2030-01-08T09:00:00", next_at=NOW,
    created_at=NOW, updated_at=NOW,
)  # fmt: skip
RARE = frozenset({EventType.DENIED})
SUPPORT = frozenset({SessionType.SUPPORT})


def _create(tx: Transaction) -> None:
    add(tx, NEW)
    happened = Event(
        session_id="new", type=EventType.CREATED, ts=NOW, actor="agent:7", status=Status.NEW, expires_at=NOW
    )
    tx.record(LogEvent(happened, NEW))


def _execute(tx: Transaction, row: Transition) -> None:
    """Execute a transition of one session, whatever its status: the query plan does not depend on it."""
    given = dict.fromkeys((name for name, one in row.effects.session.items() if one is Change.GIVEN), NOW)
    found = tx.session("o1")
    assert found is not None
    participant = GUEST.model_copy(update={"id": f"guest{row.trigger}"}) if row.effects.participant else None
    named = Named((row,), [Requested(found, Cause("agent:7"), given)], participant)
    execute(tx, named, TIMEOUTS)


def _request(tx: Transaction) -> None:
    tx.read_ahead(["o1", *(f"c{number}" for number in range(100))])
    found = tx.session("o1")
    assert found is not None
    tx.request(transition_for(Trigger.CLOSE, found.status), Requested(found, Cause("agent:7")), TIMEOUTS)
    tx.flush()


FEED = CalendarFeed(agent_id=8, secret_sha256="new", created_at=NOW)

QUERIES: dict[str, Job] = {
    **dict(lists()),
    "view.search": lambda tx: tx.search(SessionFilter(7, (Status.CLOSED,)), "nowhere"),
    "view.search a type": lambda tx: tx.search(SessionFilter(7, type=SessionType.SUPPORT), "nowhere"),
    "view.search everybody's (all match)": lambda tx: tx.search(SessionFilter(statuses=(Status.CLOSED,)), "nowhere"),
    "view.session": lambda tx: tx.session("c1"),
    "view.read_ahead": lambda tx: tx.read_ahead([f"c{number}" for number in range(128)]),
    "view.open_session_by_pin": lambda tx: tx.open_session_by_pin(123456),
    "view.active_among": lambda tx: tx.active_among([f"c{number}" for number in range(20)]),
    "view.open_sessions_of": lambda tx: tx.open_sessions_of(7, 1000),
    "view.matching": lambda tx: tx.matching(SessionFilter(7, (Status.SCHEDULED,), order_by="start_time", limit=10_001)),
    "view.batch_record": lambda tx: tx.batch_record(7, "k"),
    "view.sessions_with": lambda tx: tx.sessions_with(["c1", "c2"]),
    "transaction.add_batch_record": lambda tx: tx.add_batch_record(BATCH),
    "transaction.remove_batch_record": lambda tx: tx.remove_batch_record(7, "k"),
    "transaction.add_rows": lambda tx: tx.add_rows([], [NEW_ROW], [NEW_EVENT], TIMEOUTS),
    "batches.add_parts": lambda tx: batches.add_parts(tx, "b2", 0, ["[]"]),
    "batches.parts": lambda tx: batches.parts(tx, "b1"),
    "batches.next_parts": lambda tx: batches.next_parts(tx, "b1", 4),
    "batches.remove_parts": lambda tx: batches.remove_parts(tx, "b2"),
    "batches.remove_leftovers": lambda tx: batches.remove_leftovers(tx, NOW + HOUR, 16),
    "batches.add": lambda tx: batches.add(tx, UNFINISHED),
    "batches.unfinished": batches.unfinished,
    "batches.with_key": lambda tx: batches.with_key(tx, 7, "k1"),
    "batches.state": lambda tx: batches.state(tx, "b1"),
    "batches.record_done": lambda tx: batches.record_done(tx, HALF_DONE, [0], 1),
    "batches.record_done of the last part": lambda tx: batches.record_done(tx, HALF_DONE, [0], 2),
    "batches.rename": lambda tx: batches.rename(tx, "b1", {"n1": "n3"}),
    "batches.coming": lambda tx: batches.coming(tx, 7),
    "batches.unchanged": lambda tx: batches.unchanged(tx, {f"c{number}": 1 for number in range(200)}),
    "batches.existing": lambda tx: batches.existing(tx, [f"c{number}" for number in range(200)]),
    "transaction.may_open_more": lambda tx: tx.may_open_more(7, 1000),
    "view.participant": lambda tx: tx.participant("c1", "p1"),
    "view.participants_ever": lambda tx: tx.participants_ever("c1", 10_000),
    "view.agent_session": lambda tx: tx.agent_session("s1"),
    "view.has_signin_code": lambda tx: tx.has_signin_code("s1"),
    "view.idempotency_record": lambda tx: tx.idempotency_record(7, "none"),
    "view.events": lambda tx: tx.events(100, 100),
    "view.events of a session": lambda tx: tx.events(100, 100, EventFilter(session_id="c10000")),
    "view.page of a type": lambda tx: tx.page(100, 100, EventFilter(types=RARE)),
    "view.page of sessions of a type": lambda tx: tx.page(100, 100, EventFilter(session_types=SUPPORT)),
    "view.page of a session, of a type": lambda tx: tx.page(100, 100, EventFilter(types=RARE, session_id="c10000")),
    "view.page of an agent": lambda tx: tx.page(100, 100, EventFilter(agent_id=7)),
    "view.page up to an event": lambda tx: tx.page(100, 100, EventFilter(types=RARE, until=30_000)),
    "view.window_end": lambda tx: tx.window_end(100),
    "view.log_events": lambda tx: tx.log_events(100, 100),
    "view.last_seq": lambda tx: tx.last_seq(),
    "view.next_due": lambda tx: tx.next_due(),
    "view.backlog": lambda tx: tx.backlog(NOW, 10_000),
    "view.counts": lambda tx: tx.counts(),
    "view.meta": lambda tx: tx.meta("database_id"),
    "view.metas": lambda tx: tx.metas("log"),
    "transaction.add": _create,
    "transaction.session": lambda tx: tx.session("c1"),
    "transaction.request": _request,
    "transaction.free_pin": lambda tx: tx.free_pin(),
    "transaction.free_pins": lambda tx: tx.free_pins(16),
    "transaction.add_agent_session": lambda tx: tx.add_agent_session(NEW_AGENT_SESSION),
    "transaction.end_agent_session": lambda tx: tx.end_agent_session("s1"),
    "transaction.end_agent_sessions_of": lambda tx: tx.end_agent_sessions_of(8),
    "transaction.add_signin_code": lambda tx: tx.add_signin_code(CODE),
    "transaction.take_signin_code": lambda tx: tx.take_signin_code("s1"),
    "transaction.idempotency_record": lambda tx: tx.idempotency_record(7, "none"),
    "transaction.add_idempotency_record": lambda tx: tx.add_idempotency_record(KEY),
    "transaction.remove_idempotency_record": lambda tx: tx.remove_idempotency_record(7, "none"),
    "transaction.set_meta": lambda tx: tx.set_meta("written", "now"),
    "transaction.remove_meta": lambda tx: tx.remove_meta("none"),
    "retention.remove_closed": lambda tx: retention.remove_closed(tx, NOW - 100_000 * HOUR, 40),
    "retention.remove_closed some": lambda tx: retention.remove_closed(tx, NOW, 40),
    "retention.remove_agent_sessions": lambda tx: retention.remove_agent_sessions(tx, NOW - 100_000 * HOUR, 500),
    "retention.remove_signin_codes": lambda tx: retention.remove_signin_codes(tx, NOW - 100_000 * HOUR, 500),
    "retention.remove_batch_records": lambda tx: retention.remove_batch_records(tx, NOW, 100),
    "retention.remove_idempotency_records": lambda tx: retention.remove_idempotency_records(
        tx, NOW - 100_000 * HOUR, 500
    ),
    **{f"transitions.execute {row.trigger} of {row.source}": partial(_execute, row=row) for row in TABLE if row.source},
    "due.next_due": due.next_due,
    "due.do_due": lambda tx: due.do_due(tx, TIMEOUTS, 128),
    "due.do_due of nothing": lambda tx: due.do_due(_at(tx, NOW - 100_000 * HOUR), TIMEOUTS, 128),
    "due.warm_up": lambda tx: due.warm_up(tx, TIMEOUTS),
    "due.recompute_deadlines": lambda tx: due.recompute_deadlines(tx, Timeouts(lead=HOUR), "", 40),
    "reminders.next_due": reminders.next_due,
    "reminders.do_due": lambda tx: reminders.do_due(tx, TIMEOUTS, 128),
    "reminders.do_due of nothing": lambda tx: reminders.do_due(_at(tx, NOW - 100_000 * HOUR), TIMEOUTS, 128),
    "reminders.warm_up": lambda tx: reminders.warm_up(tx, TIMEOUTS),
    "reminders.recompute_deadlines": lambda tx: reminders.recompute_deadlines(tx, TIMEOUTS, "", 40),
    "series.next_due": series.next_due,
    "series.due": lambda tx: series.due(tx, NOW, 1),
    "series.find": lambda tx: series.find(tx, "r1"),
    "series.find_by_key": lambda tx: series.find_by_key(tx, 7, "none"),
    "series.listed": lambda tx: series.listed(tx, 7, "", 100),
    "series.listed of all": lambda tx: series.listed(tx, None, "", 100),
    "series.of_configuration": series.of_configuration,
    "series.find_by_entry": lambda tx: series.find_by_entry(tx, "weekly"),
    "series.followers": lambda tx: list(series.followers(tx, 8, "r1")),
    "series.count": lambda tx: series.count(tx, 7, 1000),
    "series.made": lambda tx: series.made(tx, "r1", "", 100),
    "series.add": lambda tx: series.add(tx, SERIES),
    "series.change": lambda tx: series.change(tx, SERIES),
    "series.add_occurrences": lambda tx: series.add_occurrences(
        tx, [Occurrence(series_id="r1", local_start="2030-01-09T09:00:00", session_id="c1", start_time=NOW)]
    ),
    "series.name_in_sessions": lambda tx: series.name_in_sessions(
        tx, [Occurrence(series_id="r1", local_start="2030-01-09T09:00:00", session_id="c1", start_time=NOW)]
    ),
    "series.remove_occurrences": lambda tx: series.remove_occurrences(tx, "new", ""),
    "presence.next_due": presence.next_due,
    "presence.do_due": lambda tx: presence.do_due(tx, TIMEOUTS, 128),
    "presence.do_due of nothing": lambda tx: presence.do_due(_at(tx, NOW - 100_000 * HOUR), TIMEOUTS, 128),
    "presence.warm_up": lambda tx: presence.warm_up(tx, TIMEOUTS),
    "presence.recompute_deadlines": lambda tx: presence.recompute_deadlines(tx, TIMEOUTS, "", 40),
    "presence.add": lambda tx: presence.add(tx, PRESENCE),
    "presence.by_resume_key": lambda tx: presence.by_resume_key(tx, "c1", "r1"),
    "presence.reconnect": lambda tx: presence.reconnect(tx, "p1", "d2", "other"),
    "presence.set_gone": lambda tx: presence.set_gone(tx, {"p1": "x1"}, NOW),
    "presence.clear_gone": lambda tx: presence.clear_gone(tx, ["p1"], "d2"),
    "presence.await_reconnects": lambda tx: presence.await_reconnects(tx, "d2", NOW),
    "presence.count": lambda tx: presence.count(tx, "c1", 1000),
    "presence.has_other_source than the room": lambda tx: presence.has_other_source(tx, "o1", own=True),
    "presence.has_other_source than a system": lambda tx: presence.has_other_source(tx, "o1", own=False),
    "presence.changed_since": lambda tx: presence.changed_since(tx, 100, 500),
    "presence.rooms": lambda tx: presence.rooms(tx, [f"c{number}" for number in range(200)]),
    "presence.connections": lambda tx: presence.connections(tx, "d2", ["p1", "p2"]),
    "presence.renew_lease": lambda tx: presence.renew_lease(tx, "d2", NOW),
    "presence.end_lease": lambda tx: presence.end_lease(tx, "d2"),
    "presence.lost_daemons": lambda tx: presence.lost_daemons(tx, NOW),
    "presence.expire_lease": lambda tx: presence.expire_lease(tx, "d2", NOW),
    "agents.find": lambda tx: agents.find(tx, 7),
    "agents.changed_since": lambda tx: agents.changed_since(tx, 100, 500),
    "agents.listed": lambda tx: agents.listed(tx, 100, 500),
    "agents.note_sign_in": lambda tx: agents.note_sign_in(tx, 7),
    "agents.note_sign_in for the first time": lambda tx: agents.note_sign_in(tx, 1_000_000),
    "agents.find_or_add": lambda tx: agents.find_or_add(tx, agents.Person("https://i", "s8", "Ada", "", "[]")),
    "agents.find_or_add a new person": lambda tx: agents.find_or_add(
        tx, agents.Person("https://i", "new", "Ada", "", "[]")
    ),
    "agents.shut_out": lambda tx: agents.shut_out(tx, 8),
    "agents.readmit": lambda tx: agents.readmit(tx, 9),
    "appointments.starts": lambda tx: appointments.starts(tx, 7, NOW - 10 * HOUR, NOW, 10_001),
    "appointments.active": lambda tx: appointments.active(tx, 7, 10_000),
    "appointments.between": lambda tx: appointments.between(tx, 7, NOW - HOUR, NOW + HOUR, 10),
    "calendar_feeds.by_secret": lambda tx: calendar_feeds.by_secret(tx, "s7"),
    "calendar_feeds.planned": lambda tx: calendar_feeds.planned(tx, 7, NOW - 10 * HOUR, 1000),
    "calendar_feeds.replace": lambda tx: calendar_feeds.replace(tx, FEED),
    "calendar_feeds.remove": lambda tx: calendar_feeds.remove(tx, 7),
    "challenges.key": challenges.key,
    "challenges.make_key": challenges.make_key,
    "challenges.is_used": lambda tx: challenges.is_used(tx, "u1"),
    "challenges.use": lambda tx: challenges.use(tx, CHALLENGE_USE),
    "challenges.guesses_limited_until": lambda tx: challenges.guesses_limited_until(tx, NOW, 60, HOUR),
    "challenges.remove_uses": lambda tx: challenges.remove_uses(tx, NOW - 100_000 * HOUR, 500),
    **{
        f"reports.{query.__name__} {whose}": partial(query, period=Period(NOW + 900 * HOUR, NOW + 901 * HOUR, agent))
        for query in (
            reports.groups,
            reports.waiting_seconds,
            reports.length_seconds,
            reports.beginnings,
            reports.lags_ms,
        )
        for whose, agent in (("of all", None), ("of an agent", 7))
    },
    "reports.first_part": lambda tx: reports.first_part(tx, Period(NOW + 900 * HOUR, NOW + 901 * HOUR, None), 5),
    "reports.size": lambda tx: reports.size(tx, Period(NOW + 900 * HOUR, NOW + 901 * HOUR, None), 1000),
    "outbox.endpoint": lambda tx: outbox.endpoint(tx, "desk"),
    "outbox.next_replay": lambda tx: outbox.next_replay(tx, "desk"),
    "outbox.Backlogs": lambda tx: outbox.Backlogs().count(
        tx, [("desk", 39_900, EventFilter(types=RARE, session_types=SUPPORT))]
    ),
    "outbox.replays": lambda tx: outbox.replays(tx, "desk"),
    "outbox.deliveries": lambda tx: outbox.deliveries(tx, "desk", failed=False, before=None, limit=20),
    "outbox.deliveries that failed": lambda tx: outbox.deliveries(tx, "desk", failed=True, before=9000, limit=20),
    "outbox.seq_before": lambda tx: outbox.seq_before(tx, NOW - HOUR),
    "outbox.register": lambda tx: outbox.register(tx, "new", from_beginning=False),
    "outbox.add_delivery": lambda tx: outbox.add_delivery(tx, ATTEMPT),
    "outbox.forget_failures": lambda tx: outbox.forget_failures(tx, {"desk"}, {"desk"}),
    "outbox.update_endpoint": lambda tx: outbox.update_endpoint(tx, "desk", 0, cursor=1),
    "outbox.add_replay": lambda tx: outbox.add_replay(tx, REPLAY),
    "outbox.update_replay": lambda tx: outbox.update_replay(tx, REPLAY, cursor=1),
    "outbox.end_replay": lambda tx: outbox.end_replay(tx, REPLAY),
    "outbox.retry_now": outbox.retry_now,
    "outbox.next_replay by time": lambda tx: outbox.next_replay(tx, "desk", in_order=False),
    "mails.of_session": lambda tx: mails.of_session(tx, "c7"),
    "mails.newest": lambda tx: mails.newest(tx, "c7", RARE),
    "mails.claim": lambda tx: mails.claim(tx, mails.of_session(tx, "c7")[0], "c7", 0, 40_000),
    "mails.claim for the first time": lambda tx: mails.claim(tx, None, "c9", 5, 40_000),
    "mails.settle": lambda tx: mails.settle(tx, "c8", 0, 40_000, MailState.SENT, answered=True),
    "mails.count_of": lambda tx: mails.count_of(tx, 7),
    "mails.set_count": lambda tx: mails.set_count(tx, MailCount(agent_id=7, since=tx.now, mails=3)),
    "mails.reopen": lambda tx: mails.reopen(tx, 0, 40_000, None),
    "mails.reopen of a session": lambda tx: mails.reopen(tx, 0, 40_000, "c7"),
    "view.page of invitees": lambda tx: tx.page(0, 1, EventFilter(types=RARE, invited=True)),
    "outbox.remove_deliveries": lambda tx: outbox.remove_deliveries(tx, NOW - 100_000 * HOUR, 500),
    "log_positions.log_position": lambda tx: log_positions.log_position(tx, "log"),
    "log_positions.first_log_position": log_positions.first_log_position,
    "log_positions.set_log_position": lambda tx: log_positions.set_log_position(tx, "log", 1),
    "log_positions.begin_log": lambda tx: log_positions.begin_log(tx, "log", 1),
    "test_clock.read_time": test_clock.read_time,
    "test_clock.begin": lambda tx: test_clock.begin(tx, NOW),
    "test_clock.begin_real": test_clock.begin_real,
    "test_clock.set_time": lambda tx: test_clock.set_time(tx, NOW),
    "test_clock.is_new": test_clock.is_new,
}
"""Function -> a call of it. A function that can send different statements has a call for each of them."""

NO_QUERIES = {
    "view.rows_within",
    "view.one", "view.all", "view.rows", "view.scalar",  # they run statements of other functions
    "transaction.try_to_write",  # `WHERE 0 = 1`: it reads no row, so its plan does not matter
    "transaction.execute", "transaction.flush", "transaction.record", "transaction.add_inserted_events",
    "transaction.note_due",
}  # fmt: skip


def _at(tx: Transaction, now: Any) -> Transaction:
    tx.now = now
    return tx


def test_every_query_of_the_store_has_a_case_here() -> None:
    """A query is a method of `View` or `Transaction`, a function that takes one of them, or a class with `look`."""
    functions = {
        f"{kind.__name__.lower()}.{name}"
        for kind in (View, Transaction)
        for name, found in vars(kind).items()
        if inspect.isfunction(found) and not name.startswith("_")
    }
    for one in pkgutil.iter_modules(storage.__path__):
        if one.ispkg:
            continue
        module = importlib.import_module(f"tminus.storage.{one.name}")
        for name, found in vars(module).items():
            if not name.startswith("_") and getattr(found, "__module__", "") == module.__name__ and _is_query(found):
                functions.add(f"{one.name}.{name}")
    assert len(functions) > 50
    tested = {part for name in QUERIES for part in _names(name)}
    assert functions - tested - NO_QUERIES == set(), "add a call of the function for each statement that it can send"
    assert functions >= NO_QUERIES, "remove what does not exist any more"


def _is_query(found: Any) -> bool:
    if inspect.isclass(found):
        return hasattr(found, "look")
    if not inspect.isfunction(found):
        return False
    first = next(iter(inspect.signature(found).parameters.values()), None)
    return first is not None and first.annotation in (View, Transaction)


def _names(query: str) -> list[str]:
    place, _, rest = query.partition(".")
    return [f"{place}.{re.split('[ ,]', rest)[0]}"]


# --- the databases ----------------------------------------------------------------------------------------------------


def _fill(connection: Connection) -> None:
    """Store closed sessions of one agent, each with two events, a participant and a row of the delivery log."""
    kind = connection.dialect.name
    numbers = {
        "sqlite": f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CLOSED}) ",
        "postgresql": f"WITH n(i) AS (SELECT generate_series(1, {CLOSED})) ",
    }[kind]
    tx = Transaction(connection, NOW)
    put(tx, session(id="template", created_at=NOW, due_at=None, start_time=NOW))
    since = f"{int(NOW.timestamp() * 1000)} - ({CLOSED} - i) * 60000"
    changed = dict.fromkeys(("created_at", "updated_at", "start_time", "expires_at", "closed_at", "opened_at"), since)
    changed |= {"id": "'c' || i", "status": "'closed'", "close_reason": "'closed'", "external_mapping": "'case/' || i"}
    columns = ", ".join(SESSIONS.c.keys())
    values = ", ".join(changed.get(name, f"session.{name}") for name in SESSIONS.c.keys())  # noqa: SIM118
    run = connection.exec_driver_sql
    run(f"INSERT INTO session ({columns}) {numbers} SELECT {values} FROM n, session WHERE session.id = 'template'")
    opened = {"id": "'o' || i", "status": "'scheduled'", "due_at": f"{since} - 60000", "due_trigger": "'open'"}
    values = ", ".join(opened.get(name, f"session.{name}") for name in SESSIONS.c.keys())  # noqa: SIM118
    run(
        f"INSERT INTO session ({columns}) {numbers} SELECT {values} FROM n, session "
        f"WHERE session.id = 'template' AND i <= 40"
    )
    waiting = {"id": "'w' || i", "status": "'scheduled'", "due_trigger": "'open'", "agent_id": "8"}
    waiting["due_at"] = waiting["start_time"] = f"{int(NOW.timestamp() * 1000)} + (i + 1000) * 60000"
    values = ", ".join(waiting.get(name, f"session.{name}") for name in SESSIONS.c.keys())  # noqa: SIM118
    run(
        f"INSERT INTO session ({columns}) {numbers} SELECT {values} FROM n, session "
        f"WHERE session.id = 'template' AND i <= {SCHEDULED[kind]}"
    )
    run("DELETE FROM session WHERE id = 'template'")
    for number, status in enumerate(("new", "closed")):
        run(
            "INSERT INTO event (session_id, type, ts, actor, status, expires_at, participants) "
            f"SELECT id, 'session.created', created_at + {number}, 'agent:7', '{status}', expires_at, 0 FROM session"
        )
    run(
        "INSERT INTO participant (id, session_id, role, name, joined_at) "
        f"{numbers} SELECT 'p' || i, 'c' || i, 'guest', 'Ada', {since} FROM n"
    )
    run(
        "INSERT INTO presence (participant_id, session_id, resume_sha256, daemon, connection, gone_at) "
        f"{numbers} SELECT 'p' || i, 'c' || i, 'r' || i, "
        f"CASE WHEN i <= 20 THEN 'd2' ELSE 'd' || (3 + i / 2000) END, 'x' || i, "
        f"CASE WHEN i / 100 * 100 = i THEN {since} END FROM n"
    )
    run(
        "INSERT INTO agent (id, issuer, subject, name, email, roles, signed_in_at, shut_out_at, changed) "
        f"{numbers} SELECT i, 'https://i', 's' || i, '', '', '[]', {since}, CASE WHEN i = 9 THEN {since} END, i FROM n"
    )
    run(
        "INSERT INTO batch (id, kind, agent_id, key, caller, session_ids, starts, remaining, created_at) "
        """VALUES ('b1', 'create', 7, 'k1', '{}', '["n1", "n2"]', '[0, null]', 2, 0)"""
    )
    run(
        "INSERT INTO batch_part (batch_id, number, content, created_at) "
        f"{numbers} SELECT 'b' || (i + 1) / 2, i, '[]', {since} FROM n"
    )
    run("INSERT INTO lease (daemon, until) VALUES ('d2', 0)")
    run(
        "INSERT INTO series "
        "(id, agent_id, caller, definition, template, made_through, created_at, updated_at, version) "
        f"{numbers} SELECT 'r' || i, 8 + i / 100, '{{}}', '{{}}', '{{}}', '', {since}, {since}, 1 FROM n"
    )
    run(
        "INSERT INTO occurrence (series_id, local_start, session_id, start_time) "
        f"{numbers} SELECT 'r' || i, '2030-01-08T09:00:00', 'c' || i, {since} FROM n"
    )
    run(
        "INSERT INTO delivery (endpoint, kind, webhook_id, events, at, ok, ms) "
        f"{numbers} SELECT 'desk', 'events', 'msg_' || i, 1, {since}, {'1' if kind == 'sqlite' else 'true'}, 1 FROM n"
    )
    run(
        "INSERT INTO agent_session (secret_sha256, agent_id, token_sha256, started_at, expires_at, client_app, "
        f"user_agent, remote_ip) {numbers} SELECT 's' || i, 7, 't', {since}, {since}, '', '', '' FROM n"
    )
    run(
        "INSERT INTO signin_code (code_sha256, provider, instance_url, receiver, agent_id, token_sha256, expires_at) "
        f"{numbers} SELECT 's' || i, 'azure', '*', 'https://a/', i / 20, 't', {since} FROM n"
    )
    run(
        "INSERT INTO challenge_use (uuid, guessed_at, kept_until) "
        f"{numbers} SELECT 'u' || i, CASE WHEN i < 2000 THEN {since} END, {since} FROM n"
    )
    run(
        "INSERT INTO retry (agent_id, key, body_sha256, session_id, created_at) "
        f"{numbers} SELECT 7, 'k' || i, '', 'c' || i, {since} FROM n"
    )
    run(
        "INSERT INTO mail (session_id, position, seq, state, unanswered, sent_seq, at) "
        f"{numbers} SELECT 'c' || i, 0, i, CASE WHEN i < 5 THEN 'refused' ELSE 'sent' END, 0, i, {since} FROM n"
    )
    run("INSERT INTO endpoint (name, cursor, failures) VALUES ('desk', 0, 0)")
    run("INSERT INTO replay (endpoint, cursor, until, failures) VALUES ('desk', 0, 40000, 0)")


@pytest.fixture(scope="module")
def filled_sqlite(sqlite_server: SqliteServer) -> Iterator[Engine]:
    with sqlite_server.database() as database:
        yield from _filled(database)


@pytest.fixture(scope="module")
def filled_postgresql(pg_server: PostgresServer) -> Iterator[Engine]:
    with pg_server.database(empty=True) as database:
        database.open().close()
        yield from _filled(database)


def _filled(database: Database) -> Iterator[Engine]:
    engine = make_engine(database.url, writes=True)
    with engine.begin() as connection:
        _fill(connection)
    if database.kind == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
    yield engine
    engine.dispose()


# --- the plans --------------------------------------------------------------------------------------------------------


@contextmanager
def _rolled_back(engine: Engine) -> Iterator[Transaction]:
    with engine.connect() as connection:
        transaction = connection.begin()
        yield Transaction(connection, NOW)
        transaction.rollback()


def _statements(engine: Engine, job: Job) -> list[tuple[str, Any]]:
    """Return the statements of a job, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        sent.append((statement, values[0] if many else values))

    event.listen(engine, "before_cursor_execute", record)
    try:
        with _rolled_back(engine) as tx:
            job(tx)
            tx.flush()
    finally:
        event.remove(engine, "before_cursor_execute", record)
    return [one for one in sent if "pg_advisory" not in one[0] and "BEGIN" not in one[0]]


def test_on_sqlite_no_query_scans_a_table(filled_sqlite: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "WINDOW", 100)
    problems = []
    for name, job in QUERIES.items():
        sent = _statements(filled_sqlite, job)
        with _rolled_back(filled_sqlite) as tx:
            raw: Any = tx._connection.connection.driver_connection
            steps = [0]

            def count(steps: list[int] = steps) -> int:
                steps[0] += 100
                return 0

            raw.set_progress_handler(count, 100)
            job(tx)
            tx.flush()
            raw.set_progress_handler(None, 0)
            if steps[0] > (ALL if "(all match)" in name else STEPS):
                problems.append(f"{name}: {steps[0]} steps")
            for statement, values in sent:
                plan = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                scans = [line for line in plan if re.match(rf"SCAN ({'|'.join(LARGE)})\b", line)]
                if scans:
                    problems.append(f"{name}: {scans} in {statement}")
    assert not problems, "\n".join(problems)


@pytest.mark.slow
def test_on_postgresql_no_query_scans_a_table(filled_postgresql: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "WINDOW", 100)
    problems = []
    for name, job in QUERIES.items():
        sent = _statements(filled_postgresql, job)
        with _rolled_back(filled_postgresql) as tx:
            raw: Any = tx._connection.connection.driver_connection
            for statement, values in sent:
                [[text]] = raw.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", values).fetchall()
                plan = orjson.loads(text)[0]["Plan"]
                pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                scans = [node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "Seq Scan"]
                if "(all match)" in name:
                    is_bounded = pages <= ALL_PAGES and len(scans) <= 1
                else:
                    writes = not statement.lstrip().startswith(("SELECT", "WITH"))
                    is_bounded = pages <= (WRITTEN if writes else PAGES) and not set(scans) & set(LARGE)
                if not is_bounded:
                    problems.append(f"{name}: {pages} pages, scans {scans} in {statement[:300]}")
    assert not problems, "\n".join(problems)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
