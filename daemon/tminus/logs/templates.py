"""Templates of log messages, with optional parts and numbers that agree with their nouns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import Any

_PART = re.compile(r"\[([^\]]*)\]|([^\[]+)")


@dataclass(frozen=True)
class LineTemplate:
    """The template of a log line: its level, its message and its fields."""

    level: str
    template: str
    """The message. `{name}` inserts a field, `{name:event}` a number with its noun (1 event, 2 events). A part in
    brackets is left out if one of its fields is absent; all other fields are always present. If the brackets contain
    alternatives, separated by `|`, the first one whose fields are all present is used.
    """
    fields: tuple[str, ...] = ()

    def message(self, values: Mapping[str, Any]) -> str:
        """Return the message of a line with these fields."""
        return "".join(text for part in self._parts for text in part.text(values))

    @property
    def field_names(self) -> list[str]:
        """The fields that the message contains."""
        return [name for part in self._parts for pieces in part.alternatives for _, name, _ in pieces if name]

    @cached_property
    def _parts(self) -> "list[_Part]":
        return [
            _Part(found[1].split("|"), is_optional=True) if found[1] is not None else _Part([found[2]])
            for found in _PART.finditer(self.template)
        ]


@dataclass(frozen=True)
class _Part:
    """A part of a message, which may be optional as a whole."""

    templates: list[str]
    is_optional: bool = False
    alternatives: list[list[tuple[str, str, str]]] = field(init=False)
    """For each alternative: text, the field that follows it, and the noun of a number."""

    def __post_init__(self) -> None:
        alternatives = [
            [(text, name or "", noun or "") for text, name, noun, _ in Formatter().parse(template)]
            for template in self.templates
        ]
        object.__setattr__(self, "alternatives", alternatives)

    def text(self, values: Mapping[str, Any]) -> Iterator[str]:
        for pieces in self.alternatives:
            if self.is_optional and any(name and name not in values for _, name, _ in pieces):
                continue
            for text, name, noun in pieces:
                yield text
                if name:
                    yield _formatted(values[name], noun)
            return


def _formatted(value: Any, noun: str) -> str:
    if noun:
        return f"{value} {noun}" if value == 1 else f"{value} {noun}s"
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
