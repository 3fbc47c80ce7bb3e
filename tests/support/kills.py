"""Deeds, each done by a process that kills itself (SIGKILL) at one step of it: at the first, the second, and so on.

A step is a statement that writes, or the commit, that it is committed, that it is answered; between two statements that
only read there is nothing to be seen afterwards. Where they are is found from outside, by SQLAlchemy's events: the
store knows nothing of it.
What a process works with is the store's own engine and writer, made anew in each; only the migrations are not looked at
each time.
"""

import gc
import json
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy import Engine, event

from tests.support.clocks import NOW
from tests.support.factories import AGENT, HOUR, MINUTE, ROOM, order, settings
from tests.support.processes import CONTEXT
from tminus.domain.types import ParticipantRole, SessionType, Trigger
from tminus.scheduler import sweeps
from tminus.scheduler.sweeps import Submit
from tminus.sessions import commands, participants
from tminus.sessions.idempotency import KeyedRequest
from tminus.sessions.transitions import CreateResult
from tminus.storage import Transaction
from tminus.storage.engine import make_engine, server
from tminus.storage.listen_notify import PeerNotifications
from tminus.storage.observer import StoreObserver
from tminus.storage.shared_clock import SharedClock
from tminus.storage.watch import Watch
from tminus.storage.writer import Writer

SETTINGS = settings(max_active=30 * MINUTE)

LIVE, SUPPORT = SessionType.LIVE, SessionType.SUPPORT

APART = timedelta(seconds=1)
"""From one target to the next."""

LONGEST = 12
"""No deed has as many steps; so many targets are made for each."""


@dataclass(frozen=True)
class Target:
    """What a deed is done to; its label is also the `Idempotency-Key` of the deed."""

    number: int
    label: str
    session_id: str = ""
    participant_id: str = ""


@dataclass(frozen=True)
class Deed:
    """Something that is done to a target, `later` than that was prepared; it returns what would be answered."""

    do: Callable[[Submit, Target], dict[str, Any]]
    prepare: Callable[[Transaction, Target], Target] = lambda _tx, target: target
    later: timedelta = timedelta(0)
    twice_is_once: bool = True
    """Whether it may be done again, and is then done once."""

    def time(self, target: Target) -> datetime:
        return NOW + target.number * APART + self.later


@dataclass(frozen=True)
class Run:
    """One process: killed, or else it got through, and what it had answered before."""

    target: Target
    killed: bool
    answer: dict[str, Any] | None


# --- preparing --------------------------------------------------------------------------------------------------------


def _session(
    tx: Transaction,
    target: Target,
    kind: SessionType = SessionType.SUPPORT,
    *,
    inside: int = 0,
    ahead: timedelta | None = None,
) -> Target:
    """A session made for now, or so long ahead, with so many inside."""
    start = tx.now + ahead if ahead is not None else None
    wanted = order(kind, label=target.label, start_time=start, preferences={"knock": True})
    made = commands.create(tx, SETTINGS, AGENT, wanted).session
    joined = ""
    for _ in range(inside):
        joined = participants.join_or_knock(
            tx, SETTINGS, ROOM, made.id, Trigger.JOIN, ParticipantRole.GUEST, "Grace"
        ).participant_id
    return Target(target.number, target.label, made.id, joined)


def _left(tx: Transaction, target: Target) -> Target:
    """One in which somebody has been."""
    prepared = _session(tx, target, inside=1)
    participants.leave(tx, SETTINGS, ROOM, prepared.session_id, prepared.participant_id)
    return prepared


def _knocked(tx: Transaction, target: Target) -> Target:
    """One at which somebody waits to be let in."""
    made = _session(tx, target, LIVE).session_id
    waits = participants.join_or_knock(
        tx, SETTINGS, ROOM, made, Trigger.KNOCK, ParticipantRole.GUEST, "Grace"
    ).participant_id
    return Target(target.number, target.label, made, waits)


# --- doing ------------------------------------------------------------------------------------------------------------


