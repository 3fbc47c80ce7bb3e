"""Read and validate the bodies of batches, so that memory and other requests do not depend on their size.

Parsing and validation run on a thread of their own. New sessions are validated, prepared and stored in parts.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from tminus import clock
from tminus.api import bodies
from tminus.api.errors import field_errors, invalid
from tminus.api.parameters import Problem, located
from tminus.api.request_body import BATCH_SECONDS, body_parts, read_body, whole_body
from tminus.api.request_context import RequestContext
from tminus.domain.errors import MAX_BATCH_ERRORS, BatchRefused, FieldError, RequestError
from tminus.domain.types import MAX_SESSIONS, Caller, CreateSession
from tminus.new_sessions import NewSession
from tminus.sessions import batches as commands
from tminus.sessions.batches import PART, PARTS, NewBatch
from tminus.sessions.idempotency import KeyedRequest

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""Media types of a body or an answer with one JSON object in each line."""


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items in parts."""
    for first in range(0, len(items), PART):
        yield items[first : first + PART]


class Sent(NamedTuple):
    """The body of a batch."""

    members: dict[str, Any]
    """Its members, which are not validated yet."""

    def dry_run(self, in_query: bool) -> bool:
        """Return whether the caller wants a dry run. Raises `InvalidRequest`."""
        in_body = self.members.get("dryRun")
        if in_body is not None and not isinstance(in_body, bool):
            raise invalid([{"type": "value_error", "loc": ("body", "dryRun"), "msg": "must be a valid boolean"}])
        return in_query or bool(in_body)

    def keyed(self, key: str | None) -> KeyedRequest | None:
        """Return the key with a hash of the members, which does not depend on their order; None without a key."""
        if key is None:
            return None
        digest = hashlib.sha256()
        _hash(digest, self.members)
        return KeyedRequest(key, digest.hexdigest())


def _hash(digest: Any, value: Any) -> None:
    with suppress(TypeError):  # what cannot be written cannot be stored either, and is refused later
        digest.update(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _is_ndjson(context: RequestContext) -> bool:
    kind = context.header(b"content-type").partition(";")[0].strip().lower()
    if kind in NDJSON:
        bodies.refuse_compressed(context.header(b"content-encoding"))
        return True
    return False


@asynccontextmanager
async def receive(context: RequestContext, caller: Caller, items: str) -> AsyncIterator[Sent]:
    """Wait for the caller's turn, and receive the body of a batch; the turn ends with the `with` block.

    `items`: the name of the member that the lines of an NDJSON body stand for. Raises `RequestError`.
    """
    async with context.services.batch_slots.slot(caller.agent_id):
        yield await _receive(context, items)


async def _receive(context: RequestContext, items: str) -> Sent:
    assert context.receive is not None, "the middleware leaves the bodies of batches unread"
    limit = context.services.settings.server.max_batch_body
    body = await read_body(context.scope, context.headers, context.receive, limit, BATCH_SECONDS)
    content_type, encoding = context.header(b"content-type"), context.header(b"content-encoding")
    if not _is_ndjson(context):
        return await context.services.prepare(lambda: _decoded(body, content_type, encoding))
    errors: list[FieldError] = []
    lines = [line for line in body.removeprefix(_BOM).split(b"\n") if line.strip()]
    members = {items: await context.services.prepare(lambda: _values(lines, f"{items}.", 0, errors))}
    if errors:
        raise BatchRefused(errors)
    return Sent(members)


_BOM = b"\xef\xbb\xbf"

_NOT_JSON = object()
"""In place of an item that is not JSON."""


def _decoded(body: bytes, content_type: str, content_encoding: str) -> Sent:
    parsed, problems = bodies.decode(body, content_type, content_encoding)
    if problems:
        raise invalid(problems)
    if not isinstance(parsed, dict):
        problem = {"type": "dict_type", "loc": ("body", "body"), "msg": "must be an object"}
        raise invalid(bodies.unstorable(parsed, ("body",)) or [problem])
    rest = {name: value for name, value in parsed.items() if not isinstance(value, list)}
    if problems := bodies.unstorable(rest, ("body",)):
        raise invalid(problems)
    return Sent(parsed)


def _values(lines: Sequence[bytes], prefix: str, first: int, errors: list[FieldError]) -> list[Any]:
    """Return the values of lines, and add an error for each that is not JSON. `first`: the index of the first one."""
    found = []
    for number, line in enumerate(lines, first):
        value, problems = bodies.decode_text(line)
        if problems:
            value = _NOT_JSON
            errors.append(FieldError(f"{prefix}{number}", f"is not JSON: {problems[0]['msg']}"))
        found.append(value)
    return found


# --- new sessions -----------------------------------------------------------------------------------------------------


class NewSessionParts:
    """The new sessions of a batch, which are validated, prepared and stored in parts.

    Parameters
    ----------
    dry_run
        Only collect the requests.
    """

    def __init__(self, context: RequestContext, caller: Caller, *, dry_run: bool) -> None:
        self._context = context
        self._caller = caller
        self._digest = hashlib.sha256()
        self._count = 0
        self.dry_run = dry_run
        self.errors: list[FieldError] = []
        """The errors of sessions that are not valid; at least the first ones that an answer lists."""
        self.found = 0
        """The number of errors of all sessions."""
        self.new = NewBatch()
        self.requests: list[CreateSession] = []
        """The sessions, for a dry run."""

    def keyed(self, key: str | None) -> KeyedRequest | None:
        """Return the key with a hash of all sessions, once they have arrived; None without a key."""
        return None if key is None else KeyedRequest(key, self._digest.hexdigest())

    async def take_all(self, source: AsyncIterator[Callable[[], list[Any]]]) -> None:
        """Validate, prepare and store all parts. Each function of `source` returns the items of a part.

        It is called on the thread of batches. A batch of one part is not stored: `new.content` has it.
        """
        held: list[str] = []
        storing: asyncio.Task[None] | None = None
        try:
            async for items in source:
                content = await self._context.services.prepare(partial(self._take, items))
                if content is None:
                    continue
                held.append(content)
                is_only = len(held) == 1 and not self.new.stored
                # Parts are stored while the next ones are prepared.
                if not is_only and (storing is None or storing.done() or len(held) >= PARTS):
                    if storing is not None:
                        await storing
                    storing = asyncio.create_task(self._store(held))
                    held = []
        finally:
            if storing is not None:
                await storing
        if not self.new.stored and len(held) == 1:
            self.new.content = held[0]
        elif held and not self.errors:
            await self._store(held)

    async def _store(self, contents: Sequence[str]) -> None:
        first = self.new.stored
        self.new.stored += len(contents)
        await self._context.services.transact(lambda tx: commands.store_parts(tx, self.new.id, first, contents))

    def _take(self, items: Callable[[], list[Any]]) -> str | None:
        """Validate and prepare a part; return its content to store. None: a dry run, or the batch has errors."""
        listed = len(self.errors)
        first, values = self._count, items()  # this adds the errors of lines that are not JSON
        self._count += len(values)
        _hash(self._digest, values)
        settings, now = self._context.services.settings, clock.now()
        requests, errors = _validated(values, first)
        errors += commands.start_errors(
            settings, [None if one is None else one.start_time for one in requests], now, first
        )
        self.found += len(self.errors) - listed + len(errors)
        self.errors += errors[: max(0, MAX_BATCH_ERRORS - len(self.errors))]
        if self.errors:
            return None
        valid = [request for request in requests if request is not None]
        if self.dry_run:
            self.requests += valid
            return None
        return commands.prepare(self.new, settings, self._caller, valid, now)

    async def discard(self) -> None:
        """Remove the parts, unless the batch is decided."""
        if self.new.stored:
            with suppress(RequestError):  # otherwise they are removed later
                await self._context.services.transact(lambda tx: commands.discard(tx, self.new.id))


@asynccontextmanager
async def receive_new(context: RequestContext, caller: Caller, *, dry_run: bool) -> AsyncIterator[NewSessionParts]:
    """Wait for the caller's turn, and receive and store new sessions, those of NDJSON as they arrive.

    The turn ends with the `with` block. Parts of a batch that is not decided by then are removed. Raises
    `RequestError`.
    """
    async with context.services.batch_slots.slot(caller.agent_id):
        if _is_ndjson(context):
            taken = NewSessionParts(context, caller, dry_run=dry_run)
            source = _lines(context, taken)
        else:
            sent = await _receive(context, "sessions")
            taken = NewSessionParts(context, caller, dry_run=sent.dry_run(dry_run))
            source = _members(sent)
        try:
            await taken.take_all(source)
            yield taken
        finally:
            await taken.discard()


async def _members(sent: Sent) -> AsyncIterator[Callable[[], list[Any]]]:
    items = sent.members.pop("sessions", None)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_SESSIONS:
        raise _wrong_number(is_missing=items is None)
    for some in parts(items):
        yield partial(list, some)


def _wrong_number(*, is_missing: bool = False) -> RequestError:
    message = "is missing" if is_missing else f"must be a list of 1 to {MAX_SESSIONS} items"
    return invalid([{"type": "value_error", "loc": ("body", "sessions"), "msg": message}])


async def _lines(context: RequestContext, taken: NewSessionParts) -> AsyncIterator[Callable[[], list[Any]]]:
    """Yield the values of the lines of an NDJSON body as they arrive, without empty lines."""
    assert context.receive is not None, "the middleware leaves the bodies of batches unread"
    limit = context.services.settings.server.max_batch_body
    complete = whole_body(context.scope, context.headers, limit)
    arriving = _at_once(complete) if complete is not None else body_parts(context.receive, limit, BATCH_SECONDS)
    waiting: list[bytes] = []
    line, count, is_first = bytearray(), 0, True
    async for part in arriving:
        line += part
        if b"\n" not in part:
            continue
        *lines, rest = line.split(b"\n")
        line = bytearray(rest)
        if is_first:
            lines[0], is_first = lines[0].removeprefix(_BOM), False
        waiting += [bytes(one) for one in lines if one.strip()]
        for _ in range(len(waiting) // PART):
            some, waiting = waiting[:PART], waiting[PART:]
            yield partial(_values, some, "sessions.", count, taken.errors)
            count += len(some)
        if count + len(waiting) > MAX_SESSIONS:
            raise _wrong_number()
    last = bytes(line.removeprefix(_BOM) if is_first else line)
    waiting += [last] if last.strip() else []
    if not 0 < count + len(waiting) <= MAX_SESSIONS:
        raise _wrong_number()
    for left in parts(waiting):
        yield partial(_values, left, "sessions.", count, taken.errors)
        count += len(left)


async def _at_once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _validated(items: list[Any], first: int) -> tuple[list[CreateSession | None], list[FieldError]]:
    """Return the sessions of a part, with None in place of each that is not valid, and the errors of these.

    `first`: the index of the first one.
    """
    adapter = _list_of(NewSession)
    found: list[list[Problem]] = [[] for _ in items]
    try:
        text = orjson.dumps(items)
        may_have_nul = b"\\u0000" in text
        certain = bodies.is_shallow(text) and not may_have_nul
    except TypeError:
        may_have_nul, certain = True, False
    if not certain:
        found = [
            _unstorable(item, ("sessions", place), may_have_nul=may_have_nul) for place, item in enumerate(items, first)
        ]
    if not any(found):
        with suppress(ValidationError):
            return [one.create_session() for one in adapter.validate_python(items)], []
    made: list[CreateSession | None] = []
    problems: list[Problem] = []
    for place, (item, unstorable) in enumerate(zip(items, found, strict=True), first):
        wrong = unstorable
        if item is not _NOT_JSON and not wrong:
            try:
                made.append(adapter.validate_python([item])[0].create_session())
                continue
            except ValidationError as error:
                wrong = [
                    {**one, "loc": ("body", "sessions", place, *one["loc"][2:])} for one in located(error, ("body",))
                ]
        made.append(None)
        problems += wrong
    return made, list(field_errors(problems))


def _unstorable(item: Any, place: tuple[str | int, ...], *, may_have_nul: bool) -> list[Problem]:
    """Return the problems of a new session that cannot be stored unchanged."""
    if item is _NOT_JSON:
        return []
    problems = bodies.unstorable(item, ("body", *place))
    if may_have_nul and not problems and isinstance(item, dict):
        kept = {name: member for name, member in item.items() if name in NewSession.model_fields}
        problems += islice(bodies.nuls(kept, ("body", *place)), 1)
    return problems


def validated_body(sent: Sent, model: type[M]) -> M:
    """Validate and return a body that names existing sessions. Raises `InvalidRequest`, `BatchRefused`."""
    if problems := bodies.unstorable(sent.members, ("body",)):
        raise invalid(problems)
    try:
        return model.model_validate(sent.members)
    except ValidationError as error:
        problems = located(error, ("body",))
    if all(len(one["loc"]) > 2 and isinstance(one["loc"][2], int) for one in problems):
        raise BatchRefused(list(field_errors(problems)))
    raise invalid(problems)


@cache
def _list_of(model: type[M]) -> TypeAdapter[list[M]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]
