"""Normalize host names to one ASCII form, which name resolution, TLS and the `Host` header share.

Otherwise parts of a program disagree: Python's resolver reads `straße.test` as `strasse.test` (IDNA 2003), browsers and
registries read it as `xn--strae-oqa.test` (IDNA 2008), and the system's resolver reads `010.1` as an IP address.
"""

import re
from urllib.parse import urlsplit

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
"""Underscores are allowed: internet host names have none, but those of container networks do."""

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_IPV6 = re.compile(r"([0-9a-f:.]+)(?:%(?:25)?([a-z0-9_.-]+))?", re.IGNORECASE)

MAX_LENGTH = 253
"""Maximum length of a host name in DNS, in characters of its ASCII form."""


def ascii_host(host: str) -> str:
    """Return the normal form of a host: a lower-case ASCII name, encoded by IDNA 2008, or an IP address.

    `host` is as `urlsplit` returns it: an IPv6 address has no brackets. A trailing dot is kept. Raises `ValueError`
    with a message that follows the key's name: "must …".
    """
    if ":" in host:
        return _ipv6(host)
    if not host.isascii():
        host = _encoded(host)
    host = host.lower()
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Some resolvers read such a name as an address in octal, in hexadecimal or with fewer parts, others as a name.
        if not _IPV4.fullmatch(host):
            raise ValueError('must have an IPv4 address as four decimal numbers, such as "192.0.2.1"')
    elif len(host) > MAX_LENGTH + 1 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("must have a host of letters, digits, hyphens and dots: no part empty or over 63 characters")
    return host


def ascii_url(url: str) -> str:
    """Return the URL with its host in normal form, otherwise unchanged. Raises `ValueError` as `ascii_host` does."""
    parts = urlsplit(url)
    host = ascii_host(parts.hostname or "")
    if ":" in host:
        host = f"[{host.replace('%', '%25')}]"
    port = parts.port
    if port == 0:
        raise ValueError("must have a port from 1 to 65535")
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{host}{'' if port is None else f':{port}'}{rest[len(parts.netloc) :]}"


def _ipv6(host: str) -> str:
    from ipaddress import IPv6Address  # noqa: PLC0415 - slow to load; the command needs it only for such a URL

    match = _IPV6.fullmatch(host)
    try:
        address = str(IPv6Address(match[1] if match else ""))
    except ValueError:
        raise ValueError('must have an IPv6 address in brackets, such as "[2001:db8::1]"') from None
    return f"{address}%{match[2]}" if match and match[2] else address


def _encoded(host: str) -> str:
    import idna  # noqa: PLC0415 - its large tables are needed only for a name that is not ASCII

    try:
        # As browsers do: UTS 46 maps variants of a letter to one, then IDNA 2008 encodes; it keeps ß as a letter.
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        return ".".join(part if part.isascii() else idna.alabel(part).decode() for part in mapped.split("."))
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(
            f"must have a host that IDNA 2008 allows, or its xn-- form: {_shortened(str(error))}"
        ) from None


def _shortened(text: str) -> str:
    return ascii(text)[1:-1][:200]
