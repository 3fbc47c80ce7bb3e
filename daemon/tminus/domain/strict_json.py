"""Parse JSON strictly: find values that cannot be stored unchanged, and their positions.

Common parsers accept such values: numbers beyond a double become infinity and are written as null, the first of two
members with the same name is lost, and half of a surrogate pair cannot be encoded.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

Loc = tuple[str | int, ...]
"""The position of a value: names of members, and indices in arrays."""

DEEPEST = 200
"""Maximum nesting of arrays and objects. orjson writes 254 levels, and responses nest stored values in lists."""

_INTEGERS = range(-(2**63), 2**64)
"""Integers that orjson writes; most readers of JSON cannot read larger ones."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Unstorable:
    """A value that cannot be stored unchanged. No library can write this class as JSON."""

    def __init__(self, problem: str, value: Any = None) -> None:
        self.problem = problem
        self.value = value


def decode(text: str) -> Any:
    """Return a JSON text as a value with `Unstorable` in it. Raises `json.JSONDecodeError`, `RecursionError`."""
    return _DECODER.decode(text)


def loads(text: str) -> Any:
    """Return a JSON text as a value.

    Raises `ValueError` if it is not JSON, or if the API would refuse it. The message follows the name of the text.
    """
    try:
        found = decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"is nested more than {DEEPEST} levels deep") from None
    for loc, problem in problems(found, ()):
        raise ValueError(f"is wrong: {'.'.join(map(str, loc))} {problem}" if loc else problem)
    return found


def problems(sent: Any, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Yield position and problem of each part of a decoded value that could not be sent back unchanged."""
    if len(loc) > DEEPEST:
        yield loc[:4], f"is nested more than {DEEPEST} levels deep"
        return
    match sent:
        case Unstorable():
            yield loc, sent.problem
            yield from problems(sent.value, loc)
        case str():
            if _SURROGATE.search(sent):
                yield loc, "must not contain half of a surrogate pair"
        case list():
            for place, member in enumerate(sent):
                yield from problems(member, (*loc, place))
        case dict():
            for name, member in sent.items():
                if _SURROGATE.search(name):
                    yield loc, "must not have a member whose name contains half of a surrogate pair"
                else:
                    yield from problems(member, (*loc, name))


def _integer(text: str) -> int | Unstorable:
    if len(text) <= 20 and (number := int(text)) in _INTEGERS:
        return number
    return Unstorable("must be an integer of at most 64 bits")


def _number(text: str) -> float | Unstorable:
    number = float(text)
    if math.isinf(number):
        return Unstorable("must fit in a double: at most 1.7976931348623157e308")
    if not number and re.search("[1-9]", text.lower().partition("e")[0]):
        return Unstorable("must fit in a double: 0, or at least 5e-324")
    return number


def _constant(text: str) -> Unstorable:
    return Unstorable(f"must be a JSON number: JSON has no {text}")


def _object(members: list[tuple[str, Any]]) -> Any:
    kept = dict(members)
    if len(kept) == len(members):
        return kept
    left = set(kept)
    for name, _ in members:
        if name not in left:
            break
        left.remove(name)
    return Unstorable(f"must not have two members with the same name: {json.dumps(name)}", kept)


_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
)
