"""Compute the effective settings of a new session from the configured policy. No I/O."""

from collections.abc import Mapping

from tminus.domain.types import Mode, SessionType, Setting

PREFERENCE_OF = {
    Setting.RECORDING: "record",
    Setting.STARTWITHADMIN: "prerequestadmin",
    Setting.STARTWITHRC: "prerequestrc",
    Setting.KNOCK: "knock",
    Setting.AUDIO: "audio",
}
"""Setting -> the name of the preference by which an agent requests it."""

_SETTING_OF = {preference: setting.value for setting, preference in PREFERENCE_OF.items()}

SUPPORTED = {
    SessionType.SUPPORT: frozenset({Setting.RECORDING, Setting.STARTWITHADMIN, Setting.STARTWITHRC}),
    SessionType.LIVE: frozenset({Setting.RECORDING, Setting.KNOCK, Setting.AUDIO}),
    SessionType.COBROWSE: frozenset({Setting.RECORDING}),
    SessionType.REPLAY: frozenset[Setting](),
}
"""Session type -> the settings that its agents may choose, if the policy allows it."""


def effective_settings(
    session_type: SessionType, modes: Mapping[Setting, Mode], preferences: Mapping[str, bool]
) -> dict[str, bool]:
    """Return all settings of a new session, in the order of `modes`.

    The policy decides first, then the agent's preference; otherwise a setting is false.
    """
    effective = {setting.value: mode is Mode.ALWAYS for setting, mode in modes.items()}
    for name, choice in agent_choices(session_type, modes).items() if preferences else ():
        if choice and preferences.get(name):
            effective[_SETTING_OF[name]] = True
    return effective


def wishes(preferences: Mapping[str, bool]) -> frozenset[str]:
    """Return the known preferences that are true: all that `effective_settings` needs of an agent's preferences."""
    return frozenset(name for name in _SETTING_OF if preferences.get(name)) if preferences else frozenset()


def agent_choices(session_type: SessionType, modes: Mapping[Setting, Mode]) -> dict[str, bool]:
    """Return for each preference whether the agent may choose it. Clients show those as toggles."""
    return {
        PREFERENCE_OF[setting]: modes[setting] is Mode.AGENT
        for setting in Setting
        if setting in SUPPORTED[session_type]
    }
