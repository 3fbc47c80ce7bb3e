"""The address that a request comes from: the connection's, or what a trusted proxy says of it."""

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import Scope

from tminus.config import Settings

_BESIDE_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^\[\]]+)\](?::[0-9]{1,5})?")


def remote_ip(scope: Scope, headers: Mapping[bytes, bytes], settings: Settings) -> str:
    """Return the client's address. What a proxy says of it counts if the proxy is trusted, and so on to the left."""
    address = _plain(scope["client"][0]) if scope["client"] else "unknown"
    if not settings.server.trusted_proxies or b"x-forwarded-for" not in headers:
        return address
    # Each proxy may have added a line of its own.
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
    """Some proxies write the client's port behind its address, and the address of IPv6 in brackets."""
    found = _BESIDE_PORT.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


def _plain(address: str) -> str:
    """An address as people write it: a listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`. The zone that may
    follow a `%` is left out: it can be any text, and what a header says must not write sentences in the log, nor be
    remembered, however long it is.
    """
    return _without_zone(address.partition("%")[0])


@lru_cache(maxsize=1024)
def _without_zone(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def trusted(address: str, settings: Settings) -> bool:
    """Return whether an address is that of a trusted proxy."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.server.trusted_proxies)
