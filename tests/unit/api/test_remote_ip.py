"""The client's address, as a proxy reports it."""

import pytest

from tminus.api import client_address


def test_the_zone_of_an_address_is_removed_and_not_cached() -> None:
    client_address._without_zone.cache_clear()
    assert {client_address._plain(f"fe80::1%{'z' * 10_000}{number}") for number in range(20)} == {"fe80::1"}
    assert client_address._without_zone.cache_info().currsize == 1, (
        "the cache must not hold a thousand headers of any length"
    )


@pytest.mark.parametrize(
    ("hop", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:50123", "192.0.2.1"),
        ("[2001:db8::1]:50123", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8::50123", "2001:db8::50123"),
    ],
)
def test_a_port_after_an_address_is_removed(hop: str, address: str) -> None:
    assert client_address._without_port(hop) == address


@pytest.mark.parametrize("hop", ["192.0.2.1:", "192.0.2.1:port", "[]:1", "[[::1]]:1", "[::1]:1:1", ""])
def test_text_other_than_an_address_with_a_port_is_unchanged(hop: str) -> None:
    assert client_address._without_port(hop) == hop
