"""Operators list agents, shut somebody out at once, and readmit them: on both databases, and with two daemons."""

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon, shared
from tests.acceptance.daemons import AGENTS, JSON, Daemon
from tests.support.databases import KINDS, PostgresServer
from tests.support.rooms import Person, key_of
from tests.support.signin import CALLBACK, Browser, receiver_url, redirect, text_of
from tests.support.waiting import eventually

SETTINGS: dict[str, Any] = {"signin": {"receivers": [CALLBACK]}, "rooms": {"reconnect": "2m"}}
ANNA, MONITOR = 7, 11
SHUT_OUT = (401, 113401)


@pytest.fixture(scope="module")
def sqlite_desk() -> Iterator[Daemon]:
    yield from shared(**SETTINGS)


@pytest.fixture(scope="module")
def pg_desk(pg_server: PostgresServer) -> Iterator[Daemon]:
    with pg_server.database(empty=True) as database:
        yield from shared(**SETTINGS, storage={"url": database.configured})


@pytest.fixture(params=KINDS)
def desk(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon at which nobody is shut out, before the test and after it."""
    one: Daemon = request.getfixturevalue("sqlite_desk" if request.param == "sqlite" else "pg_desk")
    yield one
    for number in (ANNA, MONITOR):
        readmit(one, number)


def shut_out(daemon: Daemon, number: int) -> JSON:
    answer = daemon.post(f"/agents/{number}/shutOut", {})
    assert answer.status_code == 200, answer.text
    shown: JSON = answer.json()
    return shown


def readmit(daemon: Daemon, number: int) -> JSON:
    answer = daemon.post(f"/agents/{number}/readmit", {})
    assert answer.status_code == 200, answer.text
    shown: JSON = answer.json()
    return shown


def listed(daemon: Daemon, **params: Any) -> dict[int, JSON]:
    answer = daemon.get(f"/agents?{httpx.QueryParams(params)}").json()
    return {one["id"]: one for one in answer["agents"]}


def refusal(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json().get("refcode", 0)


def agent_session(daemon: Daemon, who: str = "anna") -> str:
    answer = daemon.post("/auth/x/authWithToken", {"session_token": daemon.tokens[who]}, by=None)
    assert answer.status_code == 200, answer.text
    secret: str = answer.json()["session"]["id"]
    return secret


def status(daemon: Daemon, secret: str) -> int:
    return daemon.get("/me", by=None, headers={"Session-id": secret}).status_code


def host(daemon: Daemon, stack: contextlib.ExitStack) -> Person:
    session = daemon.make(by="anna")
    person = Person(daemon.url, session)
    stack.callback(person.close)
    person.host("Anna")
    return person


def is_removed(person: Person) -> bool:
    return person.wait_for_end() == 4403 and person.last == {"type": "removed", "reason": "revoked"}


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_has_all_configured_agents_and_their_last_sign_in(desk: Daemon) -> None:
    agent_session(desk, "ben")
    found = listed(desk)
    assert list(found) == sorted(number for number, *_ in AGENTS.values())
    anna = found[ANNA]
    assert (anna["name"], anna["roles"], anna["source"]) == ("Anna Agent", ["agent", "api"], "configuration")
    assert (anna["issuer"], anna["subject"], anna["shutOutAt"]) == (None, None, None)
    assert found[8]["signedInAt"] is not None
    assert found[9]["signedInAt"] is None


def test_the_list_has_pages(desk: Daemon) -> None:
    numbers: list[int] = []
    after: int | None = 0
    while after is not None:
        page = desk.get(f"/agents?limit=3&after={after}").json()
        assert len(page["agents"]) <= 3
        numbers += [one["id"] for one in page["agents"]]
        after = page["next"]
    assert numbers == sorted(number for number, *_ in AGENTS.values())


def test_the_command_lists_shuts_out_and_readmits(desk: Daemon) -> None:
    assert "Anna Agent" in desk.command("agents").stdout
    done = desk.command("agents", "shut-out", f"{ANNA}")
    assert (done.returncode, done.stdout) == (0, "agent 7 (Anna Agent) is shut out\n")
    assert "since" in next(line for line in desk.command("agents", "list").stdout.splitlines() if "Anna" in line)
    shown = json.loads(desk.command("agents", "list", "--json").stdout)["agents"]
    assert next(one for one in shown if one["id"] == ANNA)["shutOutAt"]
    assert desk.command("agents", "shut-out", f"{ANNA}").returncode == 0  # a second time changes nothing
    done = desk.command("agents", "readmit", f"{ANNA}")
    assert (done.returncode, done.stdout) == (0, "agent 7 (Anna Agent) may sign in\n")
    assert desk.command("agents", "readmit", f"{ANNA}").returncode == 0
    nobody = desk.command("agents", "shut-out", "4711")
    assert (nobody.returncode, "113404" in nobody.stderr) == (3, True)
    assert desk.get("/me", by="anna").status_code == 200


# --- shutting out -----------------------------------------------------------------------------------------------------


def test_shutting_out_ends_everything_that_the_agent_has(desk: Daemon) -> None:
    browser, secret = Browser(desk), agent_session(desk)
    redirected = browser.sign_in("anna", receiver_url())
    assert "Anna Agent" in text_of(browser.open())
    with contextlib.ExitStack() as stack:
        person = host(desk, stack)
        eventually(lambda: "participant.joined" in [one["type"] for one in desk.feed()])
        http = stack.enter_context(httpx.Client(timeout=20))
        held: list[httpx.Response] = []
        # Anna may not read the feed, so this is another agent.
        headers = {"Session-id": desk.tokens["monitor"], "Accept": "text/event-stream"}
        stream = stack.enter_context(http.stream("GET", f"{desk.url}/v3/events?after=now", headers=headers))
        lines = stream.iter_lines()
        next(lines)
        waiting = threading.Thread(
            target=lambda: held.append(desk.get("/events?after=now&wait=30", by="monitor")), daemon=True
        )
        waiting.start()
        assert desk.get("/me", by="monitor").status_code == 200

        shut_out(desk, MONITOR)
        list(lines)  # returns when the stream has ended
        waiting.join(20)
        assert refusal(held[0]) == SHUT_OUT
        assert shut_out(desk, ANNA)["shutOutAt"]

        assert is_removed(person)
        assert status(desk, secret) == 401
        assert "Anna Agent" not in text_of(browser.open())
        assert refusal(browser.exchange(redirected.code)) == (400, 104400)
        assert refusal(desk.get("/me", by="anna")) == SHUT_OUT
        answer = desk.post("/auth/x/authWithToken", {"session_token": desk.tokens["anna"]}, by=None)
        assert refusal(answer) == SHUT_OUT
        again = Browser(desk).submit(receiver_url(), action="sign_in", token=desk.tokens["anna"])
        assert again.status_code == 403
        assert "Your account is shut out" in text_of(again)
        joining = Person(desk.url, person.session)
        stack.callback(joining.close)
        joining.send("join", name="Anna", role="host", key=key_of(person.session))
        assert (joining.wait_for_end(), joining.last["refcode"]) == (4403, 113403)
    desk.logged("agent.shut_out", agent=ANNA, agent_name="Anna Agent", actor="agent:32593")
    desk.logged("auth.shut_out", agent=ANNA)
    assert "tminus_agents_shut_out 2.0" in desk.http.get(f"{desk.url}/metrics", headers={"Session-id": desk.token}).text

    readmit(desk, MONITOR)
    assert readmit(desk, ANNA)["shutOutAt"] is None
    desk.logged("agent.readmitted", agent=ANNA)
    assert desk.get("/me", by="anna").status_code == 200
    assert status(desk, secret) == 401  # a readmission restores no agent session
    assert redirect(Browser(desk).submit(receiver_url(), action="sign_in", token=desk.tokens["anna"])).code


def test_a_sign_in_at_the_same_moment_does_not_survive(desk: Daemon) -> None:
    for _ in range(5):
        secrets: list[str] = []

        def sign_in(secrets: list[str] = secrets) -> None:
            answer = desk.post("/auth/x/authWithToken", {"session_token": desk.tokens["anna"]}, by=None)
            if answer.status_code == 200:
                secrets.append(answer.json()["session"]["id"])

        with ThreadPoolExecutor(8) as pool:
            signing = [pool.submit(sign_in) for _ in range(16)]
            shut_out(desk, ANNA)
            for one in signing:
                one.result()
        readmit(desk, ANNA)
        assert [status(desk, secret) for secret in secrets] == [401] * len(secrets)


def test_only_a_group_admin_may_shut_out_and_readmit_and_an_unknown_agent_is_an_error(desk: Daemon) -> None:
    for action in ("shutOut", "readmit"):
        assert refusal(desk.post(f"/agents/{ANNA}/{action}", {}, by="supervisor")) == (403, 104403)
        assert refusal(desk.post(f"/agents/4711/{action}", {})) == (404, 113404)
        assert refusal(desk.post(f"/agents/0/{action}", {})) == (400, 100400)
    assert desk.get("/me", by="anna").status_code == 200


def test_an_agent_stays_shut_out_after_a_restart_and_when_removed_and_configured_again(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    shut_out(daemon, ANNA)
    daemon.restart()
    assert refusal(daemon.get("/me", by="anna")) == SHUT_OUT
    before = daemon.config.read_text()
    tables = before.split("[[agents]]")
    daemon.config.write_text("[[agents]]".join(one for one in tables if '"anna@example.com"' not in one))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: listed(daemon)[ANNA]["source"] == "removed")
    daemon.config.write_text(before)
    daemon.signal(signal.SIGHUP)
    eventually(lambda: listed(daemon)[ANNA]["source"] == "configuration")
    assert refusal(daemon.get("/me", by="anna")) == SHUT_OUT


@pytest.mark.slow
def test_two_daemons_shut_the_agent_out(start_daemon: StartDaemon, pg_server: PostgresServer) -> None:
    with pg_server.database(empty=True) as database, contextlib.ExitStack() as stack:
        one, other = (start_daemon(**SETTINGS, storage={"url": database.configured}) for _ in range(2))
        for daemon in (one, other):
            stack.callback(daemon.terminate)
        secret, person = agent_session(other), host(other, stack)
        assert status(other, secret) == 200
        shut_out(one, ANNA)
        assert is_removed(person)
        assert status(other, secret) == 401
        eventually(lambda: refusal(other.get("/me", by="anna")) == SHUT_OUT)
        readmit(other, ANNA)
        eventually(lambda: one.get("/me", by="anna").status_code == 200)
