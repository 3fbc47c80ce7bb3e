"""Other writes of a daemon: agent sessions, endpoints, results of deliveries, changed deadlines, retention.

As in `kills`, processes perform each write and kill themselves at the first step, at the second, and so on. The rows
are created before each attempt and compared after it, since many of these writes concern the whole database.
"""

import asyncio
import gc
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar
from uuid import UUID

import orjson
from sqlalchemy import delete, func, select, update

from tests.support import kills
from tests.support.clocks import NOW
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MINUTE, ROOM, caller, order, put, session, settings
from tests.support.receivers import SECRET
from tminus import clock, config
from tminus.api import Services, agent_sessions, oidc_agents, pin_lookups, routes_agents, routes_calendars
from tminus.api.authentication import SignedIn
from tminus.api.challenges import new_id, text_of
from tminus.api.pin_lookups import Answered
from tminus.api.request_context import RequestContext
from tminus.config import Agent, Settings, Webhook
from tminus.config.settings import Mail, Oidc, OidcRoles, SignIn
from tminus.delivery import Webhooks, worker
from tminus.delivery.client import Client
from tminus.delivery.mail import plan, templates
from tminus.delivery.mail import sender as sending
from tminus.delivery.mail.sender import MailSender
from tminus.delivery.mail.smtp import Access, Answer
from tminus.delivery.mail.templates import Templates
from tminus.delivery.webhook_sender import WebhookSender, subscription
from tminus.delivery.webhooks import configured
from tminus.delivery.worker import STANDBY_INTERVAL, DeliveryWorker
from tminus.domain.errors import ChallengeNeeded, Forbidden, UnknownSession, WrongCode
from tminus.domain.invitees import Invitee, as_json
from tminus.domain.model import (
    AgentSession,
    Batch,
    BatchRecord,
    CalendarFeed,
    ChallengeUse,
    Delivery,
    Endpoint,
    IdempotencyRecord,
    Replay,
    Session,
    SignInCode,
)
from tminus.domain.recurrence import CreateSeries, Recurrence, parse_rule
from tminus.domain.samples import SampleSession, sample
from tminus.domain.types import (
    LOCAL_AGENT_ID,
    BatchKind,
    Caller,
    DeliveryKind,
    EventType,
    MailState,
    ParticipantRole,
    PauseReason,
    Role,
    SessionType,
    Trigger,
)
from tminus.logs import output
from tminus.monitoring import event_log
from tminus.monitoring.event_log import EventLog
from tminus.oidc.errors import SignInRefused
from tminus.rooms import commands as room_commands
from tminus.scheduler import sweeps
from tminus.scheduler.scheduler import Scheduler
from tminus.sessions import batches, commands, participants, series
from tminus.sessions.idempotency import KeyedRequest
from tminus.storage import (
    EventFilter,
    Page,
    Store,
    Transaction,
    View,
    agents,
    calendar_feeds,
    challenges,
    mails,
    outbox,
    presence,
    reminders,
    retention,
    test_clock,
)
from tminus.storage import batches as stored_batches
from tminus.storage import series as stored_series
from tminus.storage.locks import AdvisoryLocks
from tminus.storage.log_positions import log_position, set_log_position
from tminus.storage.notifier import Notifier
from tminus.storage.tables import (
    AGENT_SESSIONS,
    AGENTS,
    BATCH_RECORDS,
    CALENDAR_FEEDS,
    CHALLENGE_USES,
    DELIVERIES,
    ENDPOINTS,
    EVENTS,
    IDEMPOTENCY,
    LEASES,
    META,
    PARTICIPANTS,
    PRESENCE,
    REPLAYS,
    SERIES,
    SESSIONS,
    SIGNIN_CODES,
)
from tminus.storage.watch import Watch

SETTINGS = settings()
RECEIVERS = ("https://a/", "https://desk.example.com/cb")
OTHER = settings(lead=25 * MINUTE).lifecycle.timeouts
DAY = 24 * HOUR

TOKEN = "the token of an agent"

SMALL: Sequence[tuple[Any, str, Any]] = (
    (sweeps, "LARGEST_BATCH", 2),
    (batches, "PART", 2),
    (batches, "PARTS", 1),
    (worker, "SKIPPED", 1),
    (event_log, "PAGE", 1),
    (event_log, "STOP_SECONDS", 0.0),
    (test_clock, "is_new", lambda _view: True),
)
"""Batch sizes that are small, so that few rows need several batches; and a database that no daemon has used."""

T = TypeVar("T")

State = Any


@dataclass(frozen=True)
class Trial:
    """A change that a part of the daemon makes with a store, to the rows with a label."""

    do: Callable[[Store, str], Any]
    prepare: Callable[[Transaction, str], Any]
    read_state: Callable[[View, str], State]
    """Returns everything that the trial may change, in a form that is equal for equal outcomes."""
    commits: int = 1
    """The number of transactions that change something."""
    later: timedelta = timedelta(0)
    twice_is_once: bool = True
    """Whether a repetition has no effect."""


@dataclass(frozen=True)
class Tried:
    """The outcome of one process: whether it sent its result, and the states before and after it."""

    label: str
    answered: bool
    before: State
    after: State
    again: State
    """The state after a repetition; None if there was none."""


# --- preparing and reading --------------------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _nothing(_tx: Transaction, _label: str) -> None:
    pass


def _number(label: str) -> int:
    """Return an agent id that only this label has, since some trials change all rows of an agent."""
    return 1 + int(_digest(label)[:7], 16)


def _agent_session(tx: Transaction, label: str, expires: datetime = NOW + HOUR, agent_id: int = 7) -> None:
    tx.add_agent_session(
        AgentSession(
            secret_sha256=_digest(label), agent_id=agent_id, token_sha256=_digest(TOKEN), started_at=NOW,
            expires_at=expires, client_app=label, user_agent="", remote_ip="192.0.2.1",
        )
    )  # fmt: skip


def _agent_sessions(view: View, label: str) -> State:
    return _count(view, AGENT_SESSIONS, AGENT_SESSIONS.c.client_app == label)


def _in_browser(view: View, label: str) -> State:
    return _agent_sessions(view, label), view.agent_session(_digest(label)) is None


def _code(tx: Transaction, label: str, expires: datetime = NOW + HOUR, agent_id: int = 7) -> None:
    tx.add_signin_code(
        SignInCode(
            code_sha256=_digest(label), provider=label, instance_url="", receiver="https://a/",
            agent_id=agent_id, token_sha256=_digest(TOKEN), expires_at=expires,
        )
    )  # fmt: skip


def _answer(label: str) -> ChallengeUse:
    return ChallengeUse(uuid=label, guessed_at=NOW, kept_until=NOW + HOUR)


def _answers(view: View, label: str) -> State:
    return _count(view, CHALLENGE_USES, CHALLENGE_USES.c.uuid == label)


def _no_key(tx: Transaction, _label: str) -> None:
    tx.remove_meta("challenge_key")


def _has_key(view: View, _label: str) -> State:
    return challenges.key(view) is not None


def _signed_in(tx: Transaction, label: str) -> None:
    """Prepare an agent session and a code."""
    _agent_session(tx, label, agent_id=_number(label))
    _code(tx, label, agent_id=_number(label))


