"""Batches: read and validate many items, and answer them, without holding up other requests.

This work runs on a thread of its own, in parts of a few milliseconds. Between two parts it waits a moment, so that the
event loop and the scheduler get the interpreter lock at once, and not after the interpreter's switch interval.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from threading import Event
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import StreamingResponse

from tminus.api import bodies
from tminus.api.errors import faults, invalid
from tminus.api.parameters import Problem, located
from tminus.api.request_body import BATCH_SECONDS, read_body
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Json
from tminus.api.routing import Answer
from tminus.domain.errors import MAX_BATCH_ERRORS, BatchRefused, FieldError
from tminus.domain.types import MAX_SESSIONS, Caller

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

PART = 200
"""Number of items that are validated or answered in one part: about five milliseconds, the switch interval."""

HASHED = 2000
"""The same for items that are only hashed."""

PAUSE = 0.0003
"""Seconds between two parts."""

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""Media types of a body or an answer with one JSON object in each line."""

_never = Event()


def parts(items: Sequence[T], size: int = PART) -> Iterator[tuple[int, Sequence[T]]]:
    """Yield the items in parts, each with the index of its first one, and wait between them."""
    for first in range(0, len(items), size):
        if first:
            _never.wait(PAUSE)
        yield first, items[first : first + size]


@dataclass(frozen=True)
class Sent:
    """The body of a batch."""

    members: dict[str, Any]
    """Its members, which are not validated yet."""
    sha256: str
    may_have_nul: bool
    """Whether a text may contain NUL, which PostgreSQL does not store."""

    def unstorable(self, item: Any, place: tuple[str | int, ...], model: type[BaseModel]) -> list[Problem]:
        """Return the problems of an item that cannot be stored unchanged."""
        problems = bodies.unstorable(item, ("body", *place))
        if self.may_have_nul and not problems and isinstance(item, dict):
            kept = {name: member for name, member in item.items() if name in model.model_fields}
            problems += islice(bodies.nuls(kept, ("body", *place)), 1)
        return problems

    def dry_run(self, in_query: bool) -> bool:
        """Return whether the caller wants a dry run. Raises `InvalidRequest`."""
        in_body = self.members.get("dryRun")
        if in_body is not None and not isinstance(in_body, bool):
            raise invalid([{"type": "value_error", "loc": ("body", "dryRun"), "msg": "must be a valid boolean"}])
        return in_query or bool(in_body)


@asynccontextmanager
async def receive(context: RequestContext, caller: Caller, items: str) -> AsyncIterator[Sent]:
    """Wait for the caller's turn, and receive the body of a batch; the turn ends with the `with` block.

    `items`: the name of the member that the lines of an NDJSON body stand for. Raises `RequestError`.
    """
    services = context.services
    async with services.batch_slots.slot(caller.agent_id):
        assert context.receive is not None, "the middleware leaves the bodies of batches unread"
        limit = services.settings.server.max_batch_body
        body = await read_body(context.scope, context.headers, context.receive, limit, BATCH_SECONDS)
        content_type, encoding = context.header(b"content-type"), context.header(b"content-encoding")
        yield await services.prepare(lambda: _decoded(body, content_type, encoding, items))


def _decoded(body: bytes, content_type: str, content_encoding: str, items: str) -> Sent:
    if content_type.partition(";")[0].strip().lower() in NDJSON:
        bodies.refuse_compressed(content_encoding)
        return _hashed({items: _lines(body, items)}, body)
    parsed, problems = bodies.decode(body, content_type, content_encoding)
    if problems:
        raise invalid(problems)
    if not isinstance(parsed, dict):
        problem = {"type": "dict_type", "loc": ("body", "body"), "msg": "must be an object"}
        raise invalid(bodies.unstorable(parsed, ("body",)) or [problem])
    rest = {name: value for name, value in parsed.items() if not isinstance(value, list)}
    if problems := bodies.unstorable(rest, ("body",)):
        raise invalid(problems)
    return _hashed(parsed, body)


