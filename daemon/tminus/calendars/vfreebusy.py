"""Write the times at which an agent is busy as a calendar (VFREEBUSY)."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from icalendar import Calendar, FreeBusy

from tminus.calendars.entries import PRODUCT, Person, address
from tminus.domain.intervals import Interval

_SECOND = timedelta(seconds=1)


def calendar(
    busy: Sequence[Interval], start: datetime, end: datetime, *, now: datetime, agent: Person | None, url: str
) -> bytes:
    """Return the busy times of an agent between two times as a calendar. `url`: where it was read."""
    made = FreeBusy()
    made.add("UID", f"{hashlib.sha256(f'{url} {start} {end}'.encode()).hexdigest()[:32]}@tminus")
    made.add("DTSTAMP", now)
    made.add("DTSTART", start)
    made.add("DTEND", end)
    if agent is not None:
        made.add("ORGANIZER", address(agent), encode=False)
    made.add("URL", url)
    for one in busy:
        # Calendars have whole seconds, and a second that is partly busy is not free.
        end_of_busy = one.end.replace(microsecond=0) + (_SECOND if one.end.microsecond else timedelta(0))
        made.add("FREEBUSY", [(one.start, end_of_busy)], parameters={"FBTYPE": "BUSY"})
    whole = Calendar()
    whole.add("PRODID", PRODUCT)
    whole.add("VERSION", "2.0")
    whole.add_component(made)
    content: bytes = whole.to_ical()
    return content