def _signed_in_left(view: View, label: str) -> State:
    return _agent_sessions(view, label), _count(view, SIGNIN_CODES, SIGNIN_CODES.c.provider == label)


def _count(view: View, table: Any, *where: Any) -> int:
    return int(view.scalar(select(func.count()).select_from(table).where(*where)))


def _session(tx: Transaction, label: str, ahead: timedelta | None = None, **more: Any) -> Session:
    start = tx.now + ahead if ahead is not None else None
    return commands.create(tx, SETTINGS, AGENT, order(label=label, start_time=start, **more)).session


def _registered(tx: Transaction, label: str, **state: Any) -> None:
    """Prepare an endpoint with an undelivered event."""
    outbox.register(tx, label, from_beginning=False)
    if state:
        outbox.update_endpoint(tx, label, **state)
    _session(tx, label, 5 * MINUTE)


def _waiting(tx: Transaction, label: str) -> None:
    """Prepare an endpoint and a replay that both wait for a retry."""
    later = tx.now + HOUR
    _registered(tx, label, retry_at=later, failures=1)
    outbox.add_replay(tx, Replay(endpoint=label, cursor=0, until=1, retry_at=later))


def _replayed(tx: Transaction, label: str) -> None:
    """Prepare an endpoint with a replay of one session, and no other undelivered events."""
    outbox.register(tx, label, from_beginning=False)
    before, made = tx.last_seq(), _session(tx, label, 5 * MINUTE)
    tx.flush()
    outbox.update_endpoint(tx, label, cursor=tx.last_seq())
    outbox.add_replay(tx, Replay(endpoint=label, cursor=before, until=tx.last_seq(), session_id=made.id))


def _endpoint(view: View, label: str) -> State:
    """Return all that is stored of an endpoint: its state, its replays, its delivery log."""
    state = outbox.endpoint(view, label)
    if state is None:
        return None
    replays = view.all(Replay, select(REPLAYS).where(REPLAYS.c.endpoint == label))
    log = view.all(Delivery, select(DELIVERIES).where(DELIVERIES.c.endpoint == label).order_by(DELIVERIES.c.id))
    return {
        "undelivered": outbox.Backlogs().count(view, [("", state.cursor, EventFilter())])[0].events,
        "state": _fields(state, "name", "cursor"),
        "replays": [(_undelivered(view, one), _fields(one, "id", "endpoint", "cursor", "until")) for one in replays],
        "log": [(one.kind, one.ok, one.status, one.events) for one in log],
    }


def _undelivered(view: View, replay: Replay) -> int:
    return _count(view, EVENTS, EVENTS.c.seq > replay.cursor, EVENTS.c.seq <= replay.until)


def _fields(row: Endpoint | Replay, *but: str) -> State:
    """Return the fields of a row; of instants and event numbers only whether they are set."""
    shown = row.model_dump(exclude=set(but))
    return {
        name: bool(value) if isinstance(value, datetime) or name in {"batch_until", "session_id"} else value
        for name, value in shown.items()
    }


def _meta(key: str, view: View, _label: str) -> State:
    return view.meta(key) is not None


def _clock(view: View, _label: str) -> State:
    return view.meta("clock")


def _three_scheduled(tx: Transaction, label: str) -> None:
    tx.execute(delete(SESSIONS))
    tx.set_meta("timeouts", "others")
    for number in range(3):
        _session(tx, f"{label} {number}", HOUR)


def _deadlines(view: View, _label: str) -> State:
    """Return the lead time of each session, and whether it is stored as the time-out in force."""
    rows = view.all(Session, select(SESSIONS).order_by(SESSIONS.c.id))
    ahead = [row.start_time - row.due_at for row in rows if row.start_time and row.due_at]
    return ahead, view.meta("timeouts") != "others"


def _old(tx: Transaction, label: str) -> None:
    """Prepare one row of each kind that retention removes."""
    made = commands.create(tx, SETTINGS, AGENT, order(label=label), KeyedRequest(label, "0" * 64)).session
    participants.join_or_knock(tx, SETTINGS, ROOM, made.id, Trigger.JOIN, ParticipantRole.GUEST, "Grace")
    commands.close(tx, SETTINGS, AGENT, made.id)
    _agent_session(tx, label, NOW)
    _code(tx, label, NOW)
    tx.add_batch_record(_batch_record(label, NOW))
    challenges.use(tx, _answer(label))
    outbox.add_delivery(
        tx, Delivery(endpoint=label, kind=DeliveryKind.PING, webhook_id="msg_1", at=NOW, ok=True, status=200, ms=1)
    )


def _rows_left(view: View, label: str) -> State:
    ours = select(SESSIONS.c.id).where(SESSIONS.c.label == label)
    return {
        "agent sessions": _agent_sessions(view, label),
        "codes": _count(view, SIGNIN_CODES, SIGNIN_CODES.c.provider == label),
        "answers": _answers(view, label),
        "keys of batches": _count(view, BATCH_RECORDS, BATCH_RECORDS.c.key == label),
        "keys": _count(view, IDEMPOTENCY, IDEMPOTENCY.c.key == label),
        "deliveries": _count(view, DELIVERIES, DELIVERIES.c.endpoint == label),
        "sessions": _count(view, SESSIONS, SESSIONS.c.label == label),
        "events": _count(view, EVENTS, EVENTS.c.session_id.in_(ours)),
        "participants": _count(view, PARTICIPANTS, PARTICIPANTS.c.session_id.in_(ours)),
    }


def _to_remind(tx: Transaction, label: str) -> None:
    """Prepare two sessions whose first reminders will be due, one of them too late, and no others."""
    tx.execute(delete(SESSIONS).where(SESSIONS.c.remind_at.is_not(None)))
    for ahead in (3 * HOUR, 90 * MINUTE):
        wanted = order(label=label, start_time=tx.now + ahead, reminders=(HOUR, 15 * MINUTE))
        commands.create(tx, SETTINGS, AGENT, wanted)


def _reminded(view: View, label: str) -> State:
    of_label = select(EVENTS.c.type, SESSIONS.c.start_time).join_from(EVENTS, SESSIONS).where(SESSIONS.c.label == label)
    left = select(SESSIONS.c.remind_at).where(SESSIONS.c.label == label).order_by(SESSIONS.c.start_time)
    events = sorted((row.start_time, row.type) for row in view.rows(of_label))
    return events, [row.remind_at for row in view.rows(left)]


def _remind(store: Store, _label: str) -> None:
    sweeps.warm_up(store.submit, SETTINGS.lifecycle.timeouts)
    while store.submit(partial(reminders.do_due, timeouts=SETTINGS.lifecycle.timeouts, limit=1)).result():
        pass


def _series_order(label: str, hour: int) -> CreateSeries:
    start = datetime(2030, 1, 8, hour)  # noqa: DTZ001 - local
    when = Recurrence(start, "Europe/Berlin", parse_rule("FREQ=DAILY;COUNT=4"))
    return CreateSeries(when, 2 * DAY, order(label=label), {})


SERIES_OWNER = Caller(LOCAL_AGENT_ID, "local", "", frozenset({Role.GROUP_ADMIN}))


