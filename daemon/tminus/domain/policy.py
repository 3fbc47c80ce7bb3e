"""What follows from the configured policy: the effective settings of a new session. Pure."""

from collections.abc import Mapping

from tminus.domain.types import Mode, SessionType, Setting

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
