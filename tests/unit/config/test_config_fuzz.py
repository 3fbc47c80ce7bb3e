"""Any configuration file is accepted, or refused with problems that each have a file and a line.

Other tests cover problems without a line: in the environment, and in files to which a configuration refers.
"""

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tminus import config
from tminus.config import ConfigError
from tminus.config.keys import ENTRY_KEYS, KEYS, LISTS

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)

SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.booleans()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.times()
    | st.sampled_from(
        ["", "0", "10m", "-1h", "99999999999d", "64KiB", "30/minute", "0/minute", "always", "127.0.0.1:0", "[::1]:1",
         "https://a.example", "sqlite:///x.db", "postgresql+psycopg://u@h/n", "0" * 64, "live", "../x",
         "\u202e", "a\0b"]
    )
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_ ", max_size=4), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    [name for key in KEYS for name in key] + [name for names in ENTRY_KEYS.values() for name in names]
)
SETTINGS = st.dictionaries(st.sampled_from([key for key in KEYS if key not in LISTS]), VALUES, max_size=6)
ENTRIES = st.lists(
    st.sampled_from(list(LISTS)).flatmap(
        lambda path: st.tuples(st.just(path[0]), st.dictionaries(st.sampled_from(ENTRY_KEYS[path]), VALUES, max_size=6))
    ),
    max_size=3,
)


def toml(value: Any) -> str:
    """Return a value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(content: bytes) -> Iterator[str]:
    """Yield the problems of a file with this content. If it is valid, its effective configuration is TOML."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tminus.toml")
        path.write_bytes(content)
        refused = None
        try:
            tomllib.loads(config.effective(config.load(path, {})))
        except ConfigError as error:
            refused = error
        if refused is None:
            return
        assert refused.problems
        assert refused.description
        for problem in refused.problems:
            assert problem.message, problem
            location = re.fullmatch(rf"{re.escape(str(path))}:([0-9]+)", problem.where)
            assert location, problem
            assert 1 <= int(location[1]) <= content.count(b"\n") + 1, problem
            yield str(problem)


@FEW
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_accepted_or_their_problems_have_lines(content: bytes) -> None:
    list(read(content))


@FEW
@given(SETTINGS, ENTRIES, st.dictionaries(NAMES, VALUES, max_size=2))
def test_any_values_are_accepted_or_their_problems_have_lines(
    values: dict[tuple[str, ...], Any], entries: list[tuple[str, dict[str, Any]]], top: dict[str, Any]
) -> None:
    lines = [f"{name} = {toml(value)}" for name, value in top.items()]
    lines += [f"{'.'.join(key)} = {toml(value)}" for key, value in values.items()]
    for name, entry in entries:
        lines += [f"[[{name}]]", *(f"{key} = {toml(value)}" for key, value in entry.items())]
    list(read("\n".join(lines).encode()))


def test_text_that_is_not_utf_8_is_reported_with_its_line() -> None:
    (problem,) = read(b"[server]\n# caf\xe9\n")
    assert problem.endswith("tminus.toml:2: this is not UTF-8 text")
