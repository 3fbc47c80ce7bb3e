"""Responses with an entity tag made from their content, so that clients can use the copies that they have."""

import hashlib

from tminus.api.conditions import unchanged
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response


class Fixed:
    """A response with an entity tag. One that never changes is made once."""

    def __init__(self, content: bytes, media_type: str, headers: Headers | None = None) -> None:
        self.content = content
        self.media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.headers: Headers = [(b"etag", self._tag.encode()), *(headers or ())]

    def answer(self, context: RequestContext) -> Response:
        """Return the response, or 304 if the client has a current copy."""
        sent = context.header(b"if-none-match") if b"if-none-match" in context.headers else None
        if unchanged(sent, self._tag):
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, self.media_type, headers=self.headers)
