"""What follows from the settings, decided purely: a session's effective settings, and its deadline.

Nothing is done here: the caller applies what is decided.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from tminus.domain.types import Deadline, Mode, SessionType, Setting, Status, Timeouts, Trigger

PREFERENCE_OF = {
    Setting.RECORDING: "record",
    Setting.STARTWITHADMIN: "prerequestadmin",
    Setting.STARTWITHRC: "prerequestrc",
    Setting.KNOCK: "knock",
    Setting.AUDIO: "audio",
}
"""The name by which an agent asks for each setting."""

_SETTING_OF = {preference: setting.value for setting, preference in PREFERENCE_OF.items()}

SUPPORTED = {
    SessionType.SUPPORT: frozenset({Setting.RECORDING, Setting.STARTWITHADMIN, Setting.STARTWITHRC}),
    SessionType.LIVE: frozenset({Setting.RECORDING, Setting.KNOCK, Setting.AUDIO}),
    SessionType.COBROWSE: frozenset({Setting.RECORDING}),
    SessionType.REPLAY: frozenset[Setting](),
}
"""The settings on which an agent of each session type is heard at all."""


def effective_settings(
    session_type: SessionType, modes: Mapping[Setting, Mode], preferences: Mapping[str, bool]
) -> dict[str, bool]:
    """All settings of a new session, in the order of `modes`: the policy first, then the agent's preference, then
    false.
    """
    effective = {setting.value: mode is Mode.ALWAYS for setting, mode in modes.items()}
    for name, choice in agent_choices(session_type, modes).items() if preferences else ():
        if choice and preferences.get(name):
            effective[_SETTING_OF[name]] = True
    return effective


def agent_choices(session_type: SessionType, modes: Mapping[Setting, Mode]) -> dict[str, bool]:
    """By preference name, whether the agent is asked: what a client shows as a toggle."""
    return {
        PREFERENCE_OF[setting]: modes[setting] is Mode.AGENT
        for setting in Setting
        if setting in SUPPORTED[session_type]
    }


class Timed(Protocol):
    """What a deadline depends on: a session."""

    status: Status
    start_time: datetime | None
    expires_at: datetime
    activated_at: datetime | None
    empty_since: datetime | None


def deadline(session: Timed, timeouts: Timeouts) -> Deadline | None:
    """When time alone moves the session next, and how; None if it never does.

    `storage.due` says the same in SQL for all stored sessions at once; a test holds the two together.
    """
    match session.status:
        case Status.SCHEDULED:
            assert session.start_time is not None
            return Deadline(session.start_time - timeouts.lead, Trigger.OPEN)
        case Status.NEW:
            return Deadline(session.expires_at, Trigger.EXPIRE)
        case Status.ACTIVE:
            limits = []
            if session.empty_since is not None:
                limits.append(Deadline(session.empty_since + timeouts.empty, Trigger.IDLE))
            if timeouts.max_active is not None:
                assert session.activated_at is not None
                limits.append(Deadline(session.activated_at + timeouts.max_active, Trigger.TIME_LIMIT))
            return min(limits, key=lambda limit: limit.at, default=None)
        case Status.CLOSED:
            return None
