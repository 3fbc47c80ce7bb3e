"""The process is killed (SIGKILL) at every step of everything that it writes: done, or not begun. On both databases."""

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
from tests.support.kills import Deed, Run, Target
from tests.support.receivers import Handler, Received, Receiver, status
from tests.support.worlds import World

import tminus
from tminus.domain.errors import WrongStatus
from tminus.domain.model import Session
from tminus.storage import Transaction
from tminus.storage.tables import EVENTS, IDEMPOTENCY, PARTICIPANTS, SESSIONS

TOLD_TO_RECEIVERS = ("tell", "tell-in-vain", "retell")

State = dict[str, Any]

NOTHING: State = {}

TOLD = ("type", "previous_status", "status", "reason", "participants")

DRAWN = {
    "id",
    "label",
    "host_auth_token",
    "host_key",
    "external_session_object_id",
    "user_url",
    "host_url",
    "created_by",
}
WHENEVER = {"updated_at", "opened_at", "closed_at"}
"""A sweep that is killed is made up for by the next one, a little later."""


def look(tx: Transaction) -> list[Any]:
    tables = (SESSIONS, EVENTS, PARTICIPANTS, IDEMPOTENCY)
    return [tx.execute(select(table).order_by(*table.primary_key)).mappings().all() for table in tables]


