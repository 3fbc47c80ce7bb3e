"""Make and check challenges: pictures with digits that a person reads, after too many wrong PINs from an address.

A challenge is not stored. Its id has the time of its creation, random bits, and an authentication code (HMAC) made with
the key of the database; its text is computed from its id. So every daemon can check it, and nobody can fill a table.

A program can read such a picture, so a right answer proves nothing. It allows one look-up, and the look-ups with
answers have their own limits.
"""

import asyncio
import base64
import hashlib
import hmac
import io
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from tminus.domain import timestamps
from tminus.domain.errors import Overloaded
from tminus.storage import Store, challenges

if TYPE_CHECKING:
    from captcha.image import ImageCaptcha

LIFETIME = timedelta(minutes=2)
"""How long a challenge can be answered."""

DIGITS = 4
"""Length of the text. The original's sample application accepts exactly four digits."""

WIDTH, HEIGHT = 160, 80
"""Size of the picture in pixels. The library cuts off what has no room, so all digits have room in the largest font."""

MAX_WAITING = 50
"""Maximum number of pictures that wait to be drawn; each takes about 5 ms."""

_SKEW = timedelta(seconds=5)
"""Time by which a challenge may be ahead of this daemon's clock; daemons on one PostgreSQL differ by milliseconds."""


class Challenges:
    """The challenges of one database. Pictures are drawn on a thread of their own, one at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key: bytes | None = None
        self._painter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="picture")
        self._waiting = 0
        self._drawing: ImageCaptcha | None = None

    async def make(self, now: datetime) -> tuple[str, str]:
        """Return the id of a new challenge, and its picture as SVG. Raises `Overloaded`, `StoreUnavailable`."""
        if self._waiting >= MAX_WAITING:
            raise Overloaded
        self._waiting += 1
        try:
            key = await self.key()
            uuid = new_id(key, now)
            loop = asyncio.get_running_loop()
            return str(uuid), await loop.run_in_executor(self._painter, self._picture, text_of(key, uuid))
        finally:
            self._waiting -= 1

    async def key(self) -> bytes:
        """Return the key of this database; the first daemon that needs it makes it. Raises `StoreUnavailable`."""
        if self._key is None:
            self._key = bytes.fromhex(await self._store.transact(challenges.make_key))
        return self._key

    def close(self) -> None:
        """End the thread."""
        self._painter.shutdown(cancel_futures=True)

    def _picture(self, text: str) -> str:
        """Return the picture of a text as SVG. The digits are pixels in it, so the file does not have them as text."""
        if self._drawing is None:
            # Loaded with the first picture: it takes 50 ms and 11 MB.
            from captcha.image import ImageCaptcha  # noqa: PLC0415

            self._drawing = ImageCaptcha(WIDTH, HEIGHT, font_sizes=(48, 54, 60))
            self._drawing.word_space_probability = 1.0  # no spaces between digits: they would need as much room again
            self._drawing.word_offset_dx = 0.1  # digits overlap little
            self._drawing.character_rotate = (-20, 20)  # a 7 that is turned further looks like a 1
        # Drawn white on black and then inverted, because the library draws dark colours pale.
        image = self._drawing.generate_image(text, bg_color=(0, 0, 0), fg_color=(255, 255, 255, 255))
        png = io.BytesIO()
        image.convert("L").point(lambda value: 255 - value).quantize(8).save(png, "png", optimize=True)
        data = base64.b64encode(png.getvalue()).decode()
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{WIDTH}" '
            f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"><image width="{WIDTH}" height="{HEIGHT}" '
            f'xlink:href="data:image/png;base64,{data}"/></svg>'
        )


def new_id(key: bytes, now: datetime) -> UUID:
    """Return the id of a new challenge: its second, 28 random bits, and a code of 62 bits, as a UUID of version 8."""
    seconds = (now - timestamps.EPOCH) // timedelta(seconds=1)
    return _with_code(key, seconds.to_bytes(4, "big") + secrets.token_bytes(4))


def is_ours(key: bytes, uuid: UUID) -> bool:
    """Return whether a challenge was made with this key."""
    return hmac.compare_digest(_with_code(key, uuid.bytes[:8]).bytes, uuid.bytes)


def made_at(uuid: UUID) -> datetime:
    """Return when a challenge was made, to the second."""
    return timestamps.EPOCH + timedelta(seconds=int.from_bytes(uuid.bytes[:4], "big"))


def is_valid(uuid: UUID, now: datetime) -> bool:
    """Return whether a challenge can be answered at a time."""
    return -_SKEW <= now - made_at(uuid) < LIFETIME + timedelta(seconds=1)


def text_of(key: bytes, uuid: UUID) -> str:
    """Return the text of a challenge."""
    number = int.from_bytes(_mac(key, b"text", uuid.bytes), "big")
    return f"{number % 10**DIGITS:0{DIGITS}d}"


def is_right(key: bytes, uuid: UUID, answer: str) -> bool:
    """Return whether an answer is the text of a challenge, in a time that does not depend on where they differ."""
    return hmac.compare_digest(text_of(key, uuid).encode(), "".join(answer.split()).encode("utf-8", "surrogatepass"))


def _with_code(key: bytes, start: bytes) -> UUID:
    first = UUID(bytes=start + bytes(8), version=4).bytes[:8]
    first = first[:6] + bytes([first[6] & 0x0F | 0x80]) + first[7:]
    code = _mac(key, b"id", first)[:8]
    return UUID(bytes=first + bytes([code[0] & 0x3F | 0x80]) + code[1:])


def _mac(key: bytes, purpose: bytes, message: bytes) -> bytes:
    return hmac.digest(key, purpose + b"\0" + message, hashlib.sha256)
