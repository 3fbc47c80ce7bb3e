"""Escaping of untrusted text for a terminal."""

import json
import sys
import unicodedata

import pytest

from tminus.domain.text import INVISIBLE, cut, escape, escape_lines, json_text, width


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("\x00\x1b[31m\x7f", r"\x00\x1b[31m\x7f"),
        ("\x85\x9b", r"\x85\x9b"),
        ("\u200e\u202e\u2069", r"\u200e\u202e\u2069"),
        ("a\u200db", r"a\u200db"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("\u200c会", r"\u200c会"),
        ("会\u200d", r"会\u200d"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\udcff\ud83d", r"\xff\ud83d"),
        ("\U000e0041", r"\U000e0041"),
        ("a\u3164b\u115f\u1160\uffa0\u2800", r"a\u3164b\u115f\u1160\uffa0\u2800"),
        ("\u034f\u17b4\u17b5", r"\u034f\u17b4\u17b5"),
        ("\u180b\u180d\u180f\ufe00\ufe0d", r"\u180b\u180d\u180f\ufe00\ufe0d"),
        ("会\U000e0100\U000e01ef", r"会\U000e0100\U000e01ef"),
        ("会\u200d\u3164", r"会\u200d\u3164"),
        ("❤\ufe0f ☎\ufe0e", "❤\ufe0f ☎\ufe0e"),
        (r"\x1b [b] :smile:", r"\x1b [b] :smile:"),
    ],
)
def test_characters_that_a_terminal_acts_on_are_escaped(stored: str, shown: str) -> None:
    assert escape(stored) == shown


def test_only_printable_characters_and_spaces_are_not_escaped() -> None:
    unescaped = {char for char in map(chr, range(sys.maxunicode + 1)) if escape(char) == char}
    assert {unicodedata.category(char)[0] for char in unescaped} == {"L", "M", "N", "P", "S", "Z"}
    assert not {"\n", "\x1b", "\x9b", "\u2028", "\u2029", "\u202e", "\u200d", "\u3164"} & unescaped


def test_escape_lines_keeps_line_ends() -> None:
    assert escape_lines("a\nb\x1b\n") == "a\nb\\x1b\n"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_text_keeps_the_value_and_escapes_control_characters(ascii_only: bool) -> None:
    value = {"a\x9b": ["\x7f\x1b\u202e\u2028\U000e0041\u3164\U000e0100", 'Łódź \\ " 👩\u200d💻', "\ud83d", 1.5, None]}
    for indent in (None, 2):
        text = json_text(value, ascii_only=ascii_only, indent=indent)
        assert json.loads(text) == value
        assert all(line.isprintable() for line in text.split("\n"))
        assert not INVISIBLE.intersection(text)
        assert text.isascii() == ascii_only


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("会議", 4), ("e\u0301", 1), ("👩\u200d💻", 4), ("\u00a0", 1), ("", 0)]
)
def test_the_width_is_what_a_terminal_takes(text: str, columns: int) -> None:
    assert width(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("会議室", 5, "会議…"), ("会議室", 4, "会…"), ("ab", 0, "")],
)
def test_text_that_is_too_long_is_cut_and_ends_in_an_ellipsis(text: str, columns: int, shown: str) -> None:
    assert cut(text, columns) == shown
