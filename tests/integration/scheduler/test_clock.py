"""Sweeps and retention: sessions open, expire and close at their deadlines, and old rows are removed."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, insert, select
from tests.support.clocks import NOW
from tests.support.factories import AGENT, HOUR, MINUTE, order, session, settings
from tests.support.plain_lifecycle import Deadline, deadline
from tests.support.worlds import World

from tminus.domain import ids
from tminus.domain.errors import WrongStatus
from tminus.domain.model import AgentSession, Event
from tminus.domain.types import CLOCK_ACTOR, CloseReason, EventType, SessionType, Status, Timeouts, Trigger
from tminus.scheduler import sweeps
from tminus.sessions import commands
from tminus.sessions.idempotency import keyed_request
from tminus.sessions.transitions import CreateResult
from tminus.storage import Transaction, View, due
from tminus.storage.deadlines import DueBatch
from tminus.storage.due import PIN_RETRY, Recomputed, do_due
from tminus.storage.engine import READERS
from tminus.storage.retention import Removed, remove_closed
from tminus.storage.store import Lane
from tminus.storage.tables import EVENTS
from tminus.storage.transaction import AGENT_SESSIONS_KEPT

T = TypeVar("T")

MS = timedelta(milliseconds=1)


# --- single transitions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_type", SessionType)
def test_a_session_opens_lead_before_its_start_and_not_a_millisecond_earlier(
    world: World, session_type: SessionType
) -> None:
    scheduled = world.schedule(HOUR, session_type)
    assert world.passes(50 * MINUTE - MS).transitions.total() == 0
    assert world.stored(scheduled) == scheduled
    assert world.passes(MS).transitions == {Trigger.OPEN: 1}
    opened = world.stored(scheduled)
    assert (opened.status, opened.opened_at, opened.updated_at) == (Status.NEW, world.now, world.now)
    assert (opened.due_at, opened.due_trigger) == (scheduled.expires_at, Trigger.EXPIRE)
    assert opened.expires_at == scheduled.expires_at
    assert opened.version == scheduled.version + 1
    assert (opened.pin in ids.PINS) is session_type.has_pin
    ready = world.events(scheduled)[-1]
    assert (ready.event.type, ready.event.actor, ready.lag_ms) == (EventType.READY, CLOCK_ACTOR, 0)
    assert (ready.event.previous_status, ready.event.status) == (Status.SCHEDULED, Status.NEW)
    assert ready.event.start_time == scheduled.start_time


def test_a_session_that_nobody_joins_expires(world: World) -> None:
    new = world.create(SessionType.SUPPORT)
    assert world.passes(HOUR - MS).transitions.total() == 0
    assert world.passes(MS).transitions == {Trigger.EXPIRE: 1}
    closed = world.stored(new)
    assert (closed.status, closed.close_reason, closed.closed_at) == (Status.CLOSED, CloseReason.EXPIRED, world.now)
    assert (closed.due_at, closed.due_trigger, closed.pin) == (None, None, 0)
    assert world.events(new)[-1].event.reason is CloseReason.EXPIRED


def test_an_empty_session_stays_active_and_is_closed_after_empty_timeout(world: World) -> None:
    active = world.create()
    world.leave(active, world.join(active))
    assert world.passes(15 * MINUTE - MS).transitions.total() == 0
    assert world.stored(active).status is Status.ACTIVE
    assert world.passes(MS).transitions == {Trigger.IDLE: 1}
    assert (world.stored(active).status, world.stored(active).close_reason) == (Status.CLOSED, CloseReason.EMPTY)


def test_the_time_limit_closes_a_session_and_everybody_leaves(world: World) -> None:
    world.settings = settings(max_active=HOUR)
    active = world.create(SessionType.SUPPORT)
    gone = world.join(active)
    left_at = world.clock.passes(minutes=1)
    world.leave(active, gone)
    world.join(active)
    world.join(world.create())
    assert world.passes(59 * MINUTE).transitions == {Trigger.TIME_LIMIT: 1}
    closed = world.stored(active)
    assert (closed.status, closed.close_reason) == (Status.CLOSED, CloseReason.TIME_LIMIT)
    assert (closed.participants, closed.pin) == (0, 0)
    assert [participant.left_at for participant in world.participants(active)] == [left_at, world.now]
    closing = world.events(active)[-1]
    assert (closing.event.reason, closing.event.participants) == (CloseReason.TIME_LIMIT, 0)
    assert closing.payload("d")["seconds"] == 3600


def test_an_active_session_without_a_time_limit_has_no_deadline(world: World) -> None:
    active = world.create()
    world.join(active)
    assert world.passes(timedelta(days=1000)).transitions.total() == 0
    assert world.stored(active).status is Status.ACTIVE


# --- late transitions -------------------------------------------------------------------------------------------------


def test_each_late_transition_has_its_delay(world: World) -> None:
    scheduled = world.schedule(HOUR)
    sweep = world.passes(50 * MINUTE + timedelta(milliseconds=1234))
    assert sweep.worst_lag == timedelta(milliseconds=1234)
    ready = world.events(scheduled)[-1]
    assert ready.lag_ms == 1234
    assert ready.payload("d")["lagMs"] == 1234


def test_a_session_whose_open_time_passed_during_downtime_is_opened_and_expired(world: World) -> None:
    missed = world.schedule(HOUR, SessionType.SUPPORT)
    sweep = world.passes(timedelta(days=3))
    assert sweep.transitions == {Trigger.OPEN: 1, Trigger.EXPIRE: 1}
    scheduled, ready, closed = world.events(missed)
    assert [scheduled.event.type, ready.event.type, closed.event.type] == [
        EventType.SCHEDULED,
        EventType.READY,
        EventType.CLOSED,
    ]
    assert ready.lag_ms == (timedelta(days=3) - 50 * MINUTE) // MS
    assert closed.lag_ms == (timedelta(days=3) - 2 * HOUR) // MS
    assert sweep.worst_lag == timedelta(days=3) - 50 * MINUTE
    assert (world.stored(missed).status, world.stored(missed).close_reason) == (Status.CLOSED, CloseReason.EXPIRED)


@pytest.mark.parametrize("limit", [1, 2, 3, 128])
def test_missed_transitions_of_all_sessions_run_in_the_order_of_their_deadlines(world: World, limit: int) -> None:
    world.settings = settings(new_timeout=20 * MINUTE)
    names = {}
    for name, minutes in {"a": 60, "b": 70, "c": 85, "d": 120}.items():
        names[world.schedule(minutes * MINUTE).id] = name
    active = world.create()
    names[active.id] = "e"
    world.clock.passes(minutes=19)
    world.leave(active, world.join(active))  # the empty time-out closes it at minute 34
    seq = world.events()[-1].event.seq
    world.clock.passes(hours=5)
    transitions = 0
    while True:
        batch = world.run(lambda tx: do_due(tx, world.settings.lifecycle.timeouts, limit))
        assert batch.done.total() <= limit
        transitions += batch.done.total()
        if not batch.more:
            break
    assert transitions == 9
    events = world.store.read(lambda view: view.events(seq, 100))
    assert [(names[entry.event.session_id], entry.event.type.value.removeprefix("session.")) for entry in events] == [
        ("e", "closed"),  # minute 34
        ("a", "ready"),  # 50
        ("b", "ready"),  # 60
        ("c", "ready"),  # 75
        ("a", "closed"),  # 80
        ("b", "closed"),  # 90
        ("c", "closed"),  # 105
        ("d", "ready"),  # 110
        ("d", "closed"),  # 140
    ]


def test_one_sweep_processes_a_herd_larger_than_a_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "BATCH_TIME", 60)  # longer than a batch takes on any machine
    monkeypatch.setattr(sweeps, "FIRST_BATCH", 4)
    monkeypatch.setattr(sweeps, "LARGEST_BATCH", 16)
    batches: list[int] = []

    def submit(job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]:
        future = world.store.submit(job, clock=clock)
        batch = future.result()
        assert isinstance(batch, DueBatch)
        batches.append(batch.done.total())
        return future

    start = world.now + HOUR
    due = {"start_time": start, "due_at": start - 10 * MINUTE, "due_trigger": Trigger.OPEN}
    world.put(*(session(id=f"s{n:03}", **due) for n in range(50)))
    world.clock.passes(HOUR)
    assert sweeps.do_all_due(submit, world.settings.lifecycle.timeouts).transitions == {Trigger.OPEN: 50}
    assert batches == [4, 8, 16, 16, 6]
    assert {found.status for found in world.all_sessions().values()} == {Status.NEW}
    assert [entry.event.session_id for entry in world.events()] == [f"s{n:03}" for n in range(50)]


def test_a_stopped_sweep_leaves_the_rest_for_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH", 2)
    for _ in range(6):
        world.schedule(HOUR)
    world.clock.passes(HOUR)
    stops = iter([False, True])
    assert sweeps.do_all_due(
        world.store.submit, world.settings.lifecycle.timeouts, lambda: next(stops)
    ).transitions == {Trigger.OPEN: 2}
    assert world.advance().transitions == {Trigger.OPEN: 4}


def test_nothing_is_recorded_if_nothing_is_due(world: World) -> None:
    world.schedule(HOUR)
    sweep = world.advance()
    assert (sweep.transitions.total(), sweep.worst_lag, sweep.without_pin) == (0, timedelta(0), 0)
    assert len(world.events()) == 1


def test_the_next_deadline_is_the_earliest_of_all(world: World) -> None:
    assert world.store.read(lambda view: view.next_due()) is None
    world.schedule(3 * HOUR)
    world.schedule(2 * HOUR)
    assert world.store.read(lambda view: view.next_due()) == world.now + 110 * MINUTE


def test_a_transaction_has_the_earliest_deadline_that_it_set(world: World) -> None:
    def job(tx: Transaction) -> datetime | None:
        for hours in (3, 2, 4):
            commands.create(tx, world.settings, AGENT, order(start_time=tx.now + hours * HOUR))
        tx.flush()
        return tx.earliest_due

    assert world.run(job) == world.now + 110 * MINUTE


# --- clock steps ------------------------------------------------------------------------------------------------------


def test_a_step_back_repeats_no_transition(world: World) -> None:
    scheduled = world.schedule(HOUR)
    world.passes(minutes=55)
    opened = world.stored(scheduled)
    for _ in range(3):
        assert world.passes(hours=-10).transitions.total() == 0
    assert world.stored(scheduled) == opened
    assert world.told(scheduled) == [EventType.SCHEDULED, EventType.READY]
    world.clock.time = NOW
    assert world.passes(hours=2).transitions == {Trigger.EXPIRE: 1}


def test_after_a_step_forward_the_new_time_is_used(world: World) -> None:
    scheduled = world.schedule(timedelta(days=300))
    assert world.passes(days=299, hours=23, minutes=50).transitions == {Trigger.OPEN: 1}
    assert world.stored(scheduled).status is Status.NEW


def test_after_a_step_back_a_session_is_opened_at_its_time_by_the_new_clock(world: World) -> None:
    world.clock.passes(hours=5)
    scheduled = world.create(start_time=world.now + HOUR)
    world.passes(hours=-5)
    assert world.passes(5 * HOUR + 50 * MINUTE - MS).transitions.total() == 0
    assert world.passes(MS).transitions == {Trigger.OPEN: 1}
    assert world.stored(scheduled).status is Status.NEW


# --- no free PIN ------------------------------------------------------------------------------------------------------


def test_sessions_are_postponed_until_a_pin_is_free(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_002))
    first = world.create(SessionType.SUPPORT)
    waiting = [world.schedule(30 * MINUTE, SessionType.SUPPORT) for _ in range(3)]
    live = world.schedule(30 * MINUTE)
    sweep = world.passes(minutes=20)
    assert (sweep.transitions, sweep.without_pin) == ({Trigger.OPEN: 2}, 2)
    assert world.stored(live).status is Status.NEW, "a session without a PIN does not wait"
    still = [one for one in waiting if world.stored(one).status is Status.SCHEDULED]
    assert len(still) == 2
    assert {world.stored(one).due_at for one in still} == {world.now + PIN_RETRY}
    assert world.passes(PIN_RETRY - MS).without_pin == 0, "a sweep before the retry does not try again"
    world.close(first)
    sweep = world.passes(MS)
    assert (sweep.transitions, sweep.without_pin) == ({Trigger.OPEN: 1}, 1)
    assert sweep.worst_lag == PIN_RETRY, "since the first deadline, as in the event, and not since the last attempt"
    assert world.events()[-1].lag_ms == 5000
    open_pins = [one.pin for one in world.all_sessions().values() if one.pin]
    assert sorted(open_pins) == [100_000, 100_001]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_no_session_of_a_pin_type_opens_without_a_pin_with_any_batch_size(
    world: World, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_003))
    start = world.now + HOUR
    for n in range(9):
        world.put(
            session(
                id=f"s{n}", type=SessionType.SUPPORT, start_time=start, due_at=start - 10 * MINUTE + n * MS,
                due_trigger=Trigger.OPEN,
            )
        )  # fmt: skip
    world.clock.passes(HOUR)
    opened = postponed = 0
    for _ in range(20):
        batch = world.run(lambda tx: do_due(tx, Timeouts(), limit))
        assert batch.done.total() + batch.without_pin <= limit
        opened, postponed = opened + batch.done[Trigger.OPEN], postponed + batch.without_pin
        if not batch.more:
            break
    assert (opened, postponed) == (3, 6)
    found = world.all_sessions().values()
    assert sorted(one.pin for one in found if one.status is Status.NEW) == list(ids.PINS)
    assert {one.id for one in found if one.status is Status.NEW} == {"s0", "s1", "s2"}, "the earliest deadlines"


def test_a_session_that_waits_for_a_pin_beyond_its_expiry_does_not_stop_the_scheduler(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    holder = world.create(SessionType.SUPPORT)
    world.join(holder)
    waiting = world.schedule(30 * MINUTE, SessionType.SUPPORT)
    other = world.schedule(5 * HOUR)
    world.passes(4 * HOUR)
    assert world.stored(waiting).status is Status.SCHEDULED
    assert world.passes(2 * HOUR).transitions[Trigger.OPEN] == 1
    assert world.stored(other).status is not Status.SCHEDULED, "the scheduler still opens other sessions"
    world.close(holder)
    world.passes(PIN_RETRY)
    assert world.told(waiting) == [EventType.SCHEDULED, EventType.READY, EventType.CLOSED]


# --- new time-outs ----------------------------------------------------------------------------------------------------


def test_new_timeouts_change_stored_deadlines_but_not_expires_at(world: World) -> None:
    scheduled, new, empty, busy = world.schedule(2 * HOUR), world.create(), world.create(), world.create()
    world.leave(empty, world.join(empty))
    world.join(busy)
    before = {one.id: world.stored(one) for one in (scheduled, new, empty, busy)}
    changed = sweeps.recompute_deadlines(
        world.store.submit, Timeouts(lead=30 * MINUTE, new=5 * HOUR, empty=MINUTE, max_active=3 * HOUR)
    )
    assert changed == 3
    assert world.stored(scheduled).due_at == world.now + 90 * MINUTE
    assert world.stored(new) == before[new.id]
    assert (world.stored(empty).due_at, world.stored(empty).due_trigger) == (world.now + MINUTE, Trigger.IDLE)
    assert (world.stored(busy).due_at, world.stored(busy).due_trigger) == (world.now + 3 * HOUR, Trigger.TIME_LIMIT)
    for session_id, was in before.items():
        now = world.stored(session_id)
        assert (now.expires_at, now.version, now.updated_at) == (was.expires_at, was.version, was.updated_at)
    assert len(world.events()) == 9, "callers see no change, so no event is recorded"


@pytest.mark.parametrize(
    ("empty_timeout", "trigger"),
    [(15 * MINUTE - MS, Trigger.IDLE), (15 * MINUTE, Trigger.IDLE), (15 * MINUTE + MS, Trigger.TIME_LIMIT)],
)
def test_the_earlier_of_two_new_deadlines_is_used_and_idle_in_a_tie(
    world: World, empty_timeout: timedelta, trigger: Trigger
) -> None:
    active = world.create()
    person = world.join(active)
    joined = world.now
    left = world.clock.passes(minutes=45)
    world.leave(active, person)
    timeouts = Timeouts(empty=empty_timeout, max_active=HOUR)
    sweeps.recompute_deadlines(world.store.submit, timeouts)
    moved = world.stored(active)
    assert (moved.due_at, moved.due_trigger) == (min(left + empty_timeout, joined + HOUR), trigger)
    assert deadline(moved, timeouts) == Deadline(min(left + empty_timeout, joined + HOUR), trigger)


def test_unchanged_timeouts_are_applied_once(world: World) -> None:
    world.schedule(2 * HOUR)
    assert sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=MINUTE)) == 1
    for found in world.all_sessions().values():
        assert found.due_at == world.now + 119 * MINUTE
    jobs: list[str] = []

    def submit(job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]:
        jobs.append("a job")
        return world.store.submit(job, clock=clock)

    assert sweeps.recompute_deadlines(submit, Timeouts(lead=MINUTE)) == 0
    assert len(jobs) == 1, "one job reads the stored time-outs, and none reads sessions"
    assert sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=MINUTE, max_active=HOUR)) == 0
    assert sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=2 * MINUTE, max_active=HOUR)) == 1


@pytest.mark.parametrize(
    ("batch_time", "sizes"),
    [
        pytest.param(
            60,
            [128, 256, 512, 1024, 2048, 4096, 4096],
            id="while they are quick, batches grow",
            marks=pytest.mark.slow,
        ),
        pytest.param(0, [128, *[512] * 17], id="slow batches stay small"),
    ],
)
def test_a_create_is_answered_between_two_batches_of_new_timeouts(
    world: World, monkeypatch: pytest.MonkeyPatch, batch_time: int, sizes: list[int]
) -> None:
    """A create that arrives during a batch is answered before the next batch, whose size depends on the time taken."""
    monkeypatch.setattr(sweeps, "BATCH_TIME", batch_time)
    start = world.now + 48 * HOUR
    due_then = {"start_time": start, "due_at": start - 10 * MINUTE, "due_trigger": Trigger.OPEN}
    number = sum(sizes) - 50  # the last batch is not full
    world.put(*(session(id=f"s{n:05}", **due_then) for n in range(number)))
    recompute = due.recompute_deadlines
    limits: list[int] = []
    creates: list[Future[CreateResult]] = []

    def observed(tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:
        assert all(create.done() for create in creates), "the create waited for more than one batch"
        limits.append(limit)
        creates.append(world.store.submit(lambda tx: commands.create(tx, world.settings, AGENT, order(), None)))
        return recompute(tx, timeouts, after, limit)

    monkeypatch.setattr(due, "recompute_deadlines", observed)
    assert sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=MINUTE)) == number
    assert limits == sizes
    assert len({create.result(30).session.id for create in creates}) == len(sizes)


def test_a_longer_lead_opens_sessions_within_it_at_once(world: World) -> None:
    scheduled = world.schedule(HOUR)
    sweeps.recompute_deadlines(world.store.submit, Timeouts(lead=2 * HOUR))
    world.clock.passes(milliseconds=30)
    sweep = world.advance()
    assert world.stored(scheduled).status is Status.NEW
    assert world.stored(scheduled).late_since is None
    lag = timedelta(milliseconds=30)  # since the change of the lead time
    assert (sweep.worst_lag, world.events(scheduled)[-1].lag_ms) == (lag, 30)


# --- retention --------------------------------------------------------------------------------------------------------

DAYS = timedelta(days=1)


def test_sessions_closed_longer_ago_than_retention_are_removed_with_their_events_and_participants(
    world: World,
) -> None:
    old, young, never_closed = world.create(), world.create(), world.schedule(400 * DAYS)
    world.join(old)
    world.join(young)
    world.close(old)
    world.clock.passes(MS)
    world.close(young)
    world.clock.passes(90 * DAYS)
    assert sweeps.remove_old(world.store.submit, 90 * DAYS) == 1
    assert set(world.all_sessions()) == {young.id, never_closed.id}
    assert world.events(old) == []
    assert world.participants(old) == []
    assert world.told(young) == [EventType.CREATED, EventType.ACTIVE, EventType.JOINED, EventType.CLOSED]
    assert len(world.participants(young)) == 1


def test_without_a_retention_nothing_is_removed(world: World) -> None:
    world.close(world.create())
    world.clock.passes(days=10_000)
    assert sweeps.remove_old(world.store.submit, None) == 0
    assert len(world.all_sessions()) == 1


def test_retention_removes_in_batches_the_oldest_first_and_can_be_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "FIRST_REMOVAL", 6)
    world.put(*(session(id=f"s{n}", status=Status.CLOSED, closed_at=NOW + n * MINUTE) for n in range(8)))
    world.clock.passes(days=1)
    # Before the sessions, `stop` is called once each for agent sessions, sign-in codes, answers to challenges,
    # idempotency records of single requests, those of batches, and parts of batches.
    stops = iter([False] * 7 + [True])
    assert sweeps.remove_old(world.store.submit, HOUR, stop=lambda: next(stops)) == 3
    assert set(world.all_sessions()) == {f"s{n}" for n in range(3, 8)}
    assert sweeps.remove_old(world.store.submit, HOUR) == 5
    assert world.all_sessions() == {}


def test_a_batch_of_retention_is_limited_by_rows_also_within_one_session(world: World) -> None:
    long, short = world.create(), world.create()
    for _ in range(20):
        world.leave(long, world.join(long))
    world.close(long)
    world.clock.passes(seconds=1)
    world.close(short)
    world.clock.passes(days=1)
    rows = len(world.events()) + len(world.participants(long)) + 2
    batches = 0
    more = True
    while more:
        _, more = world.run(lambda tx: remove_closed(tx, tx.now, 10))
        batches += 1
        left = len(world.events()) + len(world.participants(long)) + len(world.all_sessions())
        assert 0 <= rows - left <= 10
        rows = left
        if long.id in world.all_sessions():
            assert world.told(long)[-1] is EventType.CLOSED  # the session is closed, as a check requires
    assert (rows, world.all_sessions()) == (0, {})
    assert batches >= 6


def test_a_create_is_committed_between_two_batches_of_retention(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create that arrives during a batch of retention waits for this batch and at most for the next, both small."""
    monkeypatch.setattr(sweeps, "BATCH_TIME", 0)  # each batch is too slow, so batches become small
    old: dict[str, Any] = {"status": Status.CLOSED, "closed_at": NOW, "due_at": None}
    world.put(*(session(id=f"s{n}", **old) for n in range(5)))
    happened: dict[str, Any] = {
        "type": EventType.JOINED,
        "ts": NOW,
        "actor": "a",
        "status": Status.CLOSED,
        "expires_at": NOW,
    }
    rows = [Event(session_id=f"s{n}", **happened).model_dump(exclude={"seq"}) for n in range(5) for _ in range(400)]
    world.run(lambda tx: tx.execute(insert(EVENTS), rows))
    world.clock.passes(DAYS)
    limits: list[int] = []
    left: list[int] = []
    creates: list[Future[CreateResult]] = []

    def observed(tx: Transaction, before: datetime, limit: int) -> Removed:
        # The last create may share the transaction of this batch.
        assert all(create.done() for create in creates[:-1]), "a create waited for more than two batches"
        limits.append(limit)
        left.append(tx.scalar(select(func.count()).select_from(EVENTS).where(EVENTS.c.ts == NOW)) or 0)
        creates.append(world.store.submit(lambda tx: commands.create(tx, world.settings, AGENT, order(), None)))
        return remove_closed(tx, before, limit)

    monkeypatch.setattr(sweeps, "remove_closed", observed)
    assert sweeps.remove_old(world.store.submit, HOUR) == 5
    assert set(world.all_sessions()) == {create.result(30).session.id for create in creates}
    assert limits == [256, 128, 64, *[sweeps.SMALLEST_REMOVAL] * (len(limits) - 3)]
    assert left[0] == 2000
    removed = [before - after for before, after in pairwise([*left, 0])]
    assert all(rows <= limit for rows, limit in zip(removed, limits, strict=True)), "events of each batch"


