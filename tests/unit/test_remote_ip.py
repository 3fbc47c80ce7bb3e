"""The caller's address, as a proxy tells it."""

from tminus.api import rim


def test_the_zone_of_an_address_is_left_out_and_not_remembered() -> None:
    rim._without_zone.cache_clear()
    assert {rim._plain(f"fe80::1%{'z' * 10_000}{number}") for number in range(20)} == {"fe80::1"}
    assert rim._without_zone.cache_info().currsize == 1, "a head of any length would be kept a thousand times"