def _prepare_series(tx: Transaction, label: str) -> None:
    """Prepare a series, and no other series that needs new sessions."""
    tx.execute(update(SERIES).values(next_at=None))
    series.create(tx, SETTINGS, SERIES_OWNER, _series_order(label, 9), KeyedRequest(label, ""))


def _create_series(store: Store, label: str) -> None:
    keyed = KeyedRequest(label, "")
    store.submit(lambda tx: series.create(tx, SETTINGS, SERIES_OWNER, _series_order(label, 9), keyed)).result(30)


def _no_series(tx: Transaction, _label: str) -> None:
    tx.execute(update(SERIES).values(next_at=None))


def _of_label(view: View, label: str) -> str:
    found: str = view.scalar(select(SERIES.c.id).where(SERIES.c.idempotency_key == label))
    return found


def _change_series(store: Store, label: str, *, since: datetime | None = None) -> None:
    store.submit(
        lambda tx: series.change(tx, SETTINGS, SERIES_OWNER, _of_label(tx, label), _series_order(label, 10), since)
    ).result(30)


def _prepare_series_of_absent(tx: Transaction, label: str) -> None:
    """Prepare a series of an agent that is not in the configuration."""
    tx.execute(update(SERIES).values(next_at=None))
    series.create(tx, SETTINGS, AGENT, _series_order(label, 9), KeyedRequest(label, ""))


def _change_series_of_absent(store: Store, label: str) -> None:
    longer = _series_order(label, 9)._replace(horizon=3 * DAY)
    store.submit(lambda tx: series.change(tx, SETTINGS, GROUP_ADMIN, _of_label(tx, label), longer)).result(30)


def _end_series(store: Store, label: str) -> None:
    store.submit(lambda tx: series.end(tx, SETTINGS, SERIES_OWNER, _of_label(tx, label))).result(30)


def _entry(label: str, hour: int) -> config.Series:
    return config.Series.model_validate(
        {
            "name": label,
            "agent": 7,
            "rrule": "FREQ=DAILY;COUNT=4",
            "dtstart": f"2030-01-08T{hour:02}:00",
            "timezone": "Europe/Berlin",
            "horizon": "2d",
            "session": {"type": "live", "label": label},
        }
    )


OF_AGENT_7 = SETTINGS.model_copy(update={"agents": (config.Agent(id=7, name="Ada", roles=frozenset({Role.AGENT})),)})


def _configure_series(store: Store, label: str, hour: int) -> None:
    store.submit(lambda tx: series.configure(tx, OF_AGENT_7, _entry(label, hour))).result(30)


def _prepare_entry(tx: Transaction, label: str) -> None:
    series.configure(tx, OF_AGENT_7, _entry(label, 9))


def _remove_entry(store: Store, label: str) -> None:
    store.submit(lambda tx: series.remove_entry(tx, OF_AGENT_7, label)).result(30)


def _configured_left(view: View, label: str) -> State:
    rows = [stored_series.find(view, row.id) for row in view.rows(select(SERIES.c.id).where(SERIES.c.entry == label))]
    return [
        (one.definition.replace(label, ""), one.next_at is None, one.ended_at is None, one.version)
        for one in rows
        if one
    ]


def _make_occurrences(store: Store, _label: str) -> None:
    source = series.SeriesSource(SETTINGS)
    timeouts = SETTINGS.lifecycle.timeouts
    store.submit(partial(source.warm_up, timeouts=timeouts)).result(30)
    store.submit(partial(source.recompute_deadlines, timeouts=timeouts, after="", limit=1)).result(30)
    while store.submit(partial(source.do_due, timeouts=timeouts, limit=1)).result(30):
        pass


def _postpone_series(store: Store, label: str) -> None:
    store.submit(lambda tx: series.postpone(tx, series.SeriesDefect(_of_label(tx, label)))).result(30)


def _next_tries(view: View, label: str) -> State:
    return [row.next_at for row in view.rows(select(SERIES.c.next_at).where(SERIES.c.idempotency_key == label))]


def _series_left(view: View, label: str) -> State:
    """Return the series that was prepared and those that follow it, their occurrences, and the number of sessions."""
    ids = [row.id for row in view.rows(select(SERIES.c.id).where(SERIES.c.idempotency_key == label))]
    ids += [row.id for row in view.rows(select(SERIES.c.id).where(SERIES.c.follows.in_(ids)))]
    rows = [stored_series.find(view, one) for one in ids]
    states = [(one.made_through, one.ended_at is None, one.next_at is None, one.version) for one in rows if one]
    made = [stored_series.made(view, one, "", 100) for one in ids]
    occurrences = [[(one.local_start, one.start_time, one.status) for one in some] for some in made]
    return states, occurrences, _count(view, SESSIONS, SESSIONS.c.label == label)


def _yesterdays_key(tx: Transaction, label: str) -> None:
    earlier = _session(tx, "yesterday's")
    tx.flush()
    tx.add_idempotency_record(
        IdempotencyRecord(
            agent_id=7, key=label, body_sha256="1" * 64, session_id=earlier.id, created_at=tx.now - DAY - MINUTE
        )
    )


def _yesterdays_batch(tx: Transaction, label: str) -> None:
    tx.add_batch_record(_batch_record(label, tx.now - DAY - MINUTE))


def _batch_record(label: str, at: datetime) -> BatchRecord:
    return BatchRecord(agent_id=7, key=label, body_sha256="1" * 64, session_ids='["gone"]', created_at=at)


def _batch_made(view: View, label: str) -> State:
    """Return the sessions and the events of a batch, and how many sessions its key has."""
    made = view.all(Session, select(SESSIONS).where(SESSIONS.c.label == label).order_by(SESSIONS.c.id))
    events = _count(view, EVENTS, EVENTS.c.session_id.in_([one.id for one in made]))
    record = view.batch_record(7, label)
    states = sorted((one.status, bool(one.pin), one.due_at is not None) for one in made)
    return states, events, record and (record.body_sha256, record.session_ids.count(","))


def _made_with_key(view: View, label: str) -> State:
    [key] = view.all(IdempotencyRecord, select(IDEMPOTENCY).where(IDEMPOTENCY.c.key == label))
    return key.body_sha256, _count(view, SESSIONS, SESSIONS.c.label == label)


def _log_was_left(tx: Transaction, label: str) -> None:
    set_log_position(tx, "", tx.last_seq())
    _session(tx, label, 5 * MINUTE)


def _older_logs(tx: Transaction, _label: str) -> None:
    """Prepare unlogged events of the previous release, and the log position of a daemon that no longer exists."""
    tx.set_meta("log_left_at", "7")
    tx.set_meta("log_at:gone", "5 0")
    tx.execute(delete(META).where(META.c.key == "log_at:new"))


def _log_positions(view: View, _label: str) -> State:
    return log_position(view, "new"), log_position(view, "gone"), view.meta("log_left_at")


def _log_left(view: View, _label: str) -> State:
    return _count(view, EVENTS, EVENTS.c.seq > log_position(view, ""))


def _open_room(tx: Transaction, label: str) -> None:
    commands.create(tx, SETTINGS, AGENT, order(label=label, preferences={"knock": True}))


