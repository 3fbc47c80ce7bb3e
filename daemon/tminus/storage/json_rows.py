"""Pass values for any number of rows to one statement, on both databases: one parameter contains a JSON object."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, String, any_, bindparam, cast, column, func, literal_column, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine


class Lookup(NamedTuple):
    """The expressions for the value that a JSON object contains for a row."""

    is_in: ColumnElement[bool]
    """Whether the row's key is a name in the object."""
    value: ColumnElement[Any]
    """The value under that name. On PostgreSQL it is text, so a number has to be cast."""
    member: Callable[[str, TypeEngine[Any]], ColumnElement[Any]]
    """Takes a name and a type. Returns the member with that name, if the value is an object itself."""


def look_up(dialect: str, parameter: str, key: ColumnElement[str]) -> Lookup:
    """Return the expressions that look up a row in the JSON object in `parameter`, by the row's column `key`."""
    text = bindparam(parameter, type_=String)
    if dialect == "postgresql":
        # A subquery, because a prepared statement would otherwise parse the object again for each row.
        json = select(cast(text, JSONB)).scalar_subquery()
        # An array, for which PostgreSQL expects ten elements. For the pairs of an object it expects a hundred, and
        # would read a small table as a whole rather than look up a hundred rows in its index.
        names = func.array(select(func.jsonb_object_keys(json)).scalar_subquery(), type_=ARRAY(String))
        return Lookup(
            key == any_(names),
            func.jsonb_extract_path_text(json, key),
            lambda name, kind: cast(func.jsonb_extract_path_text(json, key, literal_column(f"'{name}'")), kind),
        )
    pairs = func.json_each(text).table_valued(column("key", String), column("value", String), name=parameter).c
    return Lookup(
        key == pairs.key,
        pairs.value,
        lambda name, kind: func.json_extract(pairs.value, literal_column(f"'$.{name}'"), type_=kind),
    )
