"""A process that is killed (SIGKILL) at any step of a write has done the write completely or not at all."""

import ast
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import pytest
from sqlalchemy import select
from tests.support import kills, trials
from tests.support.clocks import NOW, SettableClock
from tests.support.databases import Database, SqliteServer
from tests.support.kills import Action, Run, Target
from tests.support.receivers import Handler, Received, Receiver, status
from tests.support.worlds import World

import tminus
from tminus.domain.errors import WrongStatus
from tminus.domain.model import Session
from tminus.storage import Transaction
from tminus.storage.tables import EVENTS, IDEMPOTENCY, PARTICIPANTS, SESSIONS

DELIVERIES = ("deliver", "deliver-refused", "redeliver")

State = dict[str, Any]

NOTHING: State = {}

RECORDED = ("type", "previous_status", "status", "reason", "participants")

RANDOM = {
    "id",
    "label",
    "host_auth_token",
    "host_key",
    "external_session_object_id",
    "user_url",
    "host_url",
    "created_by",
}
TIMES = {"updated_at", "opened_at", "closed_at"}
"""Fields that depend on the time: after a killed sweep, the next one makes the transition a little later."""


def read_rows(tx: Transaction) -> list[Any]:
    tables = (SESSIONS, EVENTS, PARTICIPANTS, IDEMPOTENCY)
    return [tx.execute(select(table).order_by(*table.primary_key)).mappings().all() for table in tables]


