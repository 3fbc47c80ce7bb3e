"""Mail to invitees, over SMTP to a real server: who gets which mail, each once, and the state that is recorded."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import icalendar
import pytest
import trustme
from tests.support.databases import Database
from tests.support.mailserver import Mail, MailServer, drop, hang
from tests.support.receivers import RawReceiver
from tests.support.waiting import eventually
from tests.support.worlds import World

from tminus import clock as wall_clock
from tminus.config import Settings
from tminus.delivery import EndpointStatus, Webhooks
from tminus.delivery.mail import smtp
from tminus.domain.invitees import Invitee, as_json
from tminus.domain.model import Delivery, Session
from tminus.domain.types import MailState, ParticipantRole
from tminus.storage import mails

pytestmark = pytest.mark.slow

SOON = timedelta(milliseconds=20)
DAY = timedelta(days=1)

ANNA = Invitee("anna@example.com", "Anna Agent", ParticipantRole.HOST)
JOE = Invitee("joe@example.com", "Joe")
EVE = Invitee("eve@example.com")

Lines = Callable[[], list[dict[str, Any]]]

ON_SQLITE = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
"""For tests whose subject does not depend on the database."""


class Mailer:
    """A store with mail, as in a daemon."""

    def __init__(self, database: Database, state: Path) -> None:
        store = database.open(wall_clock.now, committed=self._committed)
        self.world = World(store, wall_clock)  # type: ignore[arg-type]
        self.results: list[MailState] = []
        self.state = state
        self.start_webhooks()

    def start_webhooks(self) -> None:
        self.webhooks = Webhooks(self.world.store, self.state, first_delay=SOON, on_mail=self.results.append)
        self.webhooks.start()

    def _committed(self, _tx: object) -> None:
        if hasattr(self, "webhooks"):
            self.webhooks.wake()

    def apply(self, port: int, password: str = "", **more: Any) -> None:
        mail = {"host": "127.0.0.1", "port": port, "security": "none", "from": "Desk <desk@example.com>"}
        settings = Settings.model_validate({"mail": {**mail, "timeout": "30s", **more}})
        self.webhooks.apply(settings, {"mail": (password,)})

    def schedule(self, *invited: Invitee, label: str = "Review", start: datetime | None = None) -> Session:
        start = start or wall_clock.now() + DAY
        return self.world.create(label=label, start_time=start, invitees=as_json(invited or (ANNA, JOE, EVE)))

    def status(self) -> EndpointStatus:
        return self.world.store.read(lambda view: self.webhooks.endpoint_status(view, "mail"))

    def deliveries(self) -> list[Delivery]:
        found = self.world.store.read(
            lambda view: self.webhooks.deliveries(view, "mail", failed=False, before=None, limit=1000)[0]
        )
        return found[::-1]

    def states(self, session: Session) -> list[MailState]:
        rows = self.world.store.read(lambda view: mails.of_session(view, session.id))
        return [rows[position].state for position in sorted(rows)]

    def await_idle(self) -> None:
        """Wait until the endpoint has processed every event and every replay."""
        eventually(lambda: self.status().backlog.events == 0 and self.status().replays == 0)


@pytest.fixture
def mailer(database: Database, tmp_path: Path) -> Iterator[Mailer]:
    one = Mailer(database, tmp_path)
    yield one
    one.webhooks.stop()


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as one:
        yield one


def calendar_of(mail: Mail) -> icalendar.Calendar:
    calendar = icalendar.Calendar.from_ical(mail.text("text/calendar"))
    assert isinstance(calendar, icalendar.Calendar)
    return calendar


def event_of(mail: Mail) -> Any:
    (event,) = calendar_of(mail).walk("VEVENT")
    return event


def test_everybody_gets_an_invitation_an_update_and_a_cancellation(mailer: Mailer, server: MailServer) -> None:
    mailer.schedule(JOE)  # before mail was configured: no invitee gets a mail
    mailer.apply(server.port)
    start, later = (wall_clock.now().replace(microsecond=0) + days * DAY for days in (1, 2))
    session = mailer.schedule(ANNA, JOE, start=start)
    mailer.await_idle()
    assert [mail.recipient for mail in server.accepted] == [ANNA.email, JOE.email]
    mailer.world.reschedule(session, later)
    mailer.await_idle()
    mailer.world.close(session)
    mailer.await_idle()

    for invitee in (ANNA, JOE):
        received = server.to(invitee.email)
        assert [mail.message["Subject"] for mail in received] == [
            "Invitation: Review",
            "New time: Review",
            "Cancelled: Review",
        ]
        assert [str(calendar_of(mail)["METHOD"]) for mail in received] == ["REQUEST", "REQUEST", "CANCEL"]
        events = [event_of(mail) for mail in received]
        assert len({str(event["UID"]) for event in events}) == 1
        sequence = [int(event["SEQUENCE"]) for event in events]
        assert sequence == sorted(set(sequence)), "each sequence number is larger than the previous one"
        assert [event["DTSTART"].dt for event in events[:2]] == [start, later]
        assert str(events[2]["STATUS"]) == "CANCELLED"
        assert len({mail.message["Message-ID"] for mail in received}) == 3
    assert mailer.results == [MailState.SENT] * 6
    assert [row.ok for row in mailer.deliveries()] == [True] * 6


@ON_SQLITE
def test_only_hosts_get_the_hosts_link(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port)
    session = mailer.schedule(ANNA, JOE)
    mailer.await_idle()
    secret = f"{session.host_url}#host={session.host_key}"

    host, guest = server.to(ANNA.email)[0], server.to(JOE.email)[0]
    for media_type in ("text/plain", "text/calendar"):
        assert secret in host.text(media_type).replace("\r\n ", "")
        assert session.user_url in guest.text(media_type).replace("\r\n ", "")
    assert session.host_key.encode() not in guest.content
    for part in guest.message.walk():
        if not part.is_multipart():
            assert session.host_key.encode() not in part.get_payload(decode=True)
    assert ANNA.email not in guest.text("text/calendar"), "the mail names no other invitee"


@ON_SQLITE
def test_a_mail_has_all_that_mail_programs_need_to_show_an_invitation(mailer: Mailer, server: MailServer) -> None:
    """Users of Outlook, Gmail and others have reported that an invitation is not shown if one of these is missing."""
    mailer.apply(server.port, reply_to="Help <help@example.com>", bounces_to="bounces@example.com")
    mailer.schedule(JOE, label="Prüfung, “Teil 1”; mit Zeilen \\n und 100 %" + " sehr lang" * 20)
    mailer.await_idle()
    (mail,) = server.accepted
    message = mail.message

    assert message.get_content_type() == "multipart/mixed"
    alternatives, attached = message.iter_parts()
    assert [part.get_content_type() for part in alternatives.iter_parts()] == [
        "text/plain", "text/html", "text/calendar",
    ]  # fmt: skip
    calendar = mail.part("text/calendar")
    assert calendar.get_param("method") == "REQUEST" == str(calendar_of(mail)["METHOD"])
    assert calendar.get_content_charset() == "utf-8"
    assert calendar.get_content_disposition() is None, "Outlook shows an attachment only as a file"
    assert attached.get_filename() == "invite.ics"
    content = calendar.get_payload(decode=True)
    assert content == attached.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert content.count(b"\n") == content.count(b"\r\n")
    assert all(len(line) <= 75 for line in content.split(b"\r\n"))
    assert b"\r\nBEGIN:VEVENT\r\n" in content, "a blank before it would continue the previous line"
    event = event_of(mail)
    assert str(event["ATTENDEE"]) == "mailto:joe@example.com"
    assert str(event["ORGANIZER"]).removeprefix("mailto:") == parseaddr(str(message["From"]))[1]
    assert {"DTSTAMP", "DTEND", "LOCATION", "SEQUENCE", "SUMMARY"} <= event.keys()
    assert mail.text().strip()
    assert "Prüfung" in mail.text("text/html")
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))
    assert mail.content.isascii()
    assert message["Reply-To"] == "Help <help@example.com>"
    assert mail.sender == "bounces@example.com"
    assert message["Auto-Submitted"] == "auto-generated"
    assert abs(message["Date"].datetime - datetime.now(UTC)) < DAY


@ON_SQLITE
def test_names_and_labels_cannot_add_a_header_or_an_address(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port, language="de")
    evil = [
        Invitee("a@example.com", 'Joe" <x@evil.test>, "'),
        Invitee("b@example.com", "=?utf-8?q?=0D=0ABcc:_x@evil.test?="),
        Invitee("c@example.com", "a, b; c: (d) <e@evil.test>"),
        Invitee("d@example.com", "\u2028Bcc: x@evil.test\u202e" + "ü" * 200),
        Invitee("f@example.com", "x" * 255),
    ]
    label = "\u2028Bcc: x@evil.test =?utf-8?b?Qg==?= <b>&amp;\u0085 " + "\U0001f600" * 50
    mailer.schedule(*evil, label=label)
    mailer.await_idle()

    assert [mail.recipient for mail in server.accepted] == [one.email for one in evil]
    for mail in server.accepted:
        message = mail.message
        assert message["Bcc"] is None
        (to,) = message["To"].addresses
        assert to.addr_spec == mail.recipient
        assert not to.display_name or "evil" in to.display_name or to.display_name.startswith("x")
        assert "=?utf-8?b?Qg==?=" in message["Subject"]
        assert "<b>" not in mail.text("text/html").partition("<body")[2]
        assert message["Subject"].startswith("Einladung:")


@ON_SQLITE
def test_international_addresses(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port)
    session = mailer.schedule(Invitee("用户@例え.テスト", "用户"), Invitee("joe@straße.test"))
    mailer.await_idle()

    first, second = server.accepted
    assert first.recipient == "用户@xn--r8jz45g.xn--zckzah"
    assert "SMTPUTF8" in first.options
    assert second.recipient == "joe@xn--strae-oqa.test"
    assert "SMTPUTF8" not in second.options
    assert "用户@xn--r8jz45g.xn--zckzah".encode() in first.content
    with MailServer(enable_SMTPUTF8=False) as old:
        mailer.apply(old.port)
        mailer.world.reschedule(session, wall_clock.now() + 2 * DAY)
        mailer.await_idle()
        assert [mail.recipient for mail in old.accepted] == ["joe@xn--strae-oqa.test"]
        assert mailer.states(session) == [MailState.REFUSED, MailState.SENT]


def test_one_of_three_recipients_is_refused_and_the_others_get_their_mail(
    mailer: Mailer, server: MailServer, log_lines: Lines
) -> None:
    server.recipients[JOE.email] = f"550 5.1.1 <{JOE.email}>: user unknown"
    mailer.apply(server.port)
    session = mailer.schedule()
    mailer.await_idle()

    assert [mail.recipient for mail in server.accepted] == [ANNA.email, EVE.email]
    assert mailer.states(session) == [MailState.SENT, MailState.REFUSED, MailState.SENT]
    (row,) = [row for row in mailer.deliveries() if not row.ok]
    assert (row.status, row.error) == (550, f"invitee 2 of session {session.id}: 5.1.1 <…@…>: user unknown")
    (line,) = eventually(lambda: [line for line in log_lines() if line["event"] == "mail.refused"])
    assert (line["session_id"], line["invitee"], line["smtp_code"]) == (session.id, 2, 550)
    assert "example.com" not in str(log_lines())
    server.recipients.clear()
    # After the error is fixed, a replay sends the mail only to the invitee who did not get it.
    asyncio.run(mailer.webhooks.replay("mail", from_seq=None, since=None, session=session.id))
    eventually(lambda: mailer.states(session) == [MailState.SENT] * 3)
    mailer.await_idle()
    assert sorted(mail.recipient for mail in server.accepted) == sorted(one.email for one in (ANNA, JOE, EVE))


def test_a_deferred_recipient_delays_nobody_else(mailer: Mailer, server: MailServer) -> None:
    server.recipients[JOE.email] = "451 4.7.1 greylisted"
    mailer.apply(server.port)
    first, second = mailer.schedule(), mailer.schedule(EVE)
    eventually(lambda: len(server.to(EVE.email)) == 2 and mailer.status().backlog.events == 0)
    assert mailer.status().state.failures == 0
    assert mailer.status().replays == 1
    assert mailer.states(first)[1] is MailState.DEFERRED
    server.recipients.clear()
    eventually(lambda: mailer.states(first) == [MailState.SENT] * 3)
    mailer.await_idle()
    assert [len(server.to(one.email)) for one in (ANNA, JOE, EVE)] == [1, 1, 2]
    assert mailer.states(second) == [MailState.SENT]


@ON_SQLITE
@pytest.mark.parametrize(
    ("at", "answer"),
    [
        ("RCPT", drop),
        ("RCPT", "421 4.7.0 try later"),
        ("DATA", drop),
        ("DATA", "421 4.7.0 try later"),
        ("text", "421 4.7.0 try later"),  # after a drop nobody knows whether the server has accepted the mail
    ],
)
def test_a_mail_at_which_the_server_ends_the_connection_delays_nobody_else(
    mailer: Mailer, server: MailServer, at: str, answer: Any
) -> None:
    if at == "text":
        server.texts = [lambda smtp: answer if getattr(smtp.envelope, "rcpt_tos", []) == [JOE.email] else "250 OK"]
    else:
        (server.recipients if at == "RCPT" else server.data)[JOE.email] = answer
    mailer.apply(server.port)
    first, second = mailer.schedule(JOE, EVE), mailer.schedule(ANNA)
    eventually(lambda: mailer.status().backlog.events == 0)
    eventually(lambda: mailer.states(first) == [MailState.DEFERRED, MailState.SENT])  # in turn with `SENDING`
    assert mailer.states(second) == [MailState.SENT]
    assert (mailer.status().state.failures, mailer.status().replays) == (0, 1)
    server.recipients.clear()
    server.data.clear()
    server.texts = ["250 OK"]
    mailer.await_idle()
    assert mailer.states(first) == [MailState.SENT] * 2
    assert len(server.to(JOE.email)) == 1


@ON_SQLITE
@pytest.mark.parametrize("at", ["RCPT", "DATA"])
def test_a_connection_that_ends_by_chance_defers_no_mail(mailer: Mailer, server: MailServer, at: str) -> None:
    answers = server.recipients if at == "RCPT" else server.data

    def drop_once(smtp_server: Any) -> str:
        answers.clear()
        return drop(smtp_server)

    answers[JOE.email] = drop_once
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    mailer.await_idle()
    assert mailer.states(session) == [MailState.SENT] * 2
    assert server.connections == 2
    assert MailState.DEFERRED not in mailer.results


@ON_SQLITE
def test_a_server_that_goes_down_at_a_recipient_fails_the_endpoint(mailer: Mailer, server: MailServer) -> None:
    server.senders = ["250 OK", "421 4.3.2 closing"]
    server.recipients[JOE.email] = drop
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    eventually(lambda: mailer.status().state.failures > 1)
    assert mailer.states(session) == []
    assert mailer.status().backlog.events == 1
    server.senders = ["250 OK"]
    server.recipients.clear()
    mailer.await_idle()
    assert mailer.states(session) == [MailState.SENT] * 2


@ON_SQLITE
@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (["450 4.3.2 try later"], "450"),
        (["421 4.3.2 closing"], "421"),
        (["550 5.7.1 sender not allowed"], "550"),
        ([drop], "closed the connection"),
    ],
)
def test_while_the_server_takes_no_mail_the_endpoint_fails_and_nothing_is_lost(
    mailer: Mailer, server: MailServer, answers: list[Any], error: str
) -> None:
    server.senders = answers
    mailer.apply(server.port)
    session = mailer.schedule()
    eventually(lambda: mailer.status().state.failures > 2)
    assert error in (mailer.status().state.last_error or "")
    assert not server.accepted
    server.senders = ["250 OK"]
    mailer.await_idle()
    assert mailer.states(session) == [MailState.SENT] * 3
    assert len(server.accepted) == 3


@ON_SQLITE
@pytest.mark.parametrize(
    ("answer", "state"),
    [("554 5.6.0 spam", MailState.REFUSED), ("552 too large", MailState.REFUSED)],
)
def test_a_refused_text_is_recorded(mailer: Mailer, server: MailServer, answer: str, state: MailState) -> None:
    server.texts = [answer, "250 OK"]
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    mailer.await_idle()
    assert mailer.states(session) == [state, MailState.SENT]


@ON_SQLITE
def test_a_text_that_is_deferred_is_sent_again(mailer: Mailer, server: MailServer) -> None:
    server.texts = ["452 4.3.1 no space", "421 4.3.2 closing", "250 OK"]
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    eventually(lambda: mailer.states(session) == [MailState.SENT] * 2)
    mailer.await_idle()
    assert sorted(mail.recipient for mail in server.accepted) == [EVE.email, JOE.email]


@ON_SQLITE
def test_a_mail_whose_answer_is_lost_is_not_sent_again(mailer: Mailer, server: MailServer, log_lines: Lines) -> None:
    server.texts = [drop, "250 OK"]
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    eventually(lambda: mailer.states(session) == [MailState.UNKNOWN, MailState.SENT])
    mailer.await_idle()
    assert [mail.recipient for mail in server.mails] == [JOE.email, EVE.email]
    assert eventually(lambda: [line["invitee"] for line in log_lines() if line["event"] == "mail.unknown"]) == [1]
    asyncio.run(mailer.webhooks.replay("mail", from_seq=1, since=None, session=None))
    eventually(lambda: mailer.states(session) == [MailState.SENT] * 2)
    assert server.mails[0].message["Message-ID"] == server.to(JOE.email)[0].message["Message-ID"]


@ON_SQLITE
@pytest.mark.parametrize(("losses", "state"), [(1, MailState.SENT), (5, MailState.UNKNOWN)])
def test_a_mail_whose_answer_is_lost_is_sent_at_most_twice_if_that_is_configured(
    mailer: Mailer, server: MailServer, losses: int, state: MailState
) -> None:
    server.texts = [*[drop] * losses, "250 OK"]
    mailer.apply(server.port, repeat_unanswered=True)
    session = mailer.schedule(JOE)
    eventually(lambda: mailer.states(session) == [state])
    mailer.await_idle()
    assert len(server.mails) == 2
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 1


@ON_SQLITE
def test_a_server_that_hangs_after_the_text(
    mailer: Mailer, server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp, "ANSWER_TIMEOUT", 1.0)
    server.texts = [hang, "250 OK"]
    mailer.apply(server.port, timeout="1s")
    session = mailer.schedule(JOE, EVE)
    eventually(lambda: mailer.states(session) == [MailState.UNKNOWN, MailState.SENT])


@ON_SQLITE
def test_a_stop_while_the_server_hangs_loses_nothing(mailer: Mailer, server: MailServer) -> None:
    server.texts = [hang, "250 OK"]
    mailer.apply(server.port)
    session = mailer.schedule(JOE, EVE)
    eventually(lambda: len(server.mails) == 1)
    mailer.webhooks.stop()
    assert mailer.states(session) == [MailState.UNKNOWN]
    mailer.start_webhooks()
    mailer.apply(server.port)
    eventually(lambda: mailer.states(session) == [MailState.UNKNOWN, MailState.SENT])
    assert [mail.recipient for mail in server.mails] == [JOE.email, EVE.email]


RUBBISH = {
    "not SMTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "endless line": b"220 " + b"x" * 100_000,
    "endless answer": b"220-x\r\n" * 50_000,
    "unknown code": b"999 hello\r\n",
    "nothing": b"",
    "binary": bytes(range(256)) * 10,
    "refused at once": b"554 go away joe@example.com\x1b[31m\r\n",
}


class Rubbish(RawReceiver):
    """Sends bytes as soon as a client connects."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        super().__init__(lambda _connection: None)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.sendall(self._sent)
            connection.recv(1000)


