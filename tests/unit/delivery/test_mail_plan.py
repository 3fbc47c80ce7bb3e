"""Who gets which mail about an event, decided without a mail server."""

from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clocks import NOW
from tests.support.factories import HOUR, session

from tminus.config.mail import Mailbox
from tminus.delivery.mail import message, plan, templates
from tminus.delivery.mail.plan import Kind
from tminus.domain.invitees import Invitee, as_json
from tminus.domain.model import Event, Mail
from tminus.domain.types import CloseReason, EventType, MailState, Status

INVITED = as_json([Invitee("joe@example.com", "Joe")])

CREATED, SCHEDULED, MOVED, CLOSED, REMINDER = (
    EventType.CREATED,
    EventType.SCHEDULED,
    EventType.RESCHEDULED,
    EventType.CLOSED,
    EventType.REMINDER,
)


def event(kind: EventType, seq: int = 5, **fields: Any) -> Event:
    known: dict[str, Any] = {"ts": NOW, "status": Status.SCHEDULED, "expires_at": NOW, "actor": "agent:7"}
    return Event(seq=seq, session_id="xoKwKRBrbwRF", type=kind, **known | fields)


def row(state: MailState, seq: int = 4, sent: int | None = None, unanswered: int = 0) -> Mail:
    found = Mail(session_id="xoKwKRBrbwRF", position=0, seq=seq, state=state, sent_seq=sent, at=NOW)
    found.unanswered = unanswered
    return found


def decided(
    told: Event, before: Mail | None, *, newest: int = 0, repeat: bool = False, now: timedelta = timedelta(0), **of: Any
) -> Kind | str | None:
    """Return which mail the invitee gets; "lost" if it may have arrived and is not sent again."""
    found = plan.make(
        told,
        session(invitees=INVITED, **of),
        {} if before is None else {0: before},
        newest or told.seq,
        4 if told.type is REMINDER else told.seq,
        NOW + now,
        HOUR,
        repeat=repeat,
    )
    if found.lost:
        assert found.lost == (0,)
        assert not found.tasks
        return "lost"
    return found.tasks[0].kind if found.tasks else None


SENT, REFUSED, DEFERRED, SENDING, UNKNOWN = (
    MailState.SENT, MailState.REFUSED, MailState.DEFERRED, MailState.SENDING, MailState.UNKNOWN
)  # fmt: skip
TOLD = row(SENT, 4, 4)
OVER: dict[str, Any] = {"status": Status.CLOSED, "closed_at": NOW}


@pytest.mark.parametrize(
    ("kind", "before", "expected"),
    [
        (SCHEDULED, None, Kind.INVITATION),
        (CREATED, None, Kind.INVITATION),
        (MOVED, TOLD, Kind.UPDATE),
        (MOVED, row(REFUSED), Kind.INVITATION),
        (MOVED, row(UNKNOWN), Kind.INVITATION),
        (REMINDER, TOLD, Kind.REMINDER),
        (REMINDER, row(DEFERRED, 4, 3), Kind.UPDATE),
        (REMINDER, None, Kind.INVITATION),
        (REMINDER, row(DEFERRED, 5, 4), Kind.REMINDER),
        (REMINDER, row(DEFERRED, 5, 3), Kind.UPDATE),
        # about this very event
        (MOVED, row(SENT, 5, 5), None),
        (MOVED, row(REFUSED, 5), None),
        (MOVED, row(UNKNOWN, 5), None),
        (MOVED, row(DEFERRED, 5, 4), Kind.UPDATE),
        (MOVED, row(SENDING, 5, unanswered=1), "lost"),
        # a later mail has told everything
        (MOVED, row(SENT, 6, 6), None),
        (MOVED, row(SENDING, 6, unanswered=1), None),
    ],
)
def test_what_an_invitee_gets(kind: EventType, before: Mail | None, expected: Kind | str | None) -> None:
    assert decided(event(kind), before) == expected


