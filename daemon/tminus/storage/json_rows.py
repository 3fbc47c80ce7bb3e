"""A parameter that is a JSON object, as a table of its pairs: one statement for any number of rows."""

from sqlalchemy import String, TableValuedAlias, bindparam, cast, column, func
from sqlalchemy.dialects.postgresql import JSONB


def json_pairs(dialect: str, parameter: str) -> TableValuedAlias:
    """Return a table that is called as the parameter is, with the columns `key` and `value`.

    On PostgreSQL both are text; cast them to get a number.
    """
    value = bindparam(parameter, type_=String)
    each = func.jsonb_each_text(cast(value, JSONB)) if dialect == "postgresql" else func.json_each(value)
    return each.table_valued(column("key", String), column("value", String), name=parameter)
