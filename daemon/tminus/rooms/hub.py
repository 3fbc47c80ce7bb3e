"""All rooms of this daemon, and the one task that reads the database for them.

Events are not passed from one connection to another. The hub reads which sessions have new events, reads those rooms
once, and gives the result to every connection of the room. A change on any daemon therefore reaches everybody, and what
a person receives is always what is stored.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol, TypeVar

import orjson

from tminus import clock
from tminus.config import Settings
from tminus.domain import timestamps
from tminus.domain.errors import RequestError, StoreUnavailable, UnknownSession
from tminus.domain.model import Participant, Session
from tminus.domain.types import CLOCK_ACTOR, HOST_PREFIX, Status
from tminus.logs.output import error_fields, log
from tminus.monitoring.metrics import Metrics
from tminus.rooms import commands, protocol
from tminus.storage import Store, Transaction, View, presence
from tminus.storage.notifier import Notifier
from tminus.storage.presence import RoomState

T = TypeVar("T")

POLL_INTERVAL = 1.0
"""Maximum seconds between two reads of the event table, in case a notification is lost."""

EVENTS = 5000
"""Maximum number of events that one read examines."""

ROOMS = 200
"""Maximum number of rooms that are read at a time."""

FIRST_STATE = 5.0
"""Maximum seconds that a connection waits until the hub has read its room."""

LARGE = 100
"""Number of people above which a room sends at most one list a second: each list goes to each of them."""

JOINS = 64
"""Maximum number of joins of this daemon that wait for the writer at a time. When a session opens, everybody who waits
for it joins at once; other requests must not wait for all of them.
"""

CHECK_INTERVAL = 10.0
"""Seconds between two comparisons of the stored connections with the open ones."""


class Dependencies(Protocol):
    """The parts of the daemon that rooms use."""

    store: Store
    settings: Settings
    metrics: Metrics
    notifier: Notifier
    draining: bool

    def may_act(self, agent_id: int) -> bool: ...

    async def query(self, look: Callable[[View], T], session_id: str | None = None) -> T: ...


class Member(Protocol):
    """A connection, as the hub uses it."""

    connection: str
    """Its random id."""
    participant_id: str
    """The participant whom it represents; "" if it has not entered."""

    @property
    def state_name(self) -> str: ...

    def follow(self, state: "State") -> None:
        """Send what has changed. Must not block."""

    def replaced(self) -> None:
        """End, because another connection represents the person now."""

    async def clock_moved(self) -> None:
        """End the waiting if it is over, now that the test clock was moved."""

    def revoke_host(self) -> None:
        """End if the person is a host, because the session's agent may not act any more."""


class State:
    """The stored state of a room, and the messages that are the same for everybody.

    A message that has not changed since the previous state is the same object. So a connection finds new messages by
    comparing identities.
    """

    def __init__(self, room: RoomState, seq: int, previous: "State | None") -> None:
        self.session = room.session
        self.seq = seq
        """The number of the last event that it includes."""
        self.is_closed = room.session.status is Status.CLOSED
        self.joined = {one.id: one for one in room.people if one.waiting_since is None}
        self.waiting = {one.id: one for one in room.people if one.waiting_since is not None}
        self.shown = _shown(room.session)
        self.closed_by = _closer(room)
        self.session_message = _session_message(self.shown)
        self.participants_message = _list("participants", self.joined.values())
        self.knocking_message = _list("knocking", self.waiting.values())
        if previous is not None:
            if self.shown == previous.shown:  # the message also contains the time, which always differs
                self.session_message = previous.session_message
            if self.participants_message == previous.participants_message:
                self.participants_message = previous.participants_message
            if self.knocking_message == previous.knocking_message:
                self.knocking_message = previous.knocking_message


def _closer(room: RoomState) -> protocol.Closer:
    """Return who closed a session, for the people who were in it."""
    actor = room.closed_by
    if actor.startswith(HOST_PREFIX):
        return "host"
    if actor == CLOCK_ACTOR:
        return "daemon"
    return "agent" if actor == f"agent:{room.session.agent_id}" else "operator"


def _list(kind: str, people: Iterable[Participant]) -> bytes:
    return orjson.dumps({"type": kind, "participants": [_person(one) for one in people]})


def _shown(session: Session) -> protocol.RoomSession:
    shown: protocol.RoomSession = {
        "id": session.id,
        "type": session.type.value,
        "label": session.label,
        "userDescription": session.user_description,
        "status": session.status.value,
        "expiresAt": timestamps.text(session.expires_at),
        "settings": orjson.loads(session.settings),
    }
    if session.start_time is not None:
        shown["startTime"] = timestamps.text(session.start_time)
    if session.status is Status.SCHEDULED and session.due_at is not None:
        shown["opensAt"] = timestamps.text(session.due_at)
    return shown


def _session_message(shown: protocol.RoomSession) -> bytes:
    message: protocol.SessionMessage = {"type": "session", "now": timestamps.text(clock.now()), "session": shown}
    return orjson.dumps(message)


