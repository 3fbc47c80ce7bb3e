"""One connection to a room: what it may do in each state, and what it is sent.

::

    LOOKING --join--> EARLY (scheduled) --opens--> ENTERING --> WAITING (knocked) --admitted--> IN
       |                                             ^  |                                        ^
       +----join, or resume--------------------------+  +---------------joined-------------------+

Each state can end in ENDED. The outbox has at most one message of each kind, the latest, because each contains
everything that the client needs of that kind. So a slow reader receives fewer messages, and the outbox stays small.
"""

import asyncio
import contextlib
import hmac
from collections.abc import Callable, Coroutine
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any, Literal, Protocol

import orjson

from tminus import clock
from tminus.domain import ids, timestamps
from tminus.domain.errors import (
    AgentRevoked,
    Forbidden,
    InvalidMessage,
    OtherPresence,
    RequestError,
    TooManyAttempts,
    TooManyParticipants,
    UnknownSession,
    WrongResumeKey,
    WrongRoomKey,
    WrongStatus,
)
from tminus.domain.model import Session
from tminus.domain.types import ParticipantRole, Status, host_actor
from tminus.logs.event_fields import session_fields
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED
from tminus.rooms import commands, protocol
from tminus.rooms.commands import Connection, Entered
from tminus.rooms.hub import Hub, Room, State
from tminus.rooms.protocol import Admit, AnyClientMessage, Deny, End, Join, Leave, Remove

FIRST_MESSAGE = 10.0
"""Seconds within which a connection must send its first message."""

RETRY_AFTER = 5.0
"""Seconds after which the end of waiting is stored again, if the database did not answer."""

CLOSE_CODES: dict[type[RequestError], int] = {
    InvalidMessage: 4400,
    Forbidden: 4403,
    WrongRoomKey: 4403,
    AgentRevoked: 4403,
    UnknownSession: 4404,
    WrongResumeKey: 4404,
    OtherPresence: 4409,
    TooManyParticipants: 4429,
    TooManyAttempts: 4429,
}
"""The codes with which a connection is closed after an error that ends it. Others are temporary: 1013."""


class Stage(Enum):
    """The state of a connection."""

    LOOKING = "looking"
    EARLY = "early"
    ENTERING = "entering"
    WAITING = "waiting"
    IN = "in"
    ENDED = "ended"


class Socket(Protocol):
    """The WebSocket, after its handshake. Its methods raise an exception of type `ended` when it is over."""

    async def receive(self, seconds: float | None = None) -> str: ...

    async def send(self, text: str | bytes) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Guesses(Protocol):
    """The limit of wrong ids and keys of an address."""

    def retry_after(self, address: str) -> float | None: ...

    def count(self, address: str) -> None: ...

    async def turn(self, address: str) -> None: ...


