"""The plan of the mails about an event: which mail each invitee gets. No mail server is needed."""

from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from hypothesis import example, given
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
    defaults: dict[str, Any] = {"ts": NOW, "status": Status.SCHEDULED, "expires_at": NOW, "actor": "agent:7"}
    return Event(seq=seq, session_id="xoKwKRBrbwRF", type=kind, **defaults | fields)


def row(state: MailState, seq: int = 4, sent: int | None = None, unanswered: int = 0) -> Mail:
    found = Mail(session_id="xoKwKRBrbwRF", position=0, seq=seq, state=state, sent_seq=sent, at=NOW)
    found.unanswered = unanswered
    return found


def decided(
    cause: Event,
    before: Mail | None,
    *,
    newest: int = 0,
    repeat: bool = False,
    now: timedelta = timedelta(0),
    **fields: Any,
) -> Kind | str | None:
    """Return the kind of the mail for the invitee, or None; "lost" if it may have arrived and is not sent again."""
    found = plan.make(
        cause,
        session(invitees=INVITED, **fields),
        {} if before is None else {0: before},
        newest or cause.seq,
        4 if cause.type is REMINDER else cause.seq,
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
MAILED = row(SENT, 4, 4)
CLOSED_FIELDS: dict[str, Any] = {"status": Status.CLOSED, "closed_at": NOW}


@pytest.mark.parametrize(
    ("kind", "before", "expected"),
    [
        (SCHEDULED, None, Kind.INVITATION),
        (CREATED, None, Kind.INVITATION),
        (MOVED, MAILED, Kind.UPDATE),
        (MOVED, row(REFUSED), Kind.INVITATION),
        (MOVED, row(UNKNOWN), Kind.INVITATION),
        (REMINDER, MAILED, Kind.REMINDER),
        (REMINDER, row(DEFERRED, 4, 3), Kind.UPDATE),
        (REMINDER, None, Kind.INVITATION),
        (REMINDER, row(DEFERRED, 5, 4), Kind.REMINDER),
        (REMINDER, row(DEFERRED, 5, 3), Kind.UPDATE),
        # the last mail was about this event
        (MOVED, row(SENT, 5, 5), None),
        (MOVED, row(REFUSED, 5), None),
        (MOVED, row(UNKNOWN, 5), None),
        (MOVED, row(DEFERRED, 5, 4), Kind.UPDATE),
        (MOVED, row(SENDING, 5, unanswered=1), "lost"),
        # the last mail was about a later event
        (MOVED, row(SENT, 6, 6), None),
        (MOVED, row(SENDING, 6, unanswered=1), None),
    ],
)
def test_what_an_invitee_gets(kind: EventType, before: Mail | None, expected: Kind | str | None) -> None:
    assert decided(event(kind), before) == expected


@pytest.mark.parametrize(
    ("reason", "before", "after", "expected"),
    [
        (CloseReason.CANCELLED, MAILED, timedelta(0), Kind.CANCELLATION),
        (CloseReason.CLOSED, MAILED, timedelta(0), Kind.CANCELLATION),
        (CloseReason.EXPIRED, MAILED, timedelta(0), Kind.CANCELLATION),
        (CloseReason.CANCELLED, row(UNKNOWN), timedelta(0), Kind.CANCELLATION),
        (CloseReason.CANCELLED, None, timedelta(0), None),
        (CloseReason.CANCELLED, row(REFUSED), timedelta(0), None),
        (CloseReason.EMPTY, MAILED, timedelta(0), None),
        (CloseReason.CLOSED, MAILED, 2 * HOUR, None),
    ],
)
def test_who_is_told_of_a_cancellation(
    reason: CloseReason, before: Mail | None, after: timedelta, expected: Kind | None
) -> None:
    """`after` is the time from now to the close of the session. It was to start in an hour."""
    assert decided(event(CLOSED, ts=NOW + after, reason=reason), before, **CLOSED_FIELDS) == expected


def test_a_mail_that_is_no_longer_needed_is_not_sent() -> None:
    assert decided(event(SCHEDULED), None, **CLOSED_FIELDS) is None
    assert decided(event(MOVED), MAILED, newest=6) is None
    assert decided(event(REMINDER), MAILED, now=2 * HOUR) is None
    assert decided(event(CLOSED, reason=CloseReason.CANCELLED), MAILED, now=3 * HOUR, **CLOSED_FIELDS) is None


def test_a_change_that_was_deferred_until_after_the_start_is_mailed_for_the_reminder() -> None:
    late = 2 * HOUR
    assert decided(event(REMINDER), row(DEFERRED, 5, 3), now=late) is Kind.UPDATE
    assert decided(event(REMINDER), row(DEFERRED, 4, 3), now=late) is Kind.UPDATE
    assert decided(event(REMINDER), row(DEFERRED, 5), now=late) is Kind.INVITATION
    assert decided(event(REMINDER), row(DEFERRED, 5, 4), now=late) is None, "the invitee knows the last change"
    assert decided(event(REMINDER), row(REFUSED, 4, 3), now=late) is None
    assert decided(event(REMINDER), row(DEFERRED, 5, 3), now=late, **CLOSED_FIELDS) is None


def test_a_mail_without_an_answer_is_sent_once_more_at_most_if_repeat_is_set() -> None:
    assert decided(event(MOVED), row(SENDING, 5, 4, unanswered=1), repeat=True) is Kind.UPDATE
    assert decided(event(MOVED), row(SENDING, 5, 4, unanswered=2), repeat=True) == "lost"


TEMPLATES = templates.Templates(templates.read(None), "en", "UTC")
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)


@example(label="é" * 100, name="é" * 100, host="é" * 50)
@example(label="x" * 100, name="x" * 100, host="x" * 50)
@given(label=ANYTHING.filter(str.strip), name=ANYTHING, host=ANYTHING)
def test_any_names_make_a_mail_with_one_recipient_and_no_other_header(label: str, name: str, host: str) -> None:
    invitee = Invitee("joe@example.com", name)
    made = session(invitees=as_json([invitee]), label=label, user_description=host)
    reply_to = Mailbox("desk@example.com", name[:50])
    sender = message.Common(Mailbox("desk@example.com", host[:50]), reply_to, "Example", HOUR, HOUR)
    task = plan.Task(0, invitee, Kind.INVITATION, None)
    sent = message.make(event(SCHEDULED), made, task, sender, TEMPLATES, NOW)
    parsed: Any = message_from_bytes(sent.content, policy=policy.default)

    assert not parsed.defects
    assert parsed.keys() == [
        "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Auto-Submitted", "X-Auto-Response-Suppress",
        "Reply-To", "Content-Type",
    ]  # fmt: skip
    assert [one.addr_spec for one in parsed["To"].addresses] == ["joe@example.com"]
    assert [one.addr_spec for one in parsed["From"].addresses] == ["desk@example.com"]
    assert sent.content.isascii()
    assert all(len(line) <= 76 for line in sent.content.split(b"\r\n"))
    assert b"\n" not in sent.content.replace(b"\r\n", b"")
    kinds = [part.get_content_type() for part in parsed.walk() if not part.is_multipart()]
    assert kinds == ["text/plain", "text/html", "text/calendar", "application/ics"]