def _person(one: Participant) -> protocol.Person:
    return {
        "id": one.id,
        "role": one.role.value,
        "name": one.name,
        "joinedAt": timestamps.text(one.waiting_since or one.joined_at),
    }


class Room:
    """The connections of this daemon to one session."""

    def __init__(self) -> None:
        self.members: set[Member] = set()
        self.state: State | None = None
        self.known = asyncio.Event()
        """Set when the hub has read the session for the first time; if `state` is None then, there is none."""
        self.next_list = 0.0
        """When a large room may send its next list, on the monotonic clock."""


class Hub:
    """All rooms of this daemon. Everything but `await_reconnects` runs on the daemon's event loop.

    `name` identifies the daemon in the database, also after a restart.
    """

    def __init__(self, dependencies: Dependencies, name: str = "") -> None:
        self.dependencies = dependencies
        self.name = name
        self.joining = asyncio.Semaphore(JOINS)
        self._rooms: dict[str, Room] = {}
        self._connections: dict[str, Member] = {}
        self._touched: set[str] = set()
        """Sessions to read again, although they may have no new event."""
        self._wake = asyncio.Event()
        self._after: int | None = None
        """The number of the last event that was examined; None while there is no room."""
        self._has_lease = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop, while `run` runs."""
        self._next_check = 0.0
        """When to check next for agents who may not act any more, on the monotonic clock."""
        self._set_metrics()

    def _set_metrics(self) -> None:
        for name, gauge in self.dependencies.metrics.room_connections.items():
            gauge.set_function(partial(self._count, name))

    def _count(self, name: str) -> float:
        return sum(one.state_name == name for one in list(self._connections.values()))

    # --- connections --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connected(self, session_id: str, member: Member) -> Iterator[Room]:
        """Register a connection in a room for the `with` block."""
        room = self._rooms.get(session_id)
        if room is None:
            room = self._rooms[session_id] = Room()
            self.touch(session_id)
        room.members.add(member)
        self._connections[member.connection] = member
        try:
            yield room
        finally:
            room.members.discard(member)
            self._connections.pop(member.connection, None)
            if not room.members and self._rooms.get(session_id) is room:
                del self._rooms[session_id]

    async def first_state(self, session_id: str, room: Room) -> State:
        """Return the state of a room, once it was read. Raises `UnknownSession`, `StoreUnavailable`."""
        try:
            async with asyncio.timeout(FIRST_STATE):
                await room.known.wait()
        except TimeoutError:
            raise StoreUnavailable from None
        if room.state is None:
            raise UnknownSession(session_id)
        return room.state

    def touch(self, session_id: str) -> None:
        """Read a room soon, although it may have no new event."""
        self._touched.add(session_id)
        self._wake.set()

    @property
    def needs_lease(self) -> bool:
        """Whether the next person who enters must store a lease of this daemon."""
        return not self._has_lease

    def has_entered(self) -> None:
        """Note that somebody has entered, and a lease is stored if this database needs one."""
        self._has_lease = True

    def replace(self, connection: str) -> None:
        """End a connection, because another one represents its person now."""
        if (member := self._connections.get(connection)) is not None:
            member.replaced()

    async def write(self, job: Callable[[Transaction], T], session_id: str | None = None) -> T:
        """Run a job on the store's writer."""
        return await self.dependencies.store.transact(job, session_id)

    # --- agents who may not act any more ------------------------------------------------------------------------------

    def may_host(self, session: Session) -> bool:
        """Return whether a session can have a host: whether its agent may act."""
        return self.dependencies.may_act(session.agent_id)

    def agents_changed(self) -> None:
        """Disconnect the hosts whose agents may not act any more. Called on any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the daemon has stopped
                self._loop.call_soon_threadsafe(self._revoke_hosts)

    def _revoke_hosts(self) -> None:
        self._next_check = clock.monotonic() + POLL_INTERVAL
        for room in list(self._rooms.values()):
            try:
                if room.state is not None and not self.may_host(room.state.session):
                    for member in list(room.members):
                        member.revoke_host()
            except Exception as error:  # the hub must go on, and disconnect the hosts of the other rooms
                log("room.failed", **error_fields(error))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the events of all rooms until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        keeping = asyncio.create_task(self._keep_checking())
        try:
            while True:
                if clock.monotonic() >= self._next_check:
                    self._revoke_hosts()  # a token expires without a change of the configuration
                notification = self.dependencies.notifier.next_notification()
                try:
                    more = await self._read()
                except StoreUnavailable:
                    more = False
                except Exception as error:
                    log("room.failed", **error_fields(error))
                    more = False
                    await asyncio.sleep(POLL_INTERVAL)
                if not more:
                    await self._wait(notification)
        finally:
            keeping.cancel()

    async def _wait(self, notification: asyncio.Event) -> None:
        """Wait for new events or for a room to read; without rooms, only for a room to read."""
        waiters = [asyncio.ensure_future(self._wake.wait())]
        if self._rooms:
            waiters.append(asyncio.ensure_future(notification.wait()))
        try:
            await asyncio.wait(
                waiters, timeout=POLL_INTERVAL if self._rooms else None, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for waiter in waiters:
                waiter.cancel()

    async def _read(self) -> bool:
        """Read the rooms with changes once; return whether to read again at once."""
        self._wake.clear()
        if not self._rooms:
            self._after = None
            self._touched.clear()
            return False
        wanted, self._touched = self._touched, set()
        try:
            changed, more = await self._changed()
            wanted = {one for one in wanted | changed if one in self._rooms}
            sessions = list(wanted)
            for first in range(0, len(sessions), ROOMS):
                some = sessions[first : first + ROOMS]
                seq, found = await self.dependencies.query(partial(_read_rooms, sessions=some))
                for one in some:
                    self._update(one, found.get(one), seq)
        except BaseException:
            self._touched |= wanted
            raise
        return more

    async def _changed(self) -> tuple[set[str], bool]:
        """Return the sessions with new events, and whether there are more."""
        after = self._after
        if after is None:
            self._after = await self.dependencies.query(lambda view: view.last_seq())
            # The rooms that have connected before this query are read after it, so they miss no event.
            return set(self._rooms), False
        changed, through, more = await self.dependencies.query(
            partial(presence.changed_since, after=after, limit=EVENTS)
        )
        self._after = through
        return {one for one in changed if one in self._rooms}, more

    def _update(self, session_id: str, found: RoomState | None, seq: int) -> None:
        """Give a room its new state."""
        room = self._rooms.get(session_id)
        if room is None:
            return
        if found is None:
            room.known.set()
            return
        now = clock.monotonic()
        if len(found.people) > LARGE and found.session.status is not Status.CLOSED and room.state is not None:
            if now < room.next_list:
                asyncio.get_running_loop().call_later(room.next_list - now, self.touch, session_id)
                return
            room.next_list = now + POLL_INTERVAL
        room.state = state = State(found, seq, room.state)
        room.known.set()
        for member in list(room.members):
            member.follow(state)

    async def clock_moved(self) -> None:
        """End what is over by the time to which the test clock was moved: how long people wait to be admitted."""
        for member in list(self._connections.values()):
            await member.clock_moved()

    # --- stored connections and leases --------------------------------------------------------------------------------

    def await_reconnects(self, *, will_stop: bool = False) -> None:
        """Give all people of this daemon time to reconnect: at its start, and when it stops. Called on any thread."""
        settings = self.dependencies.settings
        job = partial(commands.await_reconnects, settings=settings, daemon=self.name)
        # If the database is unreachable, `_check_connections` finds the people later.
        with contextlib.suppress(RequestError):
            people = self.dependencies.store.submit(job).result()
            if people and not will_stop:
                log("room.returning", participants=people, until=timestamps.text(clock.now() + settings.rooms.restart))

    async def _keep_checking(self) -> None:
        """Correct the stored connections and renew the lease, every `CHECK_INTERVAL` seconds."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            if self.dependencies.draining:
                return
            try:
                await self._check_connections()
                await self._check_leases()
            except RequestError:
                pass  # the database is unreachable
            except Exception as error:  # the checks must continue: without them the lease expires
                log("room.failed", **error_fields(error))

    async def _check_connections(self) -> None:
        members = {one.participant_id: one for one in self._connections.values() if one.participant_id}
        stored = await self.dependencies.query(
            partial(presence.connections, daemon=self.name, others=list(members)[:ROOMS])
        )
        if not stored and not members:
            return
        live = self._connections.keys()
        lost = {
            one.participant_id: one.connection
            for one in stored
            if one.gone_at is None and one.connection not in live and one.daemon == self.name
        }
        alive = [one.participant_id for one in stored if one.gone_at is not None and one.connection in live]
        for one in stored:
            member = members.get(one.participant_id)
            if member is not None and member.connection != one.connection and one.connection not in live:
                member.replaced()
        if lost or alive:
            settings = self.dependencies.settings
            await self.write(
                partial(commands.correct_connections, settings=settings, daemon=self.name, lost=lost, alive=alive)
            )

    async def _check_leases(self) -> None:
        """Renew the lease, and find daemons that have not. SQLite needs no leases, since it has one daemon."""
        if not await self.dependencies.query(lambda view: view.dialect == "postgresql"):
            return
        if any(one.participant_id for one in self._connections.values()):
            await self.write(partial(commands.renew_lease, daemon=self.name))
            self._has_lease = True
        elif self._has_lease:
            self._has_lease = False  # first, so that whoever enters meanwhile stores a lease again
            await self.write(partial(presence.end_lease, daemon=self.name))
        for daemon in await self.dependencies.query(partial(presence.lost_daemons, now=clock.now())):
            if daemon == self.name:
                continue
            people = await self.write(partial(commands.expire_lease, daemon=daemon))
            if people:
                log("room.lease_lost", daemon=daemon, participants=people)


def _read_rooms(view: View, sessions: list[str]) -> tuple[int, dict[str, RoomState]]:
    return view.last_seq(), presence.rooms(view, sessions)
