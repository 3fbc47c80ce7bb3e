"""JSON as it goes out."""

from typing import Any

import orjson
from starlette.responses import Response


class Json(Response):
    """An answer in JSON; what are bytes already is sent as it is."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content)
