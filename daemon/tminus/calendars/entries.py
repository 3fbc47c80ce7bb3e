"""Make the calendar entry (VEVENT) of a session, and calendars of such entries.

The UID of a session's entry is the same in every calendar and never changes. So a program that reads the entry again
moves or cancels the one that it has. Times are in UTC, so no program needs the rules of a time zone.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote

from icalendar import Alarm, Calendar, Event, vCalAddress, vDuration, vText

from tminus.domain.types import CloseReason

MEDIA_TYPE = "text/calendar; charset=utf-8"
PRODUCT = "-//tminus//tminus//EN"

_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of the text after them, even of text that a program shows after a title."""

_END = b"END:VCALENDAR\r\n"

_IN_ADDRESS = "@!$'*+-._~"
"""The characters of mail addresses, besides letters and digits, that a `mailto:` has unencoded (RFC 6068)."""


class Method(StrEnum):
    """What a mail asks the recipient's program to do with the calendar in it (RFC 5546)."""

    REQUEST = "REQUEST"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """The organizer of a session, or somebody who is invited."""

    email: str
    name: str = ""


class EntrySession(Protocol):
    """The fields of a session that an entry needs: a `domain.model.Session`, or a part of one."""

    @property
    def external_session_object_id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def user_description(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def start_time(self) -> datetime | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def updated_at(self) -> datetime: ...
    @property
    def closed_at(self) -> datetime | None: ...
    @property
    def close_reason(self) -> CloseReason | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times of an entry that are settings, not fields of the session."""

    duration: timedelta
    """The length of the entry (`lifecycle.duration`)."""
    lead: timedelta
    """How long before its start the session opens (`lifecycle.lead`)."""


def uid(session: EntrySession) -> str:
    """Return the UID of the session's entry. It never changes, not even by a restore or with another host name."""
    return f"{session.external_session_object_id}@tminus"


def entry(
    session: EntrySession,
    timing: Timing,
    link: str,
    *,
    method: Method | None = None,
    organizer: Person | None = None,
    attendees: Sequence[Person] = (),
    notes: Sequence[str] = (),
) -> Event:
    """Return the entry of a session: from its start, or its creation if it was created to open at once.

    It is cancelled if the session was cancelled before it opened, or if `method` is CANCEL. An entry without attendees
    has no organizer: programs would treat it as an invitation, and ask for an answer. `link`: the URL with which the
    readers of this entry join. `notes`: lines for the description, below the link.
    """
    starts = session.start_time or session.created_at
    cancelled = method is Method.CANCEL or session.close_reason == CloseReason.CANCELLED
    title = _Text(plain(session.label))
    made = Event()
    made.add("UID", uid(session))
    # Not the present time: the entry would differ in each answer, so a client's copy would never be current.
    made.add("DTSTAMP", session.updated_at)
    made.add("LAST-MODIFIED", session.updated_at)
    made.add("CREATED", session.created_at)
    made.add("SEQUENCE", session.version - 1)
    made.add("DTSTART", starts)
    made.add("DTEND", starts + timing.duration)
    made.add("SUMMARY", title)
    made.add("DESCRIPTION", _Text("\n".join([plain(session.user_description), link, *notes])))
    # Google Calendar shows a link only in the description or the place, Outlook in the place.
    made.add("LOCATION", _Text(link))
    made.add("URL", link)
    made.add("STATUS", "CANCELLED" if cancelled else "CONFIRMED")
    made.add("TRANSP", "TRANSPARENT" if cancelled else "OPAQUE")
    if organizer is not None and attendees:
        made.add("ORGANIZER", address(organizer), encode=False)
        for attendee in attendees:
            invited = address(attendee)
            invited.params["CUTYPE"] = vText("INDIVIDUAL")
            invited.params["ROLE"] = vText("REQ-PARTICIPANT")
            invited.params["PARTSTAT"] = vText("NEEDS-ACTION")
            invited.params["RSVP"] = vText("TRUE")
            made.add("ATTENDEE", invited, encode=False)
    if session.start_time is not None and session.closed_at is None and not cancelled:
        alarm = Alarm()
        alarm.add("ACTION", "DISPLAY")
        alarm.add("DESCRIPTION", title)
        alarm.add("TRIGGER", vDuration(-timing.lead))
        made.add_component(alarm)
    return made


def calendar(
    entries: Iterable[Event | bytes], *, method: Method | None = None, name: str = "", refresh: timedelta | None = None
) -> bytes:
    """Return a calendar of entries as it is sent: in UTF-8, with CRLF, and with lines of at most 75 bytes.

    `entries`: components, or what their `to_ical` has returned. For a calendar to which somebody subscribes, `name` is
    the name that programs show, and `refresh` is how long they are asked to wait before they read it again.
    """
    made = Calendar()
    made.add("PRODID", PRODUCT)
    made.add("VERSION", "2.0")
    made.add("CALSCALE", "GREGORIAN")
    if method is not None:
        made.add("METHOD", method.value)
    if name:
        made.add("NAME", _Text(plain(name)))
        made.add("X-WR-CALNAME", _Text(plain(name)))
    if refresh is not None:
        made.add("REFRESH-INTERVAL", vDuration(refresh), parameters={"VALUE": "DURATION"})
        made.add("X-PUBLISHED-TTL", vDuration(refresh))
    head, end, _ = made.to_ical().partition(_END)
    return b"".join([head, *(one if isinstance(one, bytes) else one.to_ical() for one in entries), end])


class _Text(vText):
    """Text that is escaped by RFC 5545, section 3.3.11.

    `icalendar` turns a backslash with a capital N, as in a Windows path, into a line end, and does not escape names of
    calendars.
    """

    def to_ical(self) -> bytes:
        escaped = self.replace("\\", r"\\").replace(";", r"\;").replace(",", r"\,").replace("\n", r"\n")
        return escaped.encode()


def plain(text: str) -> str:
    """Return text on one line, without control characters and without marks that change the direction of text.

    Some programs that read calendars end a line at any of Unicode's line ends.
    """
    if text.isprintable():
        return text
    return "".join(_plain(char) for char in text)


def _plain(char: str) -> str:
    if unicodedata.category(char) in ("Cc", "Zl", "Zp"):
        return " "
    return "" if char in _DIRECTION else char


def address(person: Person) -> vCalAddress:
    """Return the address of a person, with the name."""
    made = vCalAddress(f"mailto:{quote(person.email, safe=_IN_ADDRESS)}")
    if person.name:
        # A quoted parameter cannot contain a double quote.
        made.params["CN"] = vText(plain(person.name).replace('"', "'"))
    return made
