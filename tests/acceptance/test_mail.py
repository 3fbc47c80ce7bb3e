"""Mail as a site uses it: the daemon as a process, a real mail server, kills, several daemons, templates, `check`."""

import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now, parsed
from tests.support.databases import PostgresServer
from tests.support.mailserver import MailServer, hang
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

GUESTS = [{"email": f"guest{number}@example.com", "name": f"Guest {number}"} for number in range(3)]

MONTHS = (
    "Januar", "Februar", "März", "April", "Mai", "Juni",
    "Juli", "August", "September", "Oktober", "November", "Dezember",
)  # fmt: skip


def mail(server: MailServer, **more: Any) -> dict[str, Any]:
    settings = {"host": "127.0.0.1", "port": server.port, "security": "none", "from": "Desk <desk@example.com>"}
    return {**settings, "timeout": "30s", **more}


def backlog(daemon: Daemon) -> int:
    """Return the number of events about which mails are still to be sent."""
    return int(daemon.get("/webhooks/mail").json()["backlog"])


def test_a_session_from_invitation_to_cancellation(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        lifecycle = {"reminders": [], "horizon": "36500d"}
        daemon = start_daemon(mail=mail(server, language="de", timezone="Europe/Berlin"), lifecycle=lifecycle)
        session = daemon.make(label="Durchsicht", startTime="2037-07-06T07:30:00Z", invitees=GUESTS)
        eventually(lambda: len(server.accepted) == 3)
        text = server.accepted[0].text()
        assert "Montag, 6. Juli 2037, 09:30 Uhr (CEST)" in text
        assert session["urls"]["user"] in text
        assert daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=300)}).status_code == 200
        eventually(lambda: len(server.accepted) == 6)
        daemon.delete(f"/supportsession/{session['id']}")
        eventually(lambda: len(server.accepted) == 9)
        assert Counter(one.message["Subject"] for one in server.accepted) == {
            "Einladung: Durchsicht": 3, "Neuer Termin: Durchsicht": 3, "Abgesagt: Durchsicht": 3,
        }  # fmt: skip
        listed = json.loads(daemon.command("webhooks", "list", "--json").stdout)["webhooks"]
        assert [(one["name"], one["url"]) for one in listed] == [("mail", f"smtp://127.0.0.1:{server.port}")]
        deliveries = daemon.command("webhooks", "deliveries", "mail", "--json").stdout
        assert len(json.loads(deliveries)["deliveries"]) == 9
        assert "answered 250" in daemon.command("webhooks", "ping", "mail").stdout
        metrics = daemon.http.get(
            daemon.url + "/metrics", headers={"Authorization": f"Bearer {daemon.tokens['monitor']}"}
        ).text
        assert 'tminus_mails_total{result="sent"} 9.0' in metrics
        daemon.logged("mail.sent", session_id=session["id"], invitee=3)
        for shown in (
            daemon.log_text,
            deliveries,
            metrics,
            daemon.get(f"/supportsession/{session['id']}/events").text,
        ):
            assert "guest" not in shown.replace('"guest"', "")


def test_the_number_of_mails_that_an_agent_causes_is_limited(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server), limits={"mails_per_agent": "4/hour"})
        session = daemon.make(startTime=from_now(days=1), invitees=GUESTS)
        more = {"type": "live", "label": "X", "startTime": from_now(days=1), "invitees": GUESTS[:2]}
        for path, body in (("/supportsessions", more), ("/supportsessions/batch", {"sessions": [more]})):
            refused = daemon.post(path, body)
            assert (refused.status_code, refused.json()["refcode"]) == (429, 116429)
            assert 3500 < int(refused.headers["retry-after"]) <= 3600
        assert daemon.put(f"/supportsession/{session['id']}", {"startTime": from_now(days=2)}).status_code == 429
        eventually(lambda: len(server.accepted) == 3)
        daemon.delete(f"/supportsession/{session['id']}")
        eventually(lambda: len(server.accepted) == 6)
        assert [one.message["Subject"].partition(":")[0] for one in server.accepted] == (
            ["Invitation"] * 3 + ["Cancelled"] * 3
        )


def test_reminders_are_mailed(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server))
        daemon.make(label="Soon", startTime=from_now(seconds=30), reminders=["25s"], invitees=GUESTS[:1])
        eventually(lambda: len(server.accepted) == 2)
        assert [one.message["Subject"] for one in server.accepted] == ["Invitation: Soon", "Reminder: Soon"]
        assert server.accepted[1].message.get_content_type() == "multipart/alternative"


