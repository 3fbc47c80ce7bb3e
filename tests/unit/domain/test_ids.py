"""Random ids, tokens and PINs."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tminus.domain import ids

ALPHABET = set(string.digits + string.ascii_letters)


@given(st.integers(0, 300))
def test_base62_has_the_requested_length_of_digits_and_letters(length: int) -> None:
    drawn = ids.base62(length)
    assert len(drawn) == length
    assert set(drawn) <= ALPHABET


@given(st.lists(st.integers(0, 100)))
def test_base62_texts_have_their_lengths_and_share_no_characters(lengths: list[int]) -> None:
    drawn = ids.base62_texts(*lengths)
    assert [len(text) for text in drawn] == lengths
    long = [text for text in drawn if len(text) > 10]
    assert len(set(long)) == len(long)


def test_all_62_characters_are_about_equally_frequent() -> None:
    drawn = ids.base62(62_000)
    # 1000 each is expected; eight standard deviations are 250: by chance this fails once in 10^13 runs.
    assert {character: abs(drawn.count(character) - 1000) < 250 for character in sorted(ALPHABET)} == dict.fromkeys(
        sorted(ALPHABET), True
    )


def test_a_token_has_32_characters_and_is_unique() -> None:
    tokens = {ids.token() for _ in range(2000)}
    assert len(tokens) == 2000
    assert {len(token) for token in tokens} == {32}


def test_random_hex_is_32_hexadecimal_digits_and_unique() -> None:
    drawn = {ids.random_hex() for _ in range(2000)}
    assert len(drawn) == 2000
    assert all(len(text) == 32 and set(text) <= set("0123456789abcdef") for text in drawn)


def test_a_pin_has_six_digits_and_does_not_begin_with_0() -> None:
    assert (min(ids.PINS), max(ids.PINS)) == (100_000, 999_999)
    assert all(ids.pin() in ids.PINS for _ in range(5000))


def test_pin_may_return_the_first_and_the_last_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "PINS", range(500_000, 500_003))
    assert {ids.pin() for _ in range(500)} == {500_000, 500_001, 500_002}


@given(pins=st.sets(st.integers(100_000, 100_019)), count=st.integers(0, 25))
def test_choose_pins_returns_different_pins_and_at_most_all(pins: set[int], count: int) -> None:
    some = ids.choose_pins(pins, count)
    assert len(some) == len(set(some)) == min(count, len(pins))
    assert set(some) <= pins


def test_a_supply_has_different_texts_of_the_right_lengths_until_it_is_used_up() -> None:
    supply = ids.Supply(200)
    texts = [*supply.texts(6, 32), *supply.texts(150), *supply.texts(12)]

    assert [len(text) for text in texts] == [6, 32, 150, 12]
    assert all(text.encode().strip(ids.BASE62) == b"" for text in texts)
    assert texts[3] not in texts[2]
    with pytest.raises(AssertionError):
        supply.texts(1)
