"""Random ids, tokens and PINs. Values that must be secret or unbiased come from `secrets`."""

import random
import secrets
import string
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate

BASE62 = (string.digits + string.ascii_letters).encode()
# A random byte below 248 (4 x 62) maps to one of 62 characters. The other eight values are dropped, since they would
# make some characters more frequent. `translate` does both, about 30 times as fast as `secrets.choice` per character.
_TABLE = (BASE62 * 5)[:256]
_SURPLUS = bytes(range(248, 256))

TOKEN_LENGTH = 32
"""Length of a token, in characters."""

PINS = range(100_000, 1_000_000)


def base62(length: int) -> str:
    """Return `length` random characters of 0-9, A-Z and a-z."""
    text = b""
    while len(text) < length:
        text += secrets.token_bytes(length + 8).translate(_TABLE, _SURPLUS)
    return text[:length].decode()


def base62_texts(*lengths: int) -> list[str]:
    """Return one random text of each length, all from one system call.

    Each system call releases the interpreter lock, and taking the lock again takes longer than reading the bytes.
    """
    text = base62(sum(lengths))
    return _split(text, lengths)


def _split(text: str, lengths: Sequence[int]) -> list[str]:
    return [text[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


class Supply:
    """Random characters for many texts, all from one system call.

    Parameters
    ----------
    length
        The total number of characters.
    """

    def __init__(self, length: int) -> None:
        self._text = base62(length)
        self._used = 0

    def texts(self, *lengths: int) -> list[str]:
        """Take the next characters, and return them as one text of each length, as `base62_texts` does."""
        first = self._used
        self._used += sum(lengths)
        assert self._used <= len(self._text), "the supply is large enough for all texts"
        return _split(self._text[first : self._used], lengths)


def token() -> str:
    """Return a secret of 32 characters, about 190 bits."""
    return base62(TOKEN_LENGTH)


def request_id() -> str:
    """Return 16 hexadecimal digits that identify a request. They are not secret, so they need no system call."""
    return f"{random.getrandbits(64):016x}"


def random_hex() -> str:
    """Return 32 hexadecimal digits for an id that is not secret."""
    return f"{random.getrandbits(128):032x}"


def pin() -> int:
    """Return a random PIN, which may be in use."""
    return PINS.start + secrets.randbelow(len(PINS))


def choose_pins(pins: AbstractSet[int], count: int) -> list[int]:
    """Return `count` random PINs of a set, or all of them if it has fewer."""
    return random.SystemRandom().sample(sorted(pins), min(count, len(pins)))
