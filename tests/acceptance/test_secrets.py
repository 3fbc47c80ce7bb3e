"""No secret is in the log, events, metrics, errors or the output of commands, at any log level."""

import base64
import re
import signal
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import Daemon, token_of
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.mailserver import MailServer
from tests.support.receivers import OTHER_SECRET, SECRET, Receiver, hang_up, status
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def assert_contains_no_secret(everything: str, secrets: Iterable[str]) -> None:
    """Check that a text contains no secret: neither as it is, nor its first half, nor encoded for a URL."""
    for secret in secrets:
        assert secret[: max(6, len(secret) // 2)] not in everything
        assert quote(secret, safe="") not in everything


def hashes(daemon: Daemon) -> set[str]:
    lines = daemon.config.read_text().splitlines()
    return {line.split('"')[1] for line in lines if line.startswith("token_sha256")}


def streamed(daemon: Daemon, last: int) -> str:
    """Return the feed as a stream, up to the event with this number."""
    headers = {"Session-id": daemon.tokens["monitor"], "Accept": "text/event-stream"}
    text = ""
    with daemon.http.stream("GET", f"{daemon.url}/v3/events", headers=headers) as answer:
        for part in answer.iter_text():
            text += part
            if f"id: {last}\n" in text and text.endswith("\n\n"):
                break
    return text


def test_no_output_of_a_full_run_contains_a_secret(
    start_daemon: StartDaemon, receiver: Receiver, tmp_path: Path
) -> None:
    """Every operation with a secret is tried, with success and failure, at the most detailed log level."""
    (tmp_path / "secret").write_text(SECRET)
    daemon = start_daemon(
        log={"level": "debug", "heartbeat": "1s"},
        lifecycle={"lead": "1s"},
        webhooks=[{"name": "desk", "url": receiver.url, "secret_file": str(tmp_path / "secret")}],
    )
    secrets = {*daemon.tokens.values(), SECRET, SECRET.removeprefix("whsec_")}
    pins: set[str] = set()
    refusals: list[str] = []
    made: list[str] = []

    begun = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens["anna"]}, by=None).json()
    secrets.add(begun["session"]["id"])
    headers = {"Session-id": begun["session"]["id"]}
    for kind in ("support", "cobrowse", "live", "replay"):
        for start in ({}, {"startTime": from_now(seconds=1.3)}, {"startTime": from_now(days=1)}):
            body = {"type": kind, "label": "A session", **start}
            session = daemon.post("/supportsessions", body, by=None, headers=headers).json()
            secrets |= {session["hostAuthToken"], session["urls"]["host"].partition("#host=")[2]}
            one = f"/supportsession/{session['id']}"
            made.append(session["id"])
            if start.get("startTime"):
                daemon.put(one, {"startTime": from_now(seconds=1.2)}, by=None, headers=headers)
                daemon.logged("session.ready", session_id=session["id"])
                session = daemon.session(session["id"])
            if session["pin"]:
                pins.add(str(session["pin"]))
                assert daemon.get(f"/support/{session['pin']}/meta", by=None).status_code == 200
                refusals.append(daemon.post(f"/support/{session['pin']}/meta", {}).text)
            daemon.join(session["id"])
            refusals.append(daemon.delete(one, by="ben").text)
            refusals.append(daemon.put(one, {"startTime": from_now(days=1)}, headers={"If-Match": '"1"'}).text)
            if not made[1:]:
                printed = [daemon.command("events", session["id"]).stdout, daemon.command("db", "check").stdout]
            daemon.delete(one, by=None, headers=headers)
            refusals.append(daemon.put(one, {"startTime": from_now(days=1)}).text)
    assert len(pins) == 6
    printed += [str(daemon.events(session_id)) for session_id in made]
    page = daemon.get("/events?limit=1000", by="monitor")
    last = page.json()["next"]
    eventually(lambda: receiver.seqs[-1:] == [last])
    received = [f"{request.headers}{request.body.decode()}" for request in receiver.requests]
    printed += [page.text, streamed(daemon, last), daemon.get("/webhooks/desk/deliveries?limit=1000").text, *received]
    printed.append(daemon.command("events", "--json").stdout)
    assert all(printed)
    assert all(session_id in text for session_id in made for text in (page.text, printed[-1], "".join(received)))
    printed.append(daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.tokens["monitor"]}).text)
    assert "tminus_" in printed[-1]
    for arguments in (("check", "--effective"), ("db", "backup", "copy.db", "--json"), ("db", "check", "copy.db")):
        done = daemon.command(*arguments)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)

    # Secrets in the wrong places: a mistyped path, a query, a body, an id.
    token = token_of("anna")
    refused = []
    for path in ("/{}", "/support/{}/meta", "/supportsession/{}", "/me?token={}", "/crmlookup/{}", "/webhooks/{}"):
        daemon.get(path.format(token))
        refused.append(daemon.call("PATCH", path.format(token)).text)
    daemon.get("/me", by=None, headers={"Session-id": f"{token}x"})
    daemon.get("/me", by=None, headers={"Authorization": f"Basic {token}"})
    daemon.get("/supportsessions", headers={"X-Request-Id": f"a {token}"})
    daemon.post("/auth/token/authWithToken", {"session_token": f"{token}y"}, by=None)
    refusals += [
        daemon.post("/auth/token/authWithToken", {"session_token": [token]}, by=None).text,
        daemon.post("/supportsessions", {"type": token, "label": ""}).text,
    ]
    daemon.get("/auth/signout", by=None, headers=headers)
    daemon.logged("daemon.heartbeat")
    daemon.restart()

    log = daemon.log_text + daemon.errors.read_text()
    for name in ("auth.signed_in", "auth.failed", "auth.signed_out", "pin.unknown", "session.closed", "http.request"):
        assert daemon.log_lines(name), name
    everything = "\n".join([log, *printed, *refusals, *refused])
    assert_contains_no_secret(everything, secrets)
    for pin in pins:
        assert not re.search(rf"(?<![0-9a-zA-Z.]){pin}(?![0-9a-zA-Z])", everything)
    assert not [digest for digest in hashes(daemon) if digest in everything]


