"""Nothing secret is in the log, in events, metrics or errors, nor in what the command prints, at any level."""

import re
from collections.abc import Iterable
from urllib.parse import quote

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon, token_of
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer


def assert_tells_none(everything: str, secrets: Iterable[str]) -> None:
    """No secret is in it: neither as it is, nor the first half of it, nor as a URL would have it."""
    for secret in secrets:
        assert secret[: max(6, len(secret) // 2)] not in everything
        assert quote(secret, safe="") not in everything


def hashes(daemon: Daemon) -> set[str]:
    lines = daemon.config.read_text().splitlines()
    return {line.split('"')[1] for line in lines if line.startswith("token_sha256")}


def test_no_secret_is_in_anything_that_comes_out_of_a_full_run(start_daemon: StartDaemon) -> None:
    """Everything is done that has to do with a secret, well and badly, at the level that tells most."""
    daemon = start_daemon(log={"level": "debug", "heartbeat": "1s"}, lifecycle={"lead": "1s"})
    secrets = set(daemon.tokens.values())
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
    printed.append(daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.tokens["monitor"]}).text)
    assert "tminus_" in printed[-1]
    for arguments in (("check", "--effective"), ("db", "backup", "copy.db", "--json"), ("db", "check", "copy.db")):
        done = daemon.command(*arguments)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)

    # Secrets in the wrong places: a mistyped path, a query, a body, an id.
    token = token_of("anna")
    refused = []
    for path in ("/{}", "/support/{}/meta", "/supportsession/{}", "/me?token={}", "/crmlookup/{}"):
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

    log = daemon.log.read_text() + daemon.errors.read_text()
    for name in ("auth.signed_in", "auth.failed", "auth.signed_out", "pin.unknown", "session.closed", "http.request"):
        assert daemon.log_lines(name), name
    everything = "\n".join([log, *printed, *refusals, *refused])
    assert_tells_none(everything, secrets)
    for pin in pins:
        assert not re.search(rf"(?<![0-9a-zA-Z.]){pin}(?![0-9a-zA-Z])", everything)
    assert not [digest for digest in hashes(daemon) if digest in everything]


def test_the_password_of_postgresql_is_told_to_nobody(make_daemon: StartDaemon, pg_server: PostgresServer) -> None:
    """Neither while all goes well, nor when the server is not there."""
    password = "pa55word/with:all@kinds of%signs"
    with pg_server.database() as database:
        storage = {"url": database.url.replace(":@", "@"), "password_file": "password"}
        daemon = make_daemon(log={"level": "debug"}, storage=storage)
        daemon.state.mkdir()
        (daemon.state / "password").write_text(f"{password}\n")
        daemon.start()
        daemon.make(type="support")
        metrics = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token})
        ready = daemon.http.get(f"{daemon.url}/readyz")
        well = [daemon.command(*words) for words in (("check", "--effective"), ("db", "check"), ("db", "upgrade"))]
        assert [done.returncode for done in well] == [0, 0, 0], well
        assert daemon.terminate() == 0
    storage["url"] = "postgresql+psycopg://tminus@127.0.0.1:9/tminus"
    daemon.configure(log={"level": "debug"}, storage=storage)
    badly = [daemon.command("db", *words) for words in (("check",), ("upgrade",), ("backup", "copy.db"))]
    assert [done.returncode for done in badly] == [1, 1, 1], badly
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    assert daemon.log_lines("daemon.failed")

    printed = [done.stdout + done.stderr for done in (*well, *badly)]
    everything = "\n".join([metrics.text, ready.text, *printed, daemon.log.read_text(), daemon.errors.read_text()])
    assert_tells_none(everything, [password])