class Visitor:
    """One connection.

    Parameters
    ----------
    hub
        The rooms of this daemon.
    socket
        The WebSocket.
    ended
        The exception that `socket` raises when it is over.
    session_id
        The session in the path, which may not exist.
    remote_ip, request_id
        The client's address and the id of the upgrade request, for the limit of wrong keys and for log lines.
    guesses
        The limit of wrong ids and keys.
    """

    def __init__(
        self,
        hub: Hub,
        socket: Socket,
        ended: type[Exception],
        session_id: str,
        remote_ip: str,
        request_id: str,
        guesses: Guesses,
    ) -> None:
        self.connection = ids.base62(16)
        self.participant_id = ""
        self.refcode: int | None = None
        """The refcode of the error that has ended the connection, if one has."""
        self.close_reason = ""
        """Why the connection was ended, for the log; "" if the person left, or it was lost."""
        self._hub = hub
        self._socket = socket
        self._socket_ended = ended
        self._session_id = session_id
        self._remote_ip = remote_ip
        self._request_id = request_id
        self._guesses = guesses
        self._name = ""
        """The name that the person has given."""
        self._stage = Stage.LOOKING
        self._join: Join | None = None
        self._role = ParticipantRole.GUEST
        self._resume = ""
        """The resume key of the person."""
        self._has_left = False
        """Whether they have left, were removed, or are represented by another connection."""
        self._since = 0
        """The number of an event: a state of the room that does not include it is too old to contain the person."""
        self._denial: Literal["denied", "timeout"] = "denied"
        """The reason in `denied`, if the person is not admitted."""
        self._wait_timer: asyncio.TimerHandle | None = None
        """Ends the waiting after `rooms.knock_timeout`."""
        self._waiting_since = timestamps.EPOCH
        """Since when the person waits to be admitted."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Tasks that run beside the messages: the join at the opening, the end of waiting, and a stored leave."""
        self._state: State | None = None
        self._sent: dict[str, bytes] = {}
        """The latest messages of the room that were put into the outbox."""
        self._outbox: dict[str, bytes] = {}
        self._close: tuple[int, str] | None = None
        self._outbox_changed = asyncio.Event()

    @property
    def state_name(self) -> str:
        return self._stage.value

    @property
    def actor(self) -> str | None:
        """The person, as log lines name them; None if they have not entered."""
        if not self.participant_id:
            return None
        return host_actor(self.participant_id) if self._is_host else f"guest:{self.participant_id}"

    @property
    def _is_host(self) -> bool:
        return self._role is ParticipantRole.HOST

    def log_fields(self) -> dict[str, str | None]:
        """Return the fields of log lines about this connection: the session, if there is one, and the person."""
        about = {"participant_name": self._name or None}
        if self._state is None:
            return about
        return {"session_id": self._session_id, **session_fields(self._state.session), **about}

    # --- the life of a connection -------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serve the connection until it ends."""
        delivering = asyncio.create_task(self._deliver())
        try:
            with self._hub.connected(self._session_id, self) as room:
                try:
                    await self._guesses.turn(self._remote_ip)
                    state = await self._first_state(room)
                    self.follow(state)
                    await self._run_protocol(state.session)
                except RequestError as error:
                    self._fail(error)
                except self._socket_ended:
                    pass
                except Exception:
                    self._end(None, 1011, "internal error")
                    raise
                finally:
                    await self._disconnect(delivering)
        finally:
            delivering.cancel()

    async def _run_protocol(self, session: Session) -> None:
        try:
            first = await self._receive(FIRST_MESSAGE)
        except TimeoutError:
            self.close_reason = "no message"
            self._end(None, 4408, self.close_reason)
            return
        if first is None or isinstance(first, Leave):
            self._end(None, 1000)
            return
        if not isinstance(first, Join):
            raise InvalidMessage("must be join: it is the first one")
        if first.resume is not None:
            await self._resume_place(first.resume)
        else:
            self._name = first.name or ""
            self._check_name()
            self._check_key(session, first)
            self._join = first
            await self._enter_if_open()
        while self._stage is not Stage.ENDED:
            await self._execute_next()

    def _check_name(self) -> None:
        most = self._hub.dependencies.settings.limits.participant_name
        if len(self._name) > most:
            raise InvalidMessage(f"name: must have at most {most} characters (limits.participant_name)")

    async def _receive(self, seconds: float | None) -> AnyClientMessage | None:
        """Return the next message; None if the connection has ended meanwhile. Raises `TimeoutError`."""
        text = await self._socket.receive(seconds)
        if self._stage is Stage.ENDED:
            return None
        message = protocol.parse(text)
        self._hub.dependencies.metrics.room_messages[message.type].inc()
        return message

    async def _execute_next(self) -> None:
        """Execute the next message. An error of one message does not end the connection."""
        try:
            message = await self._receive(None)
            if message is not None:
                await self._execute(message)
        except RequestError as error:
            self._put("error", _error(error))

    async def _execute(self, message: AnyClientMessage) -> None:
        common: dict[str, Any] = {"settings": self._hub.dependencies.settings, "request_id": self._request_id}
        if isinstance(message, Leave):
            self._stage = Stage.ENDED  # first: the join at the opening, or the hub, may be at work meanwhile
            await self._finish_tasks()
            if self.participant_id:  # only now: the join at the opening may have been stored meanwhile
                await self._write(partial(commands.leave, participant_id=self.participant_id, **common))
            self._end_for_good(None, 1000)
            return
        if isinstance(message, Join):
            raise InvalidMessage("must not be join: this connection has sent one")
        if self._stage is not Stage.IN or not self._is_host:
            raise Forbidden("a host who is in the room")
        common["host_id"] = self.participant_id
        if isinstance(message, End):
            await self._write(partial(commands.end, **common))
            return
        command = {Admit: commands.admit, Deny: commands.deny, Remove: commands.remove}[type(message)]
        await self._write(partial(command, participant_id=message.participant, **common))

    async def _write(self, job: Callable[..., Any]) -> Any:
        return await self._hub.write(partial(job, session_id=self._session_id), self._session_id)

    async def _stop_waiting(self) -> None:
        """End the waiting, since no host has answered."""
        if self._stage is not Stage.WAITING:
            return
        self._denial = "timeout"  # first: the hub may read the denial before the next line ends
        job = partial(
            commands.stop_waiting,
            settings=self._hub.dependencies.settings,
            participant_id=self.participant_id,
        )
        try:
            await self._write(job)
        except RequestError as error:
            self._denial = "denied"
            self._put("error", _error(error))
            self._wait_timer = asyncio.get_running_loop().call_later(RETRY_AFTER, self._end_wait)
        else:
            self._hub.touch(self._session_id)

    def _start_task(self, what: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task beside the messages. An unexpected error ends the connection."""
        task = asyncio.create_task(self._run_task(what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_task(self, what: Coroutine[Any, Any, None]) -> None:
        try:
            await what
        except Exception as error:  # otherwise the person would wait in an open room for ever
            log("room.failed", **error_fields(error))
            self._end(None, 1011, "internal error")

    async def _finish_tasks(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _disconnect(self, delivering: "asyncio.Task[None]") -> None:
        """Store that the person is gone, unless they have left, and send the last messages."""
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        await self._finish_tasks()
        hub = self._hub
        self._stage = Stage.ENDED
        # When the daemon stops, one statement does this for everybody.
        if self.participant_id and not self._has_left and not hub.dependencies.draining:
            hub.dependencies.metrics.rooms_lost.inc()
            lost = {self.participant_id: self.connection}
            with contextlib.suppress(RequestError):  # the hub's check repeats it
                await hub.write(partial(commands.connections_lost, settings=hub.dependencies.settings, lost=lost))
        if self._close is None:
            self._close = (1000, "")
        self._outbox_changed.set()
        await asyncio.wait({delivering})

    async def _first_state(self, room: Room) -> State:
        """Return the state of the room. Raises `UnknownSession`, `TooManyAttempts`, `StoreUnavailable`."""
        try:
            return await self._hub.first_state(self._session_id, room)
        except UnknownSession:
            self._guessed(unknown=True)
            raise

    # --- entering -----------------------------------------------------------------------------------------------------

    def _check_guesses(self) -> None:
        wait = self._guesses.retry_after(self._remote_ip)
        if wait is not None:
            self._hub.dependencies.metrics.guessed("room", "limited")
            REPEATED.log("room.limited", self._remote_ip, remote_ip=self._remote_ip, request_id=self._request_id)
            raise TooManyAttempts("wrong session ids or keys", wait)

    def _guessed(self, *, unknown: bool = False) -> None:
        """Count and log a wrong key, or an unknown session id. Raises `TooManyAttempts` after too many.

        The check and the count are one step on the event loop, so that parallel guesses cannot exceed the limit.
        """
        self._check_guesses()
        self._guesses.count(self._remote_ip)
        self._hub.dependencies.metrics.guessed("room", "wrong")
        sender = {"remote_ip": self._remote_ip, "request_id": self._request_id}
        if unknown:
            REPEATED.log("room.unknown", self._remote_ip, **sender)
        else:
            REPEATED.log("room.wrong_key", self._remote_ip, self._session_id, **sender, **self.log_fields())

    def _check_key(self, session: Session, join: Join) -> None:
        """Check the host key of somebody who joins as host. Raises `WrongRoomKey`, `AgentRevoked`."""
        if join.role is not ParticipantRole.HOST:
            return
        sent = (join.key or "").encode("utf-8", "surrogatepass")
        # Both are compared in every case, so that the time does not depend on which one is right.
        right = [hmac.compare_digest(sent, key.encode()) for key in (session.host_key, session.host_auth_token)]
        if not any(right):
            self._guessed()
            raise WrongRoomKey
        if not self._hub.may_host(session):
            raise AgentRevoked
        self._role = ParticipantRole.HOST

    async def _enter_if_open(self) -> None:
        assert self._state is not None, "the room was read before"
        if self._state.session.status is Status.SCHEDULED:
            self._stage = Stage.EARLY
        else:
            await self._enter()

    async def _enter(self) -> None:
        """Join or knock."""
        assert self._join is not None, "the first message was a join"
        assert self._join.name is not None, "a join without a resume key has a name"
        self._stage = Stage.ENTERING
        self._resume = ids.token()
        job = partial(
            commands.enter,
            settings=self._hub.dependencies.settings,
            role=self._role,
            name=self._join.name,
            resume=self._resume,
            connection=self._stored_connection(),
            request_id=self._request_id,
        )
        try:
            async with self._hub.joining:
                entered: Entered = await self._write(job)
        except OtherPresence:
            session_id = self._session_id
            REPEATED.log("room.other_source", session_id, "api", source="participants", **self.log_fields())
            raise
        except WrongStatus:
            # The session has closed or was moved since it was read. The next state decides.
            if self._stage is not Stage.ENDED:
                self._stage = Stage.EARLY
                self._hub.touch(self._session_id)
            return
        self._hub.has_entered()
        self._has_entered(entered)

    async def _resume_place(self, key: str) -> None:
        """Resume the place of somebody who has not left. Raises `WrongResumeKey`, `AgentRevoked`."""
        self._stage = Stage.ENTERING
        # A wrong key does not count as a guess, since nobody can guess one. After a long failure of an office's network
        # all keys in it may be invalid, and these people must not use up the limit of their common address.
        look = partial(commands.find_resumable, session_id=self._session_id, key=key)
        await self._hub.dependencies.query(look)  # a wrong key takes none of the writer's time
        job = partial(commands.resume, key=key, connection=self._stored_connection(), may_host=self._hub.may_host)
        entered: Entered = await self._write(job)
        self._hub.has_entered()
        self._hub.dependencies.metrics.rooms_resumed.inc()
        self._resume, self._role = key, entered.participant.role
        if entered.previous != self.connection:
            self._hub.replace(entered.previous)
        self._has_entered(entered)
        self._hub.touch(self._session_id)

    def _stored_connection(self) -> Connection:
        return Connection(self._hub.name, self.connection, self._hub.needs_lease)

    def _has_entered(self, entered: Entered) -> None:
        """Follow the room as the person who has just entered."""
        participant = entered.participant
        self.participant_id, self._name, self._since = participant.id, participant.name, entered.seq
        if self._stage is Stage.ENDED:
            return
        if participant.waiting_since is None:
            self._has_joined()
        else:
            self._stage, self._waiting_since = Stage.WAITING, participant.waiting_since
            self._wait_timer = asyncio.get_running_loop().call_later(self._wait_left(), self._end_wait)
            self._put("waiting", {"type": "waiting", "participant": participant.id, "resume": self._resume})
        if self._state is not None:
            if not self._hub.may_host(self._state.session):
                self.revoke_host()  # the agent was removed while the join was stored
            self.follow(self._state)

    def _wait_left(self) -> float:
        """Return the seconds for which somebody who knocks still waits to be admitted."""
        waited = max(timedelta(0), clock.now() - self._waiting_since)
        left: timedelta = self._hub.dependencies.settings.rooms.knock_timeout - waited
        return left.total_seconds()

    def _end_wait(self) -> None:
        self._start_task(self._stop_waiting())

    async def clock_moved(self) -> None:
        """End the waiting if it is over, now that the test clock was moved."""
        if self._stage is Stage.WAITING and self._wait_left() <= 0:
            await self._stop_waiting()

    def _has_joined(self) -> None:
        self._stage = Stage.IN
        self._outbox.pop("waiting", None)
        joined: protocol.Joined = {
            "type": "joined",
            "participant": self.participant_id,
            "role": self._role.value,
            "resume": self._resume,
        }
        self._put("joined", joined)

    # --- following the room -------------------------------------------------------------------------------------------

    def follow(self, state: State) -> None:
        """Send what has changed in the room. The hub calls this."""
        self._state = state
        if self._stage is Stage.ENDED:
            return
        if state.is_closed:
            reason = state.session.close_reason
            closed: protocol.Closed = {
                "type": "closed",
                "reason": reason.value if reason else "closed",
                "by": state.closed_by,
            }
            self._end_for_good(closed, 4410)
            return
        self._send_new("session", state.session_message)
        if self._stage is Stage.EARLY and state.session.status is not Status.SCHEDULED:
            self._stage = Stage.ENTERING
            self._start_task(self._enter_late())
        if state.seq >= self._since:
            self._follow_people(state)

    def _follow_people(self, state: State) -> None:
        if self._stage is Stage.WAITING:
            if self.participant_id in state.joined:
                self._has_joined()
            elif self.participant_id not in state.waiting:
                self._end_for_good({"type": "denied", "reason": self._denial}, 4403)
        if self._stage is Stage.IN:
            if self.participant_id not in state.joined:
                self._end_for_good({"type": "removed", "reason": "removed"}, 4403)
                return
            self._send_new("participants", state.participants_message)
            if self._is_host:
                self._send_new("knocking", state.knocking_message)

    async def _enter_late(self) -> None:
        try:
            if self._stage is not Stage.ENDED:  # otherwise the person left before this task began
                await self._enter()
        except RequestError as error:
            if self._stage is not Stage.ENDED:  # somebody who has left meanwhile is not told
                self._fail(error)

    def replaced(self) -> None:
        """End, because another connection represents the person now. The hub calls this."""
        if self._has_left:
            return
        self._end_for_good({"type": "replaced"}, 4409)
        log("room.replaced", participant_id=self.participant_id, **self.log_fields())

    def revoke_host(self) -> None:
        """End if the person is a host, since the session's agent may not act any more. The hub calls this."""
        if not self._is_host or self._stage not in (Stage.EARLY, Stage.IN):
            return  # `_has_entered` checks a host who is entering
        self._end_for_good({"type": "removed", "reason": "revoked"}, 4403)
        self._hub.dependencies.metrics.hosts_revoked.inc()
        log("room.host_revoked", participant_id=self.participant_id or None, **self.log_fields())
        if self.participant_id:
            self._start_task(self._store_leave())

    async def _store_leave(self) -> None:
        job = partial(commands.leave, settings=self._hub.dependencies.settings, participant_id=self.participant_id)
        # If the database is unreachable, the hub's check finds the lost connection.
        with contextlib.suppress(RequestError):
            await self._write(job)

    # --- sending ------------------------------------------------------------------------------------------------------

    def _send_new(self, kind: str, message: bytes) -> None:
        if self._sent.get(kind) is not message:
            self._sent[kind] = message
            self._put_bytes(kind, message)

    def _put(self, kind: str, message: Any) -> None:
        self._put_bytes(kind, orjson.dumps(message))

    def _put_bytes(self, kind: str, message: bytes) -> None:
        if self._close is None:
            self._outbox.pop(kind, None)  # so that the new one is sent after messages of other kinds
            self._outbox[kind] = message
            self._outbox_changed.set()

    def _end_for_good(self, message: Any, code: int) -> None:
        """End for good: the person is not in the room any more, or not by this connection."""
        self._has_left = True
        if message is not None and self._close is None:
            words = dict.fromkeys(message[name] for name in ("type", "reason") if name in message)
            self.close_reason = ": ".join(words)  # such as `denied: timeout`, or `removed`
        self._end(message, code, message["type"] if message else "")

    def _fail(self, error: RequestError) -> None:
        if self._close is None:
            self.refcode = error.refcode
            self.close_reason = error.log_text
        self._end(_error(error), CLOSE_CODES.get(type(error), 1013), error.description)

    def _end(self, message: Any, code: int, reason: str = "") -> None:
        """Send a last message, then close the connection."""
        if self._close is not None:
            return
        self._stage = Stage.ENDED
        self._outbox.clear()
        if message is not None:
            self._put(message["type"], message)
        self._close = (code, reason[:100])
        self._outbox_changed.set()

    async def _deliver(self) -> None:
        """Send the outbox, until the connection is to be closed."""
        with contextlib.suppress(self._socket_ended):
            while True:
                await self._outbox_changed.wait()
                self._outbox_changed.clear()
                while self._outbox:
                    kind = next(iter(self._outbox))
                    await self._socket.send(self._outbox.pop(kind))
                if self._close is not None:
                    await self._socket.close(*self._close)
                    return


def _error(error: RequestError) -> protocol.ErrorMessage:
    return {
        "type": "error",
        "code": error.refcode % 1000,
        "refcode": error.refcode,
        "description": error.description,
    }
