"""Answer requests during a start that takes long, because of a migration or many due sessions."""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence

import uvloop

from tminus.api import make_starting_application
from tminus.service.http_server import LAST_REQUESTS, Server

PATIENCE = 2.0
"""Seconds for which clients wait for the daemon to start; after that they get 503 with Retry-After."""


class StartupServer:
    """Answers on the listening sockets until the daemon does. It runs on a separate thread.

    Parameters
    ----------
    tcp, local
        The listening sockets. The local ones have their own server, as in the running daemon.
    connections
        Maximum number of open TCP connections.
    """

    def __init__(self, tcp: Sequence[socket.socket], local: Sequence[socket.socket], connections: int) -> None:
        self.progress = ""
        """What the start is doing, for `/readyz`."""
        self._listening = [(tcp, connections), (local, None)]
        self._over = threading.Event()
        self._stopped_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starting", daemon=True)

    def start(self) -> None:
        """Begin to answer, once the start has taken longer than `PATIENCE`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting connections. Those that are open are still answered, for `LAST_REQUESTS` seconds."""
        self._over.set()
        self._stopped_listening.wait()

    def close(self) -> None:
        """Stop, and return when the thread has ended."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._over.wait(PATIENCE):
                return
            # asyncio's own loop may lose a connection that arrives just as it stops listening.
            uvloop.run(self._serve())
        except Exception:
            # Clients then wait until the daemon is ready.
            logging.getLogger(__name__).exception("the server for the start failed")
        finally:
            self._stopped_listening.set()

    async def _serve(self) -> None:
        application = make_starting_application(lambda: self.progress)
        servers = [Server(application, [one.dup() for one in sockets], most) for sockets, most in self._listening]
        serving = asyncio.gather(*(server.serve_all() for server in servers))
        await asyncio.to_thread(self._over.wait)
        for server in servers:
            server.stop_listening()
        await asyncio.sleep(0)  # the event loop closes the sockets in its next iteration
        self._stopped_listening.set()
        await asyncio.sleep(LAST_REQUESTS)
        for server in servers:
            server.should_exit = True
        await serving
