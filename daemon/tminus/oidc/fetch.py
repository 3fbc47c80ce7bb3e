"""Requests to the issuer, bounded in time and size. Redirects are refused."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from tminus.oidc.errors import SignInRefused

TOTAL = 10.0
"""Maximum seconds of a request, however slowly its answer arrives."""

STEP = 5.0
"""Maximum seconds to connect, and between two parts of an answer."""

MAX_BYTES = 256 * 1024
"""Maximum bytes of an answer. Discovery documents and key sets have a few thousand."""

MAX_PARTS = 2000
"""Maximum parts in which an answer arrives. In chunks of one byte, reading an answer would block other requests."""

MAX_CONCURRENT = 8
"""Maximum requests that run at a time. Others wait, so that a slow issuer costs little memory."""


class Fetcher:
    """Sends requests to one issuer."""

    def __init__(self, trust: ssl.SSLContext | None) -> None:
        self._trust = trust
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Return the JSON object at a URL. Raises `SignInRefused`."""
        status, found = await self._send("GET", url, headers or {}, None)
        if status != 200:
            raise SignInRefused("issuer", f"{_where(url)} answered {status}")
        return found

    async def post(self, url: str, headers: Mapping[str, str], body: str) -> tuple[int, dict[str, Any]]:
        """Send a form; return the status, and the JSON object of the answer. Raises `SignInRefused`."""
        return await self._send(
            "POST", url, {**headers, "Content-Type": "application/x-www-form-urlencoded"}, body.encode()
        )

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, dict[str, Any]]:
        where = _where(url)
        try:
            async with asyncio.timeout(TOTAL), self._slots:
                status, body = await self._read(method, url, headers, content)
        except TimeoutError:
            raise SignInRefused("issuer", f"{where} did not answer within {TOTAL:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise SignInRefused("issuer", f"{where}: {type(error).__name__}: {error}") from None
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise SignInRefused("issuer", f"{where} answered {status} without a JSON object")
        return status, found

    async def _read(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, bytes]:
        # A client for each request: sign-ins are rare, and nothing has to be closed when the daemon stops.
        async with httpx.AsyncClient(
            verify=self._trust or False, timeout=STEP, trust_env=False, follow_redirects=False
        ) as client:
            # `identity`: a compressed answer could be much larger than what arrives.
            sent = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
            async with client.stream(method, url, headers=sent, content=content) as response:
                if response.is_redirect:
                    raise SignInRefused("issuer", f"{_where(url)} redirects, which is not followed")
                body, parts = bytearray(), 0
                async for part in response.aiter_raw():
                    body += part
                    parts += 1
                    if len(body) > MAX_BYTES:
                        raise SignInRefused("issuer", f"{_where(url)} answered with more than {MAX_BYTES} bytes")
                    if parts > MAX_PARTS:
                        raise SignInRefused("issuer", f"{_where(url)} answered in more than {MAX_PARTS} parts")
                return response.status_code, bytes(body)


def _where(url: str) -> str:
    """Return a URL for the log, without its query."""
    return url.partition("?")[0]
