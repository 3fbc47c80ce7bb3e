"""uvicorn, as the daemon runs it: on sockets that are open already, under the daemon's own signals."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from tminus.listeners import BACKLOG

DRAIN_SECONDS = 7
"""How long running requests may take to finish once the daemon was told to stop."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than common proxies keep theirs, so that they close first."""


class Server(uvicorn.Server):
    """Serves an application on listening sockets. Without uvicorn's signal handlers: it would raise SIGTERM again after
    its own graceful stop.

    Parameters
    ----------
    application, sockets
        What is served, and where.
    connections
        How many may be open at a time; None: any number.
    """

    def __init__(self, application: ASGIApp, sockets: Sequence[socket.socket], connections: int | None) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=connections,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        self._sockets = list(sockets)
        self.begun = asyncio.Event()
        """Set when it takes connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()

    async def serve_all(self) -> None:
        """Serves its sockets until it is told to exit."""
        await self.serve(self._sockets)

    def stop_listening(self) -> None:
        """Takes no more connections; those that it has go on."""
        for one in self.servers if self.begun.is_set() else ():
            one.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
