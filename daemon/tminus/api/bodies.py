"""Parse JSON bodies strictly: refuse values that cannot be stored unchanged, and report their positions.

`domain.strict_json` has the rules for JSON, which the command applies as well. PostgreSQL does not store NUL.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

import orjson

from tminus.api.parameters import Problem
from tminus.domain import strict_json
from tminus.domain.errors import MAX_FIELD_ERRORS, UnsupportedMediaType
from tminus.domain.strict_json import DEEPEST


def parse(body: bytes, content_type: str, content_encoding: str) -> tuple[Any, list[Problem]]:
    """Return the JSON of a body and its problems, or the first of them if there are many.

    A body without a media type is parsed as JSON. Raises `UnsupportedMediaType`.
    """
    parsed, problems = decode(body, content_type, content_encoding)
    if problems:
        return None, problems
    # orjson cannot write `Unstorable`, so problems are looked for only if it fails, or if nesting may be too deep.
    try:
        orjson.dumps(parsed)
        if body.count(b"[") + body.count(b"{") <= DEEPEST:
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
        return strict_json.decode(body.decode("utf-8-sig")), []  # some clients send a BOM
    except UnicodeDecodeError as error:
        return None, [_not_json(f"invalid UTF-8 at byte {error.start}")]
    except json.JSONDecodeError as error:
        return None, [_not_json(f"{error.msg} at line {error.lineno} column {error.colno}")]
    except RecursionError:
        return None, [_not_json(f"arrays and objects are nested more than {DEEPEST} levels deep")]


def is_shallow(text: bytes) -> bool:
    """Return whether a JSON text certainly is not nested too deep, since it has few arrays and objects."""
    return text.count(b"[") + text.count(b"{") <= DEEPEST


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


def _problems(sent: Any, loc: strict_json.Loc = ("body",)) -> Iterator[Problem]:
    """Yield a problem for each part of a value that could not be sent back unchanged."""
    for place, problem in strict_json.problems(sent, loc):
        yield _problem(place, problem)


def _problem(loc: tuple[str | int, ...], problem: str) -> Problem:
    return {"type": "value_error", "loc": loc if len(loc) > 1 else ("body", "body"), "msg": problem}


def _not_json(problem: str) -> Problem:
    return {"type": "json_invalid", "loc": ("body",), "msg": problem, "ctx": {"error": problem}}


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or (kind.startswith("application/") and kind.endswith(("/json", "+json")))
