"""Calendars as other programs read them: `vdirsyncer`, `khal` and the CalDAV server Radicale, in Debian's versions.

They read the calendar of an agent and the files of sessions, before and after a reschedule and a cancellation.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import httpx
import icalendar
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import text
from tests.support.mailserver import Mail, MailServer
from tests.support.waiting import eventually
from tminus.calendars.entries import Method, Person, Timing, calendar, entry
from tminus.storage.calendar_feeds import Planned

PROGRAMS = ("vdirsyncer", "khal", "radicale")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"NOT TESTED: it needs Debian's packages {' '.join(MISSING)}"),
]

LABEL = 'Before, the; change "x" \\ שלום ' + "😀" * 40
DAV = {"D": "DAV:", "C": "urn:ietf:params:xml:ns:caldav"}


def before_a_change_of_clocks(zone: str) -> datetime:
    """Return 09:00 local time on the day before the next change of the clocks that is at least a week away."""
    there = ZoneInfo(zone)
    day = datetime.now(there).replace(hour=9, minute=0, second=0, microsecond=0) + timedelta(days=7)
    while day.utcoffset() == (day + timedelta(days=1)).utcoffset():
        day += timedelta(days=1)
    return day


def run(home: Path, program: str, *arguments: str) -> str:
    """Run a program with its configuration in `home`; return what it printed."""
    done = subprocess.run(
        [program, "-c", str(home / program), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def web(url: str) -> str:
    """Return the settings of a `vdirsyncer` storage: a calendar at a URL."""
    return f'type = "http"\nurl = "{url}"\n'


def folder(home: Path) -> str:
    """Return the settings of a `vdirsyncer` storage: the folder that `khal` reads."""
    return f'type = "filesystem"\npath = "{home}/copy"\nfileext = ".ics"\n'


def server(caldav: httpx.Client) -> str:
    """Return the settings of a `vdirsyncer` storage: the calendar on the CalDAV server."""
    return f'type = "caldav"\nurl = "{caldav.base_url}/anna/calendar/"\nusername = "anna"\npassword = "x"\n'


def configure(home: Path, source: str, target: str, zone: str) -> None:
    """Configure `vdirsyncer` to copy a calendar from one storage to another, and `khal` to read the folder `copy`."""
    (home / "copy").mkdir()
    (home / "vdirsyncer").write_text(
        dedent(f"""\
            [general]
            status_path = "{home}/status"
            [pair tminus]
            a = "feed"
            b = "copy"
            collections = null
            conflict_resolution = "a wins"
            [storage feed]
            """)
        + f"{source}[storage copy]\n{target}"
    )
    (home / "khal").write_text(
        dedent(f"""\
            [calendars]
            [[tminus]]
            path = {home}/copy
            readonly = True
            [locale]
            local_timezone = {zone}
            default_timezone = {zone}
            timeformat = %H:%M
            dateformat = %Y-%m-%d
            longdateformat = %Y-%m-%d
            datetimeformat = %Y-%m-%d %H:%M
            longdatetimeformat = %Y-%m-%d %H:%M
            [sqlite]
            path = {home}/khal.db
            """)
    )
    run(home, "vdirsyncer", "discover")


def listed(home: Path, first: datetime) -> list[str]:
    """Synchronize the calendar; return the lines that `khal` prints for five days."""
    run(home, "vdirsyncer", "sync")
    form = "{start}|{end-time}|{title}|{cancelled}|{location}"
    shown = run(home, "khal", "list", "--day-format", "", "--format", form, f"{first:%Y-%m-%d}", "5d")
    return [line.strip() for line in shown.splitlines() if "|" in line]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_khal_shows_the_local_time_through_a_change_of_clocks_and_one_entry_after_a_reschedule(
    daemon: Daemon, tmp_path: Path, zone: str
) -> None:
    address = daemon.post("/agents/9/calendar").json()["url"]
    day = before_a_change_of_clocks(zone)
    one = daemon.make(label=LABEL, startTime=text(day), by="lister")
    other = daemon.make(label=f"After {zone}", startTime=text(day + timedelta(days=2)), by="lister")
    configure(tmp_path, web(address), folder(tmp_path), zone)
    page = f"{daemon.url}/agent"

    assert listed(tmp_path, day) == [
        f"{day:%Y-%m-%d} 09:00|10:00|{LABEL}||{page}",
        f"{day + timedelta(days=2):%Y-%m-%d} 09:00|10:00|After {zone}||{page}",
    ]

    later = day + timedelta(days=3, minutes=75)
    assert daemon.put(f"/supportsession/{other['id']}", {"startTime": text(later)}, by="lister").status_code == 200
    assert daemon.delete(f"/supportsession/{one['id']}", by="lister").status_code == 200

    shown = listed(tmp_path, day)
    assert [line.replace("CANCELLED ", "CANCELLED") for line in shown] == [
        f"{day:%Y-%m-%d} 09:00|10:00|{LABEL}|CANCELLED|{page}",
        f"{later:%Y-%m-%d} 10:15|11:15|After {zone}||{page}",
    ]


# --- Radicale ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def caldav(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a Radicale with the calendar `/anna/calendar/`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["radicale", "--config", "", "--server-hosts", f"127.0.0.1:{port}", "--auth-type", "none"]
    command += ["--storage-filesystem-folder", str(tmp_path / "radicale")]
    with (tmp_path / "radicale.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("anna", "x"), timeout=20) as client:

                def is_up() -> bool:
                    assert server.poll() is None, (tmp_path / "radicale.log").read_text()
                    try:
                        return client.get("/").status_code < 500
                    except httpx.TransportError:
                        return False

                eventually(is_up)
                assert client.request("MKCALENDAR", "/anna/calendar/").status_code == 201
                yield client
        finally:
            server.terminate()
            server.wait(30)


def entries_at(caldav: httpx.Client, start: datetime, end: datetime) -> list[Any]:
    """Return the entries of a time range, as a CalDAV client asks for them."""
    form = "%Y%m%dT%H%M%SZ"
    query = (
        f'<C:calendar-query xmlns:D="DAV:" xmlns:C="{DAV["C"]}"><D:prop><C:calendar-data/></D:prop><C:filter>'
        f'<C:comp-filter name="VCALENDAR"><C:comp-filter name="VEVENT"><C:time-range start="{start:{form}}" '
        f'end="{end:{form}}"/></C:comp-filter></C:comp-filter></C:filter></C:calendar-query>'
    )
    answer = caldav.request("REPORT", "/anna/calendar/", content=query, headers={"Depth": "1"})
    assert answer.status_code == 207, answer.text
    found = ET.fromstring(answer.text).findall(".//C:calendar-data", DAV)
    return [event for one in found for event in icalendar.Calendar.from_ical(one.text or "").walk("VEVENT")]


def test_a_caldav_server_stores_the_file_of_a_session_moves_its_entry_and_accepts_no_second_one(
    daemon: Daemon, caldav: httpx.Client
) -> None:
    day = (datetime.now(UTC) + timedelta(days=40)).replace(hour=9, minute=0, second=0, microsecond=0)
    hour = timedelta(hours=1)
    one: JSON = daemon.make(label=LABEL, startTime=text(day), by="anna")

    def put(name: str) -> int:
        file = daemon.get(f"/supportsession/{one['id']}/invite.ics", by="anna")
        headers = {"Content-Type": file.headers["content-type"]}
        return caldav.put(f"/anna/calendar/{name}.ics", content=file.content, headers=headers).status_code

    assert put("one") == 201
    (stored,) = entries_at(caldav, day, day + hour)
    assert (stored["SUMMARY"], stored.start, stored.end) == (LABEL, day, day + hour)
    assert stored["URL"] == one["urls"]["user"]
    assert put("another") == 409  # the server compares the UID

    moved = daemon.put(f"/supportsession/{one['id']}", {"startTime": text(day + 5 * hour)}, by="anna")
    assert moved.status_code == 200
    assert put("one") in (201, 204)
    assert entries_at(caldav, day, day + hour) == []
    (found,) = entries_at(caldav, day, day + 24 * hour)
    assert (found.start, found["UID"]) == (day + 5 * hour, stored["UID"])
    assert found["SEQUENCE"] > stored["SEQUENCE"]

    assert daemon.delete(f"/supportsession/{one['id']}", by="anna").status_code == 200
    assert put("one") in (201, 204)
    (cancelled,) = entries_at(caldav, day, day + 24 * hour)
    assert (cancelled["STATUS"], cancelled["UID"]) == ("CANCELLED", stored["UID"])


def test_vdirsyncer_copies_the_calendar_of_an_agent_to_a_caldav_server_and_moves_entries_there(
    daemon: Daemon, caldav: httpx.Client, tmp_path: Path
) -> None:
    address = daemon.post("/agents/8/calendar").json()["url"]
    day = (datetime.now(UTC) + timedelta(days=50)).replace(hour=9, minute=0, second=0, microsecond=0)
    hour = timedelta(hours=1)
    one = daemon.make(label=LABEL, startTime=text(day), by="ben")
    configure(tmp_path, web(address), server(caldav), "UTC")

    run(tmp_path, "vdirsyncer", "sync")
    (stored,) = entries_at(caldav, day, day + hour)
    assert stored["SUMMARY"] == LABEL

    moved = daemon.put(f"/supportsession/{one['id']}", {"startTime": text(day + 5 * hour)}, by="ben")
    assert moved.status_code == 200
    run(tmp_path, "vdirsyncer", "sync")
    # The UID is not compared: `vdirsyncer` replaces it with one that it derives from the content.
    (found,) = entries_at(caldav, day, day + 24 * hour)
    assert (found.start, found["SEQUENCE"]) == (day + 5 * hour, stored["SEQUENCE"] + 1)


def test_an_invitation_survives_the_round_trip_through_a_caldav_server(caldav: httpx.Client) -> None:
    """A guest accepts; the update of the organizer has the same UID and a higher SEQUENCE, so it replaces the entry."""
    day = (datetime.now(UTC) + timedelta(days=60)).replace(hour=9, minute=0, second=0, microsecond=0)
    timing = Timing(duration=timedelta(hours=1), lead=timedelta(minutes=10))
    organizer, guests = Person(email="anna@example.com", name='Anna "A", Agent'), [Person(email="bo@example.com")]

    def invitation(version: int, start: datetime, method: Method) -> bytes:
        session = Planned("x", version, LABEL, "Anna", "https://x", "f" * 32, start, day, day, None, None)
        made = entry(session, timing, "https://x.example", method=method, organizer=organizer, attendees=guests)
        return calendar([made], method=method)

    def store(content: bytes, answer: str | None = None) -> None:
        """Store an invitation as the guest's program does: without its method, and with the guest's answer."""
        received = icalendar.Calendar.from_ical(content.decode())
        assert received.pop("METHOD") in ("REQUEST", "CANCEL")
        (event,) = received.walk("VEVENT")
        attendee: Any = event["ATTENDEE"]
        if answer is not None:
            attendee.params["PARTSTAT"] = answer
        status = caldav.put("/anna/calendar/invited.ics", content=received.to_ical(), headers=ICS).status_code
        assert status in (201, 204)

    store(invitation(1, day, Method.REQUEST), "ACCEPTED")
    (stored,) = entries_at(caldav, day, day + timedelta(hours=1))
    assert stored["ATTENDEE"].params["PARTSTAT"] == "ACCEPTED"
    assert stored["ORGANIZER"].params["CN"] == "Anna 'A', Agent"

    store(invitation(2, day + timedelta(hours=5), Method.REQUEST))
    (moved,) = entries_at(caldav, day, day + timedelta(hours=24))
    assert (moved["UID"], moved["SEQUENCE"]) == (stored["UID"], stored["SEQUENCE"] + 1)
    assert moved["ATTENDEE"].params["PARTSTAT"] == "NEEDS-ACTION"

    store(invitation(3, day + timedelta(hours=5), Method.CANCEL))
    (cancelled,) = entries_at(caldav, day, day + timedelta(hours=24))
    assert (cancelled["STATUS"], cancelled["UID"]) == ("CANCELLED", stored["UID"])


def accept(caldav: httpx.Client, mail: Mail) -> icalendar.Calendar:
    """Process an invitation or a cancellation that arrived by mail as the invitee's program does (RFC 6047).

    Take the part `text/calendar`, check that it is for the invitee and from the sender of the mail, and store it under
    its UID, without its method. Return what was stored.
    """
    part = mail.part("text/calendar")
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    received = icalendar.Calendar.from_ical(content.decode())
    method = received.pop("METHOD")
    assert part.get_param("method") == method
    event: Any
    (event,) = received.walk("VEVENT")
    assert event["ATTENDEE"] == f"mailto:{mail.recipient}"
    assert event["ORGANIZER"] == f"mailto:{mail.message['From'].addresses[0].addr_spec}"
    assert (method == "CANCEL") == (event["STATUS"] == "CANCELLED")
    answer = caldav.put(f"/anna/calendar/{event['UID']}.ics", content=received.to_ical(), headers=ICS)
    assert answer.status_code in (201, 204), answer.text
    return received


def test_the_mails_of_a_daemon_add_move_and_cancel_one_entry_in_the_calendar_of_an_invitee(
    start_daemon: StartDaemon, caldav: httpx.Client, tmp_path: Path
) -> None:
    configure(tmp_path, server(caldav), folder(tmp_path), "Europe/Berlin")
    day = before_a_change_of_clocks("Europe/Berlin")
    later = day + timedelta(days=2, minutes=75)
    with MailServer() as mails:
        sender = {"from": "Desk <desk@example.com>", "timezone": "Europe/Berlin"}
        daemon = start_daemon(mail={"host": "127.0.0.1", "port": mails.port, "security": "none", **sender})
        session = daemon.make(
            label=LABEL, startTime=text(day), invitees=[{"email": "bo@example.com"}, {"email": "cy@example.com"}]
        )

        def next_mail(number: int) -> Any:
            """Wait for the mail to Bo with this number, store its entry as Bo's program does, and return it."""
            eventually(lambda: len(mails.to("bo@example.com")) == number)
            (event,) = accept(caldav, mails.to("bo@example.com")[-1]).walk("VEVENT")
            return event

        invited = next_mail(1)
        where = session["urls"]["user"]
        assert listed(tmp_path, day) == [f"{day:%Y-%m-%d} 09:00|10:00|{LABEL}||{where}"]

        assert daemon.put(f"/supportsession/{session['id']}", {"startTime": text(later)}).status_code == 200
        moved = next_mail(2)
        assert (moved["UID"], moved["SEQUENCE"]) == (invited["UID"], invited["SEQUENCE"] + 1)
        assert listed(tmp_path, day) == [f"{later:%Y-%m-%d} 10:15|11:15|{LABEL}||{where}"]

        assert daemon.delete(f"/supportsession/{session['id']}").status_code == 200
        assert next_mail(3)["SEQUENCE"] > moved["SEQUENCE"]
        (cancelled,) = listed(tmp_path, day)
        assert cancelled == f"{later:%Y-%m-%d} 10:15|11:15|{LABEL}|CANCELLED |{where}"
        assert len(entries_at(caldav, day, later + timedelta(days=1))) == 1
        eventually(lambda: len(mails.accepted) == 6)
        assert [one.recipient for one in mails.accepted] == ["bo@example.com", "cy@example.com"] * 3


ICS = {"Content-Type": "text/calendar; charset=utf-8"}
