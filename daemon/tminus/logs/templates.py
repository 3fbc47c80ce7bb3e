"""Templates of log messages, with optional parts and numbers that agree with their nouns."""

import re
from collections.abc import Mapping
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
        text = ""
        for part in self._parts:
            text += part.text(values)
        return text

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

    def text(self, values: Mapping[str, Any]) -> str:
        for pieces in self.alternatives:
            text = ""
            for before, name, noun in pieces:
                text += before
                if name in values:
                    text += _formatted(values[name], noun)
                elif name and self.is_optional:
                    break
                elif name:
                    raise KeyError(name)
            else:
                return text
        return ""


def _formatted(value: Any, noun: str) -> str:
    if type(value) is str and not noun:
        return value
    if noun:
        return f"{value} {noun}" if value == 1 else f"{value} {noun}s"
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
