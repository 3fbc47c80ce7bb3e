"""Jobs for the store's writer: what people do in the daemon's own rooms.

Each runs a command of `sessions`. Whoever enters gets a row in `presence` in the same transaction; the executor of the
transitions removes it when they leave. `request_id` is that of the upgrade to the WebSocket; the events contain it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import orjson

from tminus.config import Settings
from tminus.domain.errors import AgentRevoked, Forbidden, NoKnocking, TooManyParticipants, WrongResumeKey
from tminus.domain.model import Participant, Presence, Session
from tminus.domain.types import (
    CLOCK_ACTOR,
    ROOM_ACTOR,
    Caller,
    ParticipantRole,
    Role,
    Setting,
    Status,
    Trigger,
    host_actor,
)
from tminus.sessions import commands, participants
from tminus.sessions.queries import load_session
from tminus.storage import Transaction, View, presence

ROOM = Caller(agent_id=-1, name="", external_id="", roles=frozenset({Role.ROOM}), acts_as=ROOM_ACTOR)
"""The caller of the commands of people in the daemon's own rooms. It is not an agent; no agent has its id."""

CLOCK = ROOM._replace(acts_as=CLOCK_ACTOR)
"""The caller of commands that the daemon runs after a time-out."""

LEASE_GRACE = timedelta(seconds=15)
"""Time that the people of a daemon have to reconnect after its lease expired. If the daemon runs and merely could not
write, it still has their connections, and corrects their rows within this time.
"""


class Connection(NamedTuple):
    """The connection that represents a person."""

    daemon: str
    id: str
    needs_lease: bool = False
    """Whether the daemon has no lease yet. Without a lease, another daemon would record that its people have left."""


class Entered(NamedTuple):
    """The result of `enter` and `resume`."""

    participant: Participant
    seq: int
    """The number of an event: a state of the room that includes it contains the person."""
    previous: str = ""
    """The id of the connection that represented the person before."""


def digest(resume: str) -> str:
    """Return the SHA-256 of a resume key, which is stored instead of the key."""
    return hashlib.sha256(resume.encode("utf-8", "surrogatepass")).hexdigest()


def enter(
    tx: Transaction,
    settings: Settings,
    session_id: str,
    role: ParticipantRole,
    name: str,
    resume: str,
    connection: Connection,
    request_id: str | None = None,
) -> Entered:
    """Let somebody join, or knock if they are a guest and the session's setting `knock` is on.

    Raises `UnknownSession`, `WrongStatus`, `OtherPresence`, `TooManyParticipants`.
    """
    session = load_session(tx, session_id)
    knocks = role is ParticipantRole.GUEST and orjson.loads(session.settings)[Setting.KNOCK]
    if knocks:
        # People who wait do not count as participants of the session, so their number is limited here.
        most = settings.limits.participants_per_session
        if presence.count(tx, session_id, most) >= most:
            raise TooManyParticipants(most, at_once=True)
    trigger = Trigger.KNOCK if knocks else Trigger.JOIN
    result = participants.join_or_knock(tx, settings, _as_participant(request_id), session_id, trigger, role, name)
    participant = tx.participant(session_id, result.participant_id)
    assert participant is not None, "it was inserted just now"
    _renew_lease(tx, connection)
    presence.add(
        tx,
        Presence(
            participant_id=participant.id,
            session_id=session_id,
            resume_sha256=digest(resume),
            daemon=connection.daemon,
            connection=connection.id,
        ),
    )
    return Entered(participant, tx.recorded[-1].event.seq)


def resume(
    tx: Transaction, session_id: str, key: str, connection: Connection, may_host: Callable[[Session], bool]
) -> Entered:
    """Let a connection represent somebody who has not left. No event is recorded.

    Raises `WrongResumeKey`, also if the session is closed, or the person was removed; `AgentRevoked` for a host unless
    `may_host(session)`.
    """
    found, session, participant = find_resumable(tx, session_id, key)
    if participant.role is ParticipantRole.HOST and not may_host(session):
        raise AgentRevoked
    _renew_lease(tx, connection)
    presence.reconnect(tx, participant.id, connection.daemon, connection.id)
    return Entered(participant, tx.last_seq(), found.connection)


def find_resumable(view: View, session_id: str, key: str) -> tuple[Presence, Session, Participant]:
    """Return the person with this resume key, who has not left. Raises `WrongResumeKey`."""
    found = presence.by_resume_key(view, session_id, digest(key))
    if found is None:
        raise WrongResumeKey
    session, participant = view.session(session_id), view.participant(session_id, found.participant_id)
    if session is None or session.status is Status.CLOSED or participant is None or participant.left_at is not None:
        raise WrongResumeKey
    return found, session, participant