def test_the_password_of_postgresql_is_in_no_output(make_daemon: StartDaemon, pg_server: PostgresServer) -> None:
    """Neither during operation nor while the server is unreachable."""
    password = "pa55word/with:all@kinds of%signs"
    with pg_server.database() as database:
        storage = {"url": database.configured, "password_file": "password"}
        daemon = make_daemon(log={"level": "debug"}, storage=storage)
        daemon.state.mkdir()
        (daemon.state / "password").write_text(f"{password}\n")
        daemon.start()
        daemon.make(type="support")
        metrics = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token})
        ready = daemon.http.get(f"{daemon.url}/readyz")
        succeeded = [daemon.command(*words) for words in (("check", "--effective"), ("db", "check"), ("db", "upgrade"))]
        assert [done.returncode for done in succeeded] == [0, 0, 0], succeeded
        assert daemon.terminate() == 0
    storage["url"] = "postgresql+psycopg://tminus@127.0.0.1:9/tminus"
    daemon.configure(log={"level": "debug"}, storage=storage)
    failed = [daemon.command("db", *words) for words in (("check",), ("upgrade",), ("backup", "copy.db"))]
    assert [done.returncode for done in failed] == [1, 1, 1], failed
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    assert daemon.log_lines("daemon.failed")

    printed = [done.stdout + done.stderr for done in (*succeeded, *failed)]
    everything = "\n".join([metrics.text, ready.text, *printed, daemon.log_text, daemon.errors.read_text()])
    assert_contains_no_secret(everything, [password])


