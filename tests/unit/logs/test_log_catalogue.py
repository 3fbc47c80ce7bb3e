"""Every log line is in the catalogue, and every entry of the catalogue is logged."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import tminus
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS
from tminus.logs.fields import FIELDS, HEAD

SOURCE = Path(tminus.__file__).parent
ERROR_FIELDS = {"error", "traceback"}
"""The fields that `**error_fields(error)` adds."""


@dataclass
class Call:
    """One call of `log`, or of `_line`, which makes the log writer's own line."""

    where: str
    names: set[str]
    fields: set[str]
    is_complete: bool
    """Whether the source shows the names of all its fields."""


def _calls() -> Iterator[Call]:
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        if "log(" in text and path.name != "repeated.py":  # it logs the names that its callers pass
            tree = ast.parse(text)
            yield from _calls_in(tree, tree, str(path.relative_to(SOURCE)))


def _calls_in(node: ast.AST, function: ast.AST, file: str) -> Iterator[Call]:
    """Yield the calls in a node. `function` is the innermost function around it."""
    if isinstance(node, ast.Call) and _name(node.func) in {"log", "log_debug", "_line"}:
        yield _call(node, function, f"{file}:{node.lineno}")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node
    for child in ast.iter_child_nodes(node):
        yield from _calls_in(child, function, file)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.IfExp):
        return _name(function.body)
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _call(node: ast.Call, function: ast.AST, where: str) -> Call:
    name = node.args[0]
    values = [name]
    if isinstance(name, ast.Name):  # a variable, which may have one of several values
        values = [
            assigned.value
            for assigned in ast.walk(function)
            if isinstance(assigned, ast.Assign) and any(_name(target) == name.id for target in assigned.targets)
        ]
    names = {
        constant.value
        for value in values
        for constant in ast.walk(value)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    fields, is_complete = set[str](), True
    if isinstance(node.func, ast.Attribute) and len(node.args) > 1:  # a call of REPEATED.log, which adds these
        fields |= {"count", "since", "last"}
    for keyword in node.keywords:
        if keyword.arg is not None:
            fields.add(keyword.arg)
        elif isinstance(keyword.value, ast.Dict):
            fields |= {str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant)}
        elif _name(getattr(keyword.value, "func", keyword.value)) == "error_fields":
            fields |= ERROR_FIELDS
        else:
            is_complete = False
    if {"count", "remote_ip"} <= fields:  # a line about an IPv6 address also has its network
        fields.add("network")
    return Call(where, names, fields, is_complete)


CALLS = list(_calls())


def test_the_source_contains_calls_of_log() -> None:
    assert len(CALLS) > 20, "the search finds too few calls of log"


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.where)
def test_a_logged_name_and_its_fields_are_in_the_catalogue(call: Call) -> None:
    assert call.names, f"{call.where}: the name cannot be read off the source"
    for name in call.names:
        assert name in LOG_LINES, f"logs/catalogue.py: LOG_LINES lacks {name}, which {call.where} logs"
        unknown = call.fields - set(LOG_LINES[name].fields)
        assert not unknown, f"logs/catalogue.py: {name} lacks the fields {unknown}, which {call.where} logs"


def test_every_entry_of_the_catalogue_is_logged_somewhere() -> None:
    unused = set(LOG_LINES) - {name for call in CALLS for name in call.names}
    assert not unused, f"logs/catalogue.py: nothing logs {unused}"


@pytest.mark.parametrize("name", LOG_LINES)
def test_every_field_of_an_entry_is_filled_by_some_call(name: str) -> None:
    calls = [call for call in CALLS if name in call.names]
    if all(call.is_complete for call in calls):
        assert set[str]().union(*(call.fields for call in calls)) == set(LOG_LINES[name].fields)
    else:
        assert set[str]().union(*(call.fields for call in calls)) <= set(LOG_LINES[name].fields)


@pytest.mark.parametrize("name", LOG_LINES)
def test_a_message_contains_only_fields_of_its_line(name: str) -> None:
    line = LOG_LINES[name]
    assert set(line.field_names) <= set(line.fields)
    assert line.level in {"debug", "info", "warning", "error", "critical"}


def test_every_field_of_a_line_is_described_and_no_other() -> None:
    of_lines = {name for line in LOG_LINES.values() for name in line.fields}
    used = of_lines | set(EVENT_FIELDS) | set(HEAD)
    assert not used - set(FIELDS), f"logs/fields.py: FIELDS lacks {used - set(FIELDS)}"
    assert not set(FIELDS) - used, f"logs/fields.py: no log line has {set(FIELDS) - used}"
