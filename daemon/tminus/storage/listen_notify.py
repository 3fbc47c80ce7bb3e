"""LISTEN and NOTIFY: daemons that share a PostgreSQL database wake each other when they commit.

Notifications only save time. A daemon that misses one finds the change within a second, or, if it is an operator's
command for an idle endpoint, within five. An SQLite database has only one daemon.
"""

import math
import threading
import uuid
from collections.abc import Callable
from datetime import datetime

import psycopg
from sqlalchemy import Connection, text

from tminus.domain import timestamps
from tminus.storage.failures import NoAnswer
from tminus.storage.postgresql import Server
from tminus.storage.watch import Watch
from tminus.system.threads import RestartingThread

CHANNEL = "tminus"

RECONNECT_AFTER = 1.0
"""Seconds after which a listener that has lost its connection connects again."""

STOP_WITHIN = 1.0
"""Seconds that the listener waits for a notification at a time, so stopping it takes at most as long."""

_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


class PeerNotifications:
    """Notifies the other daemons of this daemon's commits, and reports theirs.

    The payload of a notification is the sender's random name, followed by the earliest deadline that the transaction
    set, in milliseconds since 1970, if it set any.

    Parameters
    ----------
    received
        Called with the deadline of each notification, on a separate thread. Also called with None when the listener has
        connected, because notifications may have been missed before.
    """

    def __init__(self, server: Server, received: Callable[[datetime | None], None], watch: Watch) -> None:
        self._server = server
        self._watch = watch
        self._received = received
        self._sender = uuid.uuid4().hex[:12]
        self._stopping = threading.Event()
        self._thread = RestartingThread("listen", self._listen)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; return when the connection is closed."""
        self._stopping.set()
        self._thread.join()

    def notify(self, connection: Connection, due: datetime | None) -> None:
        """Notify the other daemons when the transaction of this connection is committed."""
        number = timestamps.milliseconds(due - timestamps.EPOCH) if due is not None else ""
        connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": f"{self._sender} {number}"})

    def _listen(self) -> None:
        while not self._stopping.is_set():
            generation = self._watch.generation
            try:
                with (
                    self._server.connect(autocommit=True) as connection,
                    self._watch.guard(connection, math.inf),
                ):
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._received(None)
                    while not self._stopping.is_set() and generation == self._watch.generation:
                        for notification in connection.notifies(timeout=STOP_WITHIN, stop_after=1):
                            self._receive(notification.payload)
            except (psycopg.Error, NoAnswer):
                self._stopping.wait(RECONNECT_AFTER)

    def _receive(self, payload: str) -> None:
        sender, _, number = payload.partition(" ")
        if sender == self._sender:
            return
        try:
            due = timestamps.EPOCH + int(number) * timestamps.MILLISECOND if number else None
        except (ValueError, OverflowError):
            return  # any client of the database may use this channel
        self._received(due)
