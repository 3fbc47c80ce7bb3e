"""Dates have one grammar in bodies, queries and the client. The forms are in `tests/unit/domain/test_timestamps.py`."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from tests.acceptance.daemons import Daemon
from tminus.client import InvalidRequest, ScreenMeet

YEAR = datetime.now(UTC).year + 1
MEANT = f"{YEAR}-08-10T15:30:00.120Z"
READ = (
    f"{YEAR}-08-10t15:30:00.12z",
    f"{YEAR}-08-10 17:30:00.120456789+02:00",
    f"{YEAR}0810T153000,12-00:00",
)
REFUSED = (
    f"{YEAR}-08-10T10.5Z",
    f"{YEAR}-08-10T10:30.5Z",
    f"{YEAR}-08-10T10:30:00+05:99",
    f"{YEAR}-08-10T12345678Z",
    f"{YEAR}-08-10T24:00:00Z",
    f"{YEAR}-08-10T15:30:00",
)


@pytest.mark.parametrize("text", READ)
def test_a_date_means_the_same_in_a_body_a_query_and_the_client(daemon: Daemon, text: str) -> None:
    made = daemon.make(startTime=text)
    assert made["startTime"] == MEANT
    listed = daemon.get(f"/supportsessions?startFrom={quote(text)}&orderby=startTime&orderdir=ASC&limit=1000").json()
    assert made["id"] in [row["id"] for row in listed["rows"]]
    assert daemon.put(f"/supportsession/{made['id']}", {"startTime": text}).json()["version"] == made["version"]
    with ScreenMeet(daemon.url, daemon.token) as sm:
        assert sm.rescheduleSession(made["id"], text)["version"] == made["version"]


@pytest.mark.parametrize("text", REFUSED)
def test_an_ambiguous_date_is_refused_in_a_body_a_query_and_the_client(daemon: Daemon, text: str) -> None:
    answers = {
        "startTime": daemon.post("/supportsessions", {"type": "live", "label": "A", "startTime": text}),
        "startFrom": daemon.get(f"/supportsessions?startFrom={quote(text)}"),
        "startTo": daemon.get(f"/supportsessions?startTo={quote(text)}"),
        "since": daemon.post("/webhooks/nobody/replay", {"since": text}),
    }
    for field, answer in answers.items():
        assert answer.status_code == 400, (field, answer.text)
        assert [fault["field"] for fault in answer.json()["errors"]] == [field]
    with ScreenMeet(daemon.url, daemon.token) as sm, pytest.raises(InvalidRequest):
        sm.rescheduleSession("nobody", text)


def test_a_plus_that_was_decoded_to_a_space_is_refused_with_a_hint(daemon: Daemon) -> None:
    answer = daemon.get(f"/supportsessions?startFrom={YEAR}-08-10T15:30:00+02:00")
    assert answer.status_code == 400
    assert "%2B" in answer.json()["description"]
