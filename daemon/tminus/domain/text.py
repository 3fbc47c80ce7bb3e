r"""Text from others, as a terminal may show it.

Labels, names, ids and errors may hold anything. What a terminal would obey (control characters, escape sequences, marks
that turn the direction of what follows) is written as an escape, `\x1b`; all else is shown as it is stored. Nothing is
read as markup, and nothing is left out.
"""

import json
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"
"""Part of how Persian and Indic words, and many emoji, are written: shown, unless they stand beside ASCII."""

_SPACES = "Zs"
"""Unicode's category of blanks: a French or Japanese text has others than ASCII's."""


_LINE_ENDS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    """The text with an escape for each character that is not to be seen; on one line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or _is_harmless(text, at) else _escaped(char) for at, char in enumerate(text)
    )


def visible_lines(text: str) -> str:
    """The same for text of several lines: only line ends stay what they are."""
    return "\n".join(map(visible, text.split("\n")))


def json_text(value: Any, *, ascii_only: bool, indent: int | None = None) -> str:
    """A value as JSON, in which what is not to be seen is escaped, too; JSON itself allows it to stand bare."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # Outside of strings JSON has only ASCII and line ends.
    return "\n".join(line if line.isprintable() else "".join(map(_json_char, line)) for line in text.split("\n"))


def width(text: str) -> int:
    """Columns that a terminal takes for it."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """The text within so many columns; `…` stands where something is left out."""
    if width(text) <= columns:
        return text
    used, kept = 1, []
    for char in text:
        used += _columns(char)
        if used > columns:
            break
        kept.append(char)
    return "".join(kept) + "…" if columns > 0 else ""


def _is_harmless(text: str, at: int) -> bool:
    char = text[at]
    if char in _JOINERS:
        beside = text[at - 1 : at] + text[at + 1 : at + 2] if at else ""
        return len(beside) == 2 and not any(one.isascii() or not one.isprintable() for one in beside)
    return unicodedata.category(char) == _SPACES


def _escaped(char: str) -> str:
    r"""`\n`, `\x1b`, `\u202e`: as programming languages write it."""
    if char in _LINE_ENDS:
        return _LINE_ENDS[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte of a path or an argument that is not UTF-8, as Python keeps it
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_char(char: str) -> str:
    if char.isprintable() or unicodedata.category(char) == _SPACES:
        return char
    return json.dumps(char)[1:-1] if char != "\x7f" else r"\u007f"


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
