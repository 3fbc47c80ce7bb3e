"""Write the configuration in force as TOML, with the origin of each value in a comment."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tminus.config.keys import LISTS
from tminus.config.load import Configuration
from tminus.config.settings import Settings
from tminus.domain.types import SessionType

WIDEST = 100
"""Maximum number of characters before the origin of a value; a longer line has it directly after the value."""


def effective(configuration: Configuration) -> str:
    """Return every key with its value and, in a comment, its origin, as valid TOML. Token hashes are shortened."""
    table, sources = _in_force(configuration.settings)
    origins = {
        key: f"{origin}, from {sources[key]}" if key in sources else origin
        for key, origin in configuration.origins.items()
    }
    # TOML allows a key outside of any table only at the top.
    empty = {name: table.pop(name) for (name,) in LISTS if not table[name]}
    top = [*_lines(empty, "", origins), ""] if empty else []
    return "\n".join([*top, *_sections(table, origins)])


def toml(value: Any) -> str:
    """Return the value of a setting as TOML: text, a number, true or false, a list, or an inline table."""
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, dict):
        members = (f"{_name(name)} = {toml(item)}" for name, item in value.items() if item is not None)
        return f"{{ {', '.join(members)} }}"
    # JSON strings are also TOML strings, except for DEL, which only TOML requires to be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else toml(name)


def _in_force(settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings with derived values filled in, and for each derived key, the key that it is derived from."""
    table = settings.model_dump(mode="json", by_alias=True)
    sources: dict[str, str] = {}
    urls = settings.server.urls()
    for name, source in {"public": "server.listen", "user": "server.public_url", "host": "server.public_url"}.items():
        if not table["server"][f"{name}_url"]:
            table["server"][f"{name}_url"] = getattr(urls, name)
            sources[f"server.{name}_url"] = source
    for session_type in SessionType:
        for setting, mode in settings.policy.modes(session_type).items():
            if not table["policy"][session_type][setting]:
                table["policy"][session_type][setting] = mode
                sources[f"policy.{session_type}.{setting}"] = f"policy.{setting}"
    return table, sources


def _sections(table: dict[str, Any], origins: dict[str, str], prefix: str = "") -> Iterator[str]:
    for name, section in table.items():
        if (name,) in LISTS:
            id_key = LISTS[name,][1]
            for entry in section:
                yield from [f"[[{name}]]", *_lines(entry, f"{name}[{entry[id_key]}].", origins, tables=True), ""]
        elif isinstance(section, dict):
            yield f"[{prefix}{name}]"
            yield from _lines(section, f"{prefix}{name}.", origins)
            yield ""
            yield from _sections(section, origins, f"{prefix}{name}.")


def _lines(section: dict[str, Any], prefix: str, origins: dict[str, str], *, tables: bool = False) -> Iterator[str]:
    """Yield the keys of a section that have a value. `tables`: also those whose value is a table."""
    lines = {
        name: f"{name} = {toml(value)}"
        for name, value in section.items()
        if value is not None and (tables or not isinstance(value, dict))
    }
    width = min(max(map(len, lines.values())), WIDEST)
    for name, line in lines.items():
        yield f"{line:<{width}}  # {origins[prefix + name]}"
