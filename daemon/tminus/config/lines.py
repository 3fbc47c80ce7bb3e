"""On which line of a TOML text each key stands, which tomllib does not tell."""

import re
import tomllib
from functools import lru_cache

KeyPath = tuple[str | int, ...]
"""The way to a value: names of tables and keys, and positions in lists of tables."""

# A string is one token, so that brackets, `=` and `#` within it mean nothing. A closing triple quote may follow
# on up to two quotes that belong to the text.
_TOKEN = re.compile(
    r'''
    """ (?:\\.|[^\\])*? "{3,5}  |  \'\'\' .*? \'{3,5}
    | " (?:\\.|[^"\\])* "       |  ' [^']* '
    | \#[^\n]*  |  [\[\]{}=\n]  |  [^"'\#\[\]{}=\n]+
    ''',
    re.DOTALL | re.VERBOSE,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, on which each key and table is first named.

    `text` must be one that tomllib accepts. What stands inside an inline table or an array is not listed: `line_of`
    answers with the line of the key that holds it.
    """
    lines: dict[KeyPath, int] = {}
    last: dict[KeyPath, int] = {}  # position of the newest table in each list of tables
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
    """The line of a key, or of the nearest thing around it."""
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 1)


def _table(header: str, last: dict[KeyPath, int]) -> KeyPath:
    """The path that `[a.b]` or `[[a.b]]` opens."""
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
    """The names in a dotted key; tomllib itself undoes the quotes and escapes."""
    names = []
    found = tomllib.loads(f"{key.strip()} = 0")
    while isinstance(found, dict):
        [(name, found)] = found.items()
        names.append(name)
    return tuple(names)
