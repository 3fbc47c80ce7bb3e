"""A TCP proxy in front of a PostgreSQL that listens on a Unix socket, which can break, delay or stop connections."""

import contextlib
import socket
import struct
import threading
import time
from typing import Self


class Proxy:
    """Forwards bytes between `port` and a Unix socket until a fault is set."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._open: list[socket.socket] = []
        self._cut = False
        self._forwards = threading.Event()
        self._forwards.set()
        self._reset_after: int | None = None
        self.delay = 0.0
        """Seconds by which all bytes are delayed."""
        self.drops_notifications = False
        """Whether notifications are dropped, so that listening connections miss them without an error."""
        self.listening: set[socket.socket] = set()
        """The connections to the server that listen for notifications."""
        self.dropped = 0
        """Number of bytes of notifications that were dropped."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Close all connections, and each new one at once, as during a restart of the server."""
        self._cut = True
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def drop_packets(self) -> None:
        """Accept bytes and new connections, but forward nothing."""
        self._forwards.clear()

    def reset_in_answer(self, after: int) -> None:
        """Reset the connection with the next answer, after a number of its bytes."""
        self._reset_after = after

    def end_faults(self) -> None:
        """End all faults. Bytes that were dropped stay lost."""
        if not self._forwards.is_set():
            self.cut()
            self._forwards.set()
        self._cut = False
        self.delay = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for one in tuple(self._open):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self._upstream)
            except OSError:  # the server is restarting
                client.close()
                server.close()
                continue
            self._open += [client, server]
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._forward, args=(server, client, True), daemon=True)
        back.start()
        self._forward(client, server, False)
        back.join()
        for one in (client, server):
            if one in self._open:
                self._open.remove(one)
            one.close()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                self._forwards.wait()
                if self.delay:
                    time.sleep(self.delay)
                if answers and self._reset_after is not None:
                    after, self._reset_after = self._reset_after, None
                    sink.sendall(chunk[:after])
                    # The reading thread must end first: the kernel closes the connection only then.
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._open.remove(sink)
                    sink.shutdown(socket.SHUT_RD)
                    sink.close()
                    break
                if not answers and b"LISTEN " in chunk:
                    self.listening.add(sink)
                if answers and self.drops_notifications and source in self.listening:
                    self.dropped += len(chunk)
                    continue
                sink.sendall(chunk)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                if one in self._open:
                    one.shutdown(socket.SHUT_RDWR)
