"""The configuration in force, written as TOML with where each value came from."""

import json
from collections.abc import Iterator
from typing import Any

from tminus.config.keys import LISTS
from tminus.config.load import Configuration
from tminus.config.settings import Settings
from tminus.domain.types import SessionType


def effective(configuration: Configuration) -> str:
    """Every key with its value, and in a comment its origin. Valid TOML; token hashes are cut short."""
    table, sources = _in_force(configuration.settings)
    origins = {
        key: f"{origin}, from {sources[key]}" if key in sources else origin
        for key, origin in configuration.origins.items()
    }
    # A key outside of any table can only stand at the top.
    empty = {name: table.pop(name) for (name,) in LISTS if not table[name]}
    top = [*_lines(empty, "", origins), ""] if empty else []
    return "\n".join([*top, *_sections(table, origins)])


def toml(value: Any) -> str:
    """A value of a setting as TOML: text, a whole number, or a list of such."""
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    # JSON's strings are TOML's too, but for the one control character that JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _in_force(settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings as written, each that is not set replaced by what holds instead; and by key, whence that comes."""
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
            known_by = LISTS[name,][1]
            for entry in section:
                yield from [f"[[{name}]]", *_lines(entry, f"{name}[{entry[known_by]}].", origins), ""]
        elif isinstance(section, dict):
            yield f"[{prefix}{name}]"
            yield from _lines(section, f"{prefix}{name}.", origins)
            yield ""
            yield from _sections(section, origins, f"{prefix}{name}.")


def _lines(section: dict[str, Any], prefix: str, origins: dict[str, str]) -> Iterator[str]:
    lines = {name: f"{name} = {toml(value)}" for name, value in section.items() if not isinstance(value, dict)}
    width = max(map(len, lines.values()))
    for name, line in lines.items():
        yield f"{line:<{width}}  # {origins[prefix + name]}"
