"""Requests repeated with the same `Idempotency-Key` are executed once."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now


def keyed(daemon: Daemon, key: str, *, by: str = "admin", **body: object) -> httpx.Response:
    return daemon.post(
        "/supportsessions", {"type": "support", "label": "A", **body}, by=by, headers={"Idempotency-Key": key}
    )


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


def test_a_repeated_key_and_body_return_the_first_session_in_its_current_state(daemon: Daemon, key: str) -> None:
    first = keyed(daemon, key)
    assert "Idempotency-Replayed" not in first.headers
    again = keyed(daemon, key)
    assert again.status_code == 200
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    daemon.delete(f"/supportsession/{first.json()['id']}")
    assert (keyed(daemon, key).json()["id"], keyed(daemon, key).json()["status"]) == (first.json()["id"], "closed")


def test_a_repeated_body_with_members_in_another_order_is_the_same_body(daemon: Daemon, key: str) -> None:
    bodies = (b'{"type": "live", "label": "A", "metaData": {"a": 1, "b": 2}}',
              b'{"metaData":{"b":2,"a":1},"label":"A","type":"live"}')  # fmt: skip
    made = [daemon.post("/supportsessions", content=body, headers={"Idempotency-Key": key}) for body in bodies]
    assert [answer.status_code for answer in made] == [200, 200]
    assert made[0].json()["id"] == made[1].json()["id"]


def test_the_same_key_with_another_body_is_refused(daemon: Daemon, key: str) -> None:
    first = keyed(daemon, key)
    other = keyed(daemon, key, label="B")
    assert (other.status_code, other.json()["refcode"]) == (409, 103409)
    assert first.json()["id"] in other.json()["description"]
    assert keyed(daemon, key, startTime=from_now(days=1)).status_code == 409


def test_an_idempotency_key_belongs_to_one_agent(daemon: Daemon, key: str) -> None:
    assert keyed(daemon, key).json()["id"] != keyed(daemon, key, by="anna").json()["id"]


def test_a_refused_request_does_not_use_its_key(daemon: Daemon, key: str) -> None:
    assert keyed(daemon, key, startTime="2020-01-01T00:00:00Z").status_code == 400
    assert keyed(daemon, key, startTime=from_now(days=1)).status_code == 200


def test_concurrent_requests_with_one_key_create_one_session(each_daemon: Daemon, key: str) -> None:
    daemon = each_daemon
    together = Barrier(8)

    def post(_: int) -> httpx.Response:
        together.wait()
        return keyed(daemon, key)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers].count("true") == 7


def test_keys_and_agent_sessions_survive_a_restart_and_a_crash(start_daemon: StartDaemon, key: str) -> None:
    daemon = start_daemon()
    first = keyed(daemon, key)
    signed_in = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens["anna"]}, by=None).json()
    begun = {"Session-id": signed_in["session"]["id"]}

    daemon.restart()
    again = keyed(daemon, key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert daemon.get("/me", by=None, headers=begun).json()["user"]["id"] == 7

    daemon.kill()
    daemon.start()
    assert keyed(daemon, key).json()["id"] == first.json()["id"]
    made = daemon.post("/supportsessions", {"type": "live", "label": "A"}, by=None, headers=begun).json()
    shown = {name: value for name, value in signed_in["session"].items() if name in made["createdByAgentSession"]}
    assert {**made["createdByAgentSession"]} == shown

    assert daemon.get("/auth/signout", by=None, headers=begun).json() == {"success": True}
    daemon.restart()
    assert daemon.get("/me", by=None, headers=begun).status_code == 401
