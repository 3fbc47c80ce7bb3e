"""The files of the page for people, in memory: to those who do not read them, not even an open file is lent."""

import mimetypes
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tminus.api.fixed import Fixed

_PACKAGE = "fastapi_swagger"
"""It is found, and not imported: it would load FastAPI, which nothing here uses."""


def swagger_ui() -> Mapping[str, Fixed]:
    """Return the files of Swagger UI by name. One copy of each is sent to everybody."""
    found = find_spec(_PACKAGE)
    assert found is not None
    [folder] = found.submodule_search_locations or [""]
    return {
        one.name: Fixed(one.read_bytes(), _media_type(one.name))
        for one in Path(folder, "resources").iterdir()
        if one.is_file() and one.suffix != ".py"
    }


def _media_type(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
