"""Effective settings and deadlines."""

from datetime import datetime, timedelta

import pytest
from tests.support.clocks import NOW
from tests.support.factories import session

from tminus.config import Settings
from tminus.domain.policy import agent_choices, deadline, effective_settings
from tminus.domain.types import Deadline, Mode, SessionType, Setting, Status, Timeouts, Trigger

# --- deadlines --------------------------------------------------------------------------------------------------------

MINUTE = timedelta(minutes=1)
TIMEOUTS = Timeouts(lead=10 * MINUTE, new=60 * MINUTE, empty=15 * MINUTE, max_active=120 * MINUTE)
UNLIMITED = Timeouts(lead=10 * MINUTE, new=60 * MINUTE, empty=15 * MINUTE, max_active=None)


def _active(activated: datetime, empty_since: datetime | None, timeouts: Timeouts) -> Deadline | None:
    return deadline(session(status=Status.ACTIVE, activated_at=activated, empty_since=empty_since), timeouts)


def test_a_scheduled_session_opens_lead_before_its_start() -> None:
    assert deadline(session(start_time=NOW), TIMEOUTS) == Deadline(NOW - 10 * MINUTE, Trigger.OPEN)


def test_a_new_session_expires_at_expires_at_whatever_the_timeouts_are() -> None:
    new = session(status=Status.NEW, start_time=NOW, expires_at=NOW + 7 * MINUTE)
    assert deadline(new, TIMEOUTS) == Deadline(NOW + 7 * MINUTE, Trigger.EXPIRE)


def test_an_active_session_with_somebody_in_it_has_only_the_time_limit() -> None:
    assert _active(NOW, None, TIMEOUTS) == Deadline(NOW + 120 * MINUTE, Trigger.TIME_LIMIT)


def test_an_active_session_with_somebody_in_it_and_no_time_limit_has_no_deadline() -> None:
    assert _active(NOW, None, UNLIMITED) is None


def test_an_empty_session_is_closed_empty_timeout_after_the_last_one_left() -> None:
    assert _active(NOW, NOW + MINUTE, UNLIMITED) == Deadline(NOW + 16 * MINUTE, Trigger.IDLE)


@pytest.mark.parametrize(
    ("emptied_after", "trigger"),
    [
        (timedelta(0), Trigger.IDLE),
        (105 * MINUTE - timedelta(milliseconds=1), Trigger.IDLE),
        (105 * MINUTE, Trigger.IDLE),
        (105 * MINUTE + timedelta(milliseconds=1), Trigger.TIME_LIMIT),
        (119 * MINUTE, Trigger.TIME_LIMIT),
    ],
)
def test_the_earlier_of_the_two_holds_and_in_a_tie_it_is_idle(emptied_after: timedelta, trigger: Trigger) -> None:
    found = _active(NOW, NOW + emptied_after, TIMEOUTS)
    assert found == Deadline(min(NOW + emptied_after + 15 * MINUTE, NOW + 120 * MINUTE), trigger)


def test_a_closed_session_has_no_deadline() -> None:
    closed = session(status=Status.CLOSED, activated_at=NOW, empty_since=NOW, closed_at=NOW)
    assert deadline(closed, TIMEOUTS) is None


# --- settings ---------------------------------------------------------------------------------------------------------

PREFERENCE = {
    "recording": "record",
    "startwithadmin": "prerequestadmin",
    "startwithrc": "prerequestrc",
    "knock": "knock",
    "audio": "audio",
}
HEARD = {
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
        expected = preference is True and setting in HEARD[session_type]
    effective = effective_settings(session_type, modes, preferences)
    assert effective == dict.fromkeys(PREFERENCE, False) | {setting.value: expected}
    assert list(effective) == list(PREFERENCE), "all five, in the order of the article"
    assert effective[setting] is expected, "a boolean, not something that is true"


def test_an_unknown_preference_is_ignored() -> None:
    modes = dict.fromkeys(Setting, Mode.AGENT)
    preferences = {"guest_video": True, "recording": True}
    assert effective_settings(SessionType.LIVE, modes, preferences) == dict.fromkeys(PREFERENCE, False)


def test_a_type_may_have_a_policy_of_its_own() -> None:
    policy = Settings.model_validate({"policy": {"knock": "never", "live": {"knock": "always"}}}).policy
    assert policy.modes(SessionType.LIVE)[Setting.KNOCK] is Mode.ALWAYS
    assert policy.modes(SessionType.SUPPORT)[Setting.KNOCK] is Mode.NEVER


@pytest.mark.parametrize("session_type", SessionType)
@pytest.mark.parametrize("mode", Mode)
def test_an_agent_is_asked_where_the_type_supports_it_and_the_policy_leaves_it_open(
    session_type: SessionType, mode: Mode
) -> None:
    choices = agent_choices(session_type, dict.fromkeys(Setting, mode))
    assert choices == {PREFERENCE[setting]: mode is Mode.AGENT for setting in HEARD[session_type]}
