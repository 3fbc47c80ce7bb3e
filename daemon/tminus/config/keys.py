"""The names of the settings, read off `Settings` itself."""

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from tminus.config.lines import KeyPath
from tminus.config.settings import Agent, Settings, Webhook


def _table(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds, alone or in a tuple."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _leaves(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, (*at, name))
        else:
            yield (*at, name)


def _key_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The names of a table's keys as they are written."""
    return tuple(field.alias or name for name, field in model.model_fields.items())


KEYS = tuple(_leaves(Settings))
"""The path of every setting, in order; `agents` and `webhooks`, lists of tables, are one each."""

LISTS: dict[tuple[str], tuple[type[BaseModel], str]] = {("agents",): (Agent, "id"), ("webhooks",): (Webhook, "name")}
"""The lists of tables: what stands in each, and the key by which an entry is known."""

ENTRY_KEYS: dict[tuple[str], tuple[str, ...]] = {path: _key_names(model) for path, (model, _) in LISTS.items()}
"""The keys of an entry, as they are written."""

ENVIRONMENT = {"TMINUS_" + "__".join(key).upper(): key for key in KEYS}
"""By variable, the key that it overrides."""


def names_at(path: KeyPath) -> tuple[str, ...]:
    """The keys that may stand in the table at `path`."""
    model: type[BaseModel] | None = Settings
    for part in path:
        if model is not None and isinstance(part, str):
            model = _table(model.model_fields[part].annotation)
    return _key_names(model) if model else ()


def suggestion(path: KeyPath) -> str:
    """`; did you mean …?` for a key that there is not, or nothing: a neighbour, or the same name elsewhere."""
    *table, name = path
    names = names_at(tuple(table))
    close = difflib.get_close_matches(str(name), names, n=1)
    elsewhere = [".".join(key) for key in KEYS if key[-1] == name and key[0] != "policy"]
    # What is nearly right here goes before what is right somewhere else.
    found = [".".join([*(part for part in table if isinstance(part, str)), close[0]])] if close else elsewhere[:1]
    return f"; did you mean {found[0]}?" if found else f"; there are {', '.join(names)}"


def variable_suggestion(name: str) -> str:
    """The same for an environment variable."""
    close = difflib.get_close_matches(name.upper(), ENVIRONMENT, n=1, cutoff=0.8)  # all begin alike
    return f"; did you mean {close[0]}?" if close else ""
