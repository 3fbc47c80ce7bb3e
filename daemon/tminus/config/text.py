"""Decode text files from any editor: UTF-8, with or without a byte order mark."""

import codecs
from dataclasses import dataclass

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # checked before UTF-16, whose mark is the beginning of this one
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(eq=False)
class NotText(Exception):
    """The file is not UTF-8 text."""

    problem: str
    line: int = 1
    """The first line that is not UTF-8."""

    def __str__(self) -> str:
        return self.problem


def decode(data: bytes) -> str:
    """Return the text of a file, without a byte order mark. Raises `NotText`."""
    for mark, name in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise NotText(f"this is {name} text: save it as UTF-8")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise NotText("this is not UTF-8 text", line) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise NotText("this is not UTF-8 text but UTF-16, or not text at all: it contains NUL bytes", line)
    return text