def _create(
    jobs: Submit, target: Target, *, kind: SessionType, key: bool = True, ahead: timedelta | None = None
) -> dict[str, Any]:
    keyed = KeyedRequest(target.label, "0" * 64) if key else None

    def job(tx: Transaction) -> CreateResult:
        start = tx.now + ahead if ahead is not None else None
        return commands.create(tx, SETTINGS, AGENT, order(kind, label=target.label, start_time=start), keyed)

    session = jobs(job).result(30).session
    return {"id": session.id, "pin": session.pin}


def _reschedule(jobs: Submit, target: Target, *, ahead: timedelta) -> dict[str, Any]:
    moved = jobs(lambda tx: commands.reschedule(tx, SETTINGS, AGENT, target.session_id, tx.now + ahead)).result(30)
    return {"id": moved.id, "pin": moved.pin}


def _arrive(jobs: Submit, target: Target, *, trigger: Trigger) -> dict[str, Any]:
    keyed = KeyedRequest(target.label, "0" * 64)
    role = ParticipantRole.GUEST
    job = partial(
        participants.join_or_knock, settings=SETTINGS, caller=ROOM, session_id=target.session_id, trigger=trigger,
        role=role, name="Ada", keyed=keyed,
    )  # fmt: skip
    made = jobs(job).result(30)
    return {"id": made.session.id, "participant": made.participant_id}


def _report(jobs: Submit, target: Target, *, command: Callable[..., None]) -> dict[str, Any]:
    jobs(lambda tx: command(tx, SETTINGS, ROOM, target.session_id, target.participant_id)).result(30)
    return {"id": target.session_id}


def _close(jobs: Submit, target: Target) -> dict[str, Any]:
    jobs(lambda tx: commands.close(tx, SETTINGS, AGENT, target.session_id)).result(30)
    return {"id": target.session_id}


def _sweep(jobs: Submit, target: Target) -> dict[str, Any]:
    sweeps.do_all_due(jobs, SETTINGS.lifecycle.timeouts)
    return {"id": target.session_id}


VERBS: Mapping[str, Deed] = {
    "create without a key": Deed(partial(_create, kind=LIVE, key=False), twice_is_once=False),
    "create": Deed(partial(_create, kind=LIVE)),
    "create with a PIN": Deed(partial(_create, kind=SUPPORT)),
    "schedule": Deed(partial(_create, kind=SUPPORT, ahead=24 * HOUR)),
    "schedule into the lead time": Deed(partial(_create, kind=SUPPORT, ahead=5 * MINUTE)),
    "reschedule": Deed(partial(_reschedule, ahead=48 * HOUR), partial(_session, ahead=24 * HOUR)),
    "reschedule into the lead time": Deed(partial(_reschedule, ahead=5 * MINUTE), partial(_session, ahead=24 * HOUR)),
    "join": Deed(partial(_arrive, trigger=Trigger.JOIN), _session),
    "knock": Deed(partial(_arrive, trigger=Trigger.KNOCK), partial(_session, kind=LIVE)),
    "admit": Deed(partial(_report, command=participants.admit), _knocked),
    "deny": Deed(partial(_report, command=participants.deny), _knocked),
    "leave": Deed(partial(_report, command=participants.leave), partial(_session, inside=1)),
    "close": Deed(_close, partial(_session, inside=2)),
}

SWEEPS: Mapping[str, Deed] = {
    "open": Deed(_sweep, partial(_session, ahead=11 * MINUTE), later=MINUTE),
    "idle": Deed(_sweep, _left, later=15 * MINUTE),
    "time limit": Deed(_sweep, partial(_session, inside=2), later=30 * MINUTE),
    "expire": Deed(_sweep, _session, later=HOUR),
}
"""In the order in which their targets fall due, each before what becomes of the targets of the others."""


# --- being killed -----------------------------------------------------------------------------------------------------


