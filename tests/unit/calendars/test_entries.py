"""The calendar entry of a session: the fields that programs compare and show, and the escaping of text."""

from datetime import UTC, datetime, timedelta
from typing import Any

import icalendar
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.clocks import NOW
from tests.support.factories import HOUR, MINUTE, session

from tminus.calendars.entries import Method, Person, Timing, calendar, entry, plain, uid
from tminus.domain.model import Session
from tminus.domain.types import CloseReason, Status

TIMING = Timing(duration=HOUR, lead=10 * MINUTE)
LINK = "https://user.example/?xoKwKRBrbwRF"
ANNA = Person(email="anna@example.com", name="Anna Agent")


def read(content: bytes) -> Any:
    (event,) = icalendar.Calendar.from_ical(content.decode()).walk("VEVENT")
    return event


def lines(content: bytes) -> list[str]:
    """Return the lines of a calendar, unfolded."""
    return content.decode().replace("\r\n ", "").split("\r\n")


def test_an_entry_has_the_plan_the_link_and_an_alarm_at_the_opening() -> None:
    one = session(version=3, updated_at=NOW + MINUTE)

    found = lines(calendar([entry(one, TIMING, LINK)]))

    for expected in (
        "DTSTART:20300107T100000Z",
        "DTEND:20300107T110000Z",
        "DTSTAMP:20300107T090100Z",
        "LAST-MODIFIED:20300107T090100Z",
        "SEQUENCE:2",
        f"UID:{'0' * 32}@tminus",
        "SUMMARY:Ada’s meeting",
        f"DESCRIPTION:Ada\\n{LINK}",
        f"LOCATION:{LINK}",
        f"URL:{LINK}",
        "STATUS:CONFIRMED",
        "TRIGGER:-PT10M",
    ):
        assert expected in found
    assert not any(line.startswith(("METHOD", "ORGANIZER", "ATTENDEE", "DTSTART;")) for line in found)


def test_a_reschedule_changes_the_entry_and_not_its_uid() -> None:
    before = session()
    after = before.model_copy(update={"start_time": NOW + 5 * HOUR, "version": 2, "user_url": "https://other.example"})

    first, second = (read(calendar([entry(one, TIMING, LINK)])) for one in (before, after))

    assert first["UID"] == second["UID"] == uid(before)
    assert second["SEQUENCE"] > first["SEQUENCE"]
    assert second.start == NOW + 5 * HOUR


@pytest.mark.parametrize("method", [None, Method.CANCEL])
def test_a_cancelled_session_is_a_cancelled_entry_without_alarm(method: Method | None) -> None:
    fields = {} if method else {"status": Status.CLOSED, "closed_at": NOW, "close_reason": CloseReason.CANCELLED}

    found = lines(calendar([entry(session(**fields), TIMING, LINK, method=method)], method=method))

    assert {"STATUS:CANCELLED", "TRANSP:TRANSPARENT"} <= {*found}
    assert "BEGIN:VALARM" not in found
    assert ("METHOD:CANCEL" in found) is bool(method)


def test_a_session_that_opened_at_once_begins_at_its_creation_and_needs_no_alarm() -> None:
    found = lines(calendar([entry(session(start_time=None, status=Status.NEW), TIMING, LINK)]))

    assert "DTSTART:20300107T090000Z" in found
    assert "BEGIN:VALARM" not in found


def test_an_invitation_has_organizer_and_attendees() -> None:
    guests = [Person(email="o'neil+x@example.com", name='Bo "B", Jr.; ^n'), Person(email="q?x@example.com")]

    content = calendar(
        [entry(session(), TIMING, LINK, method=Method.REQUEST, organizer=ANNA, attendees=guests)], method=Method.REQUEST
    )

    found = read(content)
    assert "METHOD:REQUEST" in lines(content)
    assert found["ORGANIZER"] == "mailto:anna@example.com"
    assert found["ORGANIZER"].params["CN"] == "Anna Agent"
    one, other = found["ATTENDEE"]
    assert (one, one.params["CN"]) == ("mailto:o'neil+x@example.com", "Bo 'B', Jr.; ^n")
    assert (one.params["PARTSTAT"], one.params["RSVP"]) == ("NEEDS-ACTION", "TRUE")
    assert other == "mailto:q%3Fx@example.com"


def test_a_name_cannot_add_a_line() -> None:
    evil = Person(email="q@example.com", name="Q\r\nATTENDEE:mailto:evil@example.com")

    content = calendar([entry(session(label="A\u2028B"), TIMING, LINK, organizer=ANNA, attendees=[evil])])

    assert len([line for line in lines(content) if line.startswith("ATTENDEE")]) == 1
    assert "SUMMARY:A B" in lines(content)


def test_the_direction_of_a_label_does_not_continue_after_it() -> None:
    assert plain("\u202eabc\u2066 שלום\u200f") == "abc שלום\u200f"


TEXTS = st.text(
    st.one_of(
        st.sampled_from(',;:\\nN"^\u202e\u2028\U0001f600👩\u200d🚒é\u05d0'), st.characters(exclude_categories=["Cs"])
    ),
    min_size=1,
    max_size=255,
)