def _renew_lease(tx: Transaction, connection: Connection) -> None:
    # SQLite needs no leases, since it has one daemon.
    if connection.needs_lease and tx.dialect == "postgresql":
        renew_lease(tx, connection.daemon)


def leave(
    tx: Transaction, settings: Settings, session_id: str, participant_id: str, request_id: str | None = None
) -> None:
    """Let somebody leave or stop waiting."""
    participants.leave(tx, settings, _as_participant(request_id), session_id, participant_id)


def stop_waiting(tx: Transaction, settings: Settings, session_id: str, participant_id: str) -> bool:
    """End the waiting of somebody whom no host has answered; return False if they were admitted meanwhile."""
    try:
        participants.deny(tx, settings, CLOCK, session_id, participant_id)
    except NoKnocking:
        return False
    return True


def admit(
    tx: Transaction,
    settings: Settings,
    session_id: str,
    host_id: str,
    participant_id: str,
    request_id: str | None = None,
) -> None:
    """Let a host admit somebody. Raises `Forbidden`, and what `participants.admit` raises."""
    participants.admit(tx, settings, _as_host(tx, session_id, host_id, request_id), session_id, participant_id)


def deny(
    tx: Transaction,
    settings: Settings,
    session_id: str,
    host_id: str,
    participant_id: str,
    request_id: str | None = None,
) -> None:
    """Let a host deny somebody. Raises `Forbidden`, and what `participants.deny` raises."""
    participants.deny(tx, settings, _as_host(tx, session_id, host_id, request_id), session_id, participant_id)


def remove(
    tx: Transaction,
    settings: Settings,
    session_id: str,
    host_id: str,
    participant_id: str,
    request_id: str | None = None,
) -> None:
    """Let a host remove somebody. Raises `Forbidden`, and what `participants.leave` raises."""
    participants.leave(tx, settings, _as_host(tx, session_id, host_id, request_id), session_id, participant_id)


def end(tx: Transaction, settings: Settings, session_id: str, host_id: str, request_id: str | None = None) -> None:
    """Let a host close the session for everybody. Raises `Forbidden`."""
    commands.close(tx, settings, _as_host(tx, session_id, host_id, request_id), session_id)


def _as_participant(request_id: str | None) -> Caller:
    """Return the caller for what people, guests and hosts, do for themselves."""
    return ROOM._replace(request_id=request_id)


def _as_host(tx: Transaction, session_id: str, participant_id: str, request_id: str | None) -> Caller:
    """Return the caller for the commands of a host, who acts for the session's agent in this session only.

    Raises `UnknownSession`, and `Forbidden` unless the participant is a host who is in the room now.
    """
    session, participant = load_session(tx, session_id), tx.participant(session_id, participant_id)
    if participant is None or participant.role is not ParticipantRole.HOST or participant.left_at is not None:
        raise Forbidden("a host who is in the room")
    return Caller(
        agent_id=session.agent_id,
        name=participant.name,
        external_id="",
        roles=frozenset({Role.ROOM, Role.AGENT}),
        request_id=request_id,
        acts_as=host_actor(participant.id),
    )


# --- connections and leases -------------------------------------------------------------------------------------------


def connections_lost(tx: Transaction, settings: Settings, lost: Mapping[str, str]) -> None:
    """Give the people of lost connections (participant -> connection) time to reconnect."""
    presence.set_gone(tx, lost, tx.now + settings.rooms.reconnect)


def correct_connections(
    tx: Transaction, settings: Settings, daemon: str, lost: Mapping[str, str], alive: Sequence[str]
) -> None:
    """Store which connections of a daemon are lost, and which people are still connected."""
    connections_lost(tx, settings, lost)
    presence.clear_gone(tx, alive, daemon)


def await_reconnects(tx: Transaction, settings: Settings, daemon: str) -> int:
    """Give all people of a daemon that restarts time to reconnect; return how many they are."""
    people = presence.await_reconnects(tx, daemon, tx.now + settings.rooms.restart)
    presence.end_lease(tx, daemon)
    return people


def renew_lease(tx: Transaction, daemon: str) -> None:
    """Renew the lease of a daemon."""
    presence.renew_lease(tx, daemon, tx.now + presence.LEASE)


def expire_lease(tx: Transaction, daemon: str) -> int | None:
    """Give the people of a daemon without a valid lease time to reconnect; return how many they are.

    None: it has renewed its lease meanwhile.
    """
    return presence.expire_lease(tx, daemon, tx.now + LEASE_GRACE)
