"""Keep the responses to recent reads until the database changes."""

import asyncio
from collections.abc import Callable, Hashable

from tminus.api.response import Response

MAX_KEPT = 1000
"""Maximum number of responses that are kept. A new one replaces the oldest."""

MAX_SIZE = 4096
"""Maximum bytes of a body that is kept: all of them together take at most 4 MB."""


class KeptAnswers:
    """Responses by what was asked, and by whom. All belong to one version of the database.

    Parameters
    ----------
    read_version
        Returns the current version: another one after each commit; None if it is unknown, then nothing is kept.
    """

    def __init__(self, read_version: Callable[[], int | None]) -> None:
        self._read_version = read_version
        self._answers: dict[Hashable, Response] = {}
        self._version: int | None = None
        self._is_current = False

    def version(self) -> int | None:
        """Return the version of the database. One call reads it for all requests that have arrived.

        The event loop calls `_expire` before it processes a request that arrives later. So each request was sent before
        its version was read, and sees every change that its client can know.
        """
        if not self._is_current:
            asyncio.get_running_loop().call_soon(self._expire)
            version = self._read_version()
            if version != self._version:
                self._answers, self._version = {}, version
            self._is_current = True
        return self._version

    def _expire(self) -> None:
        self._is_current = False

    def get(self, key: Hashable) -> Response | None:
        """Return the response that was kept for this key, if it is of the version that `version` returned last."""
        return self._answers.get(key)

    def put(self, key: Hashable, version: int | None, answer: Response) -> None:
        """Keep a response, unless the database has changed since it had this version, before the read."""
        if version is None or version != self._version or len(answer.body) > MAX_SIZE:
            return
        if len(self._answers) >= MAX_KEPT and key not in self._answers:
            del self._answers[next(iter(self._answers))]
        self._answers[key] = answer