@ON_SQLITE
@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_a_server_that_answers_rubbish(mailer: Mailer, rubbish: bytes) -> None:
    with Rubbish(rubbish) as raw:
        mailer.apply(raw.port, timeout="200ms")
        mailer.schedule(JOE)
        eventually(lambda: mailer.status().state.failures > 0)
        error = mailer.status().state.last_error or ""
        assert error.isprintable()
        assert len(error) < 600
        assert "joe@" not in error


def test_events_that_later_ones_have_overtaken_cause_no_mail(mailer: Mailer, server: MailServer) -> None:
    server.senders = ["450 down"]
    mailer.apply(server.port)
    cancelled, moved, kept = (
        mailer.schedule(JOE),
        mailer.schedule(JOE, label="Moved"),
        mailer.schedule(JOE, label="Kept"),
    )
    mailer.world.close(cancelled)
    mailer.world.reschedule(moved, wall_clock.now() + 2 * DAY)
    mailer.world.reschedule(moved, wall_clock.now() + 3 * DAY)
    server.senders = ["250 OK"]
    mailer.await_idle()

    assert sorted(mail.message["Subject"] for mail in server.accepted) == ["Invitation: Kept", "Invitation: Moved"]
    assert mailer.states(kept) == [MailState.SENT]


@ON_SQLITE
def test_a_session_that_took_place_is_not_cancelled(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port)
    session = mailer.world.create(label="Now", invitees=as_json((JOE,)))
    mailer.await_idle()
    mailer.world.close(session)
    mailer.await_idle()
    assert [mail.message["Subject"] for mail in server.accepted] == ["Invitation: Now"]
    assert "open now" in server.accepted[0].text()