def test_the_password_of_the_mail_server_is_in_no_output(make_daemon: StartDaemon) -> None:
    """Neither while mails are sent, nor while the server refuses it or repeats it, nor in a reload that changes it."""
    password, other = "pa55word/with:all@kinds of%signs", "0ther+Pa55word"
    daemon = make_daemon()
    (daemon.home / "password").write_text(f"{password}\n")
    ca, context, authority = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), daemon.home / "ca.pem"
    ca.cert_pem.write_to_path(str(authority))
    ca.issue_cert("localhost").configure_cert(context)

    def configure(server: MailServer, **more: str) -> None:
        settings = {"host": "localhost", "port": server.port, "from": "desk@example.com", "ca_file": str(authority)}
        given = {"username": "desk", "password_file": str(daemon.home / "password")}
        daemon.configure(log={"level": "debug"}, mail={**settings, **given, **more})

    def invite() -> str:
        invitees = [{"email": "guest@example.com"}]
        return str(daemon.make(startTime=from_now(days=1), invitees=invitees)["id"])

    with MailServer(tls=context, user=("desk", password)) as server:
        configure(server)
        daemon.start()
        session = invite()
        eventually(lambda: server.accepted)
        assert server.users == ["desk"]
        # The answers of the server have the password, in which form ever.
        basic = base64.b64encode(f"\0desk\0{password}".encode()).decode()
        server.texts = [f"550 no {password} {basic}", f"451 later {password}", "250 OK"]
        invite()
        assert daemon.logged("mail.refused")["error"] == "no … …"
        invite()
        assert daemon.logged("mail.deferred")["error"] == "later …"
        answered = daemon.command("sample-event", "session.ready", "--to", "mail")
        assert answered.returncode == 0
        printed = [daemon.command("check", "--effective"), daemon.command("webhooks", "ping", "mail")]

        # The server refuses the password, once the daemon has read the new one.
        (daemon.home / "password").write_text(other)
        daemon.signal(signal.SIGHUP)
        daemon.logged("config.reloaded")
        failed = daemon.command("webhooks", "ping", "mail")
        assert failed.returncode == 1
        session = invite()
        daemon.logged("webhook.failed", endpoint="mail")
        configure(server, password_file=str(daemon.home / "nothing"))
        refused = daemon.command("check")
        assert refused.returncode == 1
        daemon.signal(signal.SIGHUP)
        daemon.logged("config.rejected")
        all_words = (("list",), ("deliveries", "mail"), ("replay", "mail", "--session", session), ("pause", "mail"))
        printed += [daemon.command("webhooks", *words, "--json") for words in all_words]
        pages = [daemon.get(path).text for path in ("/webhooks", "/webhooks/mail/deliveries?limit=100", "/events")]
        pages.append(daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token}).text)
        assert 'endpoint="mail"' in pages[-1]
        assert all(done.returncode == 0 for done in printed), printed
        assert daemon.terminate() == 0

    texts = [done.stdout + done.stderr for done in (*printed, answered, failed, refused)]
    everything = "\n".join([*texts, *pages, str(daemon.log_text), daemon.errors.read_text()])
    encoded = [base64.b64encode(f"\0desk\0{one}".encode()).decode() for one in (password, other)]
    alone = [base64.b64encode(one.encode()).decode() for one in (password, other)]
    assert_contains_no_secret(everything, [password, other, *encoded, *alone])


