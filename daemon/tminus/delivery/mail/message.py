"""Make a mail as it is sent: header, text, HTML and calendar entry (iTIP, RFC 5546 and 6047).

Outlook and Gmail take a mail for an invitation only if all of these agree: `method` in the media type and `METHOD` in
the calendar, the recipient among the attendees, and the sender as organizer. Gmail also needs the entry as a part of
the alternatives, other programs as an attached file, so a mail has both.

The header is written here and not by `email.message`, which reads values again to fold them: a name that looks like an
address or like an encoded word would change its meaning.
"""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.header import Header
from email.utils import format_datetime

from tminus.calendars import entries
from tminus.calendars.entries import Method, Person, plain
from tminus.config.mail import Mailbox
from tminus.delivery.mail.plan import Kind, Task
from tminus.delivery.mail.templates import Templates, Words
from tminus.domain.hosts import ascii_host
from tminus.domain.model import Event, Session
from tminus.domain.types import ParticipantRole

_PLAIN_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
"""A name that needs no quotes in an address (RFC 5322, atoms)."""

_LOOKS_ENCODED = "=?"

_FOLDED = 76
"""Maximum length of a line with encoded words (RFC 2047), and of other lines where they can be folded."""

_PHRASE_WORD = 45
"""Maximum bytes of UTF-8 in an encoded word, which has at most 75 characters (RFC 2047)."""


@dataclass(frozen=True, slots=True)
class Common:
    """The settings that all mails have in common."""

    mailbox: Mailbox
    reply_to: Mailbox
    organization: str
    duration: timedelta
    lead: timedelta


@dataclass(frozen=True, slots=True)
class Message:
    """A mail, ready to be sent."""

    id: str
    """The `Message-ID` without its brackets: the same for each attempt, so that servers recognize a second copy."""
    recipient: str
    content: bytes
    needs_utf8: bool
    """Whether the server must support SMTPUTF8: an address has other than ASCII letters before the @."""


def make(event: Event, session: Session, task: Task, common: Common, templates: Templates, now: datetime) -> Message:
    """Return the mail of a task about an event."""
    invitee = task.invitee
    is_host = invitee.role is ParticipantRole.HOST
    link = f"{session.host_url}#host={session.host_key}" if is_host else session.user_url
    words = templates.render(
        kind=task.kind.value,
        label=session.label,
        host=session.user_description,
        name=invitee.name,
        role=invitee.role.value,
        link=link,
        organization=common.organization,
        start=session.start_time,
        previous=event.previous_start_time,
    )
    domain = common.mailbox.email.rpartition("@")[2]
    message_id = f"{session.external_session_object_id}.{event.seq}.{task.position + 1}@{ascii_host(domain)}"
    to = Mailbox(ascii_domain(invitee.email), invitee.name)
    if task.kind is Kind.REMINDER:
        # Without the calendar entry, which has not changed: programs would ask again whether the person will attend.
        return _assemble(message_id, to, words, b"", "", common, now)
    method = Method.CANCEL if task.kind is Kind.CANCELLATION else Method.REQUEST
    made = entries.entry(
        session,
        entries.Timing(duration=common.duration, lead=common.lead),
        link,
        method=method,
        # The sender of the mail: programs refuse an invitation, and more so a cancellation, from anybody else.
        organizer=Person(email=ascii_domain(common.mailbox.email), name=session.user_description),
        # Only the recipient, who must not see the addresses of the others.
        attendees=[Person(email=to.email, name=invitee.name)],
    )
    calendar = entries.calendar([made], method=method)
    return _assemble(message_id, to, words, calendar, method.value, common, now)


def test(to: Mailbox, common: Common, now: datetime, number: str) -> Message:
    """Return a test mail. `number` becomes the first part of its `Message-ID`."""
    words = Words("A test of tminus", "This mail is a test: tminus can send mail.\n", "")
    domain = ascii_host(to.email.rpartition("@")[2])
    return _assemble(f"{number}@{domain}", Mailbox(ascii_domain(to.email), to.name), words, b"", "", common, now)