@ON_SQLITE
def test_starttls_and_authentication(mailer: Mailer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    options: dict[str, Any] = {"username": "desk", "security": "starttls"}
    with MailServer(tls=context, user=("desk", "geheim ü")) as server:
        mailer.apply(server.port, "geheim ü", **options)  # the certificate is not trusted
        session = mailer.schedule(JOE)
        eventually(lambda: "TLS failed" in (mailer.status().state.last_error or ""))
        assert not server.users, "no password is sent before the certificate is checked"
        mailer.apply(server.port, "wrong", ca_file="ca.pem", **options)
        eventually(lambda: "535" in (mailer.status().state.last_error or ""))
        mailer.apply(server.port, "geheim ü", ca_file="ca.pem", **options)
        mailer.await_idle()
        assert mailer.states(session) == [MailState.SENT]
        assert "geheim" not in str([row.model_dump() for row in mailer.deliveries()])
    with MailServer() as plain:
        mailer.apply(plain.port, "geheim ü", ca_file="ca.pem", **options)
        mailer.schedule(JOE)
        eventually(lambda: "STARTTLS" in (mailer.status().state.last_error or ""))
        assert not plain.mails, "nothing is sent without TLS"


@ON_SQLITE
def test_tls_from_the_first_byte(mailer: Mailer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with MailServer(tls=context, smtps=True) as server:
        mailer.apply(server.port, security="tls", ca_file="ca.pem")
        mailer.schedule(JOE)
        mailer.await_idle()
        assert len(server.accepted) == 1


@ON_SQLITE
def test_mails_share_a_connection_and_survive_its_end(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port)
    mailer.schedule()
    mailer.await_idle()
    assert (server.connections, len(server.accepted)) == (1, 3)
    server.senders = ["250 OK", "421 4.4.2 too many mails", "250 OK"]
    mailer.schedule()
    mailer.await_idle()
    assert (server.connections, len(server.accepted)) == (2, 6)
    assert all(row.ok for row in mailer.deliveries())


def test_ping_sends_a_test(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port, reply_to="help@example.com")
    row = asyncio.run(mailer.webhooks.ping("mail"))
    assert (row.ok, row.status) == (True, 250)
    assert [(mail.recipient, mail.message["Subject"]) for mail in server.accepted] == [
        ("help@example.com", "A test of tminus")
    ]
    server.texts = ["550 no"]
    row = asyncio.run(mailer.webhooks.ping("mail"))
    assert (row.ok, row.status, row.error) == (False, 550, "no")


def test_a_paused_endpoint_sends_nothing_until_it_is_resumed(mailer: Mailer, server: MailServer) -> None:
    mailer.apply(server.port)
    asyncio.run(mailer.webhooks.pause("mail"))
    session = mailer.schedule(JOE)
    assert mailer.status().backlog.events == 1
    asyncio.run(mailer.webhooks.resume("mail"))
    mailer.await_idle()
    assert mailer.states(session) == [MailState.SENT]


@ON_SQLITE
def test_many_sessions_at_once_each_get_their_mails_once(mailer: Mailer, server: MailServer) -> None:
    server.texts = [*["250 OK"] * 7, "451 later", *["250 OK"] * 5, "421 bye", "250 OK"]
    mailer.apply(server.port)
    threads = [threading.Thread(target=lambda: [mailer.schedule(JOE, EVE) for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mailer.await_idle()
    ids = [mail.message["Message-ID"] for mail in server.accepted]
    assert len(ids) == len(set(ids)) == 30