def _lines(body: bytes, items: str) -> list[Any]:
    """Return the values of the lines of a body, without empty lines. Raises `BatchRefused`."""
    found: list[Any] = []
    errors: list[FieldError] = []
    for _, lines in parts([line for line in body.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]):
        for line in lines:
            value, problems = bodies.decode_text(line)
            if problems:
                errors.append(FieldError(f"{items}.{len(found)}", f"is not JSON: {problems[0]['msg']}"))
            found.append(value)
    if errors:
        raise BatchRefused(errors)
    return found


def _hashed(members: dict[str, Any], body: bytes) -> Sent:
    """Return the body with its hash, for which the order of members does not matter."""
    digest = hashlib.sha256()
    for name in sorted(members):
        digest.update(name.encode(errors="surrogatepass"))
        value = members[name]
        for _, some in parts(value if isinstance(value, list) else [value], HASHED):
            with suppress(TypeError):  # what cannot be written cannot be stored either, and is refused later
                digest.update(orjson.dumps(some, option=orjson.OPT_SORT_KEYS))
    return Sent(members, digest.hexdigest(), b"\\u0000" in body)


def validated(sent: Sent, name: str, model: type[M], make: Callable[[M], T]) -> tuple[list[T | None], list[FieldError]]:
    """Return what `make` returns for each item of a list, and the errors of all items that are not valid.

    In place of an item that is not valid there is None. Raises `InvalidRequest` if there is no list of a valid length.
    """
    items = sent.members.get(name)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_SESSIONS:
        message = "is missing" if name not in sent.members else f"must be a list of 1 to {MAX_SESSIONS} items"
        raise invalid([{"type": "value_error", "loc": ("body", name), "msg": message}])
    adapter = _list_of(model)
    made: list[T | None] = []
    problems: list[Problem] = []
    for first, some in parts(items):
        found = [sent.unstorable(item, (name, place), model) for place, item in enumerate(some, first)]
        if not any(found):
            try:
                made += map(make, adapter.validate_python(some))
                continue
            except ValidationError:
                pass
        for place, item in enumerate(some, first):  # one by one, since the others are checked further
            wrong = found[place - first]
            if not wrong:
                try:
                    made.append(make(adapter.validate_python([item])[0]))
                    continue
                except ValidationError as error:
                    wrong = [
                        {**one, "loc": ("body", name, place, *one["loc"][2:])} for one in located(error, ("body",))
                    ]
            made.append(None)
            problems += wrong if len(problems) <= MAX_BATCH_ERRORS else ()
    return made, list(faults(problems))


def chosen(sent: Sent, model: type[M]) -> M:
    """Return a body that names existing sessions. Raises `InvalidRequest`, `BatchRefused`."""
    if problems := bodies.unstorable(sent.members, ("body",)):
        raise invalid(problems)
    try:
        return model.model_validate(sent.members)
    except ValidationError as error:
        problems = located(error, ("body",))
    if all(len(one["loc"]) > 2 and isinstance(one["loc"][2], int) for one in problems):
        raise BatchRefused(list(faults(problems)))
    raise invalid(problems)


@cache
def _list_of(model: type[M]) -> TypeAdapter[list[M]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def wants_ndjson(context: RequestContext) -> bool:
    """Return whether the caller accepts an answer with one object in each line."""
    return any(kind in context.header(b"accept") for kind in NDJSON)


async def answer(
    context: RequestContext,
    name: str,
    items: Sequence[T],
    show: Callable[[T], Any],
    *,
    dry_run: bool = False,
    headers: Headers | None = None,
) -> Answer:
    """Return the response with many items: `name` is the member that has them.

    With NDJSON the answer has only the items, and each part is sent when it is made.
    """

    def lines(first: int) -> list[bytes]:
        return [orjson.dumps(show(one)) for one in items[first : first + PART]]

    if wants_ndjson(context):

        async def body() -> AsyncIterator[bytes]:
            for first in range(0, len(items), PART):
                yield b"".join(line + b"\n" for line in await context.services.prepare(partial(lines, first)))

        response = StreamingResponse(body(), media_type="application/x-ndjson")
        response.raw_headers += headers or []
        return response

    def whole() -> bytes:
        shown = [line for first, _ in parts(items) for line in lines(first)]
        return b'{%b"%b":[%b]}' % (b'"dryRun":true,' if dry_run else b"", name.encode(), b",".join(shown))

    return Json(await context.services.prepare(whole), headers=headers)