def grouped(rows: Iterable[Any], by: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def seen(world: World) -> tuple[dict[str, State], dict[str, Session]]:
    """All that is stored, by the label of the target, written so that what was done alike looks alike; and as it is."""
    rows, all_events, participants, retries = world.run(look)
    sessions = {row["label"]: Session.model_validate(row) for row in rows}
    assert len(sessions) == len(rows), "nothing was made twice"
    pins = [row["pin"] for row in rows if row["pin"]]
    assert len(pins) == len(set(pins))
    events, people = grouped(all_events, "session_id"), grouped(participants, "session_id")
    states: dict[str, State] = {}
    for label, session in sessions.items():
        inside = sorted(
            (one["role"], one["left_at"] is None, one["waiting_since"] is not None)
            for one in people.get(session.id, [])
        )
        assert session.participants == sum(there and not waits for _, there, waits in inside), label
        told = [tuple(event[name] for name in TOLD) for event in events.get(session.id, [])]
        states[label] = {"told": told, "people": inside, "retries": [], **fields(session)}
    for row in retries:
        label = row["key"]
        assert row["session_id"] == sessions[label].id
        states[label]["retries"].append(bool(row["participant_id"]))
    return states, sessions


def fields(session: Session) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, value in session.model_dump(exclude=DRAWN).items():
        if name == "pin" or name in WHENEVER:
            shown[name] = bool(value)
        else:
            shown[name] = value - session.created_at if isinstance(value, datetime) else value
    return shown


class Killed:
    """Each deed, done by processes that were killed at each step, and what had been there before."""

    def __init__(self, database: Database, deeds: Mapping[str, Deed]) -> None:
        self.clock = SettableClock()
        world = World(database.open(self.clock), self.clock)
        targets: dict[str, list[Target]] = {name: [] for name in deeds}
        for number in range(kills.LONGEST):
            self.clock.time = NOW + number * kills.APART

            def prepare(tx: Transaction, number: int = number) -> list[Target]:
                return [deed.prepare(tx, Target(number, f"{name} {number}")) for name, deed in deeds.items()]

            for name, target in zip(deeds, world.run(prepare), strict=True):
                targets[name].append(target)
        self.before, _ = seen(world)
        database.close()
        self.runs = kills.run(database.url, deeds, targets)
        self.world = World(database.open(self.clock), self.clock)
        self.look()

    def look(self) -> None:
        self.after, self.sessions = seen(self.world)

    def at_every_step(self, name: str) -> list[Run]:
        """The runs of a deed: where nobody is killed, at each step, and the last one, which got through alive.

        Two statements, the commit, before the answer and after it: were the process no longer killed at them, this
        would not be the test that it says it is.
        """
        _, *runs, last = self.runs[name]
        assert len(runs) >= 5, name
        assert all(run.killed for run in runs), name
        assert not last.killed, name
        return self.runs[name]

    def done(self, run: Run) -> bool:
        """Whether a deed was done just as it is where nobody is killed; otherwise it was not begun, or this fails."""
        first = self.runs[run.target.label.rstrip(" 0123456789")][0].target.label
        state = self.after.get(run.target.label, NOTHING)
        if state == self.after[first]:
            return True
        assert state == self.before.get(run.target.label, NOTHING), f"{run.target.label}: neither done nor not begun"
        return False


@pytest.mark.slow
def test_a_verb_is_done_or_not_begun_wherever_it_is_killed_and_can_be_done_again(database: Database) -> None:
    killed = Killed(database, kills.VERBS)
    for name in kills.VERBS:
        first, *runs, last = killed.at_every_step(name)
        assert killed.done(first)
        assert killed.done(last)
        done = [killed.done(run) for run in runs]
        assert done == sorted(done), f"{name}: what has been done stays done"
        assert done.count(False) >= 3, name
        assert done.count(True) == 2, f"{name}: after the commit, and after the answer"
        assert runs[-1].answer is not None
        for run, there in zip([*runs, last], [*done, True], strict=True):
            if run.answer is not None:
                assert there, f"{run.target.label} was answered and is lost"
                session = killed.sessions[run.target.label]
                assert run.answer["id"] == session.id
                assert run.answer.get("pin", session.pin) == session.pin
    again: dict[str, Any] = {}
    for name, deed in kills.VERBS.items():
        for run in killed.runs[name] if deed.twice_is_once else ():
            killed.clock.time = deed.time(run.target)
            try:
                answer = deed.do(killed.world.store.submit, run.target)
            except WrongStatus:  # it was moved into the lead time, and is open
                assert killed.done(run)
            else:
                again[run.target.label] = answer
                assert run.answer in (None, answer)
    killed.look()
    assert all(killed.sessions[label].id == answer["id"] for label, answer in again.items())
    undone = [run.target.label for name in kills.VERBS for run in killed.runs[name] if not killed.done(run)]
    assert all(label.startswith("create without a key") for label in undone)


def test_the_clock_makes_each_move_once_wherever_it_is_killed(database: Database) -> None:
    killed = Killed(database, kills.SWEEPS)
    for name in kills.SWEEPS:
        for run in killed.at_every_step(name):
            # What one that was killed had not done, the next one has.
            assert killed.done(run), run.target.label
            assert killed.after[run.target.label] != killed.before[run.target.label]


@pytest.mark.slow
def test_all_else_is_done_or_not_begun_wherever_it_is_killed_and_can_be_done_again(database: Database) -> None:
    def answer(handler: Handler) -> None:
        status(500 if "vain" in handler.path else 200)(handler)

    with Receiver() as receiver:
        receiver.answer = answer
        tried = trials.run(database.url, receiver.port)
    requests: dict[str, list[Received]] = {}
    for request in receiver.requests:
        requests.setdefault(request.path.strip("/"), []).append(request)
    for name, trial in trials.TRIALS.items():
        first, *killed = tried[name]
        assert len(killed) >= 4, f"{name}: a statement, the commit, before the answer and after it"
        assert all(one.before == first.before != first.after for one in killed), name
        # From each step to the next it is as it was, or one transaction further, and no step undoes another.
        seen = [first.before, *(one.after for one in killed)]
        stages = [one for one, before in zip(seen[1:], seen, strict=False) if one != before]
        assert len(stages) == trial.commits, f"{name}: {stages}"
        # Committed, and answered.
        assert killed[-2].after == killed[-1].after == first.after, name
        assert [one.answered for one in killed[-2:]] == [False, True], name
        again = [one.again for one in tried[name] if one.again is not None]
        assert len(again) == (trial.commits + 2 if trial.twice_is_once else 0), name
        assert all(one == first.after for one in again), name
    # What was sent and not written down is sent again, with the same events and id; what was written down is not.
    for name in TOLD_TO_RECEIVERS:
        for one in tried[name]:
            due = one.before["untold"] + sum(events for events, _ in one.before["replays"])
            sent = requests[one.label]
            twice = one.again is not None and not one.after["log"]
            assert len(sent) == (2 if twice else 1), one.label
            assert len({request.headers["webhook-id"] for request in sent}) == 1, one.label
            assert all(len(request.seqs) == due for request in sent), one.label


# --- nothing is left out ----------------------------------------------------------------------------------------------

PACKAGE = Path(tminus.__file__).parent

Place = tuple[str, int]
"""Where a function is: its file and its first line."""

WRITES_NOTHING = {
    "service.daemon.Daemon._committed",
    "storage.due.warm_up",
    "scheduler.sources.Source.do_due",
    "scheduler.sources.Source.recompute_deadlines",
    "scheduler.sources.Source.warm_up",
    "api.request_context.RequestContext.write.noting",
}
"""These are given a transaction, too: one is called after it, one tries its statements on no session, one calls the job
that it is given.
"""


def places() -> dict[Place, str]:
    """All functions of the daemon that are given a transaction, and all methods of one that write; by their names."""
    found: dict[Place, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        room = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for function, name in functions(tree, room):
            own = [argument.arg for argument in function.args.args if argument.arg != "self"][:1]
            is_written = "Transaction." in name and any(
                f"self.{how}" in ast.unparse(function) for how in ("execute(", "_ask(", "_insert(", "writes +=")
            )
            calls_verb = isinstance(function, ast.Lambda) and ast.unparse(function.body).startswith(
                ("verb(", "commands.", "participants.")
            )
            if (own == ["tx"] or is_written) and not calls_verb and name not in WRITES_NOTHING:
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
    """Where functions were called meanwhile, on this thread and on those that are begun."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __enter__(self) -> Self:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, what: str, _with: object) -> None:
        if what == "call":
            self.codes.add(frame.f_code)

    @property
    def places(self) -> set[Place]:
        return {(code.co_filename, code.co_firstlineno) for code in self.codes}


def _prepared(deed: Deed, tx: Transaction) -> Target:
    return deed.prepare(tx, Target(0, "a deed"))


def test_whatever_writes_is_among_what_is_killed(
    sqlite_server: SqliteServer, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], object]
) -> None:
    for module, name, value in trials.SMALL:
        monkeypatch.setattr(module, name, value)
    with sqlite_server.database() as database, Receiver() as receiver:
        monkeypatch.setattr(trials, "PORT", receiver.port)
        store, done = trials.Doors(database.url), set[Place]()
        for deed in (*kills.VERBS.values(), *kills.SWEEPS.values()):
            target = store.make(partial(_prepared, deed))
            with Called() as called:
                kills.do(store._writing, store.steps, deed, target)
            done |= called.places
        for name, trial in trials.TRIALS.items():
            store.prepare(trial, name)
            with Called() as called:
                store.do(trial, name)
            done |= called.places
        store._dispose()
    written = places()
    assert len(written) > 50
    left_out = [name for place, name in written.items() if place not in done]
    assert not left_out, "add a deed to tests/support/kills.py, or a trial to tests/support/trials.py"
