"""Parse JSON bodies strictly: refuse values that cannot be stored unchanged, and report their positions.

Common parsers accept such values: numbers beyond a double become infinity and are written as null, the first of two
members with the same name is lost, half of a surrogate pair cannot be encoded, and PostgreSQL does not store NUL.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson

from tminus.api.parameters import Problem
from tminus.domain.errors import MAX_FIELD_ERRORS, UnsupportedMediaType

_INTEGERS = range(-(2**63), 2**64)
"""Integers that orjson writes; most readers of JSON cannot read larger ones."""

_DEEPEST = 200
"""Maximum nesting of arrays and objects. orjson writes 254 levels, and responses nest stored values in lists."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Unstorable:
    """A value that cannot be stored unchanged.

    orjson cannot write this class, so `parse` looks for problems only in bodies that orjson fails on, or that may be
    nested too deep.
    """

    def __init__(self, problem: str, value: Any = None) -> None:
        self.problem = problem
        self.value = value


def parse(body: bytes, content_type: str, content_encoding: str) -> tuple[Any, list[Problem]]:
    """Return the JSON of a body and its problems, or the first of them if there are many.

    A body without a media type is parsed as JSON. Raises `UnsupportedMediaType`.
    """
    parsed, problems = decode(body, content_type, content_encoding)
    if problems:
        return None, problems
    try:
        orjson.dumps(parsed)
        if body.count(b"[") + body.count(b"{") <= _DEEPEST:
            return parsed, []
    except TypeError:
        pass
    problems = list(islice(_problems(parsed), MAX_FIELD_ERRORS + 1))
    return (None, problems) if problems else (parsed, [])


def decode(body: bytes, content_type: str, content_encoding: str) -> tuple[Any, list[Problem]]:
    """Return the JSON of a body, or the problem that makes it unreadable. `unstorable` checks its parts.

    Raises `UnsupportedMediaType`.
    """
    if not body:
        return None, [{"type": "missing", "loc": ("body",), "msg": "Field required"}]
    if not _is_json(content_type):
        raise UnsupportedMediaType("must be JSON, with the header Content-Type: application/json")
    refuse_compressed(content_encoding)
    return decode_text(body)


def refuse_compressed(content_encoding: str) -> None:
    """Raise `UnsupportedMediaType` for a compressed body."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("must not be compressed: requests with Content-Encoding are not supported")


def decode_text(body: bytes) -> tuple[Any, list[Problem]]:
    """Return a JSON text as a value, or the problem that makes it unreadable."""
    try:
        return _DECODER.decode(body.decode("utf-8-sig")), []  # some clients send a BOM
    except UnicodeDecodeError as error:
        return None, [_not_json(f"invalid UTF-8 at byte {error.start}")]
    except json.JSONDecodeError as error:
        return None, [_not_json(f"{error.msg} at line {error.lineno} column {error.colno}")]
    except RecursionError:
        return None, [_not_json(f"arrays and objects are nested more than {_DEEPEST} levels deep")]


def is_shallow(text: bytes) -> bool:
    """Return whether a JSON text certainly is not nested too deep, since it has few arrays and objects."""
    return text.count(b"[") + text.count(b"{") <= _DEEPEST


def unstorable(value: Any, loc: tuple[str | int, ...]) -> list[Problem]:
    """Return the problems of a part of a decoded body, or the first of them if there are many."""
    with suppress(TypeError):
        if is_shallow(orjson.dumps(value)):
            return []
    return list(islice(_problems(value, loc), MAX_FIELD_ERRORS + 1))


def nuls(sent: Any, loc: tuple[str | int, ...] = ("body",)) -> Iterator[Problem]:
    """Yield a problem for each NUL in a value that is stored unchanged."""
    match sent:
        case str():
            if "\0" in sent:
                yield _problem(loc, "must not contain NUL")
        case list():
            for place, member in enumerate(sent):
                yield from nuls(member, (*loc, place))
        case dict():
            for name, member in sent.items():
                yield from nuls(name, loc)
                yield from nuls(member, (*loc, name))


def _problems(sent: Any, loc: tuple[str | int, ...] = ("body",)) -> Iterator[Problem]:
    """Yield a problem for each part of a value that could not be sent back unchanged."""
    if len(loc) > _DEEPEST:
        yield _problem(loc[:4], f"is nested more than {_DEEPEST} levels deep")
        return
    match sent:
        case _Unstorable():
            yield _problem(loc, sent.problem)
            yield from _problems(sent.value, loc)
        case str():
            if _SURROGATE.search(sent):
                yield _problem(loc, "must not contain half of a surrogate pair")
        case list():
            for place, member in enumerate(sent):
                yield from _problems(member, (*loc, place))
        case dict():
            for name, member in sent.items():
                if _SURROGATE.search(name):
                    yield _problem(loc, "must not have a member whose name contains half of a surrogate pair")
                else:
                    yield from _problems(member, (*loc, name))


def _problem(loc: tuple[str | int, ...], problem: str) -> Problem:
    return {"type": "value_error", "loc": loc if len(loc) > 1 else ("body", "body"), "msg": problem}


def _not_json(problem: str) -> Problem:
    return {"type": "json_invalid", "loc": ("body",), "msg": problem, "ctx": {"error": problem}}


def _integer(text: str) -> int | _Unstorable:
    if len(text) <= 20 and (number := int(text)) in _INTEGERS:
        return number
    return _Unstorable("must be an integer of at most 64 bits")


def _number(text: str) -> float | _Unstorable:
    number = float(text)
    if math.isinf(number):
        return _Unstorable("must fit in a double: at most 1.7976931348623157e308")
    if not number and re.search("[1-9]", text.lower().partition("e")[0]):
        return _Unstorable("must fit in a double: 0, or at least 5e-324")
    return number


def _constant(text: str) -> _Unstorable:
    return _Unstorable(f"must be a JSON number: JSON has no {text}")


def _object(members: list[tuple[str, Any]]) -> Any:
    kept = dict(members)
    if len(kept) == len(members):
        return kept
    left = set(kept)
    for name, _ in members:
        if name not in left:
            break
        left.remove(name)
    return _Unstorable(f"must not have two members with the same name: {json.dumps(name)}", kept)


_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_constant, object_pairs_hook=_object
)


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or (kind.startswith("application/") and kind.endswith(("/json", "+json")))
