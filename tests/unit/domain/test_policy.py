"""Effective settings."""

import pytest

from tminus.config import Settings
from tminus.domain.policy import agent_choices, effective_settings
from tminus.domain.types import Mode, SessionType, Setting

# --- settings ---------------------------------------------------------------------------------------------------------

PREFERENCE = {
    "recording": "record",
    "startwithadmin": "prerequestadmin",
    "startwithrc": "prerequestrc",
    "knock": "knock",
    "audio": "audio",
}
SUPPORTED = {
    "support": {"recording", "startwithadmin", "startwithrc"},
    "cobrowse": {"recording"},
    "live": {"recording", "knock", "audio"},
    "replay": set[str](),
}


@pytest.mark.parametrize("session_type", [SessionType.SUPPORT, SessionType.LIVE])
def test_the_default_policy_gives_the_settings_of_both_samples_of_the_article(session_type: SessionType) -> None:
    modes = Settings().policy.modes(session_type)
    assert effective_settings(session_type, modes, {"record": True}) == {
        "recording": True,
        "startwithadmin": False,
        "startwithrc": False,
        "knock": False,
        "audio": True,
    }


@pytest.mark.parametrize("session_type", SessionType)
@pytest.mark.parametrize("setting", Setting)
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("preference", [True, False, None])
def test_the_policy_decides_first_then_the_preference_if_the_type_supports_it_then_false(
    session_type: SessionType, setting: Setting, mode: Mode, preference: bool | None
) -> None:
    modes = dict.fromkeys(Setting, Mode.NEVER) | {setting: mode}
    preferences = {} if preference is None else {PREFERENCE[setting]: preference}
    if mode is Mode.ALWAYS:
        expected = True
    elif mode is Mode.NEVER:
        expected = False
    else:
        expected = preference is True and setting in SUPPORTED[session_type]
    effective = effective_settings(session_type, modes, preferences)
    assert effective == dict.fromkeys(PREFERENCE, False) | {setting.value: expected}
    assert list(effective) == list(PREFERENCE), "all five, in the order of the article"
    assert effective[setting] is expected, "a boolean, not another truthy value"


def test_an_unknown_preference_is_ignored() -> None:
    modes = dict.fromkeys(Setting, Mode.AGENT)
    preferences = {"guest_video": True, "recording": True}
    assert effective_settings(SessionType.LIVE, modes, preferences) == dict.fromkeys(PREFERENCE, False)


def test_a_session_type_may_have_its_own_policy() -> None:
    policy = Settings.model_validate({"policy": {"knock": "never", "live": {"knock": "always"}}}).policy
    assert policy.modes(SessionType.LIVE)[Setting.KNOCK] is Mode.ALWAYS
    assert policy.modes(SessionType.SUPPORT)[Setting.KNOCK] is Mode.NEVER


@pytest.mark.parametrize("session_type", SessionType)
@pytest.mark.parametrize("mode", Mode)
def test_an_agent_may_choose_what_the_type_supports_and_the_policy_allows(
    session_type: SessionType, mode: Mode
) -> None:
    choices = agent_choices(session_type, dict.fromkeys(Setting, mode))
    assert choices == {PREFERENCE[setting]: mode is Mode.AGENT for setting in SUPPORTED[session_type]}
