"""Calendars as programs read them: the file of a session."""

from typing import Any

import icalendar

from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tminus.domain import timestamps


def entry_of(content: bytes) -> Any:
    (event,) = icalendar.Calendar.from_ical(content.decode()).walk("VEVENT")
    return event


def test_the_file_of_a_session_moves_and_cancels_the_same_entry(each_daemon: Daemon) -> None:
    daemon = each_daemon
    one: JSON = daemon.make(label="Déjà vu; again, 😀", startTime=from_now(days=1), by="anna")
    path = f"/supportsession/{one['id']}/invite.ics"

    first = daemon.get(path, by="anna")
    assert first.headers["content-type"] == "text/calendar; charset=utf-8"
    assert first.headers["content-disposition"] == f'attachment; filename="{one["id"]}.ics"'
    assert first.headers["cache-control"] == "private, no-cache"
    before = entry_of(first.content)
    assert before["SUMMARY"] == "Déjà vu; again, 😀"
    assert before["URL"] == one["urls"]["user"]
    assert b"#host=" not in first.content
    unchanged = daemon.get(path, by="anna", headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")

    start = from_now(days=2)
    assert daemon.put(f"/supportsession/{one['id']}", {"startTime": start}, by="anna").status_code == 200
    moved = daemon.get(path, by="anna", headers={"If-None-Match": first.headers["etag"]})
    assert moved.status_code == 200
    after = entry_of(moved.content)
    assert after.start == timestamps.parse(start).replace(microsecond=0)
    assert (after["UID"], after["STATUS"]) == (before["UID"], "CONFIRMED")
    assert after["SEQUENCE"] > before["SEQUENCE"]

    assert daemon.delete(f"/supportsession/{one['id']}", by="anna").status_code == 200
    last = entry_of(daemon.get(path, by="anna").content)
    assert (last["UID"], last["STATUS"]) == (before["UID"], "CANCELLED")
    assert last["SEQUENCE"] > after["SEQUENCE"]


def test_only_those_who_may_host_get_the_link_of_the_host(daemon: Daemon) -> None:
    one = daemon.make(type="support", by="anna")
    path = f"/supportsession/{one['id']}/invite.ics"

    assert entry_of(daemon.get(f"{path}?role=host", by="anna").content)["URL"] == one["urls"]["host"]
    assert daemon.get(f"{path}?role=host", by="supervisor").status_code == 200
    refused = daemon.get(f"{path}?role=host", by="monitor")
    assert (refused.status_code, refused.json()["refcode"]) == (403, 104403)
    assert daemon.get(path, by="ben").status_code == 403
    shown = daemon.get(path, by="monitor").content
    assert str(one["pin"]).encode() not in shown
    assert b"#host=" not in shown
