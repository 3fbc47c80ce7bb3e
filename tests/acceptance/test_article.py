"""The published article about the original product: its two sample responses, and its four example calls unchanged."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tminus.client import ScreenMeet

ARTICLE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "article.json").read_text())
"""The fields of the article's responses, with their JSON types; `instant` is a string that matches `INSTANT`.
`added` lists the fields that tminus adds."""

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def shape(value: Any) -> Any:
    """Return the shape of a response: its fields with the types of their values."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}
        case bool():
            return "boolean"
        case int():
            return "integer"
        case str():
            return "instant" if INSTANT.fullmatch(value) else "string"
        case None:
            return "null"
    raise AssertionError(f"the article has no such value: {value!r}")


def as_in_the_article(session: Any) -> dict[str, Any]:
    """Return a session without the fields that tminus adds; fail if one of those is missing."""
    assert set(ARTICLE["added"]) <= set(session)
    assert ("opensAt" in session) == (session["status"] == "scheduled")
    return {name: shape(value) for name, value in session.items() if name not in (*ARTICLE["added"], "opensAt")}


@pytest.fixture
def sm(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScreenMeet]:
    monkeypatch.setenv("TMINUS_URL", daemon.url)
    monkeypatch.setenv("TMINUS_TOKEN", daemon.token)
    with ScreenMeet() as client:
        yield client


def test_the_examples_run_as_they_stand(daemon: Daemon, sm: ScreenMeet) -> None:
    """The test replaces only the times, which have passed, and the session's id."""
    result = sm.createSession('support', 'incident', 'e8e875b0c0a80164009dc852b4d677d5', 'Incident INC0000005', 'Remote support session for INC0000005', {'record': True})  # noqa: E501, Q000  # fmt: skip

    assert result["status"] == "new"
    assert result["scheduled"] is False
    assert result["label"] == "Remote support session for INC0000005"
    assert result["externalMapping"] == "incident.e8e875b0c0a80164009dc852b4d677d5"
    assert result["parentObject"] is not None
    assert result["parentObject"]["name"] == "Incident INC0000005"
    assert 100000 <= result["pin"] <= 999999

    startTime = from_now(days=30)

    result = sm.scheduleSession(startTime, 'live', 'sn_customerservice_case', '9e05ffd01b08a450409921be6e4bcbec', 'Case CS0010001', 'Scheduled snow call for CS0010001', {'record': True})  # noqa: E501, Q000  # fmt: skip

    assert result["status"] == "scheduled"
    assert result["scheduled"] is True
    assert result["startTime"] == startTime
    assert result["pin"] == 0
    scheduled, later = result["id"], from_now(days=60)

    result = sm.rescheduleSession(scheduled, later)

    assert result["id"] == scheduled
    assert result["startTime"] == later
    assert as_in_the_article(result) == ARTICLE["scheduleSession"]

    closed = sm.closeSession(scheduled)

    assert closed == {"success": True}
    assert shape(closed) == ARTICLE["closeSession"]
    assert daemon.session(scheduled)["status"] == "closed"


def test_a_created_session_has_the_fields_of_the_article(sm: ScreenMeet) -> None:
    session = sm.createSession("support", "incident", "e8e8", "Incident", "Remote support", {"record": True})
    assert as_in_the_article(session) == ARTICLE["createSession"]


def test_a_scheduled_session_has_the_fields_of_the_article(sm: ScreenMeet) -> None:
    session = sm.scheduleSession(from_now(days=1), "live", "case", "9e05", "Case", "A call", {"record": True})
    assert as_in_the_article(session) == ARTICLE["scheduleSession"]


@pytest.mark.parametrize("kind", ["support", "cobrowse", "live", "replay"])
def test_every_type_has_the_same_fields(sm: ScreenMeet, kind: Any) -> None:
    assert as_in_the_article(sm.createSession(kind, screenmeet_session_name="One")) == ARTICLE["createSession"]
    scheduled = sm.scheduleSession(from_now(days=1), kind, screenmeet_session_name="One")
    assert as_in_the_article(scheduled) == ARTICLE["scheduleSession"]


def test_settings_and_urls_equal_those_of_the_samples(daemon: Daemon) -> None:
    """The settings, and the formats of ids, tokens and URLs, equal those of the samples."""
    support = daemon.make(type="support", agentPrefs={"record": True})
    live = daemon.make(type="live", agentPrefs={"record": True}, startTime=from_now(days=1))
    sample = {"recording": True, "startwithadmin": False, "startwithrc": False, "knock": False, "audio": True}
    for session in (support, live):
        assert session["settings"] == sample
        assert list(session["settings"]) == list(sample)
        assert re.fullmatch("[A-Za-z0-9]{32}", session["hostAuthToken"])
        assert re.fullmatch("[0-9a-f]{32}", session["externalSessionObjectId"])
        assert session["unattended"] is False
        assert session["ExternalUserId"] == 32593
    assert re.fullmatch("[A-Za-z0-9]{6}", support["id"])
    assert re.fullmatch("[A-Za-z0-9]{12}", live["id"])
    assert support["urls"]["user"] == f"{daemon.url}/{support['pin']}"
    assert live["urls"]["user"] == f"{daemon.url}/?{live['id']}"
    host, _, key = live["urls"]["host"].partition("#host=")
    assert host == live["urls"]["user"]
    assert re.fullmatch("[A-Za-z0-9]{32}", key)
    assert key != live["hostAuthToken"]
