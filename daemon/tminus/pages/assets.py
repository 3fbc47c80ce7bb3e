"""Keep the scripts and styles of the pages in memory, so that slow clients hold no file descriptors open."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).parent / "assets"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """A file that pages load."""

    content: bytes
    media_type: str


def _read() -> Mapping[str, Asset]:
    files = sorted(one for one in _FOLDER.iterdir() if one.suffix in _MEDIA_TYPES)
    return {one.name: Asset(one.read_bytes(), _MEDIA_TYPES[one.suffix]) for one in files}


def _version(assets: Mapping[str, Asset]) -> str:
    digest = hashlib.sha256()
    for name, asset in assets.items():
        digest.update(b"%s\0%d\0%s" % (name.encode(), len(asset.content), asset.content))
    return digest.hexdigest()[:16]


ASSETS: Mapping[str, Asset] = _read()
"""All files by name."""

VERSION = _version(ASSETS)
"""A hash of all files. It is part of their URLs, so a browser may keep them for ever.

One hash for all of them lets modules import each other by relative names, without a build step.
"""
