"""Answers that are always the same: made once, with an entity tag by which a browser need not load them twice."""

import hashlib

from tminus.api.conditions import unchanged
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response


class Fixed:
    """An answer that is always the same."""

    def __init__(self, content: bytes, media_type: str, headers: Headers | None = None) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = [(b"etag", self._tag.encode()), *(headers or ())]

    def answer(self, context: RequestContext) -> Response:
        """Return the answer, or 304 to a client that has it."""
        sent = context.header(b"if-none-match") if b"if-none-match" in context.headers else None
        if unchanged(sent, self._tag):
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, self._media_type, headers=self._headers)
