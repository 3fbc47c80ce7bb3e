"""Find the line of each key in a TOML text, which tomllib does not report."""

import re
import tomllib
from functools import lru_cache

KeyPath = tuple[str | int, ...]
"""The path of a value: names of tables and keys, and indices in lists of tables."""

# A string is one token, so that brackets, `=` and `#` in it are ignored. Up to two quotes that belong to the text may
# precede a closing triple quote.
_TOKEN = re.compile(
    r'''
    """ (?:\\.|[^\\])*? "{3,5}  |  \'\'\' .*? \'{3,5}
    | " (?:\\.|[^"\\])* "       |  ' [^']* '
    | \#[^\n]*  |  [\[\]{}=\n]  |  [^"'\#\[\]{}=\n]+
    ''',
    re.DOTALL | re.VERBOSE,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, on which each key and table first appears.

    tomllib must accept `text`. Keys inside an inline table or an array are not listed; for them, `line_of` returns the
    line of the key that contains them.
    """
    lines: dict[KeyPath, int] = {}
    last: dict[KeyPath, int] = {}  # index of the newest table in each list of tables
    table: KeyPath = ()
    statement, in_value, depth = "", False, 0
    line = started = 1

    def record(path: KeyPath) -> None:
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], started)

    for piece in _TOKEN.findall(text + "\n"):
        if piece == "\n" and depth == 0:
            if statement.startswith("["):
                table = _table(statement.strip(), last)
                record(table)
            statement, in_value = "", False
        elif in_value:
            depth += (piece in ("[", "{")) - (piece in ("]", "}"))
        elif piece == "=":
            record((*table, *_names(statement)))
            in_value = True
        elif not piece.startswith("#"):
            started = started if statement else line
            statement = (statement + piece).lstrip()
        line += piece.count("\n")
    return lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """Return the line of a key, or of the nearest table or key that contains it."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 1)


def _table(header: str, last: dict[KeyPath, int]) -> KeyPath:
    """Return the path of the table that a header such as `[a.b]` or `[[a.b]]` opens."""
    is_list = header.startswith("[[")
    names = _names(header[2:-2] if is_list else header[1:-1])
    path: KeyPath = ()
    for name in names[:-1]:
        path = (*path, name)
        if path in last:
            path = (*path, last[path])
    path = (*path, names[-1])
    if is_list:
        last[path] = last.get(path, -1) + 1
        path = (*path, last[path])
    return path


@lru_cache(maxsize=1024)
def _names(key: str) -> tuple[str, ...]:
    """Return the names in a dotted key. tomllib decodes quotes and escapes."""
    names = []
    found = tomllib.loads(f"{key.strip()} = 0")
    while isinstance(found, dict):
        [(name, found)] = found.items()
        names.append(name)
    return tuple(names)