def test_after_the_clock_jumps_ahead_nothing_is_removed_for_a_day(world: World) -> None:
    assert world.run(sweeps.retention_pause) is None
    world.clock.passes(days=3)  # a little longer than a weekend
    assert world.run(sweeps.retention_pause) is None
    world.clock.passes(days=200)
    pause = world.run(sweeps.retention_pause)
    assert pause == sweeps.RetentionPause(timedelta(days=200), world.now + timedelta(days=1), is_new=True)
    world.clock.passes(hours=23)
    assert world.run(sweeps.retention_pause) == sweeps.RetentionPause(timedelta(days=200), pause.until, is_new=False)
    world.clock.passes(hours=1)
    assert world.run(sweeps.retention_pause) is None


def test_a_corrected_clock_ends_the_pause_of_retention(world: World) -> None:
    world.run(sweeps.retention_pause)
    world.clock.passes(days=200)
    assert world.run(sweeps.retention_pause) is not None
    world.clock.passes(days=-200)
    assert world.run(sweeps.retention_pause) is None


def test_retention_does_not_free_event_numbers(world: World) -> None:
    world.close(world.create())
    last = world.store.read(lambda view: view.last_seq())
    world.clock.passes(days=100)
    sweeps.remove_old(world.store.submit, DAYS)
    world.create()
    assert world.events()[0].event.seq == last + 1


