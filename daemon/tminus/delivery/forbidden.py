"""Addresses that events are not sent to: link-local addresses and those of cloud metadata services, in all notations.

The check is applied to the address that is connected to, never to a name.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NETWORKS = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "169.254.0.0/16",  # link-local: AWS, Google, Azure, OpenStack and others
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure's host
            "192.0.0.192",  # Oracle
            "224.0.0.0/4",  # multicast
            "255.255.255.255",
        ),
    )
)

_NETWORKS_V6 = tuple(
    map(
        IPv6Network,
        (
            "::/128",
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local, which is deprecated but still used by some systems
            "ff00::/8",  # multicast
            "fd00:ec2::/32",  # AWS: metadata, and the credentials of tasks and pods
            "fd20:ce::/32",  # Google
            "fd00:c1::/32",  # Oracle
            "fd00:42::/32",  # Scaleway
            "fd00:100::100:200",  # Alibaba
            "fd00:a9fe:a9fe::/48",  # Akamai
        ),
    )
)

_LAST_32_BITS = tuple(
    map(
        IPv6Network,
        (
            "::/96",  # IPv4-compatible
            "::ffff:0:0/96",  # IPv4-mapped
            "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
            "64:ff9b::/96",  # NAT64
        ),
    )
)
"""IPv6 networks in which the last 32 bits of an address are an IPv4 address."""

_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOW_32 = 0xFFFFFFFF
_METADATA = IPv4Address("169.254.169.254")


def is_forbidden(text: str) -> bool:
    """Return whether an address is link-local or a metadata service, or contains an IPv4 address that is.

    A network's own prefix for NAT64 or 6rd cannot be known here; the network has to filter it.
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        return _is_forbidden_v4(address)
    if any(address in network for network in _NETWORKS_V6):
        return True
    return address != IPv6Address("::1") and any(map(_is_forbidden_v4, _embedded(address)))


def _is_forbidden_v4(address: IPv4Address) -> bool:
    return any(address in network for network in _NETWORKS)


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that an IPv6 address contains, by all known encodings."""
    number = int(address)
    last = IPv4Address(number & _LOW_32)
    if any(address in network for network in _LAST_32_BITS):
        yield last
    if address in _LOCAL_NAT64:
        # An IPv4 address decoded at a wrong offset often begins with zeros, which is no reason to refuse the address.
        yield from (one for one in _translated(number) if int(one) >> 24)
    if (six_to_four := address.sixtofour) is not None:
        yield six_to_four
    yield from address.teredo or ()
    if number >> 32 & _LOW_32 in _ISATAP:
        yield last
    if address in _UNIQUE_LOCAL and last == _METADATA:
        yield last


def _translated(number: int) -> Iterator[IPv4Address]:
    """Yield the IPv4 address in a NAT64 address, for each prefix length that fits in /48 (RFC 6052)."""
    yield IPv4Address(number & _LOW_32)  # /96
    yield IPv4Address(number >> 24 & _LOW_32)  # /64: after eight zero bits
    for prefix in (48, 56):  # on both sides of the eight zero bits
        left = 64 - prefix
        high, low = number >> 64 & (1 << left) - 1, number >> 24 + left & (1 << 32 - left) - 1
        yield IPv4Address(high << 32 - left | low)