def _busy_room(tx: Transaction, label: str) -> None:
    """Prepare a room with a host, and somebody who knocks."""
    made = commands.create(tx, SETTINGS, AGENT, order(label=label, preferences={"knock": True})).session
    for role in (ParticipantRole.HOST, ParticipantRole.GUEST):
        connection = room_commands.Connection(label, f"{label} {role}")
        room_commands.enter(tx, SETTINGS, made.id, role, "Ada", f"key of {label} {role}", connection)


def _lost_room(tx: Transaction, label: str) -> None:
    """Prepare a room whose people have lost their connections."""
    _busy_room(tx, label)
    presence.await_reconnects(tx, label, NOW + MINUTE / 2)


def _due_room(tx: Transaction, label: str) -> None:
    """Prepare the same, without people in other rooms, who would leave first."""
    tx.execute(delete(PRESENCE))
    _lost_room(tx, label)


def _leased_room(tx: Transaction, label: str) -> None:
    _busy_room(tx, label)
    presence.renew_lease(tx, label, NOW + MINUTE)


def _of_room(view: View, label: str) -> tuple[str, dict[str, str]]:
    """Return the session with a label, and its participants by role."""
    session_id = view.scalar(select(SESSIONS.c.id).where(SESSIONS.c.label == label))
    people = view.rows(select(PARTICIPANTS.c.role, PARTICIPANTS.c.id).where(PARTICIPANTS.c.session_id == session_id))
    return session_id, {str(row.role): row.id for row in people}


def _room(view: View, label: str) -> State:
    """Return all that is stored of a room."""
    session_id, _ = _of_room(view, label)
    status = view.scalar(select(SESSIONS.c.status).where(SESSIONS.c.id == session_id))
    people = select(PARTICIPANTS).where(PARTICIPANTS.c.session_id == session_id)
    there = [(row.role, row.left_at is None, row.waiting_since is None) for row in view.rows(people)]
    rows = view.rows(select(PRESENCE).where(PRESENCE.c.session_id == session_id))
    connected = [(row.connection.removeprefix(label), row.gone_at is None) for row in rows]
    lease = view.scalar(select(LEASES.c.until).where(LEASES.c.daemon == label))
    return status, sorted(there), sorted(connected), lease, _count(view, EVENTS, EVENTS.c.session_id == session_id)


# --- doing ------------------------------------------------------------------------------------------------------------


def _webhooks(store: Store) -> Webhooks:
    webhooks = Webhooks(store, Path())
    webhooks._loop.close()  # nothing runs on it
    return webhooks


def _services(store: Store, agent_id: int = 7) -> Services:
    agent = Agent(id=agent_id, name="Anna", roles=frozenset({Role.AGENT}), token_sha256=(_digest(TOKEN),))
    return Services(
        store,
        SETTINGS.model_copy(update={"agents": (agent,), "signin": SignIn(receivers=RECEIVERS)}),
        _webhooks(store),
        list,
        "a test",
    )


def _context(store: Store, label: str, agent_id: int = 7) -> RequestContext:
    headers = {b"client-app": label.encode(), b"session-id": label.encode()}
    return RequestContext(_services(store, agent_id), "r", local=False, remote_ip="192.0.2.1", headers=headers)


def _sign_in(store: Store, label: str) -> Any:
    caller, _secret = asyncio.run(agent_sessions.sign_in(_context(store, label), TOKEN))
    return caller.agent_id


def _sign_out(store: Store, label: str) -> Any:
    asyncio.run(agent_sessions.sign_out(_context(store, label), Caller(7, "Anna", "", frozenset({Role.AGENT}), sid=1)))


def _signed_in_agent(label: str) -> SignedIn:
    agent = Agent(id=_number(label), name="Anna", roles=frozenset({Role.AGENT}), token_sha256=(_digest(TOKEN),))
    return SignedIn(agent, _digest(TOKEN))


def _sign_in_on_page(store: Store, label: str) -> Any:
    """Sign in on the page, in a browser that has an agent session."""
    asyncio.run(agent_sessions.start_in_browser(_context(store, label), _signed_in_agent(label), label))


def _sign_out_everywhere(store: Store, label: str) -> Any:
    caller = Caller(_number(label), "Anna", "", frozenset({Role.AGENT}), sid=1)
    asyncio.run(agent_sessions.sign_out_everywhere(_context(store, label), caller))


async def _await(what: Awaitable[T]) -> T:
    return await what


OPERATOR = Caller(LOCAL_AGENT_ID, "", "", frozenset({Role.GROUP_ADMIN}))


def _shut_out(store: Store, label: str) -> Any:
    number = _number(label)
    asyncio.run(_await(routes_agents.shut_out(_context(store, label, number), OPERATOR, number)))


def _readmit(store: Store, label: str) -> Any:
    number = _number(label)
    asyncio.run(_await(routes_agents.readmit(_context(store, label, number), OPERATOR, number)))


def _make_address(store: Store, label: str) -> Any:
    number = _number(label)
    asyncio.run(_await(routes_calendars.make_address(_context(store, label, number), OPERATOR, number)))


def _revoke_address(store: Store, label: str) -> Any:
    number = _number(label)
    asyncio.run(_await(routes_calendars.revoke_address(_context(store, label, number), OPERATOR, number)))


def _prepare_calendar(tx: Transaction, label: str) -> None:
    feed = CalendarFeed(agent_id=_number(label), secret_sha256=_digest(label), created_at=NOW)
    calendar_feeds.replace(tx, feed)


def _has_calendar(view: View, label: str) -> State:
    return _count(view, CALENDAR_FEEDS, CALENDAR_FEEDS.c.agent_id == _number(label))


def _was_shut_out(tx: Transaction, label: str) -> None:
    agents.shut_out(tx, _number(label))


def _known(view: View, label: str) -> State:
    """Return the number of an agent's sessions and codes, and when the agent was shut out."""
    known = agents.find(view, _number(label))
    return _signed_in_left(view, label), known is not None and known.shut_out_at


def _admit(store: Store, label: str) -> Any:
    """Sign in a person whom the issuer has authenticated, but who no longer has a role."""
    context = _context(store, label)
    oidc = Oidc(issuer="https://issuer", roles=OidcRoles(agent=("support",)))
    context.services.settings = SETTINGS.model_copy(update={"signin": SignIn(oidc=oidc)})
    with suppress(SignInRefused):
        asyncio.run(oidc_agents.agent_of(context, {"sub": label, "name": "Ada", "groups": []}))


def _prepare_oidc_agent(tx: Transaction, label: str) -> None:
    known = agents.find_or_add(tx, agents.Person("https://issuer", label, "Ada", "", '["agent"]'))
    assert known is not None
    _agent_session(tx, label, agent_id=known.id)


def _oidc_agent(view: View, label: str) -> State:
    roles = view.scalar(select(AGENTS.c.roles).where(AGENTS.c.subject == label))
    return _agent_sessions(view, label), roles


def _issue_code(store: Store, label: str) -> Any:
    """Issue a code to a browser that has an agent session."""
    agent = _signed_in_agent(label)
    asyncio.run(agent_sessions.add_code(_context(store, label), agent, label, "https://a/", label, ""))


