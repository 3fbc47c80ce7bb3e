"""A response as it is written to the connection."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest

from tminus.service.http_exchange import COPIED, Exchange


@pytest.mark.parametrize(("size", "writes"), [(COPIED, 1), (COPIED + 1, 2)])
def test_only_a_small_body_is_copied(size: int, writes: int) -> None:
    channel: Any = Mock(default_headers=[], drain=lambda: asyncio.sleep(0))
    body, scope = b"x" * size, {"type": "http", "method": "GET", "http_version": "1.1", "state": {}}

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": body})

    asyncio.run(Exchange(channel, scope, keep_alive=True, expects_continue=False).run(answer))

    written = [call.args[0] for call in channel.transport.write.call_args_list]
    assert len(written) == writes
    assert b"".join(written).endswith(body)
    assert (written[-1] is body) is (writes == 2)
