"""Keep the files of the documentation page in memory, so that slow clients hold no file descriptors open."""

import mimetypes
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tminus.api.tagged_response import TaggedResponse

_PACKAGE = "fastapi_swagger"
"""Located without an import: importing it would load FastAPI, which the daemon does not use."""


def swagger_ui() -> Mapping[str, TaggedResponse]:
    """Return the files of Swagger UI by name. All requests share one copy of each."""
    found = find_spec(_PACKAGE)
    assert found is not None
    [folder] = found.submodule_search_locations or [""]
    return {
        one.name: TaggedResponse(one.read_bytes(), _media_type(one.name))
        for one in Path(folder, "resources").iterdir()
        if one.is_file() and one.suffix != ".py"
    }


def _media_type(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
