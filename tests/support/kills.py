"""Actions that a process performs until it kills itself (SIGKILL) at one step: at the first, the second, and so on.

The steps are: before each statement that writes, before the commit, after the commit, and after the result is sent.
Between statements that only read, a kill has no effect. SQLAlchemy's events find the steps, so the store contains no
code for this. Each process has a new engine and writer of the store; only the check for migrations is left out.
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
from tminus.storage.watch import Watch
from tminus.storage.writer import Writer

SETTINGS = settings(max_active=30 * MINUTE)

LIVE, SUPPORT = SessionType.LIVE, SessionType.SUPPORT

APART = timedelta(seconds=1)
"""The time between two targets."""

LONGEST = 12
"""More than the steps of any action: the number of targets that are prepared for each."""


@dataclass(frozen=True)
class Target:
    """The session that an action changes. Its label is also the `Idempotency-Key` of the action."""

    number: int
    label: str
    session_id: str = ""
    participant_id: str = ""


@dataclass(frozen=True)
class Action:
    """A change of a target, made `later` after its preparation. It returns what the response would contain."""

    do: Callable[[Submit, Target], dict[str, Any]]
    prepare: Callable[[Transaction, Target], Target] = lambda _tx, target: target
    later: timedelta = timedelta(0)
    twice_is_once: bool = True
    """Whether a repetition has no effect."""

    def time(self, target: Target) -> datetime:
        return NOW + target.number * APART + self.later


@dataclass(frozen=True)
class Run:
    """The outcome of one process: whether it was killed, and the result that it sent before that."""

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
    """Create a session that starts now or `ahead`, with `inside` participants."""
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
    """Create a session that a participant has joined and left."""
    prepared = _session(tx, target, inside=1)
    participants.leave(tx, SETTINGS, ROOM, prepared.session_id, prepared.participant_id)
    return prepared


def _knocked(tx: Transaction, target: Target) -> Target:
    """Create a session in which a participant waits to be admitted."""
    made = _session(tx, target, LIVE).session_id
    waits = participants.join_or_knock(
        tx, SETTINGS, ROOM, made, Trigger.KNOCK, ParticipantRole.GUEST, "Grace"
    ).participant_id
    return Target(target.number, target.label, made, waits)


# --- doing ------------------------------------------------------------------------------------------------------------


def _create(
    submit: Submit, target: Target, *, kind: SessionType, key: bool = True, ahead: timedelta | None = None
) -> dict[str, Any]:
    keyed = KeyedRequest(target.label, "0" * 64) if key else None

    def job(tx: Transaction) -> CreateResult:
        start = tx.now + ahead if ahead is not None else None
        return commands.create(tx, SETTINGS, AGENT, order(kind, label=target.label, start_time=start), keyed)

    session = submit(job).result(30).session
    return {"id": session.id, "pin": session.pin}


def _reschedule(submit: Submit, target: Target, *, ahead: timedelta) -> dict[str, Any]:
    moved = submit(lambda tx: commands.reschedule(tx, SETTINGS, AGENT, target.session_id, tx.now + ahead)).result(30)
    return {"id": moved.id, "pin": moved.pin}


def _arrive(submit: Submit, target: Target, *, trigger: Trigger) -> dict[str, Any]:
    keyed = KeyedRequest(target.label, "0" * 64)
    role = ParticipantRole.GUEST
    job = partial(
        participants.join_or_knock, settings=SETTINGS, caller=ROOM, session_id=target.session_id, trigger=trigger,
        role=role, name="Ada", keyed=keyed,
    )  # fmt: skip
    made = submit(job).result(30)
    return {"id": made.session.id, "participant": made.participant_id}


def _report(submit: Submit, target: Target, *, command: Callable[..., None]) -> dict[str, Any]:
    submit(lambda tx: command(tx, SETTINGS, ROOM, target.session_id, target.participant_id)).result(30)
    return {"id": target.session_id}


def _close(submit: Submit, target: Target) -> dict[str, Any]:
    submit(lambda tx: commands.close(tx, SETTINGS, AGENT, target.session_id)).result(30)
    return {"id": target.session_id}


def _sweep(submit: Submit, target: Target) -> dict[str, Any]:
    sweeps.do_all_due(submit, SETTINGS.lifecycle.timeouts)
    return {"id": target.session_id}


COMMANDS: Mapping[str, Action] = {
    "create without a key": Action(partial(_create, kind=LIVE, key=False), twice_is_once=False),
    "create": Action(partial(_create, kind=LIVE)),
    "create with a PIN": Action(partial(_create, kind=SUPPORT)),
    "schedule": Action(partial(_create, kind=SUPPORT, ahead=24 * HOUR)),
    "schedule into the lead time": Action(partial(_create, kind=SUPPORT, ahead=5 * MINUTE)),
    "reschedule": Action(partial(_reschedule, ahead=48 * HOUR), partial(_session, ahead=24 * HOUR)),
    "reschedule into the lead time": Action(partial(_reschedule, ahead=5 * MINUTE), partial(_session, ahead=24 * HOUR)),
    "join": Action(partial(_arrive, trigger=Trigger.JOIN), _session),
    "knock": Action(partial(_arrive, trigger=Trigger.KNOCK), partial(_session, kind=LIVE)),
    "admit": Action(partial(_report, command=participants.admit), _knocked),
    "deny": Action(partial(_report, command=participants.deny), _knocked),
    "leave": Action(partial(_report, command=participants.leave), partial(_session, inside=1)),
    "close": Action(_close, partial(_session, inside=2)),
}

SWEEPS: Mapping[str, Action] = {
    "open": Action(_sweep, partial(_session, ahead=11 * MINUTE), later=MINUTE),
    "idle": Action(_sweep, _left, later=15 * MINUTE),
    "time limit": Action(_sweep, partial(_session, inside=2), later=30 * MINUTE),
    "expire": Action(_sweep, _session, later=HOUR),
}
"""In the order of the deadlines of their targets."""


# --- being killed -----------------------------------------------------------------------------------------------------


class Steps:
    """Counts the steps of an engine that writes, and kills the process at the fatal one."""

    def __init__(self, engine: Engine) -> None:
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", self)
        self.taken = 0
        self.fatal = 0
        """The number of the step at which the process is killed; 0: none."""

    def _statement(self, _connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if not statement.startswith(("SELECT", "BEGIN")):
            self()

    def __call__(self, *_what: object) -> None:
        self.taken += 1
        if self.taken == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def run(url: str, actions: Mapping[str, Action], targets: Mapping[str, Sequence[Target]]) -> dict[str, list[Run]]:
    """Do each action to its first target in a process that is not killed, to the second in one that is killed at the
    first step, and so on until a process finishes.
    """
    names = "COMMANDS" if actions is COMMANDS else "SWEEPS"
    found: dict[str, list[Run]] = in_process(_run_all, url, names, targets)
    return found


def in_process(act: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `act` in a new process, which can fork although the test has threads."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_send_result, args=(theirs, act, arguments))
    process.start()
    theirs.close()
    try:
        assert ours.poll(600), "the processes hang"
        result = ours.recv()
    finally:
        process.kill()
        process.join(10)
        ours.close()
    assert not isinstance(result, str), result
    return result


def _send_result(pipe: Connection, act: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        pipe.send(act(*arguments))
    except Exception:
        pipe.send(traceback.format_exc())


def unsynced_engine(url: str, *, writes: bool = True, **more: Any) -> Engine:
    """Return an engine without fsync: its database survives a kill of the process, but not a power cut."""
    engine = make_engine(url, writes=writes, **more)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda raw, _entry: raw.execute("PRAGMA synchronous=OFF"))
    return engine


def _run_all(url: str, names: str, targets: Mapping[str, Sequence[Target]]) -> dict[str, list[Run]]:
    actions: Mapping[str, Action] = {"COMMANDS": COMMANDS, "SWEEPS": SWEEPS}[names]
    engine = unsynced_engine(url)
    steps = Steps(engine)
    return {name: _run(engine, steps, action, targets[name]) for name, action in actions.items()}


def _run(engine: Engine, steps: Steps, action: Action, targets: Sequence[Target]) -> list[Run]:
    # The first action runs in this process. So the forked processes have the compiled statements in memory.
    runs = [Run(targets[0], killed=False, answer=do(engine, steps, action, targets[0]))]
    gc.freeze()
    for fatal, target in enumerate(targets[1:], 1):
        runs.append(_fork(engine, steps, action, target, fatal))
        if not runs[-1].killed:
            break
    return runs


def _fork(engine: Engine, steps: Steps, action: Action, target: Target, fatal: int) -> Run:
    killed, answer = fork(steps, fatal, lambda: do(engine, steps, action, target, last=True), target.label)
    return Run(target, killed, answer)


def fork(steps: Steps, fatal: int, act: Callable[[], Any], label: str) -> tuple[bool, Any]:
    """Run `act` in a forked process; return whether it was killed at the step, and its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gc.disable()  # a collection would copy all memory that is shared with this process
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
        result = answered.read()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or status == 0, f"{label}: {status:#x}"
    return killed, json.loads(result) if result else None


def do(engine: Engine, steps: Steps, action: Action, target: Target, *, last: bool = False) -> dict[str, Any]:
    """Do an action with a new writer. `last`: the process ends afterwards, so the writer need not be stopped."""
    writer = make_writer(engine, steps, lambda: action.time(target))
    writer.start()
    answer = action.do(writer.submit, target)
    if not last:
        writer.stop()
        engine.dispose()
    return answer


def make_writer(engine: Engine, steps: Steps, now: Callable[[], datetime]) -> Writer:
    """Return a writer as `Store` creates it."""
    watch = Watch()
    shared = server(engine)
    notify = PeerNotifications(shared, lambda _due: None, watch).notify if shared is not None else None
    return Writer(engine, watch, now, StoreObserver(committed=steps), lambda _error: None, notify)
