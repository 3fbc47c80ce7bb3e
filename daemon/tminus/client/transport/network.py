"""HTTP to a URL, with the proxies and certificates that the environment names."""

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from tminus.client.transport import Body, CannotConnect, NoResponse, Received, Response

_NUMBER = re.compile(r"^\[(?:Errno -?\d+|SSL[^\]]*)\] | \(_ssl\.c:\d+\)$")
"""Error numbers and source lines, which Python adds to the reason of an error."""

_PROXIES = ("http", "https", "socks5", "socks5h")
"""The schemes of proxies that httpx supports."""


class NetworkTransport:
    """Sends requests to a URL's host, through the proxy that the environment names for it.

    Raises `CannotConnect` if the environment names a proxy or certificates that cannot be used. Settings that are not
    needed for this URL are ignored.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        proxy, name = _proxy(url)
        # Without TLS, certificates are not loaded: that takes longer than most requests.
        needs_tls = urlsplit(url).scheme == "https" or (proxy or "").startswith("https:")
        try:
            self._http = httpx.Client(
                verify=_trusted() if needs_tls else False,
                proxy=proxy,
                trust_env=False,  # the environment is read above, with clear errors
                follow_redirects=False,
                timeout=timeout,
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise _unusable_proxy(name) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: Body, wait: float, received: Received = None
    ) -> Response:
        """Send a request and return its response. Raises `NoResponse`."""
        timeout = httpx.Timeout(self._timeout, read=self._timeout + wait, write=self._timeout + wait)
        content = bytearray()
        try:
            with self._http.stream(
                method, f"{self._url}{target}", content=body, headers=dict(headers), timeout=timeout
            ) as response:
                for part in response.iter_bytes():
                    content += part
                    if received is not None and response.status_code == 200:
                        received(part)
        except httpx.HTTPError as error:
            connected = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
            raise NoResponse(_reason(error), sent=connected) from error
        names = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, response.reason_phrase, names, bytes(content))


def _proxy(url: str) -> tuple[str | None, str]:
    """Return the proxy for a URL, and the variable that names it. Raises `CannotConnect` if it cannot be used."""
    split = urlsplit(url)
    proxies = getproxies()
    host = split.hostname or ""
    if proxy_bypass(f"{host}:{split.port}" if split.port else host):
        return None, ""
    scheme = next((scheme for scheme in (split.scheme, "all") if proxies.get(scheme)), None)
    if scheme is None:
        return None, ""
    lower, upper = f"{scheme}_proxy", f"{scheme.upper()}_PROXY"
    name = next((name for name in (lower, upper) if os.environ.get(name)), lower)
    proxy = proxies[scheme]
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    try:
        split_proxy = urlsplit(proxy)
        usable = split_proxy.scheme in _PROXIES and bool(split_proxy.hostname) and split_proxy.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _unusable_proxy(name)
    return proxy, name


def _unusable_proxy(name: str) -> CannotConnect:
    # The message does not contain the URL, which may contain a password.
    advice = "set it to http://HOST:PORT, or name the daemon's host in no_proxy"
    return CannotConnect(f"the environment variable {name} does not name a usable proxy: {advice}")


def _trusted() -> ssl.SSLContext:
    """Return a context that trusts the certificates in `SSL_CERT_FILE` and `SSL_CERT_DIR`, or else those of httpx.

    Raises `CannotConnect` if the variables name no usable certificates.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        return httpx.create_ssl_context(trust_env=False)
    for name, path, is_right in (("SSL_CERT_FILE", file, Path.is_file), ("SSL_CERT_DIR", folder, Path.is_dir)):
        if path and not is_right(Path(path)):
            problem = f"{path}, which is not a readable {'file' if name == 'SSL_CERT_FILE' else 'directory'}"
            raise CannotConnect(f"the environment variable {name} names {problem}: correct it or unset it")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=file or None, capath=folder or None)
    except (OSError, ValueError) as error:
        name, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
        problem = f"{path}, which has no readable certificates"
        raise CannotConnect(f"the environment variable {name} names {problem}: correct it or unset it") from error
    return context


def _reason(error: httpx.HTTPError) -> str:
    """Return why there was no response: the operating system's text, without its number."""
    if isinstance(error, httpx.TimeoutException):
        return "it took too long"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno and cause.errno > 0:
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    words = _NUMBER.sub("", _NUMBER.sub("", str(error))) or type(error).__name__
    words = words[0].lower() + words[1:] if words[1:2].islower() else words
    return f"TLS failed, {words}" if "[SSL" in str(error) else words