def _exchange_code(store: Store, label: str) -> Any:
    with suppress(WrongCode):  # the code was exchanged before the kill
        asyncio.run(agent_sessions.exchange_code(_context(store, label), label, label, ""))


_MADE: dict[str, UUID] = {}
"""Challenges by label."""


def _challenge(tx: Transaction, label: str) -> None:
    _MADE[label] = new_id(bytes.fromhex(challenges.make_key(tx)), clock.now())


def _made_challenge(view: View, label: str) -> State:
    used = CHALLENGE_USES.c.uuid == str(_MADE[label])
    return _count(view, CHALLENGE_USES, used), _count(view, CHALLENGE_USES, used, CHALLENGE_USES.c.guessed_at.is_(None))


def _answer_challenge(store: Store, label: str, *, right: bool) -> Any:
    """Answer a challenge, with a PIN that no session has."""
    key = bytes.fromhex(store.read(challenges.key) or "")
    answered = Answered(str(_MADE[label]), text_of(key, _MADE[label]) if right else "no digits")
    with suppress(ChallengeNeeded, UnknownSession):
        asyncio.run(pin_lookups._with_answer(_context(store, label), "000000", 0, answered, 60))


def _make_key(store: Store, _label: str) -> Any:
    store.submit(challenges.make_key).result()


def _enter_room(store: Store, label: str) -> Any:
    session_id, _ = store.read(lambda view: _of_room(view, label))
    key = f"key of {label} {len(store.read(lambda view: _of_room(view, label))[1])}"
    connection = room_commands.Connection(label, f"{label} new", needs_lease=True)
    store.submit(
        partial(
            room_commands.enter, settings=SETTINGS, session_id=session_id, role=ParticipantRole.GUEST, name="Grace",
            resume=key, connection=connection,
        )
    ).result()  # fmt: skip


def _in_room(store: Store, label: str, *, job: Callable[..., Any]) -> Any:
    """Run a job with the label, the session and its participants by role."""
    session_id, people = store.read(lambda view: _of_room(view, label))
    store.submit(partial(job, label=label, session_id=session_id, people=people)).result()


