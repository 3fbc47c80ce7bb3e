"""Responses to reads that are kept until the database changes."""

import asyncio
from collections.abc import Callable

from tminus.api.kept_answers import MAX_KEPT, MAX_SIZE, KeptAnswers
from tminus.api.response import Json, Response

ONE = Json(b"1")


class Kept:
    """Kept responses beside a database whose version the test sets."""

    def __init__(self) -> None:
        self.version: int | None = 1
        self.times_read = 0
        self._answers = KeptAnswers(self._read_version)

    def _read_version(self) -> int | None:
        self.times_read += 1
        return self.version

    async def ask(self, key: str, answer: Json = ONE, during: Callable[[], None] = lambda: None) -> Response | None:
        """Return the kept response. If there is none, keep `answer`; `during` is called while it is read."""
        version = self._answers.version()
        kept = self._answers.get(key)
        if kept is None:
            during()
            await asyncio.sleep(0)
            self._answers.put(key, version, answer)
        await asyncio.sleep(0)
        return kept


def test_a_response_is_kept_for_its_key_and_its_version() -> None:
    async def body() -> None:
        kept = Kept()
        assert await kept.ask("a") is None
        assert await kept.ask("a") is ONE
        assert await kept.ask("b") is None
        kept.version = 2
        assert await kept.ask("a") is None

    asyncio.run(body())


def test_a_response_that_was_read_before_a_change_is_not_kept() -> None:
    async def body() -> None:
        kept = Kept()

        def change() -> None:
            kept.version = 2

        assert await kept.ask("a", during=change) is None
        assert await kept.ask("a") is None
        assert await kept.ask("a") is ONE

    asyncio.run(body())


def test_without_a_version_nothing_is_kept() -> None:
    async def body() -> None:
        kept = Kept()
        kept.version = None
        assert await kept.ask("a") is None
        assert await kept.ask("a") is None

    asyncio.run(body())


def test_a_large_body_is_not_kept() -> None:
    async def body() -> None:
        kept = Kept()
        for key, size in (("small", MAX_SIZE), ("large", MAX_SIZE + 1)):
            await kept.ask(key, Json(b"x" * size))
        assert await kept.ask("small") is not None
        assert await kept.ask("large") is None

    asyncio.run(body())


def test_a_new_response_replaces_the_oldest_of_too_many() -> None:
    async def body() -> None:
        kept = Kept()
        for number in range(MAX_KEPT + 1):
            await kept.ask(str(number))
        assert [await kept.ask(str(number)) for number in range(1, MAX_KEPT + 1)] == [ONE] * MAX_KEPT
        assert await kept.ask("0") is None

    asyncio.run(body())


def test_the_version_is_read_once_for_all_requests_that_have_arrived() -> None:
    async def body() -> None:
        kept = Kept()
        await asyncio.gather(*(kept.ask(key) for key in "abc"))
        assert kept.times_read == 1
        await asyncio.gather(*(kept.ask(key) for key in "abc"))
        assert kept.times_read == 2

    asyncio.run(body())
