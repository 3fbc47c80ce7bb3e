"""JSON as it goes out."""

from typing import Any

import orjson
from starlette.responses import Response


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)
