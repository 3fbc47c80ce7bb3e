"""Keep the files of the documentation page in memory, so that slow clients hold no file descriptors open."""

import asyncio
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tminus.api.tagged_response import TaggedResponse

_PACKAGE = "fastapi_swagger"
"""Located without an import: importing it would load FastAPI, which the daemon does not use."""

_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".png": "image/png"}


class SwaggerUi:
    """The files of Swagger UI by name. Raises `LookupError` if they are not installed.

    The first request reads them: two megabytes, which most daemons never need. All requests share one copy.
    """

    def __init__(self) -> None:
        found = find_spec(_PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise LookupError(f"the package {_PACKAGE} is not installed")
        self._folder = Path(found.submodule_search_locations[0], "resources")
        self._files: Mapping[str, TaggedResponse] | None = None

    async def get(self, name: str) -> TaggedResponse | None:
        """Return a file; None if there is none with this name."""
        if self._files is None:
            self._files = await asyncio.to_thread(self._read)
        return self._files.get(name)

    def _read(self) -> Mapping[str, TaggedResponse]:
        return {
            one.name: TaggedResponse(one.read_bytes(), _MEDIA_TYPES[one.suffix])
            for one in self._folder.iterdir()
            if one.suffix in _MEDIA_TYPES
        }