def test_reminders_are_mailed_in_german(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server, language="de", timezone="Europe/Berlin"))
        guest, host = {**GUESTS[0], "name": "Jürgen <b>Groß</b>"}, {"email": "host@example.com", "role": "host"}
        start = from_now(seconds=30)
        session = daemon.make(label="Prüfung & Abnahme", startTime=start, reminders=["27s"], invitees=[guest, host])
        eventually(lambda: len(server.accepted) == 4)
        (for_guest,), (for_host,) = (server.to(one["email"])[1:] for one in (guest, host))

        local = parsed(start).astimezone(ZoneInfo("Europe/Berlin"))
        when = f"{local.day}. {MONTHS[local.month - 1]} {local.year}, {local:%H:%M} Uhr ({local:%Z})"
        for sent, link in ((for_guest, session["urls"]["user"]), (for_host, session["urls"]["host"])):
            assert sent.message["Subject"] == "Erinnerung: Prüfung & Abnahme"
            text, html = sent.text(), sent.text("text/html")
            for part in (text, html):
                assert "wir erinnern Sie an die folgende Sitzung." in part
                assert when in part
                assert ("Das ist der Link für die Leitung." in part) is (sent is for_host)
                assert not {"Reminder", "Hello", "Join"} & set(re.findall(r"\w+", part))
            assert f"Öffnen Sie zur Teilnahme diesen Link:\n\n    {link}\n" in text.replace("\r\n", "\n")
            assert '<html lang="de">' in html
            assert f'<a href="{link}"' in html
            assert ">Teilnehmen</a>" in html
            assert "<strong>Prüfung &amp; Abnahme</strong>" in html
        assert "Guten Tag Jürgen <b>Groß</b>,\n" in for_guest.text().replace("\r\n", "\n")
        assert "<p>Guten Tag Jürgen &lt;b&gt;Groß&lt;/b&gt;,</p>" in for_guest.text("text/html")
        assert "<p>Guten Tag,</p>" in for_host.text("text/html")


def test_a_kill_before_the_answer_is_stored_sends_no_mail_twice(start_daemon: StartDaemon) -> None:
    """The daemon logs that the result of the mail in flight is unknown. It sends each of the others once."""
    with MailServer() as server:
        server.texts = ["250 OK", hang, "250 OK"]
        daemon = start_daemon(mail=mail(server))
        session = daemon.make(startTime=from_now(days=1), invitees=GUESTS)
        eventually(lambda: len(server.mails) == 2)
        daemon.kill()
        daemon.start()
        eventually(lambda: len(server.mails) == 3)
        assert [one.recipient for one in server.mails] == [one["email"] for one in GUESTS]
        line = daemon.logged("mail.unknown")
        assert (line["session_id"], line["invitee"]) == (session["id"], 2)
        eventually(lambda: backlog(daemon) == 0)
        assert len(server.mails) == 3


def test_kills_at_random_send_no_mail_twice(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server))
        made = 0
        for round_ in range(4):
            for _ in range(3):
                daemon.make(startTime=from_now(days=1), invitees=GUESTS)
                made += 3
            eventually(lambda: len(server.mails) > made - 9 + 2 * round_)  # noqa: B023 - called at once
            daemon.kill()
            daemon.start()
        eventually(lambda: len(server.mails) + len(daemon.log_lines("mail.unknown")) >= made)
        eventually(lambda: backlog(daemon) == 0)
        ids = Counter(one.message["Message-ID"] for one in server.mails)
        assert max(ids.values()) == 1
        assert made - len(ids) <= len(daemon.log_lines("mail.unknown")) <= 4, (
            "after each kill, the result of at most one mail is unknown"
        )


def test_of_two_daemons_one_sends(start_daemon: StartDaemon, pg_server: PostgresServer) -> None:
    with pg_server.database(empty=True) as database, MailServer() as server:
        storage = {"url": database.configured}
        daemons = [start_daemon(mail=mail(server), storage=storage) for _ in range(2)]
        for number in range(10):
            daemons[number % 2].make(startTime=from_now(days=1), invitees=GUESTS)
        eventually(lambda: len(server.accepted) == 30)
        first = next(one for one in daemons if one.log_lines("mail.sent"))
        first.kill()
        other = next(one for one in daemons if one is not first)
        other.make(startTime=from_now(days=1), invitees=GUESTS)
        eventually(lambda: len(server.accepted) == 33)
        ids = Counter(one.message["Message-ID"] for one in server.mails)
        assert (len(ids), max(ids.values())) == (33, 1)
        assert other.terminate() == 0


def test_a_site_replaces_templates_and_a_reload_uses_them(start_daemon: StartDaemon) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server))
        folder = daemon.home / "mails"
        folder.mkdir()
        (folder / "en.txt").write_text("Subject: {{ label }} at ours\n\nDear {{ name }}: {{ link }}\n")
        daemon.configure(mail=mail(server, templates=str(folder)))
        daemon.signal(signal.SIGHUP)
        daemon.logged("config.reloaded")
        session = daemon.make(label="X", startTime=from_now(days=1), invitees=GUESTS[:1])
        eventually(lambda: server.accepted)
        assert server.accepted[0].message["Subject"] == "X at ours"
        assert server.accepted[0].text().strip() == f"Dear Guest 0: {session['urls']['user']}"


