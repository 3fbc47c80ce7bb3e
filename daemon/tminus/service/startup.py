"""The listening sockets of a daemon whose start takes long: another one migrates, or much fell due meanwhile."""

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence

import uvloop

from tminus.api import make_starting_application
from tminus.service.http_server import LAST_REQUESTS, Server

PATIENCE = 2.0
"""Seconds of a start for which whoever calls waits, and is then served; after them it is told to come back."""


class Starting:
    """Answers on the sockets while nobody else does, on a thread of its own.

    Parameters
    ----------
    tcp, local
        Where. The local sockets have a server of their own here, too.
    connections
        How many may be open at a time over TCP.
    """

    def __init__(self, tcp: Sequence[socket.socket], local: Sequence[socket.socket], connections: int) -> None:
        self.doing = ""
        """What is to be told at `/readyz`."""
        self._listening = [(tcp, connections), (local, None)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="starting", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes no more connections from about now on; does not wait for that."""
        self._over.set()

    def close(self) -> None:
        """Stops, and returns when nothing of it is left."""
        self.stop()
        self._thread.join()

    def _run(self) -> None:
        if self._over.wait(PATIENCE):
            return
        try:
            # asyncio's own loop may lose a connection that comes just as it stops listening.
            uvloop.run(self._serve())
        except Exception:
            logging.getLogger(__name__).exception("Answering during the start failed")  # whoever calls waits

    async def _serve(self) -> None:
        application = make_starting_application(lambda: self.doing)
        servers = [Server(application, [one.dup() for one in sockets], most) for sockets, most in self._listening]
        serving = asyncio.gather(*(server.serve_all() for server in servers))
        await asyncio.to_thread(self._over.wait)
        for server in servers:
            server.stop_listening()
        await asyncio.sleep(LAST_REQUESTS)
        for server in servers:
            server.should_exit = True
        await serving