class Steps:
    """Counts the steps of an engine that writes; at the fatal one the process is no more."""

    def __init__(self, engine: Engine) -> None:
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", self)
        self.taken = 0
        self.fatal = 0
        """None is, as long as this is 0."""

    def _statement(self, _connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if not statement.startswith(("SELECT", "BEGIN")):
            self()

    def __call__(self, *_what: object) -> None:
        self.taken += 1
        if self.taken == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def run(url: str, deeds: Mapping[str, Deed], targets: Mapping[str, Sequence[Target]]) -> dict[str, list[Run]]:
    """Does each deed to its first target in a process that lives, to the second in one that is killed at the first
    step, and so on until one gets through alive.
    """
    names = "VERBS" if deeds is VERBS else "SWEEPS"
    found: dict[str, list[Run]] = in_process(_run_all, url, names, targets)
    return found


def in_process(act: Callable[..., Any], *arguments: Any) -> Any:
    """What a process of its own returns: one that can be forked without regard to what a test has going."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_tell, args=(theirs, act, arguments))
    process.start()
    theirs.close()
    try:
        assert ours.poll(120), "the processes hang"
        said = ours.recv()
    finally:
        process.kill()
        process.join(10)
        ours.close()
    assert not isinstance(said, str), said
    return said


def _tell(pipe: Connection, act: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        pipe.send(act(*arguments))
    except Exception:
        pipe.send(traceback.format_exc())


def unsynced_engine(
    url: str, *, writes: bool = True, idle_seconds: int | None = None, shared: SharedClock | None = None
) -> Engine:
    """An engine whose databases survive the death of a process, not of the machine: as the tests' PostgreSQL's do."""
    engine = make_engine(url, writes=writes, idle_seconds=idle_seconds, shared=shared)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda raw, _entry: raw.execute("PRAGMA synchronous=OFF"))
    return engine


def _run_all(url: str, names: str, targets: Mapping[str, Sequence[Target]]) -> dict[str, list[Run]]:
    deeds: Mapping[str, Deed] = {"VERBS": VERBS, "SWEEPS": SWEEPS}[names]
    engine = unsynced_engine(url)
    steps = Steps(engine)
    return {name: _run(engine, steps, deed, targets[name]) for name, deed in deeds.items()}


def _run(engine: Engine, steps: Steps, deed: Deed, targets: Sequence[Target]) -> list[Run]:
    # The first lives here: what it leaves in memory (statements that are compiled) need not be made by each process.
    runs = [Run(targets[0], killed=False, answer=do(engine, steps, deed, targets[0]))]
    gc.freeze()
    for fatal, target in enumerate(targets[1:], 1):
        runs.append(_fork(engine, steps, deed, target, fatal))
        if not runs[-1].killed:
            break
    return runs


def _fork(engine: Engine, steps: Steps, deed: Deed, target: Target, fatal: int) -> Run:
    killed, answer = fork(steps, fatal, lambda: do(engine, steps, deed, target, last=True), target.label)
    return Run(target, killed, answer)


def fork(steps: Steps, fatal: int, act: Callable[[], Any], label: str) -> tuple[bool, Any]:
    """Whether a process that acts is killed at a step, and what it had answered before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gc.disable()  # to look over what it shares with this process would copy all of it
            steps.taken, steps.fatal = 0, fatal
            answer = act()
            os.write(writing, json.dumps(answer).encode())
            steps()
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as answered:
        said = answered.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"{label}: {status:#x}"
    return killed, json.loads(said) if said else None


def do(engine: Engine, steps: Steps, deed: Deed, target: Target, *, last: bool = False) -> dict[str, Any]:
    """The deed, by a writer of its own; `last`: the process ends with it."""
    writer = make_writer(engine, steps, lambda: deed.time(target))
    writer.start()
    answer = deed.do(writer.submit, target)
    if not last:
        writer.stop()
        engine.dispose()
    return answer


def make_writer(engine: Engine, steps: Steps, now: Callable[[], datetime]) -> Writer:
    """A daemon's own, as `Store` makes it."""
    watch = Watch(None)
    shared = server(engine)
    notify = PeerNotifications(shared, lambda _due: None, watch).notify if shared is not None else None
    return Writer(engine, watch, now, StoreObserver(committed=steps), lambda _error: None, notify)
