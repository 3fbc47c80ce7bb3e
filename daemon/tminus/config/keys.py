"""The names of all settings, taken from the model `Settings`, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from tminus.config.lines import KeyPath
from tminus.config.settings import Agent, Series, Settings, Webhook


def _table(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the table that a field contains, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _table(one)) is not None), None)


def _leaves(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, (*at, name))
        else:
            yield (*at, field.alias or name)


def _key_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the names of a table's keys as they are written in the file."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


KEYS = tuple(_leaves(Settings))
"""The path of every setting, in order. Each list of tables, such as `agents`, counts as one setting."""

LISTS: dict[tuple[str], tuple[type[BaseModel], str]] = {
    ("agents",): (Agent, "id"),
    ("webhooks",): (Webhook, "name"),
    ("series",): (Series, "name"),
}
"""The lists of tables: the model of their entries, and the key that identifies an entry."""

ENTRY_KEYS: dict[tuple[str], tuple[str, ...]] = {path: _key_names(model) for path, (model, _) in LISTS.items()}
"""The keys of an entry of each list, as they are written in the file."""

ENVIRONMENT = {"TMINUS_" + "__".join(key).upper(): key for key in KEYS}
"""The path of the setting that each environment variable overrides."""


def names_at(path: KeyPath) -> tuple[str, ...]:
    """Return the names of the keys that the table at `path` may contain."""
    model: type[BaseModel] | None = Settings
    for part in path:
        if model is not None and isinstance(part, str):
            model = _table(model.model_fields[part].annotation)
    return _key_names(model) if model else ()


def display_key(path: KeyPath, values: Mapping[str, Any]) -> str:
    """Return a path as text for a message: entries by id or name (`agents[7]`), or by position (`agents[#2]`)."""
    names: list[str] = []
    for part in path:
        if isinstance(part, str):
            names.append(part)
        elif len(names) == 1 and (names[0],) in LISTS:
            entry = values[names[0]][part]
            entry_id = entry.get(LISTS[names[0],][1]) if isinstance(entry, dict) else None
            is_short = isinstance(entry_id, int) or (isinstance(entry_id, str) and len(entry_id) <= 255)
            names = [f"{names[0]}[{entry_id if is_short else f'#{part + 1}'}]"]
    return ".".join(names)


def suggestion(path: KeyPath) -> str:
    """Return a suggestion for an unknown key: a similar key of the same table, the same key of another table, or all
    keys of the table.
    """
    *table, name = path
    names = names_at(tuple(table))
    close = difflib.get_close_matches(str(name), names, n=1)
    elsewhere = [".".join(key) for key in KEYS if key[-1] == name and key[0] != "policy"]
    found = [".".join([*(part for part in table if isinstance(part, str)), close[0]])] if close else elsewhere[:1]
    return f"; did you mean {found[0]}?" if found else f"; the keys are {', '.join(names)}"


def variable_suggestion(name: str) -> str:
    """Return a suggestion for an unknown environment variable, or `""`."""
    # A high cutoff, since all names begin with TMINUS_.
    close = difflib.get_close_matches(name.upper(), ENVIRONMENT, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""