def test_a_webhooks_secrets_and_the_key_in_its_url_are_in_no_output(
    make_daemon: StartDaemon,
) -> None:
    """Neither during deliveries, nor in any failure, nor in reloads that add, change or refuse the endpoint."""
    key, new_key = "kJ8vQ2xW5zL1pR7t", "bN4mC6yH9dF3gS0a"
    daemon = make_daemon()
    files = {"secret": SECRET, "other": OTHER_SECRET, "broken": f"{OTHER_SECRET}!"}
    for name, secret in files.items():
        (daemon.home / name).write_text(secret)

    def configure(url: str, *names: str) -> None:
        desk = {"name": "desk", "url": url, "secret_file": [str(daemon.home / name) for name in names]}
        nobody = {"name": "nobody", "url": f"http://localhost:9/?key={key}", "secret_file": str(daemon.home / "secret")}
        # Nothing listens on these two ports.
        odd = {**nobody, "name": "odd", "url": f"http://127.0.0.1:1/?key={key}", "from": "beginning"}
        daemon.configure(log={"level": "debug"}, webhooks=[desk, nobody, odd])

    def reload() -> None:
        lines = len(daemon.log_lines("config.reloaded") + daemon.log_lines("config.rejected"))
        daemon.signal(signal.SIGHUP)
        eventually(lambda: len(daemon.log_lines("config.reloaded") + daemon.log_lines("config.rejected")) > lines)

    with Receiver() as receiver:
        configure(f"{receiver.url}?key={key}", "secret")
        daemon.start()
        receiver.answers = [status(500), hang_up, status(302, Location="http://localhost:9/"), status(503)]
        session = daemon.make()
        for _ in range(3):  # with the first delivery, these are four requests: one for each response
            daemon.post("/webhooks/desk/ping")
        for name in ("nobody", "odd"):
            daemon.logged("webhook.failed", endpoint=name)
            daemon.post(f"/webhooks/{name}/ping")
        daemon.logged("webhook.failed", endpoint="desk")
        daemon.post("/webhooks/desk/resume")
        eventually(lambda: daemon.get("/webhooks/desk").json()["state"] == "idle")
        assert {request.path for request in receiver.requests} == {f"/hook?key={key}"}, "the URL contains the key"

        printed = [daemon.command("check", "--effective").stdout]
        configure(f"{receiver.url}?key={new_key}", "broken")
        refused = daemon.command("check", "--effective")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "webhooks[desk].secret_file names a secret that cannot be read" in refused.stderr
        reload()
        configure(f"{receiver.url.replace('://', f'://{new_key}@')}", "secret")
        reload()
        configure(f"http://desk..example/?key={new_key}", "secret")  # no request can be sent to this host
        reload()
        configure(f"{receiver.url}?key={new_key}", "other", "secret")
        reload()
        assert [len(daemon.log_lines(name)) for name in ("config.rejected", "config.reloaded")] == [3, 1]
        daemon.logged("config.changed", key="webhooks[desk].url")
        assert daemon.post("/webhooks/desk/ping").json()["ok"]
        receiver.requests[-1].verify(OTHER_SECRET)
        printed.append(daemon.command("check", "--effective").stdout)

        printed += [daemon.get(path).text for path in ("/webhooks", "/webhooks/desk", "/events")]
        for name in ("desk", "nobody", "odd"):
            log = daemon.get(f"/webhooks/{name}/deliveries?limit=100").text
            assert '"ok":false' in log
            printed.append(log)
        for words in (("list",), ("deliveries", "desk"), ("ping", "odd"), ("pause", "desk")):
            done = daemon.command("webhooks", *words)
            printed.append(done.stdout + done.stderr)
        printed += [daemon.post("/webhooks/desk/replay", {"fromSeq": 1}).text, str(daemon.events(session["id"]))]
        printed += [daemon.post("/webhooks/desk/replay", {"secret": SECRET}).text]
        printed.append(daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token}).text)
        assert 'endpoint="desk"' in printed[-1]
        check_health(daemon)

    assert "desk" in printed[0]
    everything = "\n".join([*printed, refused.stderr, daemon.log_text, daemon.errors.read_text()])
    secrets = [secret.removeprefix("whsec_") for secret in (SECRET, OTHER_SECRET)]
    assert_contains_no_secret(everything, [SECRET[:20], *secrets, key, new_key])
    for line in ("webhook.added", "webhook.failed", "webhook.paused", "config.fault"):
        assert daemon.log_lines(line), line
