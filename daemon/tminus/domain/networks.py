"""Shares of what there is a limited number of: whose they are."""

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4096)
def client_network(address: str) -> str:
    """Return whose share an address counts for: of IPv6 a site has at least 64 bits for itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
