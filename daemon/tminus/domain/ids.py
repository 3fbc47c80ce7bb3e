"""What is drawn by lot: ids, tokens, PINs. All that has to be secret or fair is from `secrets`, without bias."""

import random
import secrets
import string
from collections.abc import Set as AbstractSet
from itertools import accumulate

BASE62 = (string.digits + string.ascii_letters).encode()
# A random byte below 248 (4 x 62) stands for one of 62 characters; the other eight are thrown away, or some characters
# would come more often. `translate` does both at once, some thirty times as fast as `secrets.choice` a character.
_TABLE = (BASE62 * 5)[:256]
_SURPLUS = bytes(range(248, 256))

TOKEN = 32
"""Characters of a token."""

PINS = range(100_000, 1_000_000)


def base62(length: int) -> str:
    """So many random characters of 0-9, A-Z, a-z."""
    drawn = b""
    while len(drawn) < length:
        drawn += secrets.token_bytes(length + 8).translate(_TABLE, _SURPLUS)
    return drawn[:length].decode()


def base62_texts(*lengths: int) -> list[str]:
    """A text of random characters of each of these lengths, drawn together: each system call lets another thread have
    the interpreter, and to get it back takes longer than the draw.
    """
    drawn = base62(sum(lengths))
    return [drawn[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def token() -> str:
    """A secret of 32 characters: about 190 bits."""
    return base62(TOKEN)


def request_id() -> str:
    """16 hexadecimal digits that tell a request from others. No secret, so they cost no system call."""
    return f"{random.getrandbits(64):016x}"


def random_hex() -> str:
    """32 hexadecimal digits that tell one thing from others, and are no secret either."""
    return f"{random.getrandbits(128):032x}"


def pin() -> int:
    """One PIN of the range, taken or not."""
    return PINS.start + secrets.randbelow(len(PINS))


def sample(pins: AbstractSet[int], count: int) -> list[int]:
    """`count` of these PINs, or all of them if there are not so many."""
    return random.SystemRandom().sample(sorted(pins), min(count, len(pins)))
