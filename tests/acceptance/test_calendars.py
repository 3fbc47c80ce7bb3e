"""Calendars as programs read them: the file of a session, and the calendar of an agent."""

import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import icalendar
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now, parsed, text
from tminus.domain import timestamps

pytestmark = pytest.mark.slow


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


# --- the calendar of an agent -----------------------------------------------------------------------------------------


def entries_of(content: bytes) -> dict[str, Any]:
    """Return the entries of a calendar by their labels; fail if two have the same UID."""
    entries: list[Any] = icalendar.Calendar.from_ical(content.decode()).walk("VEVENT")
    assert len({one["UID"] for one in entries}) == len(entries)
    return {str(one["SUMMARY"]): one for one in entries}


def test_an_agent_subscribes_and_a_reschedule_moves_the_entry(each_daemon: Daemon) -> None:
    daemon = each_daemon
    label = f"Feed {daemon.url}"
    one = daemon.make(label=label, startTime=from_now(days=1), by="ben")
    made = daemon.post("/agents/8/calendar", by="ben").json()
    url = made["url"]
    assert url.startswith(f"{daemon.url}/v3/calendars/")

    first = daemon.http.get(url)
    assert (first.status_code, first.headers["content-type"]) == (200, "text/calendar; charset=utf-8")
    assert first.headers["cache-control"] == "private, max-age=60"
    before = entries_of(first.content)[label]
    assert before["URL"] == f"{daemon.url}/agent"
    assert one["urls"]["user"] in before["DESCRIPTION"]
    assert b"#host=" not in first.content
    again = daemon.http.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])

    start = from_now(days=2)
    assert daemon.put(f"/supportsession/{one['id']}", {"startTime": start}, by="ben").status_code == 200
    moved = daemon.http.get(url, headers={"If-None-Match": first.headers["etag"]})
    assert moved.status_code == 200
    assert entries_of(moved.content).keys() == entries_of(first.content).keys()
    after = entries_of(moved.content)[label]
    assert after.start == timestamps.parse(start).replace(microsecond=0)
    assert (after["UID"], after["SEQUENCE"] > before["SEQUENCE"]) == (before["UID"], True)

    assert daemon.delete(f"/supportsession/{one['id']}", by="ben").status_code == 200
    assert entries_of(daemon.http.get(url).content)[label]["STATUS"] == "CANCELLED"


def test_only_appointments_of_the_agent_are_in_the_calendar(daemon: Daemon) -> None:
    daemon.make(label="At once", by="lister")
    daemon.make(label="Another's", startTime=from_now(days=1), by="anna")
    daemon.make(label="Own", startTime=from_now(days=1), by="lister")

    url = daemon.post("/agents/9/calendar").json()["url"]

    shown = entries_of(daemon.http.get(url).content)
    assert "Own" in shown
    assert not {"At once", "Another's"} & shown.keys()


def test_a_revoked_or_replaced_address_ends_at_once_and_no_log_line_has_one(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    old = daemon.post("/agents/7/calendar", by="anna").json()["url"]
    assert daemon.http.get(old).status_code == 200
    new = daemon.command("agents", "feed", "7").stdout.strip()
    assert [daemon.http.get(url).status_code for url in (old, new)] == [404, 200]
    assert daemon.http.get(old).json()["refcode"] == 118404
    assert daemon.command("agents", "feed", "7", "--revoke").returncode == 0
    assert daemon.http.get(new).status_code == 404
    shut = daemon.post("/agents/7/calendar").json()["url"]
    assert daemon.post("/agents/7/shutOut").status_code == 200
    assert daemon.http.get(shut).status_code == 404
    assert daemon.post("/agents/7/readmit").status_code == 200
    assert daemon.http.get(shut).status_code == 404

    assert daemon.post("/agents/8/calendar", by="anna").status_code == 403
    assert daemon.post("/agents/999/calendar").json()["refcode"] == 113404
    assert daemon.terminate() == 0
    log = daemon.log_text
    assert not [url for url in (old, new, shut) if url.rpartition("/")[2].partition(".")[0] in log]
    daemon.logged("calendar.address_made", agent=7, actor="agent:7")
    daemon.logged("calendar.address_revoked", agent=7, actor="local")
    daemon.logged("calendar.unknown", remote_ip="127.0.0.1")


def test_guesses_are_limited_and_right_addresses_are_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"failed_tokens": "3/minute"})
    url = daemon.post("/agents/7/calendar").json()["url"]
    guesses = [daemon.get(f"/calendars/{number}.ics", by=None) for number in range(5)]

    assert [guess.status_code for guess in guesses] == [404, 404, 404, 429, 429]
    assert 0 < int(guesses[-1].headers["retry-after"]) <= 60
    assert daemon.http.get(url).status_code == 200
    metrics = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token}).text
    assert 'tminus_guesses_total{kind="calendar",outcome="wrong"} 3.0' in metrics
    assert 'tminus_guesses_total{kind="calendar",outcome="limited"} 2.0' in metrics


# --- free or busy -----------------------------------------------------------------------------------------------------

QUERY = (
    '<?xml version="1.0" encoding="utf-8" ?><C:free-busy-query xmlns:C="urn:ietf:params:xml:ns:caldav">'
    '<C:time-range start="{}" end="{}"/></C:free-busy-query>'
)


def in_basic_form(instant: datetime) -> str:
    return instant.strftime("%Y%m%dT%H%M%SZ")