def grouped(rows: Iterable[Any], by: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def read_states(world: World) -> tuple[dict[str, State], dict[str, Session]]:
    """Return the state of each target by its label, comparable between targets, and the stored sessions by label."""
    rows, all_events, participants, records = world.run(read_rows)
    sessions = {row["label"]: Session.model_validate(row) for row in rows}
    assert len(sessions) == len(rows), "nothing was created twice"
    pins = [row["pin"] for row in rows if row["pin"]]
    assert len(pins) == len(set(pins))
    events, people = grouped(all_events, "session_id"), grouped(participants, "session_id")
    states: dict[str, State] = {}
    for label, session in sessions.items():
        inside = sorted(
            (one["role"], one["left_at"] is None, one["waiting_since"] is not None)
            for one in people.get(session.id, [])
        )
        assert session.participants == sum(connected and not waits for _, connected, waits in inside), label
        recorded = [tuple(event[name] for name in RECORDED) for event in events.get(session.id, [])]
        states[label] = {"recorded": recorded, "people": inside, "retries": [], **fields(session)}
    for row in records:
        label = row["key"]
        assert row["session_id"] == sessions[label].id
        states[label]["retries"].append(bool(row["participant_id"]))
    return states, sessions


def fields(session: Session) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in session.model_dump(exclude=RANDOM).items():
        if name == "pin" or name in TIMES:
            shown[name] = bool(value)
        else:
            shown[name] = value - session.created_at if isinstance(value, datetime) else value
    return shown


class Killed:
    """The runs of each action, in processes that were killed at each step, and the states before and after the runs."""

    def __init__(self, database: Database, actions: Mapping[str, Action]) -> None:
        self.clock = SettableClock()
        world = World(database.open(self.clock), self.clock)
        targets: dict[str, list[Target]] = {name: [] for name in actions}
        for number in range(kills.LONGEST):
            self.clock.time = NOW + number * kills.APART

            def prepare(tx: Transaction, number: int = number) -> list[Target]:
                return [action.prepare(tx, Target(number, f"{name} {number}")) for name, action in actions.items()]

            for name, target in zip(actions, world.run(prepare), strict=True):
                targets[name].append(target)
        self.before, _ = read_states(world)
        database.close()
        self.runs = kills.run(database.url, actions, targets)
        self.world = World(database.open(self.clock), self.clock)
        self.read_again()

    def read_again(self) -> None:
        self.after, self.sessions = read_states(self.world)

    def at_every_step(self, name: str) -> list[Run]:
        """Return the runs of an action: without a kill, killed at each step, and the last one, which finished.

        There are at least five steps: two statements, the commit, before and after the result is sent. With fewer, this
        test would not test what its name states.
        """
        _, *runs, last = self.runs[name]
        assert len(runs) >= 5, name
        assert all(run.killed for run in runs), name
        assert not last.killed, name
        return self.runs[name]

    def done(self, run: Run) -> bool:
        """Return whether the action was done as without a kill; fail if it was done partly."""
        first = self.runs[run.target.label.rstrip(" 0123456789")][0].target.label
        state = self.after.get(run.target.label, NOTHING)
        if state == self.after[first]:
            return True
        assert state == self.before.get(run.target.label, NOTHING), f"{run.target.label}: partly done"
        return False


@pytest.mark.slow
def test_a_command_killed_at_any_step_is_done_completely_or_not_at_all_and_can_be_repeated(database: Database) -> None:
    killed = Killed(database, kills.COMMANDS)
    for name in kills.COMMANDS:
        first, *runs, last = killed.at_every_step(name)
        assert killed.done(first)
        assert killed.done(last)
        done = [killed.done(run) for run in runs]
        assert done == sorted(done), f"{name}: the action is done from one step on"
        assert done.count(False) >= 3, name
        assert done.count(True) == 2, f"{name}: after the commit, and after the response"
        assert runs[-1].answer is not None
        for run, done_at_step in zip([*runs, last], [*done, True], strict=True):
            if run.answer is not None:
                assert done_at_step, f"{run.target.label} has a response, but is not stored"
                session = killed.sessions[run.target.label]
                assert run.answer["id"] == session.id
                assert run.answer.get("pin", session.pin) == session.pin
    again: dict[str, Any] = {}
    for name, action in kills.COMMANDS.items():
        for run in killed.runs[name] if action.twice_is_once else ():
            killed.clock.time = action.time(run.target)
            try:
                answer = action.do(killed.world.store.submit, run.target)
            except WrongStatus:  # the first reschedule has opened the session
                assert killed.done(run)
            else:
                again[run.target.label] = answer
                assert run.answer in (None, answer)
    killed.read_again()
    assert all(killed.sessions[label].id == answer["id"] for label, answer in again.items())
    undone = [run.target.label for name in kills.COMMANDS for run in killed.runs[name] if not killed.done(run)]
    assert all(label.startswith("create without a key") for label in undone)


@pytest.mark.slow
def test_a_sweep_killed_at_any_step_makes_each_transition_once(database: Database) -> None:
    killed = Killed(database, kills.SWEEPS)
    for name in kills.SWEEPS:
        for run in killed.at_every_step(name):
            # The next sweep makes the transition that a killed one has not made.
            assert killed.done(run), run.target.label
            assert killed.after[run.target.label] != killed.before[run.target.label]


@pytest.mark.slow
def test_other_writes_killed_at_any_step_are_done_completely_or_not_at_all_and_can_be_repeated(
    database: Database,
) -> None:
    def answer(handler: Handler) -> None:
        status(500 if "refused" in handler.path else 200)(handler)

    with Receiver() as receiver:
        receiver.answer = answer
        tried = trials.run(database.url, receiver.port)
    requests: dict[str, list[Received]] = {}
    for request in receiver.requests:
        requests.setdefault(request.path.strip("/"), []).append(request)
    for name, trial in trials.TRIALS.items():
        first, *killed = tried[name]
        assert len(killed) >= 4, f"{name}: a statement, the commit, before and after the response"
        assert all(one.before == first.before != first.after for one in killed), name
        # From each step to the next the state is the same, or that of the next transaction.
        states = [first.before, *(one.after for one in killed)]
        stages = [one for one, before in zip(states[1:], states, strict=False) if one != before]
        assert len(stages) == trial.commits, f"{name}: {stages}"
        # The last two were killed after the commit and after the response.
        assert killed[-2].after == killed[-1].after == first.after, name
        assert [one.answered for one in killed[-2:]] == [False, True], name
        again = [one.again for one in tried[name] if one.again is not None]
        assert len(again) == (trial.commits + 2 if trial.twice_is_once else 0), name
        assert all(one == first.after for one in again), name
    # A request that was not recorded is sent again, with the same events and id; a recorded one is not.
    for name in DELIVERIES:
        for one in tried[name]:
            due = one.before["undelivered"] + sum(events for events, _ in one.before["replays"])
            sent = requests[one.label]
            twice = one.again is not None and not one.after["log"]
            assert len(sent) == (2 if twice else 1), one.label
            assert len({request.headers["webhook-id"] for request in sent}) == 1, one.label
            assert all(len(request.seqs) == due for request in sent), one.label


# --- completeness -----------------------------------------------------------------------------------------------------

PACKAGE = Path(tminus.__file__).parent

Location = tuple[str, int]
"""The location of a function: its file and its first line."""

WRITES_NOTHING = {
    "service.daemon.Daemon._committed",
    "storage.due.warm_up",
    "storage.presence.warm_up",
    "storage.presence.recompute_deadlines",
    "scheduler.sources.Source.do_due",
    "scheduler.sources.Source.recompute_deadlines",
    "scheduler.sources.Source.warm_up",
    "api.request_context.RequestContext._noted.run_and_note",
}
"""Functions that take a transaction but write nothing: `_committed` runs after the commit, `warm_up` changes no row,
the methods of `Source` are declarations, and `run_and_note` only calls a job.
"""


def writing_functions() -> dict[Location, str]:
    """Return the names of all functions of the daemon that take a transaction or write, by location."""
    found: dict[Location, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for function, name in functions(tree, module):
            own = [argument.arg for argument in function.args.args if argument.arg != "self"][:1]
            source = ast.unparse(function)
            method_writes = "Transaction." in name and ("self.execute(" in source or "self.writes +=" in source)
            calls_command = isinstance(function, ast.Lambda) and ast.unparse(function.body).startswith(
                ("command(", "commands.", "participants.", "series.")
            )
            if (own == ["tx"] or method_writes) and not calls_command and name not in WRITES_NOTHING:
                decorators = [] if isinstance(function, ast.Lambda) else function.decorator_list
                found[str(path), min([function.lineno, *(one.lineno for one in decorators)])] = name
    return found


def functions(tree: ast.AST, name: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, str]]:
    for node in ast.iter_child_nodes(tree):
        inner = f"{name}.{getattr(node, 'name', 'lambda')}" if hasattr(node, "name") else name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node, inner
        yield from functions(node, inner)


class Called:
    """Records which functions are called, on this thread and on threads that it starts."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __enter__(self) -> Self:
        threading.setprofile(self._record)
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _record(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            self.codes.add(frame.f_code)

    @property
    def locations(self) -> set[Location]:
        # A copy: threads that were started before the block ended may still add to the set.
        return {(code.co_filename, code.co_firstlineno) for code in self.codes.copy()}


def _prepared(action: Action, tx: Transaction) -> Target:
    return action.prepare(tx, Target(0, "a action"))


@pytest.mark.slow
def test_every_function_that_writes_is_tested_with_kills(
    sqlite_server: SqliteServer, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], object]
) -> None:
    for module, name, value in trials.SMALL:
        monkeypatch.setattr(module, name, value)
    with sqlite_server.database() as database, Receiver() as receiver:
        monkeypatch.setattr(trials, "PORT", receiver.port)
        store, done = trials.TrialStore(database.url), set[Location]()
        for action in (*kills.COMMANDS.values(), *kills.SWEEPS.values()):
            target = store.make(partial(_prepared, action))
            with Called() as called:
                kills.do(store._writing, store.steps, action, target)
            done |= called.locations
        for name, trial in trials.TRIALS.items():
            store.prepare(trial, name)
            with Called() as called:
                store.do(trial, name)
            done |= called.locations
        store._dispose()
    writing = writing_functions()
    assert len(writing) > 50
    left_out = [name for location, name in writing.items() if location not in done]
    assert not left_out, "add an action to tests/support/kills.py, or a trial to tests/support/trials.py"