def test_an_agents_oldest_agent_session_ends_when_it_has_too_many(world: World) -> None:
    def row(agent_id: int, name: str) -> AgentSession:
        return AgentSession(
            secret_sha256=name, agent_id=agent_id, token_sha256="", started_at=world.now, expires_at=world.now + HOUR,
            client_app="", user_agent="", remote_ip="",
        )  # fmt: skip

    def sign_in(*several: AgentSession) -> None:
        world.run(lambda tx: [tx.add_agent_session(one) for one in several])

    sign_in(row(8, "of another"))
    for first in range(0, AGENT_SESSIONS_KEPT, 100):  # a transaction must not take ten seconds
        sign_in(*(row(7, f"{number}") for number in range(first, first + 100)))
    assert world.store.read(lambda view: view.agent_session("0")) is not None
    sign_in(row(7, "one more"))
    names = ("one more", "1", "of another", "0")
    left = world.store.read(lambda view: [name for name in names if view.agent_session(name)])
    assert left == ["one more", "1", "of another"]


def test_expired_agent_sessions_and_idempotency_records_are_removed_after_a_day(world: World) -> None:
    def row(secret: str, expires: timedelta) -> AgentSession:
        return AgentSession(
            secret_sha256=secret, agent_id=7, token_sha256="t", started_at=NOW, expires_at=NOW + expires, client_app="",
            user_agent="", remote_ip="",
        )  # fmt: skip

    world.run(lambda tx: [tx.add_agent_session(row("short", HOUR)), tx.add_agent_session(row("long", 2 * DAYS))])
    key = keyed_request("k", {})
    world.make(keyed=key)
    world.clock.passes(DAYS)
    sweeps.remove_old(world.store.submit, None)
    assert world.store.read(lambda view: view.agent_session("short")) is not None
    assert world.store.read(lambda view: view.idempotency_record(7, "k")) is not None
    world.clock.passes(HOUR + MS)
    sweeps.remove_old(world.store.submit, None)
    assert world.store.read(lambda view: view.agent_session("short")) is None
    assert world.store.read(lambda view: view.agent_session("long")) is not None
    assert world.store.read(lambda view: view.idempotency_record(7, "k")) is None
    assert len(world.all_sessions()) == 1


def test_no_transition_leaves_the_status_closed(world: World) -> None:
    closed = world.create()
    world.close(closed)
    before = world.stored(closed)
    assert world.passes(days=30).transitions.total() == 0
    with pytest.raises(WrongStatus):
        world.join(closed)
    assert world.stored(closed) == before


@pytest.mark.parametrize("lane", ["clock", "search"])
def test_the_scheduler_does_not_wait_for_readers(world: World, lane: Lane) -> None:
    world.schedule(HOUR)
    reading, release = threading.Barrier(READERS + 1), threading.Event()

    def occupy(_view: View) -> None:
        reading.wait(10)
        release.wait(10)

    with ThreadPoolExecutor() as readers:
        busy = [readers.submit(world.store.read, occupy) for _ in range(READERS)]
        reading.wait(10)  # each reader occupies a connection
        try:
            next_due = readers.submit(lambda: world.store.read(lambda view: view.next_due(), lane=lane)).result(5)
        finally:
            release.set()
        for one in busy:
            one.result(10)
    assert next_due is not None
