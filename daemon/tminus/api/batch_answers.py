"""Decide and answer batches, part by part, so that memory and other requests do not depend on their size."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import orjson
from starlette.responses import Response, StreamingResponse

from tminus import clock
from tminus.api import answers
from tminus.api.batch_bodies import NDJSON, parts
from tminus.api.media_types import listed
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Json
from tminus.api.routing import Answer
from tminus.domain.errors import RequestError
from tminus.domain.model import Session
from tminus.domain.types import Caller
from tminus.sessions import batches as commands
from tminus.sessions.batches import PART, Decided
from tminus.sessions.idempotency import KeyedRequest
from tminus.storage import Transaction, View
from tminus.storage.batches import NewRow, session

T = TypeVar("T")

_STARTED = 2
"""Number of parts that wait for the writer or are being executed, so that the writer need not wait for the next one."""

HELD_BYTES = 16 * 1024 * 1024
"""Bytes of an answer in JSON that are held in memory. A larger one is sent in parts when the batch is done."""

_ATTEMPTS = 3
"""How often sessions are read before the transaction that changes them. If they have changed each time in between, the
transaction itself reads them.
"""


async def decide(
    context: RequestContext,
    caller: Caller,
    keyed: KeyedRequest | None,
    find: Callable[[View], T],
    command: Callable[[Transaction, T], Decided | None],
) -> Decided:
    """Return the decision on a batch of existing sessions: `find` reads them, and `command` decides in a transaction.

    `command` returns None if a session has changed since it was read. Then they are read again.
    """
    services = context.services
    for _ in range(_ATTEMPTS):
        try:
            found = await services.prepare(lambda: services.store.read(find, lane="search"))
        except RequestError:
            # A repeated request may be refused because the first one has already changed the sessions.
            if keyed is not None:
                earlier = await services.query(lambda view: commands.find_decided(view, caller, keyed, clock.now()))
                if earlier is not None:
                    return earlier
            raise
        decided = await context.write(lambda tx, found=found: command(tx, found))  # type: ignore[misc]
        if decided is not None:
            return decided
    decided = await context.write(lambda tx: command(tx, find(tx)))
    assert decided is not None, "nothing has changed in the transaction that has read the sessions"
    return decided


class _Part(NamedTuple):
    """A part of a batch that has been executed."""

    session_ids: Sequence[str]
    created: Mapping[str, NewRow] = MappingProxyType({})
    """Session id -> row, for sessions that this batch has just created. Other sessions are read from the database."""


async def _execute_parts(context: RequestContext, caller: Caller, decided: Decided) -> AsyncIterator[_Part]:
    """Execute the parts of a batch that are left, and yield the sessions in parts, each as soon as it is done.

    Raises `RequestError`.
    """
    services, batch_id, session_ids = context.services, decided.unfinished, decided.session_ids

    def start_part(batch_id: str) -> asyncio.Task[commands.Progress]:
        job = partial(commands.do_next, settings=services.settings, batch_id=batch_id)
        return asyncio.create_task(context.write(job, large=True))

    first = 0
    started = deque([] if batch_id is None else [start_part(batch_id) for _ in range(_STARTED)])
    try:
        while batch_id is not None and first < len(session_ids):
            progress = await started.popleft()
            if progress.remaining > PART * len(started):
                started.append(start_part(batch_id))
            end = len(session_ids) - progress.remaining
            if end - first > progress.done and (key := decided.key) is not None:
                # Another request with this key has executed parts, and perhaps given some of their sessions new ids.
                session_ids = await services.query(partial(commands.current_ids, caller=caller, key=key)) or session_ids
            for some in parts(session_ids[first:end]):
                yield _Part([progress.renamed.get(one, one) for one in some], progress.created)
            first = end
    finally:
        await asyncio.gather(*started, return_exceptions=True)
    for some in parts(session_ids[first:]):
        yield _Part(some)


def wants_ndjson(context: RequestContext) -> bool:
    """Return whether the caller accepts an answer with one object in each line."""
    return not listed(context.header(b"accept")).isdisjoint(NDJSON)


async def answer(context: RequestContext, caller: Caller, decided: Decided, headers: Headers | None) -> Answer:
    """Execute what is left of a batch; return the response with its sessions as they are now.

    In JSON, one part is read while the next one is executed. In NDJSON, and in JSON with more than `HELD_BYTES`, the
    parts are read as they are sent.
    """
    reader = _Reader(context, caller)
    executed = _execute_parts(context, caller, decided)
    if wants_ndjson(context):
        session_ids = [one async for part in executed for one in part.session_ids]
        return _stream(reader.ndjson(session_ids), "application/x-ndjson", headers)
    session_ids, texts = await reader.read_while_executing(executed)
    if texts is None:
        return _stream(reader.json(session_ids), "application/json", headers)
    return Json(b'{"sessions":[%b]}' % b",".join(texts), headers=headers)


def _stream(content: AsyncIterator[bytes], media_type: str, headers: Headers | None) -> Answer:
    response = StreamingResponse(content, media_type=media_type)
    response.raw_headers += headers or []
    return response


class _Reader:
    """Reads the sessions of a batch for its response, as JSON.

    The sessions of a part are joined at once. Thousands of small `bytes` objects would be memory that the process has
    to get from the kernel, which takes ten times as long as to write the JSON.
    """

    def __init__(self, context: RequestContext, caller: Caller) -> None:
        self._services = context.services
        self._caller = caller

    async def read(self, part: _Part, separator: bytes = b",") -> bytes:
        """Return the sessions of a part that exist, with this separator between them."""
        some, created = part

        def text(sessions: Mapping[str, Session]) -> bytes:
            now = clock.now()
            found = [sessions[one] for one in some if one in sessions]
            return separator.join([orjson.dumps(answers.session(one, self._caller, now)) for one in found])

        if all(one in created for one in some):
            return await self._services.prepare(lambda: text({one: session(created[one]) for one in some}))
        return await self._services.query(lambda view: text(view.sessions_with(some)))

    async def ndjson(self, session_ids: Sequence[str]) -> AsyncIterator[bytes]:
        """Yield the response in NDJSON."""
        for some in parts(session_ids):
            if text := await self.read(_Part(some), b"\n"):
                yield text + b"\n"

    async def json(self, session_ids: Sequence[str]) -> AsyncIterator[bytes]:
        """Yield the response in JSON."""
        yield b'{"sessions":['
        separator = b""
        for some in parts(session_ids):
            if text := await self.read(_Part(some)):
                yield separator + text
                separator = b","
        yield b"]}"

    async def read_while_executing(self, executed: AsyncIterator[_Part]) -> tuple[list[str], list[bytes] | None]:
        """Return the ids of the sessions of all parts, and the text of each part that has any.

        The second one is None if all texts together are longer than `HELD_BYTES`.
        """
        session_ids, texts, held = list[str](), list[bytes](), 0
        reading: asyncio.Task[bytes] | None = None
        try:
            async for part in executed:
                session_ids += part.session_ids
                if reading is not None:
                    texts.append(await reading)
                    held, reading = held + len(texts[-1]), None
                if held <= HELD_BYTES:
                    reading = asyncio.create_task(self.read(part))
                else:
                    texts.clear()
            if reading is not None:
                texts.append(await reading)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    reading.exception()  # asyncio would log an error that nobody reads; another one is raised already
        return session_ids, list(filter(None, texts)) if held <= HELD_BYTES else None


async def answer_planned(context: RequestContext, planned: Sequence[commands.Plan]) -> Answer:
    """Return the response to a dry run."""

    def body() -> bytes:
        lines = [orjson.dumps(answers.planned(one)) for one in planned]
        if wants_ndjson(context):
            return b"".join(line + b"\n" for line in lines)
        return b'{"dryRun":true,"planned":[%b]}' % b",".join(lines)

    content = await context.services.prepare(body)
    if not wants_ndjson(context):
        return Json(content)
    return Response(content, media_type="application/x-ndjson")
