"""Random ids, tokens and PINs."""

import string
from itertools import groupby

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


@given(st.lists(st.lists(st.integers(0, 40), max_size=4), max_size=20), st.integers(0, 60))
def test_a_supply_has_different_texts_of_the_right_lengths_however_many(wanted: list[list[int]], size: int) -> None:
    supply = ids.Supply(size)
    texts = [supply.texts(*lengths) for lengths in wanted]

    assert [[len(text) for text in some] for some in texts] == wanted
    found = [text for some in texts for text in some]
    assert all(set(text) <= ALPHABET for text in found)
    long = [text for text in found if len(text) > 10]
    assert len(set(long)) == len(long)


def test_long_ids_in_a_row_have_a_common_beginning_and_later_ones_another() -> None:
    prefix = ids.SharedPrefix()
    drawn = [prefix.take(12) for _ in range(40 * ids.SHARED_BY)]

    assert {len(text) for text in drawn} == {3}
    assert set().union(*drawn) <= ALPHABET
    rows = [len(list(same)) for _, same in groupby(drawn)]
    assert all(length % ids.SHARED_BY == 0 for length in rows)
    assert len(rows) > 20, "two beginnings in a row are almost never equal"


def test_an_id_keeps_nine_random_characters() -> None:
    prefix = ids.SharedPrefix()
    assert [len(prefix.take(length)) for length in (1, 6, 11, 12, 20)] == [0, 0, 0, 3, 3]