def ascii_domain(email: str) -> str:
    """Return an address with its domain in ASCII, as every mail server understands it."""
    local, _, domain = email.rpartition("@")
    return f"{local}@{ascii_host(domain)}"


def _assemble(
    message_id: str, to: Mailbox, words: Words, calendar: bytes, method: str, common: Common, now: datetime
) -> Message:
    boundary = f"=_tminus_{message_id.partition('@')[0].replace('.', '_')}"
    head = [
        _address_line("From: ", Mailbox(ascii_domain(common.mailbox.email), common.mailbox.name)),
        _address_line("To: ", to),
        _text_line("Subject: ", words.subject),
        f"Date: {format_datetime(now)}",
        f"Message-ID: <{message_id}>",
        "MIME-Version: 1.0",
        # Programs that answer by themselves, such as out-of-office replies, do not answer such mails.
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: All",
    ]
    if common.reply_to:
        head.append(_address_line("Reply-To: ", Mailbox(ascii_domain(common.reply_to.email), common.reply_to.name)))
    text = _part("text/plain; charset=utf-8", words.text.encode())
    alternatives = [text]
    if words.html:
        alternatives.append(_part("text/html; charset=utf-8", words.html.encode()))
    if calendar:
        alternatives.append(_part(f"text/calendar; charset=utf-8; method={method}", calendar))
    body = _multipart("alternative", f"{boundary}_a", alternatives) if len(alternatives) > 1 else text
    if calendar:
        attached = _part('application/ics; name="invite.ics"', calendar, 'attachment; filename="invite.ics"')
        body = _multipart("mixed", boundary, [body, attached])
    needs_utf8 = not to.email.isascii()
    content = "\r\n".join(head).encode("utf-8" if needs_utf8 else "ascii") + b"\r\n" + body
    return Message(message_id, to.email, content, needs_utf8)


def _part(media_type: str, content: bytes, disposition: str = "") -> bytes:
    """Return a part in base64: no server on the way changes its lines, and none can be too long."""
    head = f"Content-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n"
    if disposition:
        head += f"Content-Disposition: {disposition}\r\n"
    lines = base64.encodebytes(_with_crlf(content)).replace(b"\n", b"\r\n")
    return head.encode() + b"\r\n" + lines


def _with_crlf(content: bytes) -> bytes:
    return re.sub(rb"\r?\n|\r", b"\r\n", content)


def _multipart(kind: str, boundary: str, parts: Iterable[bytes]) -> bytes:
    head = f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\n\r\n'.encode()
    return (
        head
        + b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts)
        + b"--%s--\r\n" % (boundary.encode())
    )


def _address_line(header: str, mailbox: Mailbox) -> str:
    """Return a header line with an address, its name encoded if it could be taken for anything else."""
    name = plain(mailbox.name).strip()
    if not name:
        return header + mailbox.email
    if not (_PLAIN_PHRASE.fullmatch(name) and len(name) <= _PHRASE_WORD and _LOOKS_ENCODED not in name):
        name = _encoded_words(name, len(header))
    return f"{header}{name}\r\n <{mailbox.email}>"


def _text_line(header: str, text: str) -> str:
    """Return a header line with a text, folded."""
    if text.isascii() and _LOOKS_ENCODED not in text:
        folded = header + Header(text, "us-ascii", header_name=header[:-2], maxlinelen=_FOLDED).encode(linesep="\r\n")
        if all(len(line) <= _FOLDED for line in folded.split("\r\n")):  # else it has a word that is too long
            return folded
    return header + _encoded_words(text, len(header))


def _encoded_words(text: str, taken: int) -> str:
    """Return text as encoded words (RFC 2047), one on each line. No character is divided between two of them.

    `taken`: the length of what precedes the first word on its line.
    """
    words, part = [], b""
    most = (_FOLDED - taken - len("=?utf-8?b??=")) // 4 * 3
    for char in text:
        encoded = char.encode(errors="replace")
        if len(part) + len(encoded) > most:
            words.append(part)
            part, most = b"", _PHRASE_WORD
        part += encoded
    return "\r\n ".join(f"=?utf-8?b?{base64.b64encode(one).decode()}?=" for one in [*words, part])
