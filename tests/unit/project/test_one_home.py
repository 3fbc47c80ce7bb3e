"""Names and numbers that several modules share are defined in one module of `storage`. The tests search the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import tminus
from tminus.storage import locks, meta

PACKAGE = Path(tminus.__file__).parent
MIGRATIONS = PACKAGE / "storage" / "migrations"


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the tree of each module, except of migrations, whose literals must not change."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if MIGRATIONS not in path.parents:
            yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def test_no_module_but_meta_spells_a_key_of_the_table_meta() -> None:
    calls = {"meta", "metas", "set_meta", "remove_meta"}
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in calls
        and any(isinstance(argument, ast.Constant | ast.JoinedStr) for argument in node.args[:1])
    ]
    assert found == [], "take the key from tminus.storage.meta"


def test_the_keys_of_the_table_meta_differ_and_none_begins_with_another() -> None:
    keys = [value for name, value in vars(meta).items() if name.isupper() and isinstance(value, str)]
    assert len(keys) >= 6
    assert not [(one, other) for one in keys for other in keys if one is not other and other.startswith(one)]


def test_no_module_but_locks_takes_an_advisory_lock_of_postgresql() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if name != "storage/locks.py"
        and isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "pg_" in node.value
        and "advisory" in node.value
    ]
    assert found == [], "add the lock to tminus.storage.locks"


def test_no_two_kinds_of_advisory_lock_share_a_number() -> None:
    numbers = [value for name, value in vars(locks).items() if name.isupper() and isinstance(value, int) and value > 99]
    assert len(numbers) == len(set(numbers)) == 3
