"""Group client addresses for limits that apply per client."""

import ipaddress
from functools import lru_cache

IPV6_NETWORKS = {64: 1, 48: 8, 32: 64}
"""The IPv6 networks in which a guess counts: prefix length -> factor by which the limit of an address is multiplied.

A /64 is the smallest network of a site. A /48, which tunnel brokers give away, contains 65,536 of them; the /32 of a
provider contains four billion.
"""


@lru_cache(maxsize=4096)
def client_network(address: str) -> str:
    """Return the address or network that counts as one client. For IPv6 it is the /64, a site's smallest network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


@lru_cache(maxsize=4096)
def counted_networks(address: str) -> tuple[tuple[str, int], ...]:
    """Return the networks in which a guess counts, each with the factor by which its limit is multiplied."""
    narrowest = client_network(address)
    if not narrowest.endswith("/64"):
        return ((narrowest, 1),)
    number = int(ipaddress.IPv6Network(narrowest).network_address)
    return tuple(
        (str(ipaddress.IPv6Network((number >> 128 - bits << 128 - bits, bits))), times)
        for bits, times in IPV6_NETWORKS.items()
    )


def client_site(address: str) -> str:
    """Return the address or network that counts as one client when clients take turns. For IPv6 it is the /48."""
    counted = counted_networks(address)
    return counted[min(1, len(counted) - 1)][0]