def _resume(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    connection = room_commands.Connection(label, f"{label} later")
    room_commands.resume(tx, session_id, f"key of {label} guest", connection, lambda _session: True)


def _leave_room(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.leave(tx, SETTINGS, session_id, people["guest"])


def _give_up(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.stop_waiting(tx, SETTINGS, session_id, people["guest"])


def _by_host(
    command: Callable[..., None],
    tx: Transaction,
    label: str,
    session_id: str,
    people: dict[str, str],
) -> None:
    command(tx, SETTINGS, session_id, people["host"], people["guest"])


def _end_room(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    with suppress(Forbidden):  # the host has left, since the session was closed before the kill
        room_commands.end(tx, SETTINGS, session_id, people["host"])


def _lose(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.connections_lost(tx, SETTINGS, {people["guest"]: f"{label} guest"})


def _find_again(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.correct_connections(tx, SETTINGS, label, {}, [people["guest"]])


def _restart_rooms(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.await_reconnects(tx, SETTINGS, label)


def _leave_gone(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    presence.do_due(tx, SETTINGS.lifecycle.timeouts, 64)


def _renew(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.renew_lease(tx, label)


def _expire(tx: Transaction, label: str, session_id: str, people: dict[str, str]) -> None:
    room_commands.expire_lease(tx, label)


def _operate(store: Store, label: str, *, command: Callable[[Webhooks, str], Awaitable[Any]]) -> Any:
    """Run an operator's command on a configured endpoint."""
    webhooks = _webhooks(store)
    webhooks._endpoints[label] = configured(_webhook(label))
    webhooks._notifiers[label] = Notifier()

    async def run() -> None:
        await command(webhooks, label)

    asyncio.run(run())


def _forget_failures(store: Store, label: str) -> None:
    others = store.read(lambda view: {row.name for row in view.rows(select(ENDPOINTS.c.name))}) - {label}
    store.submit(partial(outbox.forget_failures, moved=(), configured=others)).result(30)


def _replay(webhooks: Webhooks, label: str) -> Awaitable[Any]:
    newest = webhooks._store.read(lambda view: view.last_seq())
    return webhooks.replay(label, from_seq=newest, since=None, session=None)


def _clock_was_set(store: Store, _label: str) -> None:
    _webhooks(store).retry_all_now()


def _webhook(label: str, **more: Any) -> Webhook:
    url = f"http://127.0.0.1:{PORT}/{label}"
    return Webhook.model_validate({"name": label, "url": url, "secret_file": "s", **more})


PORT = 9
"""The port of the receiver."""


def _sample(worker: DeliveryWorker) -> Awaitable[Any]:
    session = SampleSession(
        agent_id=7, organization_id=1, user_description="", created_by='{"providerExternalId":""}', settings="{}"
    )
    return worker.sample(sample(EventType.READY, session, NOW, SETTINGS.lifecycle.timeouts, "agent:7"))


def _worker(store: Store, label: str, *, act: Callable[[DeliveryWorker], Awaitable[Any]], **more: Any) -> Any:
    async def serve() -> None:
        with ThreadPoolExecutor(1) as threads:
            webhook = _webhook(label, **more)
            client = Client(webhook.url, None)
            sender = WebhookSender(webhook, (SECRET,), client, store.database_id)
            worker = DeliveryWorker(
                store, subscription(webhook), sender, threads, Notifier(), lambda *_: None, 10 * HOUR
            )
            async with aclosing(client):
                await act(worker)

    asyncio.run(serve())


async def _until_idle(worker: DeliveryWorker) -> None:
    """Serve the endpoint until nothing is left to do. The locks of a killed daemon are released after a moment."""
    while (seconds := await worker._step()) in (0, STANDBY_INTERVAL):
        if seconds:
            await asyncio.sleep(0.005)


def _invite(store: Store, label: str) -> Any:
    """Schedule a session with two invitees. Their mails count towards the agent's limit."""
    limited = SETTINGS.model_copy(update={"mail": Mail(host="localhost", **{"from": "desk@example.com"})})
    people = as_json([Invitee("joe@example.com"), Invitee("eve@example.com")])
    wanted, by = order(label=label, start_time=NOW + HOUR, invitees=people), caller(agent_id=_number(label))
    return store.submit(lambda tx: commands.create(tx, limited, by, wanted)).result(30).session.id


def _mails_counted(view: View, label: str) -> State:
    counted = mails.count_of(view, _number(label))
    return _count(view, SESSIONS, SESSIONS.c.label == label), counted and counted.mails


def _invited(tx: Transaction, label: str) -> None:
    _session(tx, label, HOUR, invitees=as_json([Invitee("joe@example.com")]))


def _refused(tx: Transaction, label: str) -> None:
    _invited(tx, label)
    mails.settle(tx, _id_of(tx, label), 0, tx.last_seq(), MailState.REFUSED, answered=True)


def _id_of(view: View, label: str) -> str:
    return str(view.scalar(select(SESSIONS.c.id).where(SESSIONS.c.label == label)))


def _mailed(view: View, label: str) -> State:
    """Return the states of a session's mails, their entries in the delivery log, and the number of its replays."""
    session = view.session(_id_of(view, label))
    assert session is not None
    number = f"{session.external_session_object_id}.%"
    rows = [(row.state, row.unanswered, row.sent_seq is None) for row in mails.of_session(view, session.id).values()]
    log = [row.ok for row in view.rows(select(DELIVERIES.c.ok).where(DELIVERIES.c.webhook_id.like(number)))]
    return rows, log, _count(view, REPLAYS, REPLAYS.c.session_id == session.id)


def _mail(store: Store, label: str) -> None:
    """Claim a mail and record that it was accepted, as the sender does before and after it sends the text."""

    async def send(sender: MailSender, attempt: sending.Attempt, found: plan.Plan) -> None:
        for task in found.tasks:
            claim = partial(mails.claim, seen=task.seen, session_id=found.session.id, position=0, seq=attempt.event.seq)
            assert await sender._write(claim)
        for position in (*found.lost, *(task.position for task in found.tasks)):
            await sender._settle(attempt, found, position, MailState.SENT, Answer(250, ""))

    _with_mails(store, label, send)


def _defer_mail(store: Store, label: str) -> None:
    async def defer(sender: MailSender, attempt: sending.Attempt, _found: plan.Plan) -> None:
        attempt.deferred = "greylisted"
        await sender._write(sender._done(attempt, Page([], 0)).also)

    _with_mails(store, label, defer)


def _with_mails(store: Store, label: str, act: Callable[..., Awaitable[None]]) -> None:
    mail = Settings.model_validate({"mail": {"host": "localhost", "from": "desk@example.com"}})

    async def run() -> None:
        with ThreadPoolExecutor(1) as threads:
            words = Templates(templates.read(None), "en", "UTC")
            sender = MailSender(store, threads, mail, Access(mail.mail, "", None), words)
            session = store.read(lambda view: view.session(_id_of(view, label)))
            assert session is not None
            event = store.read(lambda view: view.events(0, 1, EventFilter(session_id=session.id)))[0].event
            found = store.read(partial(sender._find, event))
            await act(sender, sending.Attempt(DeliveryKind.EVENTS, event, NOW, 0.0), found)

    asyncio.run(run())


def _reopen_mail(store: Store, label: str) -> None:
    store.submit(lambda tx: mails.reopen(tx, 0, 2**62, _id_of(tx, label))).result()


def _recompute_deadlines(store: Store, _label: str) -> None:
    sweeps.recompute_deadlines(store.submit, OTHER)


def _retention(store: Store, _label: str) -> None:
    sweeps.remove_old(store.submit, DAY, DAY)


def _retention_of_a_part(store: Store, label: str) -> None:
    """Remove a part of the rows of a session that has more of them than a batch."""

    def remove(tx: Transaction) -> object:
        ours = tx.scalar(select(SESSIONS.c.id).where(SESSIONS.c.label == label))
        return retention._remove_part(tx, ours, 1)

    store.submit(remove).result()


def _retention_pause(store: Store, _label: str) -> None:
    store.submit(sweeps.retention_pause).result()


def _move_test_clock(store: Store, _label: str) -> None:
    store.submit(partial(test_clock.set_time, instant=NOW + HOUR), clock=True).result()


def _begin_test_clock(store: Store, _label: str) -> None:
    store.submit(partial(test_clock.begin, start=NOW)).result()


def _begin_real_clock(store: Store, _label: str) -> None:
    store.submit(test_clock.begin_real).result()


def _write_again(store: Store, _label: str) -> None:
    """Run the tick of a daemon whose writes fail: it writes, to detect that writes work again."""
    scheduler = Scheduler(
        _services(store), EventLog(store, lambda _page, done: done(True)), Event(), lambda: None, None
    )
    scheduler._are_deadlines_current = True
    store._writer.failing = "the disk was full"
    scheduler.tick()
    assert store.failing is None


def _begin_log(store: Store, _label: str) -> None:
    """Start an event log without a stored position."""
    EventLog(store, lambda _page, done: done(True), name="new")


def _start_and_stop_log(store: Store, _label: str) -> None:
    """Start an event log at its stored position, and stop it before it has logged all events."""
    event_log_run = EventLog(store, lambda _page, done: done(True))
    event_log_run.start()
    assert event_log_run.stop() > 0


def _create(store: Store, label: str) -> Any:
    keyed = KeyedRequest(label, "0" * 64)
    return store.submit(lambda tx: commands.create(tx, SETTINGS, AGENT, order(label=label), keyed).session.id).result(
        30
    )


def _create_batch(store: Store, label: str, *, hours: Sequence[float | None]) -> Any:
    """Create a batch of sessions that start in some hours, or at once."""
    starts = [None if one is None else NOW + one * HOUR for one in hours]
    requests = [order(SessionType.SUPPORT, label=label, start_time=start) for start in starts]
    new = batches.NewBatch()
    for number, first in enumerate(range(0, len(requests), batches.PART)):
        content = batches.prepare(new, SETTINGS, AGENT, requests[first : first + batches.PART], NOW)
        if len(requests) <= batches.PART:
            new.content = content
            break
        store.submit(partial(batches.store_parts, batch_id=new.id, first=number, contents=[content])).result(30)
        new.stored += 1
    keyed = KeyedRequest(label, "0" * 64)
    return _finish_batch(store, store.submit(lambda tx: batches.create(tx, SETTINGS, AGENT, new, keyed)).result(30))


def _finish_batch(store: Store, decided: batches.Decided) -> Any:
    while decided.unfinished is not None:
        do_next = partial(batches.do_next, settings=SETTINGS, batch_id=decided.unfinished)
        if not store.submit(do_next).result(30).remaining:
            break
    return decided.session_ids


def _store_two_parts(tx: Transaction, label: str) -> batches.NewBatch:
    new = batches.NewBatch()
    for number in range(2):
        requests = [order(SessionType.SUPPORT, label=label, start_time=NOW + HOUR)] * 2
        batches.store_parts(tx, label, number, [batches.prepare(new, SETTINGS, AGENT, requests, NOW)])
    return new


def _unfinished_batch(tx: Transaction, label: str) -> None:
    """Prepare a batch that is decided but not executed; another session has the id of one of its sessions."""
    session_ids = list(_store_two_parts(tx, label).session_ids)
    put(tx, session(id=session_ids[1]))
    stored_batches.add(
        tx,
        Batch(
            id=label, kind=BatchKind.CREATE, agent_id=7, key=label, caller='{"actor":"agent:7","request_id":null}',
            session_ids=orjson.dumps(session_ids).decode(), remaining=4, created_at=NOW,
        ),
    )  # fmt: skip


def _do_batch(store: Store, label: str) -> None:
    _finish_batch(store, batches.Decided([], label))


def _unfinished_alone(tx: Transaction, label: str) -> None:
    """Prepare such a batch, and remove all deadlines: only then does one transaction execute several parts."""
    tx.execute(update(SESSIONS).values(due_at=None, remind_at=None))
    _unfinished_batch(tx, label)


def _do_parts_together(store: Store, label: str) -> None:
    before, batches.PARTS = batches.PARTS, 2
    try:
        _do_batch(store, label)
    finally:
        batches.PARTS = before


def _batch_parts(view: View, label: str) -> State:
    return stored_batches.parts(view, label), label in stored_batches.unfinished(view), _batch_made(view, label)


def _discard_batch(store: Store, label: str) -> None:
    store.submit(partial(batches.discard, batch_id=label)).result(30)


def _remove_leftovers(store: Store, _label: str) -> None:
    sweeps.remove_leftovers(store.submit, MINUTE)


def _scheduled(tx: Transaction, label: str, *, number: int) -> None:
    for hours in range(1, 1 + number):
        _session(tx, label, hours * HOUR)


def _moved_batch(view: View, label: str) -> State:
    """Return the starts and versions of the sessions of a batch, and what `_batch_made` returns."""
    found = view.all(Session, select(SESSIONS).where(SESSIONS.c.label == label).order_by(SESSIONS.c.id))
    return sorted((one.version, one.start_time and one.start_time - NOW) for one in found), _batch_made(view, label)


def _targets(store: Store, label: str, by: timedelta | None = None) -> batches.Targets:
    ours = select(SESSIONS.c.id).where(SESSIONS.c.label == label).order_by(SESSIONS.c.start_time)
    return batches.Targets("ids", [batches.Target(row.id) for row in store.read(lambda view: view.rows(ours))], by=by)


def _move_batch(store: Store, label: str) -> Any:
    """Move sessions back. The first of them opens at once."""
    keyed, targets = KeyedRequest(label, "0" * 64), _targets(store, label, -55 * MINUTE)
    decided = store.read(lambda view: batches.find_decided(view, AGENT, keyed, NOW))
    if decided is None:
        moves = store.read(lambda view: batches.find_moves(view, SETTINGS, AGENT, targets, NOW))
        decided = store.submit(lambda tx: batches.reschedule(tx, SETTINGS, AGENT, moves, keyed)).result(30)
    assert decided is not None
    return _finish_batch(store, decided)


def _close_batch(store: Store, label: str) -> Any:
    keyed, targets = KeyedRequest(label, "0" * 64), _targets(store, label)
    sessions = store.read(lambda view: batches.find_open(view, AGENT, targets))
    decided = store.submit(lambda tx: batches.close(tx, SETTINGS, AGENT, sessions, keyed)).result(30)
    return _finish_batch(store, decided)


def _remove_write_test(tx: Transaction, _label: str) -> None:
    tx.execute(delete(META).where(META.c.key == "written"))


def _remove_retention_run(tx: Transaction, _label: str) -> None:
    tx.execute(delete(META).where(META.c.key == "retention"))


def _no_clock(tx: Transaction, _label: str) -> None:
    tx.remove_meta("clock")


def _test_clock(tx: Transaction, _label: str) -> None:
    test_clock.set_time(tx, NOW)


_PAUSED: dict[str, Any] = {"paused_at": NOW, "pause_reason": PauseReason.OPERATOR, "failures": 2, "failing_since": NOW}
_serve = partial(_worker, act=_until_idle)

TRIALS: Mapping[str, Trial] = {
    "sign-in": Trial(_sign_in, _nothing, _agent_sessions, twice_is_once=False),
    "sign-in-on-page": Trial(_sign_in_on_page, _agent_session, _in_browser, twice_is_once=False),
    "sign-out-everywhere": Trial(_sign_out_everywhere, _signed_in, _signed_in_left),
    "shut-out": Trial(_shut_out, _signed_in, _known),
    "admit": Trial(_admit, _prepare_oidc_agent, _oidc_agent),
    "make address of calendar": Trial(_make_address, _nothing, _has_calendar, twice_is_once=True),
    "revoke address of calendar": Trial(_revoke_address, _prepare_calendar, _has_calendar),
    "readmit": Trial(_readmit, _was_shut_out, _known),
    "issue-code": Trial(_issue_code, _agent_session, _signed_in_left, twice_is_once=False),
    "exchange-code": Trial(_exchange_code, _code, _signed_in_left),
    "sign-out": Trial(_sign_out, _agent_session, _agent_sessions),
    "right-answer": Trial(partial(_answer_challenge, right=True), _challenge, _made_challenge),
    "wrong-answer": Trial(partial(_answer_challenge, right=False), _challenge, _made_challenge),
    "challenge-key": Trial(_make_key, _no_key, _has_key),
    "key-of-yesterday": Trial(_create, _yesterdays_key, _made_with_key),
    "batch": Trial(partial(_create_batch, hours=(1, None, 0.01)), _nothing, _batch_made, commits=3),
    "batch-of-one-part": Trial(partial(_create_batch, hours=(None, 0.01)), _nothing, _batch_made),
    "batch-of-yesterday": Trial(partial(_create_batch, hours=(1, 2)), _yesterdays_batch, _batch_made),
    "batch-discard": Trial(_discard_batch, _store_two_parts, _batch_parts),
    "batch-leftovers": Trial(_remove_leftovers, _store_two_parts, _batch_parts, later=HOUR),
    "batch-unfinished": Trial(_do_batch, _unfinished_batch, _batch_parts, commits=2),
    "batch-parts-together": Trial(_do_parts_together, _unfinished_alone, _batch_parts),
    "batch-reschedule": Trial(_move_batch, partial(_scheduled, number=3), _moved_batch, commits=3),
    "batch-close": Trial(_close_batch, partial(_scheduled, number=3), _moved_batch, commits=3),
    "room-enter": Trial(_enter_room, _open_room, _room, twice_is_once=False),
    "room-resume": Trial(partial(_in_room, job=_resume), _lost_room, _room),
    "room-leave": Trial(partial(_in_room, job=_leave_room), _busy_room, _room),
    "room-give-up": Trial(partial(_in_room, job=_give_up), _busy_room, _room),
    "room-admit": Trial(partial(_in_room, job=partial(_by_host, room_commands.admit)), _busy_room, _room),
    "room-deny": Trial(partial(_in_room, job=partial(_by_host, room_commands.deny)), _busy_room, _room),
    "room-remove": Trial(partial(_in_room, job=partial(_by_host, room_commands.remove)), _busy_room, _room),
    "room-end": Trial(partial(_in_room, job=_end_room), _busy_room, _room),
    "room-lost": Trial(partial(_in_room, job=_lose), _busy_room, _room),
    "room-found": Trial(partial(_in_room, job=_find_again), _lost_room, _room),
    "room-restart": Trial(partial(_in_room, job=_restart_rooms), _leased_room, _room),
    "room-left": Trial(partial(_in_room, job=_leave_gone), _due_room, _room, later=MINUTE),
    "room-lease": Trial(partial(_in_room, job=_renew), _busy_room, _room),
    "room-lease-lost": Trial(partial(_in_room, job=_expire), _leased_room, _room, later=HOUR),
    "pause": Trial(partial(_operate, command=Webhooks.pause), _registered, _endpoint),
    "resume": Trial(partial(_operate, command=Webhooks.resume), partial(_registered, **_PAUSED), _endpoint),
    "replay": Trial(partial(_operate, command=_replay), _registered, _endpoint, twice_is_once=False),
    "mails-counted": Trial(_invite, _nothing, _mails_counted, twice_is_once=False),
    "mail": Trial(_mail, _invited, _mailed, commits=2),
    "mail-deferred": Trial(_defer_mail, _invited, _mailed, twice_is_once=False),
    "mail-again": Trial(_reopen_mail, _refused, _mailed),
    "clock-was-set": Trial(_clock_was_set, _waiting, _endpoint),
    "register": Trial(partial(_worker, act=DeliveryWorker.register), _nothing, _endpoint),
    "ping": Trial(partial(_worker, act=DeliveryWorker.ping), _registered, _endpoint, twice_is_once=False),
    "sample": Trial(partial(_worker, act=_sample), _registered, _endpoint, twice_is_once=False),
    "skip": Trial(partial(_serve, events=["session.closed"]), _registered, _endpoint),
    "skip-failed": Trial(
        partial(_serve, events=["session.closed"]),
        partial(_registered, failures=1, batch_until=2**40),
        _endpoint,
        commits=2,
    ),
    "forget-failures": Trial(_forget_failures, _waiting, _endpoint),
    "deliver": Trial(_serve, _registered, _endpoint),
    "deliver-refused": Trial(_serve, _registered, _endpoint),
    "redeliver": Trial(_serve, _replayed, _endpoint, commits=2),
    "recompute-deadlines": Trial(_recompute_deadlines, _three_scheduled, _deadlines, commits=3),
    "remind": Trial(_remind, _to_remind, _reminded, commits=3, later=2 * HOUR),
    "series-create": Trial(_create_series, _no_series, _series_left),
    "series-change": Trial(_change_series, _prepare_series, _series_left, twice_is_once=False),
    "series-from-here": Trial(
        partial(_change_series, since=datetime(2030, 1, 9)),  # noqa: DTZ001 - local
        _prepare_series,
        _series_left,
        twice_is_once=False,
    ),
    "series-of-absent": Trial(_change_series_of_absent, _prepare_series_of_absent, _series_left, twice_is_once=False),
    "series-end": Trial(_end_series, _prepare_series, _series_left),
    "series-configure": Trial(partial(_configure_series, hour=9), _no_series, _configured_left),
    "series-configure-again": Trial(partial(_configure_series, hour=10), _prepare_entry, _configured_left),
    "series-remove-entry": Trial(_remove_entry, _prepare_entry, _configured_left),
    "series-postpone": Trial(_postpone_series, _prepare_series, _next_tries, later=DAY),
    "series-make": Trial(_make_occurrences, _prepare_series, _series_left, commits=2, later=DAY),
    "retention": Trial(_retention, _old, _rows_left, commits=7, later=2 * DAY),
    "retention-of-a-part": Trial(_retention_of_a_part, _old, _rows_left, twice_is_once=False),
    "retention-pause": Trial(_retention_pause, _remove_retention_run, partial(_meta, "retention")),
    "test-clock-begin": Trial(_begin_test_clock, _no_clock, partial(_meta, "clock")),
    "real-clock-begin": Trial(_begin_real_clock, _no_clock, partial(_meta, "clock")),
    "test-clock": Trial(_move_test_clock, _test_clock, _clock),
    "write-again": Trial(_write_again, _remove_write_test, partial(_meta, "written")),
    "begin-log": Trial(_begin_log, _older_logs, _log_positions),
    "log": Trial(_start_and_stop_log, _log_was_left, _log_left, twice_is_once=False),
}
"""All trials, by name. "log" may be done twice: after a kill before its position is stored, it logs events again."""


# --- being killed -----------------------------------------------------------------------------------------------------


class TrialStore(Store):
    """An open store on engines that are created once, without a check for migrations."""

    def __init__(self, url: str) -> None:
        self._connect(partial(kills.unsynced_engine, url))
        self._watch = Watch()  # its thread would not exist in a forked process
        self._preparing = kills.unsynced_engine(url)
        self._notifications = None
        self.database_id = "a test"
        self.steps = kills.Steps(self._writing)

    def open(self, now: datetime) -> None:
        self._locks = AdvisoryLocks(self._locking, self._watch)
        self.acquire, self.release = self._locks.acquire, self._locks.release
        self._writer = kills.make_writer(self._writing, self.steps, lambda: now)
        self._writer.start()
        self.submit, self.transact = self._writer.submit, self._writer.transact
        self.transact_then = self._writer.transact_then

    def prepare(self, trial: Trial, label: str) -> State:
        """Prepare the rows of a trial; return their state."""
        self.make(lambda tx: trial.prepare(tx, label))
        return self.read_state(trial, label)

    def make(self, job: Callable[[Transaction], T]) -> T:
        with self._preparing.connect() as connection, connection.begin():
            tx = Transaction(connection, NOW)
            made = job(tx)
            tx.flush()
        return made

    def read_state(self, trial: Trial, label: str) -> State:
        return self.read(lambda view: trial.read_state(view, label), lane="clock")

    def do(self, trial: Trial, label: str, *, last: bool = False) -> bool:
        """Run a trial. `last`: the process ends afterwards."""
        self.open(NOW + trial.later)
        trial.do(self, label)
        if not last:
            self.close()
        return True

    def _dispose(self) -> None:
        """Close connections before another process opens the database.

        Connections that only this process uses may stay open, except with SQLite: in a forked process, SQLite would
        treat the locks of this process as its own.
        """
        self._writing.dispose()
        for lane, engine in self._lanes.items():
            if lane != "clock":
                engine.dispose()
        if self._writing.dialect.name == "sqlite":
            self._preparing.dispose()
            self._lanes["clock"].dispose()


def run(url: str, port: int) -> dict[str, list[Tried]]:
    """Run each trial without a kill, then in a process that is killed at the first step, and so on until a process
    has sent its result. `port`: the port of a receiver that responds with 500 to deliveries that should fail.
    """
    found: dict[str, list[Tried]] = kills.in_process(_run_all, url, port)
    return found


def _run_all(url: str, port: int) -> dict[str, list[Tried]]:
    global PORT
    PORT = port
    output.configure("critical", "json")
    for module, name, value in SMALL:
        setattr(module, name, value)
    store = TrialStore(url)
    return {name: _run(store, name, trial) for name, trial in TRIALS.items()}


def _run(store: TrialStore, name: str, trial: Trial) -> list[Tried]:
    tried = [_try(store, name, trial, 0, None)]
    gc.freeze()
    while len(tried) == 1 or not tried[-1].answered:
        tried.append(_try(store, name, trial, len(tried), tried[-1].after))
    return tried


def _try(store: TrialStore, name: str, trial: Trial, fatal: int, seen: State) -> Tried:
    """Run a trial in a process that is killed at step `fatal`; 0: not killed. Repeat it unless its state is `seen`."""
    label = f"{name}-{fatal}"
    before = store.prepare(trial, label)
    store._dispose()
    if fatal:
        killed, answer = kills.fork(store.steps, fatal, lambda: store.do(trial, label, last=True), label)
        assert killed, label
    else:
        answer = store.do(trial, label)
    after, again = store.read_state(trial, label), None
    if trial.twice_is_once and after != seen:
        store.do(trial, label)
        again = store.read_state(trial, label)
    return Tried(label, bool(answer), before, after, again)
