"""Clients of the daemon's own rooms: the protocol of docs/rooms.md, over real WebSockets."""

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

SUBPROTOCOL = "tminus.room.v1"

Message = dict[str, Any]

WAIT_SECONDS = 20.0
"""Maximum seconds that a client waits for a message."""


class Person:
    """The browser of one person: one connection to a room.

    Parameters
    ----------
    url
        The daemon's URL.
    session
        The session, as the API shows it.
    address
        The client's address that a proxy forwards; None if there is no proxy.
    """

    def __init__(self, url: str, session: Mapping[str, Any], address: str | None = None) -> None:
        self.session = session
        self.received: list[Message] = []
        self.participant = ""
        self.resume = ""
        # The context manager would close the connection when it ends; here the tests decide how it ends.
        self._stack = contextlib.ExitStack()
        made = connect(
            f"{url.replace('http', 'ws', 1)}/v3/rooms/{session['id']}",
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            proxy=None,
            close_timeout=2,
            additional_headers={"X-Forwarded-For": address} if address else None,
        )
        self.wire: ClientConnection = self._stack.enter_context(made)

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, kind: str, **members: Any) -> None:
        self.wire.send(json.dumps({"type": kind, **members}))

    def join(self, name: str = "Grace", **members: Any) -> Message:
        """Join or knock; return the answer, which is `joined` or `waiting`."""
        self.send("join", name=name, **members)
        return self.entered()

    def host(self, name: str = "Ada") -> Message:
        """Join as host, with the key of the host's link."""
        return self.join(name, role="host", key=key_of(self.session))

    def come_back(self, resume: str) -> Message:
        self.send("join", resume=resume)
        return self.entered()

    def entered(self) -> Message:
        answer = self.wait_for("joined", "waiting")
        self.participant, self.resume = answer["participant"], answer["resume"]
        return answer

    def vanish(self) -> None:
        """Lose the connection: no close frame is sent."""
        self.wire.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._stack.close()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def wait_for(self, *kinds: str, having: Mapping[str, Any] | None = None) -> Message:
        """Return the next message of one of these types, with these members. Earlier ones are skipped."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            message: Message = json.loads(self.wire.recv(timeout=max(0.0, until - time.monotonic())))
            self.received.append(message)
            if message["type"] in kinds and (having or {}).items() <= message.items():
                return message

    def wait_for_people(self, *names: str, kind: str = "participants") -> Message:
        """Return the next list that has exactly these people, in their order."""
        while True:
            message = self.wait_for(kind)
            if [one["name"] for one in message["participants"]] == list(names):
                return message

    def wait_for_status(self, status: str) -> Message:
        while True:
            message = self.wait_for("session")
            if message["session"]["status"] == status:
                return message

    def wait_for_end(self) -> int:
        """Return the code with which the server closes the connection. Messages before it are in `received`."""
        until = time.monotonic() + WAIT_SECONDS
        try:
            while True:
                self.received.append(json.loads(self.wire.recv(timeout=max(0.0, until - time.monotonic()))))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006

    @property
    def last(self) -> Message:
        return self.received[-1]


def key_of(session: Mapping[str, Any]) -> str:
    """Return the host key, as the host's page takes it from the link."""
    key: str = session["urls"]["host"].partition("#host=")[2]
    return key
