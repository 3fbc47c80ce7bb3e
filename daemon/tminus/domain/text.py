r"""Make untrusted text safe to print on a terminal.

Labels, names, ids and error messages may contain anything. Characters that a terminal acts on (control characters,
escape sequences, marks that change the text direction) and characters that are invisible are printed as an escape such
as `\x1b`; all others are printed unchanged. Nothing is interpreted as markup, and nothing is left out.
"""

import json
import unicodedata
from typing import Any

_JOINERS = "\u200c\u200d"
"""Zero-width joiners: part of Persian and Indic words and of many emoji. They are printed unless beside ASCII text."""

_SPACES = "Zs"
"""Unicode's category of spaces. French and Japanese texts use spaces that ASCII does not have."""


INVISIBLE = frozenset(
    map(
        chr,
        [
            *(0x115F, 0x1160, 0x3164, 0xFFA0),  # Hangul fillers
            0x2800,  # the empty Braille cell
            *(0x034F, 0x17B4, 0x17B5),  # the grapheme joiner and inherent vowels of Khmer
            *(0x180B, 0x180C, 0x180D, 0x180F, *range(0xFE00, 0xFE0E), *range(0xE0100, 0xE01F0)),  # variation selectors
        ],
    )
)
"""Letters, symbols and marks that are invisible, although Unicode counts them as printable. U+FE0E and U+FE0F are not
among them, since many emoji need them.
"""

_LINE_ENDS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def escape(text: str) -> str:
    """Return the text on one line, with each unprintable character replaced by an escape."""
    if _is_visible(text):
        return text
    return "".join(
        char if _is_visible(char) or _is_harmless(text, at) else _escaped(char) for at, char in enumerate(text)
    )


def escape_lines(text: str) -> str:
    """Return the text with each line escaped. Line ends are kept."""
    return "\n".join(map(escape, text.split("\n")))


def json_text(value: Any, *, ascii_only: bool, indent: int | None = None) -> str:
    """Return a value as JSON in which unprintable characters are escaped, although JSON allows most of them."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    # Outside of strings, JSON has only ASCII characters and line ends.
    return "\n".join(line if _is_visible(line) else "".join(map(_json_char, line)) for line in text.split("\n"))


def width(text: str) -> int:
    """Return the number of columns that the text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """Return the text cut to `columns`, with `…` at the end if something was cut off."""
    if width(text) <= columns:
        return text
    used, kept = 1, []
    for char in text:
        used += _columns(char)
        if used > columns:
            break
        kept.append(char)
    return "".join(kept) + "…" if columns > 0 else ""


def _is_visible(text: str) -> bool:
    """Return whether a text has only characters that can be printed unchanged."""
    return text.isprintable() and (text.isascii() or INVISIBLE.isdisjoint(text))


def _is_harmless(text: str, at: int) -> bool:
    char = text[at]
    if char in _JOINERS:
        beside = text[at - 1 : at] + text[at + 1 : at + 2] if at else ""
        return len(beside) == 2 and not any(one.isascii() or not _is_visible(one) for one in beside)
    return unicodedata.category(char) == _SPACES


def _escaped(char: str) -> str:
    r"""Return the escape of a character, such as `\n`, `\x1b` or `\u202e`."""
    if char in _LINE_ENDS:
        return _LINE_ENDS[char]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte that is not UTF-8, of a path or an argument, as Python represents it
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_char(char: str) -> str:
    if _is_visible(char) or unicodedata.category(char) == _SPACES:
        return char
    return json.dumps(char)[1:-1] if char != "\x7f" else r"\u007f"


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
