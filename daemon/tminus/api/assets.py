"""The files of the page for people, in memory: to those who do not read them, not even an open file is lent."""

import mimetypes
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tminus.api.fixed import Fixed


class Assets:
    """ASGI application that serves the files of a package's folder. One copy of each is sent to everybody."""

    def __init__(self, package: str, folder: str) -> None:
        self._files = {
            one.name: Fixed(one.read_bytes(), mimetypes.guess_type(one.name)[0] or "application/octet-stream")
            for one in files(package).joinpath(folder).iterdir()
            if one.is_file() and not one.name.endswith(".py")
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        found = self._files.get(scope["path"].removeprefix(scope["root_path"]).removeprefix("/"))
        if found is None:
            raise HTTPException(404)
        await found.answer(Request(scope))(scope, receive, send)