@given(label=TEXTS, name=TEXTS)
@example(label=r"C:\New", name=r"\\server\Next")
def test_programs_read_any_label_and_name_as_it_was_written(label: str, name: str) -> None:
    one = session(label=label, user_description=name)

    content = calendar([entry(one, TIMING, LINK, organizer=ANNA, attendees=[Person(email="a@b.example", name=name)])])

    found = read(content)
    assert found["SUMMARY"] == plain(label)
    assert found["DESCRIPTION"] == f"{plain(name)}\n{LINK}"
    raw = content.split(b"\r\n")
    assert all(len(line) <= 75 and b"\n" not in line and b"\r" not in line for line in raw)
    assert all(line.decode() is not None for line in raw), "no character is cut in two"


DAYS = datetime.fromisoformat("2020-01-01"), datetime.fromisoformat("2037-12-31")


@given(
    start=st.datetimes(*DAYS, timezones=st.just(UTC)),
    length=st.timedeltas(MINUTE, timedelta(hours=24)),
    lead=st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_times_are_those_of_the_session_to_the_second(start: datetime, length: timedelta, lead: timedelta) -> None:
    second = timedelta(seconds=1)
    start, length, lead = start.replace(microsecond=0), length // second * second, lead // second * second
    one: Session = session(start_time=start)

    found = read(calendar([entry(one, Timing(duration=length, lead=lead), LINK)]))

    assert (found.start, found.end) == (start, start + length)
    (alarm,) = found.walk("VALARM")
    assert alarm["TRIGGER"].dt == -lead


def test_a_feed_has_a_name_and_the_time_until_it_is_read_again() -> None:
    found = lines(calendar([], name="Anna\nAgent", refresh=15 * MINUTE))

    assert {"X-WR-CALNAME:Anna Agent", "NAME:Anna Agent", "X-PUBLISHED-TTL:PT15M"} <= {*found}
    assert "REFRESH-INTERVAL;VALUE=DURATION:PT15M" in found


def test_serialized_entries_make_the_same_calendar() -> None:
    sessions = [session(external_session_object_id=f"{number:032x}") for number in range(3)]
    entries = [entry(one, TIMING, LINK) for one in sessions]
    whole = icalendar.Calendar()
    for name, value in (("PRODID", "-//tminus//tminus//EN"), ("VERSION", "2.0"), ("CALSCALE", "GREGORIAN")):
        whole.add(name, value)
    for one in entries:
        whole.add_component(one)

    assert calendar(entries) == calendar([one.to_ical() for one in entries]) == whole.to_ical()


# --- known complaints about other calendars ---------------------------------------------------------------------------


def feed(*sessions: Session) -> bytes:
    return calendar([entry(one, TIMING, LINK) for one in sessions], name="Anna", refresh=15 * MINUTE)


COMPLAINTS = {
    "entries are there twice, because each request makes new UIDs": lambda: feed(session()) == feed(session()),
    "entries are missing, because two have one UID": lambda: (
        uid(session()) != uid(session(external_session_object_id="1" * 32))
    ),
    "the calendar always seems changed, because DTSTAMP is the time of the request": lambda: (
        "DTSTAMP:20300107T090000Z" in lines(feed(session()))
    ),
    "Google does not move an entry whose SEQUENCE and LAST-MODIFIED stay": lambda: (
        {"SEQUENCE:1", "LAST-MODIFIED:20300107T090100Z"} <= {*lines(feed(session(version=2, updated_at=NOW + MINUTE)))}
    ),
    "Outlook is an hour off, because a TZID has no VTIMEZONE": lambda: b"TZID" not in feed(session()),
    "times are shifted, because they have no zone": lambda: all(
        line.endswith("Z") for line in lines(feed(session())) if line.startswith("DT")
    ),
    "validators refuse LF": lambda: feed(session()).count(b"\n") == feed(session()).count(b"\r\n"),
    "Apple's calendar imports nothing because of TRIGGER": lambda: "TRIGGER:-PT10M" in lines(feed(session())),
    "Outlook and others demand UID, DTSTAMP, PRODID and VERSION once": lambda: all(
        sum(line.startswith(f"{name}:") for line in lines(feed(session()))) == 1
        for name in ("UID", "DTSTAMP", "PRODID", "VERSION", "DTSTART", "SUMMARY")
    ),
    "a semicolon ends the description": lambda: "SUMMARY:a\\; b\\, c\\\\d" in lines(feed(session(label="a; b, c\\d"))),
    "a comma ends the name": lambda: {r"NAME:a\, b", r"X-WR-CALNAME:a\, b"} <= {*lines(calendar([], name="a, b"))},
    "a line end in a name breaks the file": lambda: (
        f"DESCRIPTION:A B\\n{LINK}" in lines(feed(session(user_description="A\nB")))
    ),
    "CalDAV servers refuse a METHOD": lambda: b"METHOD" not in feed(session()),
    "Outlook asks for an answer because of ORGANIZER": lambda: b"ORGANIZER" not in feed(session()),
}


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_no_known_complaint_is_true_here(complaint: str) -> None:
    assert COMPLAINTS[complaint]()
