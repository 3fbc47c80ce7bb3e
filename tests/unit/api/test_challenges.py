"""The ids and texts of challenges follow from a key, and cannot be forged without it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from tminus.api.challenges import is_ours, is_right, is_valid, made_at, new_id, text_of

KEY, OTHER = b"k" * 32, b"o" * 32
NOW = datetime(2026, 11, 27, 9, 0, 0, 500_000, UTC)


@given(st.integers(0, 127), st.binary(min_size=1, max_size=64))
def test_an_id_is_a_uuid_that_only_its_key_makes(bit: int, key: bytes) -> None:
    uuid = new_id(key, NOW)
    assert (uuid.version, uuid.variant) == (8, "specified in RFC 4122")
    assert is_ours(key, uuid)
    assert not is_ours(key + b"x", uuid)
    assert not is_ours(key, UUID(int=uuid.int ^ (1 << bit))), "each bit is checked"
    assert made_at(uuid) == NOW.replace(microsecond=0)


def test_ids_are_random_and_others_are_not_ours() -> None:
    assert len({new_id(KEY, NOW) for _ in range(1000)}) == 1000
    assert not any(is_ours(KEY, uuid4()) for _ in range(1000))


def test_a_challenge_can_be_answered_for_two_minutes() -> None:
    uuid = new_id(KEY, NOW)
    valid = {seconds: is_valid(uuid, NOW + timedelta(seconds=seconds)) for seconds in (-10, -4, 0, 119, 122)}
    assert valid == {-10: False, -4: True, 0: True, 119: True, 122: False}


@given(st.text(max_size=64))
def test_only_the_text_is_right(answer: str) -> None:
    uuid = new_id(KEY, NOW)
    text = text_of(KEY, uuid)
    assert len(text) == 4
    assert is_right(KEY, uuid, f" {text[:2]} {text[2:]}\n")
    assert is_right(KEY, uuid, answer) == ("".join(answer.split()) == text)
    assert not is_right(KEY, uuid, "\ud800")


def test_texts_are_evenly_distributed_and_depend_on_the_key() -> None:
    """All texts occur about equally often, and another key gives other ones."""
    ids = [new_id(KEY, NOW) for _ in range(5000)]
    first = [sum(text_of(KEY, uuid)[0] == digit for uuid in ids) for digit in "0123456789"]
    assert all(350 < number < 650 for number in first)
    assert sum(text_of(KEY, uuid) == text_of(OTHER, uuid) for uuid in ids) < 20
