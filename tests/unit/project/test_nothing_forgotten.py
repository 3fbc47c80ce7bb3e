"""If somebody adds a status, an event, a kind of deadline, a command, a setting or a metric and forgets a part of it, a
test here fails and names the part and its file. `docs/design.md` lists the files of each.
"""

import ast
import re
from enum import StrEnum
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_args

import click
import pytest

import tminus
from tminus import schemas
from tminus.api import application
from tminus.api.routing import Route
from tminus.cli import catalogue
from tminus.cli.views import STYLES, WEBHOOK_STYLES
from tminus.config import keys
from tminus.domain import events, lifecycle, types
from tminus.domain.lifecycle import CLOCK_TRANSITIONS, DEADLINES, PIN_STATUSES, TABLE, Change, has_pin_after
from tminus.domain.types import OPEN_STATUSES, REMINDER_EVENTS, CloseReason, EventType, Status, Trigger
from tminus.scheduler import sources
from tminus.storage import transitions

PACKAGE = Path(tminus.__file__).parent
ROOT = PACKAGE.parents[1]


def name(one: StrEnum) -> str:
    return f"{type(one).__name__}.{one.name}"


@pytest.mark.parametrize(
    "enum", ["CloseReason", "DeliveryKind", "ParticipantRole", "PauseReason", "SessionType", "Status"]
)
def test_the_api_describes_every_value(enum: str) -> None:
    described, values = get_args(getattr(schemas, enum)), [one.value for one in getattr(types, enum)]

    assert list(described) == values, f"make {enum} in schemas.py equal to {enum} in domain/types.py"


@pytest.mark.parametrize("status", Status)
def test_every_status_can_be_entered(status: Status) -> None:
    assert [row for row in TABLE if row.dest is status and row.source is not status], (
        f"domain/lifecycle.py: no row of TABLE leads to {name(status)}; add one"
    )


@pytest.mark.parametrize("status", OPEN_STATUSES)
def test_every_open_status_can_be_left_by_a_caller_and_by_time(status: Status) -> None:
    ways = [row for row in TABLE if row.source is status and row.dest is not status]

    assert [row for row in ways if row.trigger is Trigger.CLOSE], (
        f"domain/lifecycle.py: a session that is {status} cannot be closed; add a row of TABLE with Trigger.CLOSE"
    )
    assert [row for row in ways if row.actor == "clock"], (
        f"domain/lifecycle.py: a session stays {status} for ever; add a row of TABLE with the actor clock"
    )


@pytest.mark.parametrize("row", CLOCK_TRANSITIONS, ids=lambda row: row.trigger)
def test_every_transition_of_the_clock_has_its_deadline(row: lifecycle.Transition) -> None:
    assert [one for one in DEADLINES if (one.status, one.trigger) == (row.source, row.trigger)], (
        f"domain/lifecycle.py: nothing causes {name(row.trigger)} in {row.source}; add an entry to DEADLINES"
    )


@pytest.mark.parametrize("deadline", DEADLINES, ids=lambda one: one.trigger)
def test_every_deadline_has_its_transition(deadline: lifecycle.Deadline) -> None:
    assert [row for row in CLOCK_TRANSITIONS if (row.source, row.trigger) == (deadline.status, deadline.trigger)], (
        f"domain/lifecycle.py: {name(deadline.trigger)} in {deadline.status} is in DEADLINES, but in no row of TABLE "
        "with the actor clock"
    )


@pytest.mark.parametrize("trigger", Trigger)
def test_every_trigger_is_in_the_table(trigger: Trigger) -> None:
    assert [row for row in TABLE if row.trigger is trigger], (
        f"domain/lifecycle.py: no row of TABLE has {name(trigger)}; add one, or remove it from domain/types.py"
    )


