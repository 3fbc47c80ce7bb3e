"""A response with an entity tag made from its content, so that a client can use the copy that it has."""

import hashlib

from tminus.api.conditions import unchanged
from tminus.api.request_context import RequestContext
from tminus.api.response import Headers, Response


class TaggedResponse:
    """A response with an entity tag. Routes keep one object for content that never changes."""

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
