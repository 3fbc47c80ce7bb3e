"""Random ids, tokens and PINs. Values that must be secret or unbiased come from `secrets`."""

import random
import secrets
import string
from collections.abc import Set as AbstractSet
from itertools import accumulate, pairwise

BASE62 = (string.digits + string.ascii_letters).encode()
# A random byte below 248 (4 x 62) maps to one of 62 characters. The other eight values are dropped, since they would
# make some characters more frequent. `translate` does both, about 30 times as fast as `secrets.choice` per character.
_TABLE = (BASE62 * 5)[:256]
_SURPLUS = bytes(range(248, 256))

TOKEN_LENGTH = 32
"""Length of a token, in characters."""

SHARED_BY = 100
"""Number of ids that begin with the same characters."""

SHARED_LENGTH = 3
"""Number of characters that they share."""

LEAST_RANDOM = 9
"""Minimum number of characters that they do not share, which are enough that nobody guesses them."""

PINS = range(100_000, 1_000_000)


def base62(length: int) -> str:
    """Return `length` random characters of 0-9, A-Z and a-z."""
    text = b""
    while len(text) < length:
        text += secrets.token_bytes(length + 8).translate(_TABLE, _SURPLUS)
    return text[:length].decode()


class SharedPrefix:
    """The first characters of new ids: the same ones for `SHARED_BY` ids in a row, then other random ones.

    Ids that are created one after the other are then close together in the indexes of the database. A commit writes
    every page that has changed, and for ids without a common beginning that is a page for each id in each index.
    """

    def __init__(self) -> None:
        self._text = ""
        self._left = 0

    def take(self, length: int) -> str:
        """Return the beginning of a new id of this length, "" for a short one."""
        if length < SHARED_LENGTH + LEAST_RANDOM:
            return ""
        if not self._left:
            self._text, self._left = base62(SHARED_LENGTH), SHARED_BY
        self._left -= 1
        return self._text


class Supply:
    """Random characters for many texts, drawn `length` at a time.

    Each draw is a system call, which releases the interpreter lock.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._text = ""
        self._used = 0

    def texts(self, *lengths: int) -> list[str]:
        """Take the next characters, and return them as one text of each length."""
        wanted = sum(lengths)
        if self._used + wanted > len(self._text):
            self._text, self._used = base62(max(self._length, wanted)), 0
        first, self._used = self._used, self._used + wanted
        ends = accumulate(lengths, initial=first)
        return [self._text[start:end] for start, end in pairwise(ends)]


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
