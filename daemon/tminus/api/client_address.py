"""Find the client's address: that of the connection, or the one that trusted proxies report."""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Scope

from tminus.config import Settings

_BESIDE_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^\[\]]+)\](?::[0-9]{1,5})?")


def remote_ip(scope: Scope, headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """Return the client's address.

    If the connection comes from a trusted proxy, `X-Forwarded-For` is read from the right, up to the first address that
    is no trusted proxy.
    """
    address = _plain(scope["client"][0]) if scope["client"] else "unknown"
    if not settings.server.trusted_proxies or b"x-forwarded-for" not in headers:
        return address
    # Each proxy may have added its own line of the header.
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for hop in reversed([hop.strip() for hop in ",".join(lines).split(",")]):
        if not trusted(address, settings):
            break
        try:
            address = _plain(_without_port(hop))
        except ValueError:
            break
    return address


def _without_port(hop: str) -> str:
    """Return an address without port and brackets, which some proxies add."""
    found = _BESIDE_PORT.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


def _plain(address: str) -> str:
    """Return an address in its usual form, without its zone.

    A listener on `[::]` reports IPv4 clients as `::ffff:192.0.2.1`. The zone, which follows a `%`, can be any text of
    any length: it is removed so that a client cannot write into the log or fill the caches of addresses.
    """
    return _without_zone(address.partition("%")[0])


@lru_cache(maxsize=1024)
def _without_zone(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def trusted(address: str, settings: Settings) -> bool:
    """Return whether an address belongs to a trusted proxy."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.server.trusted_proxies)
