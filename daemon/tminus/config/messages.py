"""Turn pydantic's validation errors into messages in plain English."""

import difflib
import re

from pydantic_core import ErrorDetails

from tminus.config.keys import LISTS, suggestion
from tminus.domain.durations import kind, quoted

_WORDS = {
    "missing": "is missing",
    "string_type": "must be text in quotes, not {kind}",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters long",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "int_type": "must be a whole number, not {kind}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "tuple_type": "must be a list, not {kind}",
    "frozen_set_type": "must be a list, not {kind}",
    "model_type": "must be a table, not {kind}",
    "dict_type": "must be a table, not {kind}",
    "list_type": "must be a list, not {kind}",
    "bool_type": "must be true or false, not {kind}",
    "none_required": "must be absent",
}


def message(error: ErrorDetails) -> str:
    """Return a message that follows the key's name. It repeats the value only where that cannot be a secret."""
    path, given, context = error["loc"], error["input"], error.get("ctx", {})
    match error["type"]:
        case "value_error":  # raised by a parser in this package
            return str(context["error"])
        case "enum" | "literal_error":
            return _choices(str(context["expected"]), given)
        case "string_too_short" if context["min_length"] > 1:
            return f"must be at least {context['min_length']} characters long"
        case "extra_forbidden":
            what = "section" if len(path) == 1 and isinstance(given, dict | list) else "key"
            return f"is not a {what}{suggestion(path)}"
        case "tuple_type" if path in LISTS:
            return f"must be a list of tables, each headed [[{path[0]}]], not {kind(given)}"
    words = _WORDS.get(error["type"])
    return words.format(kind=kind(given), **context) if words else f"is not valid: {error['msg']}"


def _choices(expected: str, given: object) -> str:
    close = difflib.get_close_matches(str(given), re.findall("'(.+?)'", expected), n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return "must be " + expected.replace("'", '"') + f", not {quoted(given)}{hint}"
