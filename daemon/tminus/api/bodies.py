"""Parse JSON bodies strictly: refuse values that cannot be stored unchanged, and report their positions.

Common parsers accept such values: numbers beyond a double become infinity and are written as null, the first of two
members with the same name is lost, half of a surrogate pair cannot be encoded, and PostgreSQL does not store NUL.
"""

import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson

from tminus.domain.errors import MAX_FIELD_ERRORS, UnsupportedMediaType

Fault = dict[str, Any]
"""An error in the format of pydantic."""

_INTEGERS = range(-(2**63), 2**64)
"""Integers that orjson writes; most readers of JSON cannot read larger ones."""

_DEEPEST = 200
"""Maximum nesting of arrays and objects. orjson writes 254 levels, and responses nest stored values in lists."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Unkept:
    """A value that cannot be stored unchanged. orjson fails on it, so only such bodies are searched for its place."""

    def __init__(self, problem: str, value: Any = None) -> None:
        self.problem = problem
        self.value = value


def parse(body: bytes, content_type: str, content_encoding: str) -> tuple[Any, list[Fault]]:
    """Return the JSON of a body and its faults, or the first of them if there are many.

    A body without a media type is parsed as JSON. Raises `UnsupportedMediaType`.
    """
    if not body:
        return None, [{"type": "missing", "loc": ("body",), "msg": "Field required"}]
    if not _is_json(content_type):
        raise UnsupportedMediaType("must be JSON, and say so: Content-Type: application/json")
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("must not be compressed: Content-Encoding is not for requests here")
    try:
        parsed = _DECODER.decode(body.decode("utf-8-sig"))  # some clients send a BOM
    except UnicodeDecodeError as error:
        return None, [_not_json(f"no UTF-8 at byte {error.start}")]
    except json.JSONDecodeError as error:
        return None, [_not_json(f"{error.msg} at line {error.lineno} column {error.colno}")]
    except RecursionError:
        return None, [_not_json(f"arrays and objects lie more than {_DEEPEST} deep")]
    try:
        orjson.dumps(parsed)
        if body.count(b"[") + body.count(b"{") <= _DEEPEST:
            return parsed, []
    except TypeError:
        pass
    faults = list(islice(_unkept(parsed), MAX_FIELD_ERRORS + 1))
    return (None, faults) if faults else (parsed, [])


def nuls(sent: Any, loc: tuple[str | int, ...] = ("body",)) -> Iterator[Fault]:
    """Yield a fault for each NUL in a value that is stored unchanged."""
    match sent:
        case str():
            if "\0" in sent:
                yield _fault(loc, "must not contain NUL")
        case list():
            for place, member in enumerate(sent):
                yield from nuls(member, (*loc, place))
        case dict():
            for name, member in sent.items():
                yield from nuls(name, loc)
                yield from nuls(member, (*loc, name))


def _unkept(sent: Any, loc: tuple[str | int, ...] = ("body",)) -> Iterator[Fault]:
    """Yield a fault for each part of a value that could not be sent back unchanged."""
    if len(loc) > _DEEPEST:
        yield _fault(loc[:4], f"lies more than {_DEEPEST} arrays and objects deep")
        return
    match sent:
        case _Unkept():
            yield _fault(loc, sent.problem)
            yield from _unkept(sent.value, loc)
        case str():
            if _SURROGATE.search(sent):
                yield _fault(loc, "must not contain half of a surrogate pair")
        case list():
            for place, member in enumerate(sent):
                yield from _unkept(member, (*loc, place))
        case dict():
            for name, member in sent.items():
                if _SURROGATE.search(name):
                    yield _fault(loc, "must not have a member whose name contains half of a surrogate pair")
                else:
                    yield from _unkept(member, (*loc, name))


def _fault(loc: tuple[str | int, ...], problem: str) -> Fault:
    return {"type": "value_error", "loc": loc if len(loc) > 1 else ("body", "body"), "msg": problem}


def _not_json(problem: str) -> Fault:
    return {"type": "json_invalid", "loc": ("body",), "msg": problem, "ctx": {"error": problem}}


def _integer(text: str) -> int | _Unkept:
    if len(text) <= 20 and (number := int(text)) in _INTEGERS:
        return number
    return _Unkept("must be an integer of 64 bits at the most")


def _number(text: str) -> float | _Unkept:
    number = float(text)
    if math.isinf(number):
        return _Unkept("must be a number that a double holds, at most 1.7976931348623157e308")
    if not number and re.search("[1-9]", text.lower().partition("e")[0]):
        return _Unkept("must be a number that a double tells from 0, at least 5e-324")
    return number


def _constant(text: str) -> _Unkept:
    return _Unkept(f"must be a number of JSON, which {text} is not")


def _object(members: list[tuple[str, Any]]) -> Any:
    kept = dict(members)
    if len(kept) == len(members):
        return kept
    left = set(kept)
    for name, _ in members:
        if name not in left:
            break
        left.remove(name)
    return _Unkept(f"must not have two members with one name: {json.dumps(name)}", kept)


_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
)


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or (kind.startswith("application/") and kind.endswith(("/json", "+json")))
