"""Answers that are always the same: made once, with an entity tag by which a browser need not load them twice."""

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from tminus.api.conditions import unchanged


class Fixed:
    """An answer that is always the same."""

    def __init__(self, content: bytes, media_type: str, **headers: str) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = {"ETag": self._tag, **headers}

    def answer(self, request: Request) -> Response:
        """Return the answer, or 304 to a client that has it."""
        if unchanged(request.headers.get("if-none-match"), self._tag):
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)
