"""Only the executor writes a session's status. The tests search the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import tminus

PACKAGE = Path(tminus.__file__).parent

EXECUTOR = "storage/transitions.py"

OTHER_STATUS = "delivery/"
"""In these modules, a status is that of an HTTP response."""


def writes_of_status(tree: ast.AST) -> Iterator[int]:
    """Return the lines that assign to an attribute `status`, or pass a column `status` among values to store."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            written = [one for one in targets if isinstance(one, ast.Attribute) and one.attr == "status"]
            if any(ast.unparse(one.value) != "self" for one in written):
                yield node.lineno
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called in {"values", "model_copy", "setattr"} and "status" in _names(node):
                yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.casefold().split()
            if "update" in words and "session" in words and "set" in words:
                yield node.lineno


def _names(call: ast.Call) -> set[str]:
    """Return the columns to which a call passes values: keywords, and the keys of a dictionary."""
    keys = [key for one in ast.walk(call) if isinstance(one, ast.Dict) for key in one.keys]
    constants = {key.value for key in keys if isinstance(key, ast.Constant)}
    return {keyword.arg for keyword in call.keywords if keyword.arg} | {str(one) for one in constants}


def updates_of_sessions(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "update" and "SESSIONS" in ast.unparse(node):
            yield node


def sources() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "migrations" not in path.parts:
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def test_no_other_module_writes_the_status_of_a_session() -> None:
    others = [(name, tree) for name, tree in sources() if name != EXECUTOR and not name.startswith(OTHER_STATUS)]
    found = [(name, line) for name, tree in others for line in writes_of_status(tree)]

    assert found == [], "a transition is a row of the table, and `storage.transitions.execute` carries it out"


def test_no_other_module_updates_sessions_but_for_their_deadlines_and_the_name_of_their_series() -> None:
    found = {name for name, tree in sources() for _ in updates_of_sessions(tree)}

    assert found == {EXECUTOR, "storage/due.py", "storage/reminders.py", "storage/series.py"}


def test_the_search_finds_a_write_of_the_status() -> None:
    for text in (
        "session.status = Status.NEW",
        "update(SESSIONS).values(status='new')",
        "update(SESSIONS).values({'status': 'new'})",
        "session.model_copy(update={'status': 'new'})",
        "text('UPDATE session SET status = 1')",
    ):
        assert list(writes_of_status(ast.parse(text))), text