@pytest.mark.parametrize(("language", "subject"), [("en", "Invitation: A & B"), ("de", "Einladung: A & B")])
def test_a_site_replaces_only_the_html(start_daemon: StartDaemon, language: str, subject: str) -> None:
    with MailServer() as server:
        daemon = start_daemon()
        (daemon.home / "mails").mkdir()
        page = "<h1>{{ label }}</h1><p>{{ kind }}, {{ role }}, {{ language }}: <a href='{{ link }}'>{{ name }}</a>"
        (daemon.home / "mails" / f"{language}.html").write_text(page)
        daemon.configure(mail=mail(server, language=language, templates=str(daemon.home / "mails")))
        daemon.signal(signal.SIGHUP)
        daemon.logged("config.reloaded")
        session = daemon.make(label="A & B", startTime=from_now(days=1), invitees=[{**GUESTS[0], "name": "<Joe>"}])
        eventually(lambda: server.accepted)

        link = f"<a href='{session['urls']['user']}'>&lt;Joe&gt;</a>"
        sent = server.accepted[0]
        assert sent.text("text/html").strip() == f"<h1>A &amp; B</h1><p>invitation, guest, {language}: {link}"
        assert sent.message["Subject"] == subject, "the text is still that of tminus"
        assert session["urls"]["user"] in sent.text()


@pytest.mark.parametrize("kind", ["session.ready", "session.closed", "session.reminder"])
def test_a_sample_event_is_a_test_of_mail_and_reaches_no_invitee(start_daemon: StartDaemon, kind: str) -> None:
    with MailServer() as server:
        daemon = start_daemon(mail=mail(server, reply_to="help@example.com"))
        daemon.make(startTime=from_now(days=1), invitees=GUESTS[:1])
        eventually(lambda: backlog(daemon) == 0)
        assert daemon.command("webhooks", "pause", "mail").returncode == 0

        done = daemon.command("sample-event", kind, "--to", "mail")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"mail answered 250 in [\d.]+ ms\n", done.stdout)
        assert daemon.command("webhooks", "ping", "mail").returncode == 0
        sample, ping = server.accepted[1:]
        assert [one.recipient for one in (sample, ping)] == ["help@example.com"] * 2
        assert sample.message["Subject"] == ping.message["Subject"] == "A test of tminus"
        assert sample.text() == ping.text()
        rows = daemon.get("/webhooks/mail/deliveries").json()["deliveries"]
        assert [(row["kind"], row["ok"]) for row in rows] == [("ping", True), ("sample", True), ("events", True)]

        server.texts = ["550 no"]
        refused = daemon.command("sample-event", kind, "--to", "mail")
        assert (refused.returncode, refused.stderr) == (1, "tminus: mail did not accept the event: no\n")
        mistyped = daemon.command("sample-event", "session.opened", "--to", "mail")
        assert mistyped.returncode == 2
        assert len(server.mails) == 4


@pytest.mark.parametrize(
    ("more", "key", "problem"),
    [
        ({"from": ""}, "mail.from", "is missing"),
        ({"from": "desk"}, "mail.from", "mail address"),
        ({"from": "Desk\u0007 <desk@example.com>"}, "mail.from", "control characters"),
        ({"host": "mail.example.com:25"}, "mail.host", "without port"),
        ({"security": "ssl"}, "mail.security", "starttls"),
        ({"username": "desk"}, "mail.password_file", "is missing"),
        ({"username": "desk", "password_file": "nothing"}, "mail.password_file", "No such file"),
        ({"host": "mx.example.com", "username": "d", "password_file": "p"}, "mail.security", "unencrypted"),
        ({"timezone": "Europe/Bonn"}, "mail.timezone", "time zone database"),
        ({"security": "tls", "ca_file": "nothing.pem"}, "mail.ca_file", "certificates"),
        ({"templates": "nothing"}, "mail.templates", "No such file"),
        ({"templates": {"en.txt": "Hello"}}, "mail.templates", "first line"),
        ({"templates": {"en.txt": "Subject: {{ lable }}\n"}}, "mail.templates", "'lable' is undefined"),
        ({"templates": {"en.html": "{% if %}"}}, "mail.templates", "en.html, line 1"),
        ({"templates": {"en.html": "{{ ''.__class__.__mro__ }}"}}, "mail.templates", "unsafe"),
        ({"templates": {"en.html": "{% for a in range(9999999) %}x{% endfor %}"}}, "mail.templates", "Range"),
        ({"templates": {"en.htm": "x"}}, "mail.templates", "en.htm, but the templates are"),
    ],
)
def test_check_says_what_is_wrong(tmp_path: Path, more: dict[str, Any], key: str, problem: str) -> None:
    daemon = Daemon()
    try:
        if isinstance(more.get("templates"), dict):
            for name, content in more["templates"].items():
                (tmp_path / name).write_text(content)
            more = {**more, "templates": str(tmp_path)}
        settings = {"host": "localhost", "security": "none", "from": "desk@example.com", **more}
        daemon.configure(mail=settings)
        done = daemon.command("check")
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if key in line]
        assert problem in line
    finally:
        daemon.remove()