def test_an_external_scheduler_reads_when_an_agent_is_busy(each_daemon: Daemon) -> None:
    daemon = each_daemon
    day = (datetime.now(UTC) + timedelta(days=20)).replace(hour=0, minute=0, second=0, microsecond=0)
    hour = timedelta(hours=1)
    made = [daemon.make(startTime=text(day + at * hour), by="chief") for at in (9, 10, 10.5, 14, 16)]
    assert daemon.delete(f"/supportsession/{made[-1]['id']}", by="chief").status_code == 200
    daemon.make(startTime=text(day + 12 * hour), by="ben")
    path = f"/agents/15/freebusy?start={text(day)}&end={text(day + 24 * hour)}"
    expected = [(day + 9 * hour, day + 11.5 * hour), (day + 14 * hour, day + 15 * hour)]

    answer = daemon.get(path, by="monitor").json()
    assert answer["agent"] == 15
    assert [(parsed(one["start"]), parsed(one["end"])) for one in answer["busy"]] == expected

    for found in (
        daemon.get(path, by="chief", headers={"Accept": "text/calendar, */*"}),
        daemon.get(f"{path}&format=text/calendar", by="supervisor"),
        daemon.call(
            "REPORT",
            "/agents/15/freebusy",
            by="chief",
            content=QUERY.format(in_basic_form(day), in_basic_form(day + 24 * hour)).encode(),
            headers={"Content-Type": "application/xml", "Depth": "1"},
        ),
    ):
        assert (found.status_code, found.headers["content-type"]) == (200, "text/calendar; charset=utf-8"), found.text
        (component,) = icalendar.Calendar.from_ical(found.text).walk("VFREEBUSY")
        busy: Any = component
        assert [one.dt for one in busy["FREEBUSY"]] == expected
        assert busy["ORGANIZER"] == "mailto:chief@example.com"


def test_only_the_agent_and_those_who_see_all_sessions_may_ask(daemon: Daemon) -> None:
    assert daemon.get("/agents/7/freebusy", by="anna").status_code == 200
    assert daemon.get("/agents/7/freebusy", by="ben").json()["refcode"] == 104403
    assert daemon.get("/agents/999/freebusy").json()["refcode"] == 113404
    assert daemon.call("REPORT", "/agents/7/freebusy", by="ben", content=b"<a/>").status_code in (400, 403)


def test_a_range_has_an_order_and_a_length(daemon: Daemon) -> None:
    for query in (
        "start=2030-01-02T00:00:00Z&end=2030-01-01T00:00:00Z",
        "start=2030-01-01T00:00:00Z&end=2030-01-01T00:00:00Z",
        "start=2030-01-01T00:00:00Z&end=2031-01-03T00:00:00Z",
        "start=9999-12-30T00:00:00Z",
        "start=0001-01-01T00:00:00Z",
        "start=tomorrow",
    ):
        answer = daemon.get(f"/agents/7/freebusy?{query}", by="anna")
        assert (answer.status_code, answer.json()["refcode"]) == (400, 100400), query


def test_a_session_with_people_in_it_is_busy_although_it_was_not_planned(daemon: Daemon) -> None:
    one = daemon.make(by="lister", label="At once")
    assert daemon.join(one["id"]).status_code == 200
    joined = daemon.session(one["id"])["activatedAt"]

    busy = daemon.get(f"/agents/9/freebusy?start={joined}", by="lister").json()["busy"]

    assert busy[0]["start"] == joined
    assert parsed(busy[0]["end"]) == parsed(joined) + timedelta(hours=1)
    daemon.delete(f"/supportsession/{one['id']}", by="lister")


# --- appointments that overlap ----------------------------------------------------------------------------------------


def test_appointments_that_overlap_are_refused_or_reported_as_configured(
    storage: dict[str, Any], start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(storage=storage, policy={"overlap": "refuse"})
    start = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    body = {"type": "live", "label": "Wanted", "startTime": text(start)}
    with ThreadPoolExecutor(8) as pool:
        booked = [*pool.map(lambda _: daemon.post("/supportsessions", body, by="anna"), range(8))]
    (made,) = [answer.json() for answer in booked if answer.status_code == 200]
    refused = [answer.json() for answer in booked if answer.status_code != 200]
    assert {(one["code"], one["refcode"]) for one in refused} == {(409, 118409)}
    assert made["id"] in refused[0]["description"]
    later = daemon.make(startTime=text(start + timedelta(hours=1)), by="anna")
    refused_again = daemon.post("/supportsessions", {**body, "label": "Later"}, by="anna")
    line = daemon.logged("http.request", request_id=refused_again.headers["X-Request-Id"])
    assert (line["label"], line.get("session_id")) == ("Later", None), "the line names the session that was not created"
    moved = daemon.put(f"/supportsession/{later['id']}", {"startTime": text(start + timedelta(minutes=59))}, by="anna")
    assert (moved.status_code, moved.json()["refcode"]) == (409, 118409)
    line = daemon.logged("http.request", request_id=moved.headers["X-Request-Id"])
    assert (line["session_id"], line["label"]) == (later["id"], later["label"]), "not the one that is in the way"
    assert daemon.session(later["id"])["version"] == later["version"]

    daemon.configure(storage=storage, policy={"overlap": "warn"})
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    moved = daemon.put(f"/supportsession/{later['id']}", {"startTime": text(start + timedelta(minutes=59))}, by="anna")
    assert (moved.status_code, moved.json()["overlaps"]) == (200, [made["id"]])
    again = daemon.make(startTime=text(start), by="anna")
    assert sorted(again["overlaps"]) == sorted([made["id"], later["id"]])
    assert "overlaps" not in daemon.session(again["id"])
    assert "overlaps" not in daemon.make(startTime=text(start), by="ben")