@pytest.mark.parametrize(
    ("reason", "before", "after", "expected"),
    [
        (CloseReason.CANCELLED, TOLD, timedelta(0), Kind.CANCELLATION),
        (CloseReason.CLOSED, TOLD, timedelta(0), Kind.CANCELLATION),
        (CloseReason.EXPIRED, TOLD, timedelta(0), Kind.CANCELLATION),
        (CloseReason.CANCELLED, row(UNKNOWN), timedelta(0), Kind.CANCELLATION),
        (CloseReason.CANCELLED, None, timedelta(0), None),
        (CloseReason.CANCELLED, row(REFUSED), timedelta(0), None),
        (CloseReason.EMPTY, TOLD, timedelta(0), None),
        (CloseReason.CLOSED, TOLD, 2 * HOUR, None),
    ],
)
def test_who_is_told_of_a_cancellation(
    reason: CloseReason, before: Mail | None, after: timedelta, expected: Kind | None
) -> None:
    """`after`: when the session was closed; it was to start an hour from now."""
    assert decided(event(CLOSED, ts=NOW + after, reason=reason), before, **OVER) == expected


def test_what_nobody_needs_any_more_is_not_sent() -> None:
    assert decided(event(SCHEDULED), None, **OVER) is None
    assert decided(event(MOVED), TOLD, newest=6) is None
    assert decided(event(REMINDER), TOLD, now=2 * HOUR) is None
    assert decided(event(CLOSED, reason=CloseReason.CANCELLED), TOLD, now=3 * HOUR, **OVER) is None


def test_a_change_that_was_deferred_until_after_the_start_is_told_by_the_reminder_that_came_meanwhile() -> None:
    late = 2 * HOUR
    assert decided(event(REMINDER), row(DEFERRED, 5, 3), now=late) is Kind.UPDATE
    assert decided(event(REMINDER), row(DEFERRED, 4, 3), now=late) is Kind.UPDATE
    assert decided(event(REMINDER), row(DEFERRED, 5), now=late) is Kind.INVITATION
    assert decided(event(REMINDER), row(DEFERRED, 5, 4), now=late) is None, "the invitee knows the last change"
    assert decided(event(REMINDER), row(REFUSED, 4, 3), now=late) is None
    assert decided(event(REMINDER), row(DEFERRED, 5, 3), now=late, **OVER) is None


def test_a_mail_without_an_answer_is_sent_once_more_at_most_if_that_is_wanted() -> None:
    assert decided(event(MOVED), row(SENDING, 5, 4, unanswered=1), repeat=True) is Kind.UPDATE
    assert decided(event(MOVED), row(SENDING, 5, 4, unanswered=2), repeat=True) == "lost"


WORDS = templates.Templates(templates.read(None), "en", "UTC")
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)


@given(label=ANYTHING.filter(str.strip), name=ANYTHING, host=ANYTHING)
def test_any_names_make_a_mail_with_one_recipient_and_no_other_header(label: str, name: str, host: str) -> None:
    invitee = Invitee("joe@example.com", name)
    made = session(invitees=as_json([invitee]), label=label, user_description=host)
    sender = message.Common(Mailbox("desk@example.com", host[:50]), Mailbox(""), "Example", HOUR, HOUR)
    task = plan.Task(0, invitee, Kind.INVITATION, None)
    sent = message.make(event(SCHEDULED), made, task, sender, WORDS, NOW)
    parsed: Any = message_from_bytes(sent.content, policy=policy.default)

    assert not parsed.defects
    assert parsed.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Auto-Submitted", "X-Auto-Response-Suppress",
        "Content-Type",
    ]  # fmt: skip
    assert [one.addr_spec for one in parsed["To"].addresses] == ["joe@example.com"]
    assert [one.addr_spec for one in parsed["From"].addresses] == ["desk@example.com"]
    assert sent.content.isascii()
    assert all(len(line) <= message.LINE for line in sent.content.split(b"\r\n"))
    assert b"\n" not in sent.content.replace(b"\r\n", b"")
    kinds = [part.get_content_type() for part in parsed.walk() if not part.is_multipart()]
    assert kinds == ["text/plain", "text/html", "text/calendar", "application/ics"]