@cache
def used_by_callers() -> set[str]:
    """Return the attributes in the source of commands and routes, such as `Trigger.CLOSE`."""
    files = [*PACKAGE.glob("sessions/*.py"), *PACKAGE.glob("api/routes_*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("trigger", sorted({row.trigger for row in TABLE if row.actor != "clock"}))
def test_a_command_or_a_route_uses_every_trigger_of_a_caller(trigger: Trigger) -> None:
    assert name(trigger) in used_by_callers(), (
        f"sessions/: no command uses {name(trigger)}; add one, such as commands.close"
    )


@pytest.mark.parametrize("event", EventType)
def test_every_event_is_recorded_and_described(event: EventType) -> None:
    assert event in events.CATALOGUE, f"domain/events.py: {name(event)} is missing in CATALOGUE"
    is_recorded = event in REMINDER_EVENTS or any(event in row.events for row in TABLE)
    assert is_recorded, f"domain/lifecycle.py: no row of TABLE records {name(event)}"


@pytest.mark.parametrize("reason", CloseReason)
def test_every_close_reason_is_used_and_described(reason: CloseReason) -> None:
    rows = [row for row in TABLE if row.reason is reason]

    assert rows, f"domain/lifecycle.py: no row of TABLE has {name(reason)}"
    assert reason in events._CLOSED, f"domain/events.py: {name(reason)} is missing in _CLOSED"
    assert f"`{reason}`" in events.EXTRA_FIELDS["reason"], f"domain/events.py: EXTRA_FIELDS lacks {reason}"
    if any(row.actor == "clock" for row in rows):
        assert reason in events._TIMEOUTS, f"domain/events.py: {name(reason)} is missing in _TIMEOUTS"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.trigger}-{row.source}")
def test_whether_a_session_has_a_pin_depends_on_its_status_alone(row: lifecycle.Transition) -> None:
    after, expected = has_pin_after(row, PIN_STATUSES), row.dest in PIN_STATUSES

    assert after == expected, (
        f"domain/lifecycle.py: after {row.trigger} from {row.source} a session has {'a' if after else 'no'} PIN, after "
        f"other rows of TABLE that lead to {row.dest} it has {'one' if expected else 'none'}: check the effects on pin"
    )


@pytest.mark.parametrize("row", [row for row in TABLE if row.dest is Status.CLOSED], ids=lambda row: row.trigger)
def test_every_transition_to_closed_has_all_effects_of_a_close(row: lifecycle.Transition) -> None:
    written = row.effects.session
    where = f"domain/lifecycle.py: {row.trigger} from {row.source} needs the effects CLOSED"

    assert {name: written.get(name) for name in ("closed_at", "close_reason", "remind_at")} == {
        "closed_at": Change.NOW, "close_reason": Change.REASON, "remind_at": Change.NULL
    }, where  # fmt: skip
    if row.source is not Status.SCHEDULED:
        assert written.get("participants") is Change.ZERO, where
        assert row.effects.all_participants, where


def test_the_executor_can_write_every_change() -> None:
    missing = set(Change) - set(transitions._SQL)

    assert not missing, f"storage/transitions.py: _SQL lacks {missing}"


def test_the_command_has_a_style_for_every_status_and_for_every_state_of_an_endpoint() -> None:
    assert set(STYLES) == {status.value for status in Status}, "cli/views.py: STYLES must have every status"
    states = set(get_args(schemas.EndpointState))
    assert set(WEBHOOK_STYLES) == states, "cli/views.py: WEBHOOK_STYLES must have every EndpointState of schemas.py"


@pytest.mark.parametrize("status", Status)
def test_the_lifecycle_page_describes_every_status(status: Status) -> None:
    page = (ROOT / "docs" / "lifecycle.md").read_text()

    assert f"\n| `{status}` | " in page, f"docs/lifecycle.md: the table of statuses lacks {status}"


@pytest.mark.parametrize("trigger", Trigger)
def test_the_lifecycle_page_describes_every_trigger(trigger: Trigger) -> None:
    page = (ROOT / "docs" / "lifecycle.md").read_text()

    assert f"\n| `{trigger}` | " in page, f"docs/lifecycle.md: the table of transitions lacks {trigger}"


@cache
def attributes_read() -> set[str]:
    """Return the names of all attributes that the source reads."""
    trees = [ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}


def test_the_daemon_uses_every_setting() -> None:
    used = attributes_read()
    fields = [key for key in keys.KEYS if key[0] != "policy"]  # those of `policy` are read together, by their order
    fields += [(*at, name) for at, (model, _) in keys.LISTS.items() for name in model.model_fields]

    unused = [".".join(key) for key in fields if not {key[-1], f"{key[-1]}_"} & used]
    assert not unused, f"config/settings.py: nothing reads {unused}"


def test_every_metric_is_set() -> None:
    tree = ast.parse((PACKAGE / "monitoring" / "metrics.py").read_text())
    (metrics,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Metrics")
    nodes = [
        node for node in ast.walk(metrics) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    ]
    assigned = {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}

    unset = assigned - attributes_read()
    assert len(assigned) > 10
    assert not unset, f"monitoring/metrics.py: nothing sets {unset}"


def test_the_monitoring_page_lists_every_metric() -> None:
    tree = ast.parse((PACKAGE / "monitoring" / "metrics.py").read_text())
    page = (ROOT / "docs" / "monitoring.md").read_text()
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    metrics = {text for text in texts if re.fullmatch(r"tminus_\w+", text)}

    listed = set(re.findall(r"^\| `(\w+?)(?:_total|_info)?` \|", page, re.MULTILINE))
    unlisted = sorted(metrics - listed)
    assert len(metrics) > 20
    assert not unlisted, f"docs/monitoring.md: the table of metrics lacks {unlisted}"


def test_every_command_is_in_the_catalogue() -> None:
    groups = (catalogue.COMMANDS, *(group.commands for group in catalogue.GROUPS.values()))
    listed = {(entry.module, entry.function) for entries in groups for entry in entries.values()}
    modules = [file.stem for file in sorted(PACKAGE.glob("cli/*.py")) if not file.stem.startswith("__")]
    defined = {
        (module, function)
        for module in modules
        for function, value in vars(import_module(f"tminus.cli.{module}")).items()
        if isinstance(value, click.Command)
    }

    assert not defined - listed, f"cli/catalogue.py: no entry of COMMANDS or GROUPS names {defined - listed}"
    assert not listed - defined, f"cli/: a module lacks the function that cli/catalogue.py names: {listed - defined}"


def test_the_scheduler_runs_every_source_of_deadlines() -> None:
    modules = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "sources.py"]
    defined = {
        file.stem
        for file in modules
        if {"next_due", "do_due"} <= {one.name for one in ast.parse(file.read_text()).body if hasattr(one, "name")}
    }
    run = {vars(source)["__name__"].rpartition(".")[2] for source in sources.SOURCES}

    assert defined == run, f"scheduler/sources.py: SOURCES must have {sorted(defined)}"
    assert len(run) == len(sources.SOURCES)


def test_a_route_calls_every_command_of_a_caller() -> None:
    files = [PACKAGE / "sessions" / f"{name}.py" for name in ("commands", "participants")]
    commands = {f"{file.stem}.{one.name}" for file in files for one in ast.parse(file.read_text()).body
               if isinstance(one, ast.FunctionDef) and one.args.args and one.args.args[0].arg == "tx"
               and not one.name.startswith("_")}  # fmt: skip
    trees = [ast.parse(file.read_text()) for file in PACKAGE.glob("api/*.py")]
    called = {ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    uncalled = sorted(commands - called)
    assert len(commands) > 5
    assert not uncalled, f"api/: no route calls {uncalled}; add one, for a session in api/routes_sessions.py"


ROUTES = [route for router in application._ROUTERS for route in router.routes if route.described]


@pytest.mark.parametrize("route", ROUTES, ids=lambda one: f"{one.method}-{one.template}")
@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("docs/api.md", "the table of roles"),
        ("tests/acceptance/test_rights.py", "RIGHTS"),
        ("tests/acceptance/test_openapi.py", "CALLS"),
    ],
)
def test_every_route_is_documented_and_tested(route: Route, file: str, table: str) -> None:
    call = f"{route.method} {route.template}"
    entry = f"| `{call}` |" if file.endswith(".md") else f'"{call}"'

    assert entry in (ROOT / file).read_text(), f"{file}: {table} lacks {call}"
