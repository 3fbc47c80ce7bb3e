"""The calls with which the original's mobile clients join, in the order and with the headers that they send."""

from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now
from tests.support import challenges
from tests.support.plain_http import NO_TLS

KEY = {"mobile-api-key": "a key of an organization", "Content-Type": "application/json"}

SUPPORT_BODY = {
    "organisationKey": KEY["mobile-api-key"], "sdkVersion": "1.1.1", "sdkBuildNumber": "1", "clientAppOS": "iOS",
    "clientAppID": "com.example.app", "clientAppVersion": "1.0 (1)", "clientAppOSVersion": "14.4",
    "clientAppInstanceUID": "6F9619FF-8B86-D011-B42D-00CF4FC964FF",
}  # fmt: skip


def get(daemon: Daemon, path: str) -> httpx.Response:
    return httpx.get(f"{daemon.url}{path}", headers={"Content-Type": "application/json"}, verify=NO_TLS)


def post(daemon: Daemon, path: str, body: Any) -> httpx.Response:
    return httpx.post(f"{daemon.url}{path}", json=body, headers=KEY, verify=NO_TLS)


@pytest.mark.parametrize("base", ["/v3", "/api/v3"])
def test_the_live_client_finds_the_server_of_a_session_by_its_pin(daemon: Daemon, base: str) -> None:
    session = daemon.make(type="support", userDescription="Anna")
    found = get(daemon, f"{base}/support/{session['pin']}/metadata").json()
    needed = ("id", "type", "status", "userDescription", "expiresAt", "OrganizationId")
    assert {name: found[name] for name in needed} == {
        "id": session["id"], "type": "support", "status": "new", "userDescription": "Anna",
        "expiresAt": session["expiresAt"], "OrganizationId": session["OrganizationId"],
    }  # fmt: skip
    connected = post(daemon, f"{base}/live/connect", {"code": found["id"], "server_tag": "beta"})
    assert connected.status_code == 200
    body = connected.json()
    server = body["servers"]["live"]
    assert body == {"id": session["id"], "label": session["label"], "servers": {"live": server}}
    assert server == {
        "id": 1,
        "region": "local",
        "endpoint": daemon.url,
        "serverInstanceId": server["serverInstanceId"],
    }
    assert daemon.session(session["id"])["status"] == "new", "a call to connect is no join: the room reports joins"


@pytest.mark.parametrize("base", ["/v3", "/api/v3"])
def test_the_support_client_gets_the_session_and_its_server_but_no_key(daemon: Daemon, base: str) -> None:
    session = daemon.make(type="support")
    answer = post(daemon, f"{base}/support/connect", {"code": str(session["pin"]), **SUPPORT_BODY})
    assert answer.status_code == 200
    body = answer.json()
    assert sorted(body) == ["hostAuthToken", "id", "label", "pin", "servers", "settings", "userDescription"]
    assert (body["id"], body["pin"], body["hostAuthToken"]) == (session["id"], session["pin"], "")
    assert body["settings"] == session["settings"]
    assert sorted(body["servers"]["support"]) == ["endpoint", "id", "region", "serverInstanceId"]
    assert session["hostAuthToken"] not in answer.text
    assert daemon.session(session["id"])["status"] == "new"


def test_sessions_that_nobody_can_join_are_refused(daemon: Daemon) -> None:
    def refused(path: str, body: JSON) -> tuple[int, int]:
        answer = post(daemon, f"/v3{path}", body)
        return answer.status_code, answer.json()["refcode"]

    scheduled, closed = daemon.make(startTime=from_now(days=1)), daemon.make(type="support")
    daemon.delete(f"/supportsession/{closed['id']}")
    assert refused("/live/connect", {"code": scheduled["id"]}) == (409, 101409)
    assert refused("/live/connect", {"code": closed["id"]}) == (409, 101409)
    assert refused("/live/connect", {"code": "nobody"}) == (404, 101404)
    assert refused("/support/connect", {"code": str(closed["pin"])}) == (404, 101404)
    for code in ("12345", "0", "000000", "1234567", "12345６", "-12345"):
        assert refused("/support/connect", {"code": code}) == (404, 101404), code
    wrong: list[JSON] = [{}, {"code": ""}, {"code": "1" * 65}, {"code": 123456}, {"code": "12\x00456"}]
    for body in wrong:
        assert refused("/support/connect", body) == (400, 100400), body
        assert refused("/live/connect", body) == (400, 100400), body


def test_a_client_that_guesses_gets_a_challenge_and_goes_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"pin_lookups": "3/hour"})
    session = daemon.make(type="support")
    for _ in range(3):
        assert get(daemon, "/api/v3/support/999999/metadata").status_code == 404
    refused = get(daemon, f"/api/v3/support/{session['pin']}/metadata")
    assert (refused.status_code, refused.json()["refcode"]) == (400, 169400)
    made = get(daemon, "/api/v3/support/challenge").json()
    text = challenges.solve(daemon.database, made["uuid"])
    found = get(daemon, f"/api/v3/support/{session['pin']}/metadata?challenge={made['uuid']}&answer={text}")
    assert found.json()["id"] == session["id"]
    # The older client does not support challenges. Another client may send the answer with this call.
    body = {"code": str(session["pin"]), **SUPPORT_BODY}
    refused = post(daemon, "/v3/support/connect", body)
    assert (refused.status_code, refused.json()["refcode"]) == (400, 169400)
    uuid = get(daemon, "/v3/support/challenge?").json()["uuid"]
    query = f"challenge={uuid}&answer={challenges.solve(daemon.database, uuid)}"
    assert post(daemon, f"/v3/support/connect?{query}", body).json()["id"] == session["id"]


def test_guessed_ids_are_limited_and_right_ones_are_not(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"failed_tokens": "3/hour"})
    session = daemon.make(type="support")
    codes = [post(daemon, "/v3/live/connect", {"code": f"guess{number}"}).status_code for number in range(6)]
    assert codes == [404] * 3 + [429] * 3
    assert post(daemon, "/v3/live/connect", {"code": session["id"]}).status_code == 200
    assert post(daemon, "/v3/live/connect", {"code": "guess9"}).status_code == 429
    daemon.logged("room.limited")
