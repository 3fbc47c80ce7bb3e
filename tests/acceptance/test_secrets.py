"""Nothing secret is in the log, nor in what errors say, at any level."""

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import token_of
from tests.acceptance.times import from_now


def test_no_secret_is_in_any_line_of_the_log(start_daemon: StartDaemon) -> None:
    """Everything is done that has to do with a secret, well and badly, at the level that tells most."""
    daemon = start_daemon(log={"level": "debug", "heartbeat": "1s"}, lifecycle={"lead": "1s"})
    secrets = set(daemon.tokens.values())
    pins: set[str] = set()
    refusals: list[str] = []

    begun = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens["anna"]}, by=None).json()
    secrets.add(begun["session"]["id"])
    headers = {"Session-id": begun["session"]["id"]}
    for kind in ("support", "cobrowse", "live", "replay"):
        for start in ({}, {"startTime": from_now(seconds=1.3)}, {"startTime": from_now(days=1)}):
            body = {"type": kind, "label": "A session", **start}
            session = daemon.post("/supportsessions", body, by=None, headers=headers).json()
            secrets |= {session["hostAuthToken"], session["urls"]["host"].partition("#host=")[2]}
            one = f"/supportsession/{session['id']}"
            if start.get("startTime"):
                daemon.put(one, {"startTime": from_now(seconds=1.2)}, by=None, headers=headers)
                daemon.logged("session.ready", session_id=session["id"])
                session = daemon.session(session["id"])
            if session["pin"]:
                pins.add(str(session["pin"]))
                assert daemon.get(f"/support/{session['pin']}/meta", by=None).status_code == 200
                refusals.append(daemon.post(f"/support/{session['pin']}/meta", {}).text)
            daemon.join(session["id"])
            daemon.delete(one, by="ben")
            daemon.delete(one, by=None, headers=headers)
    assert len(pins) == 6

    # Secrets in the wrong places: a mistyped path, a query, a body, an id.
    token = token_of("anna")
    for path in ("/{}", "/support/{}/meta", "/supportsession/{}", "/me?token={}", "/crmlookup/{}"):
        daemon.get(path.format(token))
        daemon.call("PATCH", path.format(token))
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
    for secret in secrets:
        assert secret not in log
    for pin in pins:
        assert f'"{pin}"' not in log
        assert f"/{pin}" not in log
        assert f" {pin} " not in log
    digests = [line for line in daemon.config.read_text().splitlines() if line.startswith("token_sha256")]
    for digest in digests:
        assert digest.split('"')[1] not in log
    for told in refusals:
        assert token not in told
        assert not [pin for pin in pins if pin in told]
