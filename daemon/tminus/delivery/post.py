"""One request to a receiver: bounded in time and size, and what became of it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import httpx

from tminus import __version__, clock
from tminus.delivery.backoff import retry_after
from tminus.delivery.forbidden import is_forbidden

ANSWER_BYTES = 2048
"""As much of an answer as is read, and kept."""

USER_AGENT = f"tminus/{__version__}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `status` None: there was no answer, and `error` says why."""

    status: int | None
    error: str | None
    answer: str | None
    ms: int
    asked: timedelta | None = None
    """The receiver's `Retry-After`."""
    cut_off: bool = False
    """Whether it was this side that waited no longer: that is no failure of the receiver's."""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299

    @property
    def gone(self) -> bool:
        """Whether the receiver says that it is there no more."""
        return self.status == httpx.codes.GONE


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the system's certificate authorities, and those of `ca_file` besides.

    Making a context takes a tenth of a second, so each is made once for all endpoints that need the same, and again
    when the files change. Raises `OSError` (`ssl.SSLError` is one) if the file cannot be read.
    """
    return _context(_system_authorities(), ca_file, ca_file.read_bytes() if ca_file is not None else b"")


def _system_authorities() -> tuple[int, ...]:
    """When the system's certificate authorities were last changed."""
    found = ssl.get_default_verify_paths()
    times: list[int] = []
    for path in (found.openssl_cafile, found.openssl_capath):
        with suppress(OSError):
            times.append(Path(path).stat().st_mtime_ns)
    return tuple(times)


@lru_cache(maxsize=64)
def _context(_system: tuple[int, ...], ca_file: Path | None, _content: bytes) -> ssl.SSLContext:
    # Not `create_default_context`: it obeys SSL_CERT_FILE, SSL_CERT_DIR and SSLKEYLOGFILE, and the configuration alone
    # decides whom the daemon trusts.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    system = ssl.get_default_verify_paths()
    file, folder = Path(system.openssl_cafile), Path(system.openssl_capath)
    if file.is_file() or folder.is_dir():
        context.load_verify_locations(file if file.is_file() else None, folder if folder.is_dir() else None)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


@lru_cache(maxsize=1)
def untrusting() -> ssl.SSLContext:
    """Trusts nobody: for endpoints without TLS, whose client wants a context all the same."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def make_client(trusted: ssl.SSLContext) -> httpx.AsyncClient:
    """A client for one endpoint."""
    return httpx.AsyncClient(
        verify=trusted,
        trust_env=False,
        follow_redirects=False,  # the events are for whom the configuration names, and nobody else
        limits=httpx.Limits(max_connections=2, max_keepalive_connections=1),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )


class Resolver:
    """Asks what the name of an endpoint's host means. One an endpoint, as each asks for one name only: at most one
    question is open, on a thread of its own, and whoever asks meanwhile gets that one's answer.
    """

    def __init__(self) -> None:
        self._asked: Future[list[str]] | None = None

    async def addresses(self, host: str, port: int) -> list[str]:
        """All addresses of a host. Raises `OSError`."""
        with suppress(socket.gaierror):  # a name, or no address in spite of its looks
            return _addresses(host, port, socket.AI_NUMERICHOST)
        if self._asked is None or self._asked.done():
            asked = Future[list[str]]()
            asked.set_running_or_notify_cancel()  # who waits no longer must not cancel it for those who do
            # No pool: a silent name server would have its threads from the other endpoints, and a process does not end
            # before a pool's threads do. A daemon thread is left where it is.
            threading.Thread(target=_answer, args=(asked, host, port), name="resolver", daemon=True).start()
            self._asked = asked
        return await asyncio.wrap_future(self._asked)


def _answer(asked: Future[list[str]], host: str, port: int) -> None:
    try:
        asked.set_result(_addresses(host, port))
    except Exception as error:
        asked.set_exception(error)


def _addresses(host: str, port: int, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def allowed(resolver: Resolver, host: str, port: int, *, link_local: bool) -> list[str]:
    """The addresses of a host that events may be sent to. What the name means is asked once, and the answer is what is
    connected to: a name that means another address a moment later leads nowhere else.

    Raises `OSError` where there is none: a link-local address is where clouds hand out their keys.
    """
    addresses = await resolver.addresses(host, port)
    good = [one for one in addresses if link_local or not is_forbidden(one)]
    if not good:
        raise OSError(f"{host} is {addresses[0]}: a link-local or metadata address, and allow_link_local is not set")
    return good


async def post(
    client: httpx.AsyncClient,
    resolver: Resolver,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    patience: timedelta,
    *,
    link_local: bool = False,
) -> Outcome:
    """Sends a request and waits for its answer, so long at the most, however it trickles.

    Never raises. Cancelled, it returns what became of the request until then, so that it can be recorded.
    """
    begun = clock.monotonic()
    status = asked = error = None
    cut_off = False
    answer = b""
    seconds = patience.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            response = await _send(client, resolver, httpx.URL(url), body, headers, seconds, link_local)
            status = response.status_code
            asked = retry_after(response.headers.get("retry-after"), clock.now())
            try:
                answer = await _head(response)
            finally:
                await response.aclose()
    except TimeoutError:
        error = None if status else f"no answer within {seconds:g} s"
    except asyncio.CancelledError:
        cut_off = status is None
        error = "cut off: the daemon was stopping, or the endpoint was changed" if cut_off else None
    except Exception as failure:  # a URL that somebody typed can fail in any way
        error = None if status else _said(failure)
    if status is not None and not 200 <= status <= 299:
        error = f"answered {status}"
    text = answer.decode(errors="replace").replace("\0", "\ufffd") if status is not None else None
    return Outcome(status, error, text, round((clock.monotonic() - begun) * 1000), asked, cut_off)


async def _send(
    client: httpx.AsyncClient,
    resolver: Resolver,
    url: httpx.URL,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float,
    link_local: bool,
) -> httpx.Response:
    """Sends a request to the first address of its host that takes it; the answer's body is not read yet."""
    port = url.port or (443 if url.scheme == "https" else 80)
    refused: httpx.TransportError | None = None
    addresses = await allowed(resolver, url.raw_host.decode(), port, link_local=link_local)
    # One that is silent must not have the time of those after it.
    timeout = httpx.Timeout(seconds, connect=seconds / len(addresses))
    for address in addresses:
        request = client.build_request(
            "POST",
            url.copy_with(host=address),
            content=body,
            headers={**headers, "Host": url.netloc.decode()},
            timeout=timeout,
            extensions={"sni_hostname": url.raw_host.decode().rstrip(".")},  # whose certificate it has to be
        )
        try:
            return await client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
            refused = failure
    assert refused is not None  # there was one address at least
    raise refused


def _said(failure: BaseException) -> str:
    """What went wrong, in the words of what went wrong first: "connection refused", not "all attempts failed"."""
    while (cause := failure.__cause__ or failure.__context__) is not None:
        failure = cause
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}"[:500]


async def _head(response: httpx.Response) -> bytes:
    """The beginning of an answer; the rest is not read."""
    read = b""
    async for chunk in response.aiter_raw(ANSWER_BYTES):
        read += chunk
        if len(read) >= ANSWER_BYTES:
            break
    return read[:ANSWER_BYTES]
