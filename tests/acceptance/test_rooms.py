"""The daemon's own rooms, with real daemons and real WebSockets: the connections of people cause the transitions."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.acceptance.conftest import StartDaemon, shared
from tests.acceptance.daemons import JSON, Daemon, digest, token_of
from tests.acceptance.times import from_now
from tests.support.databases import KINDS, PostgresServer
from tests.support.rooms import Person, key_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "rooms": {"reconnect": "1s", "restart": "3s"},
    "lifecycle": {"lead": "1s", "empty_timeout": "1s"},
}
"""Short time-outs, for tests in which a connection stays lost."""

PATIENT: dict[str, Any] = {"rooms": {"reconnect": "2m", "restart": "2m"}, "lifecycle": {"lead": "1s"}}
"""Long time-outs, for tests in which a lost connection or a busy machine must not end anybody's participation."""

Enter = Callable[[Daemon, JSON], Person]


@pytest.fixture(scope="module")
def quick() -> Iterator[Daemon]:
    yield from shared(**QUICK)


@pytest.fixture(scope="module")
def patient_pg(pg_server: PostgresServer) -> Iterator[Daemon]:
    with pg_server.database(empty=True) as database:
        yield from shared(**PATIENT, storage={"url": database.configured})


@pytest.fixture(scope="module")
def patient_sqlite() -> Iterator[Daemon]:
    yield from shared(**PATIENT)


@pytest.fixture(scope="module", params=KINDS)
def patient(request: pytest.FixtureRequest) -> Daemon:
    one: Daemon = request.getfixturevalue("patient_sqlite" if request.param == "sqlite" else "patient_pg")
    return one


@pytest.fixture
def connected() -> Iterator[Enter]:
    """Return a function that connects a person to the room of a session."""
    with contextlib.ExitStack() as stack:

        def enter(daemon: Daemon, session: JSON) -> Person:
            person = Person(daemon.url, session)
            stack.callback(person.close)
            return person

        yield enter


def recorded(daemon: Daemon, session: JSON) -> list[str]:
    """Return the types of a session's events, without its creation."""
    return [event["type"] for event in daemon.events(session["id"])][1:]


def refusal(daemon: Daemon, session: JSON, **join: Any) -> tuple[int, int]:
    """Try to join, and expect to be disconnected; return the refcode of the error (0: none) and the close code."""
    person = Person(daemon.url, session)
    try:
        with contextlib.suppress(ConnectionClosed):
            person.send("join", **join)
        code = person.wait_for_end()
        return person.last.get("refcode", 0), code
    finally:
        person.close()


# --- a whole session --------------------------------------------------------------------------------------------------


def test_a_host_and_two_people_go_through_a_session(patient: Daemon, connected: Enter) -> None:
    session = patient.make(label="Printer", agentPrefs={"knock": True})
    host, grace, alan = (connected(patient, session) for _ in range(3))

    shown = host.wait_for("session")["session"]
    assert (shown["label"], shown["status"], shown["settings"]["knock"]) == ("Printer", "new", True)
    assert host.host("Ada")["role"] == "host"
    host.wait_for_people("Ada")
    assert grace.join("Grace")["type"] == "waiting"
    host.wait_for_people("Grace", kind="knocking")
    host.send("admit", participant=grace.participant)
    assert grace.wait_for("joined")["participant"] == grace.participant
    grace.wait_for_people("Ada", "Grace")
    host.wait_for_people("Ada", "Grace")
    alan.join("Alan")
    host.send("deny", participant=alan.participant)
    assert alan.wait_for_end() == 4403
    assert alan.last == {"type": "denied", "reason": "denied"}

    again = connected(patient, session)
    again.join("Alan")
    host.send("admit", participant=again.participant)
    host.wait_for_people("Ada", "Grace", "Alan")
    host.send("remove", participant=again.participant)
    assert again.wait_for_end() == 4403
    assert again.last == {"type": "removed", "reason": "removed"}
    host.wait_for_people("Ada", "Grace")
    grace.send("leave")
    assert grace.wait_for_end() == 1000
    host.wait_for_people("Ada")
    host.send("end")
    assert host.wait_for_end() == 4410
    assert host.last == {"type": "closed", "reason": "closed", "by": "host"}

    events = patient.events(session["id"])
    history = [(event["type"].partition(".")[2], event["actor"]) for event in events][1:]
    ada = f"host:{host.participant}"
    assert history == [
        ("active", "room"), ("joined", "room"), ("knocked", "room"), ("admitted", ada), ("joined", ada),
        ("knocked", "room"), ("denied", ada), ("knocked", "room"), ("admitted", ada), ("joined", ada), ("left", ada),
        ("left", "room"), ("closed", ada),
    ]  # fmt: skip
    assert events[-1]["message"].endswith(f"was closed by Ada (host {host.participant})")
    # The log has events from the commit, the history from the database. Both have the name of the host.
    for event in events[-3], events[-1]:
        line = patient.logged(event["type"], seq=event["seq"])
        assert (line["actor_name"], line["message"]) == ("Ada", event["message"])
    assert events[-3]["message"].endswith(f"was left by Alan, put out by Ada (host {host.participant})")


def test_a_guest_may_not_do_what_a_host_does(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    guest, other = connected(patient, session), connected(patient, session)
    guest.join("Grace")
    other.join("Alan")
    for kind in ("admit", "deny", "remove", "end"):
        guest.send(kind, participant=other.participant)
        assert guest.wait_for("error")["refcode"] == 104403
    assert patient.session(session["id"])["participants"] == 2


def test_a_host_may_not_touch_the_people_of_another_session(patient: Daemon, connected: Enter) -> None:
    session, foreign = patient.make(), patient.make()
    host, guest = connected(patient, session), connected(patient, foreign)
    host.host()
    guest.join()
    for kind in ("admit", "deny", "remove"):
        host.send(kind, participant=guest.participant)
        assert host.wait_for("error")["refcode"] == 102404
    assert patient.session(foreign["id"])["participants"] == 1


def test_an_early_guest_joins_automatically_at_the_opening(patient: Daemon, connected: Enter) -> None:
    session = patient.make(startTime=from_now(hours=1))
    early = connected(patient, session)
    shown = early.wait_for("session")["session"]
    assert (shown["status"], shown["startTime"]) == ("scheduled", session["startTime"])
    assert shown["opensAt"] == session["opensAt"]
    early.send("join", name="Grace")
    start = from_now(seconds=2)
    patient.put(f"/supportsession/{session['id']}", {"startTime": start})
    assert early.wait_for_status("new")["session"]["startTime"] == start
    assert early.entered()["type"] == "joined"
    early.wait_for_people("Grace")


JOIN_FAILS = """
from tminus.cli import main
from tminus.rooms import commands

def fails(*given, **named):
    raise RuntimeError("as if there were a defect")

commands.enter = fails
main()
"""


def test_a_defect_ends_the_connection_of_a_guest_who_would_join_at_the_opening(
    make_daemon: StartDaemon, connected: Enter
) -> None:
    daemon = make_daemon(lifecycle={"lead": "1s"})
    daemon.spawn_patched(JOIN_FAILS)
    daemon.url = eventually(lambda: daemon.log_lines("daemon.ready"))[0]["url"]
    early = connected(daemon, daemon.make(startTime=from_now(seconds=3)))
    early.send("join", name="Grace")
    assert early.wait_for_end() == 1011
    assert "as if there were a defect" in daemon.logged("room.failed")["error"]
    assert daemon.terminate() == 0


JOIN_ENDS_AFTER_THE_LEAVE = """
import threading
from tminus.cli import main
from tminus.rooms import commands, protocol

received = threading.Event()

def parse(text, parse=protocol.parse):
    message = parse(text)
    if message.type == "leave":
        received.set()
    return message

def enter(*given, enter=commands.enter, **named):
    received.wait()
    received.clear()
    return enter(*given, **named)

protocol.parse = parse
commands.enter = enter
main()
"""


def test_a_guest_who_leaves_while_the_join_at_the_opening_is_stored_has_left(
    make_daemon: StartDaemon, connected: Enter
) -> None:
    daemon = make_daemon(**PATIENT)
    daemon.spawn_patched(JOIN_ENDS_AFTER_THE_LEAVE)
    daemon.url = eventually(lambda: daemon.log_lines("daemon.ready"))[0]["url"]
    for knocks, entered, left in ((False, "joined", "left"), (True, "knocked", "denied")):
        session = daemon.make(startTime=from_now(seconds=3), agentPrefs={"knock": knocks})
        early = connected(daemon, session)
        early.send("join", name="Grace")
        early.wait_for_status("new")
        early.send("leave")
        assert early.wait_for_end() == 1000
        assert {message["type"] for message in early.received} == {"session"}
        assert recorded(daemon, session)[-2:] == [f"participant.{entered}", f"participant.{left}"]
        assert daemon.events(session["id"])[-1]["actor"] == "room"
        assert daemon.session(session["id"])["participants"] == 0
    assert daemon.terminate() == 0


def test_early_guests_are_notified_of_a_cancellation(patient: Daemon, connected: Enter) -> None:
    session = patient.make(startTime=from_now(hours=1))
    early, looking = connected(patient, session), connected(patient, session)
    early.send("join", name="Grace")
    looking.wait_for("session")
    patient.delete(f"/supportsession/{session['id']}")
    for person in (early, looking):
        assert person.wait_for_end() == 4410
        assert person.last == {"type": "closed", "reason": "cancelled", "by": "agent"}


# --- coming back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["leaves the page", "vanishes"])
def test_a_page_that_reloads_is_the_same_participant_and_no_event_is_recorded(
    patient: Daemon, connected: Enter, way: str
) -> None:
    session = patient.make()
    other, before = connected(patient, session), connected(patient, session)
    other.join("Alan")
    before.join("Grace")
    if way == "vanishes":
        before.vanish()
    else:
        before.close()
    after = connected(patient, session)
    assert after.come_back(before.resume)["participant"] == before.participant
    after.wait_for_people("Alan", "Grace")
    assert recorded(patient, session) == ["session.active", "participant.joined", "participant.joined"]


def test_a_waiting_guest_can_reload_too(patient: Daemon, connected: Enter) -> None:
    session = patient.make(agentPrefs={"knock": True})
    host, before = connected(patient, session), connected(patient, session)
    host.host()
    before.join("Grace")
    before.close()
    after = connected(patient, session)
    assert after.come_back(before.resume)["type"] == "waiting"
    host.send("admit", participant=before.participant)
    assert after.wait_for("joined")["resume"] == before.resume


def test_a_second_connection_with_the_same_key_takes_the_place_of_the_first(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    first, second = connected(patient, session), connected(patient, session)
    first.join("Grace")
    second.come_back(first.resume)
    assert first.wait_for_end() == 4409
    assert first.last == {"type": "replaced"}
    second.wait_for_people("Grace")
    patient.logged("room.replaced", participant_id=first.participant)
    assert patient.session(session["id"])["participants"] == 1


def test_a_client_that_vanishes_leaves_and_the_session_closes(quick: Daemon, connected: Enter) -> None:
    session = quick.make()
    staying, going = connected(quick, session), connected(quick, session)
    staying.join("Grace")
    going.join("Alan")
    staying.wait_for_people("Grace", "Alan")
    going.vanish()
    staying.wait_for_people("Grace")
    assert recorded(quick, session)[-1] == "participant.left"
    staying.vanish()
    eventually(lambda: quick.session(session["id"])["status"] == "closed")
    assert quick.session(session["id"])["closeReason"] == "empty"
    assert recorded(quick, session)[-2:] == ["participant.left", "session.closed"]
    assert refusal(quick, session, resume=going.resume) == (0, 4410)


def test_a_guest_who_does_not_come_back_in_time_has_left_for_good(quick: Daemon, connected: Enter) -> None:
    session = quick.make()
    staying, going = connected(quick, session), connected(quick, session)
    staying.join("Grace")
    going.join("Alan")
    going.close()
    staying.wait_for_people("Grace", "Alan")
    staying.wait_for_people("Grace")
    assert refusal(quick, session, resume=going.resume) == (112404, 4404)
    staying.send("leave")


def test_after_a_kill_people_reconnect_and_the_others_leave(
    storage: dict[str, Any], start_daemon: StartDaemon, connected: Enter
) -> None:
    daemon = start_daemon(**{**QUICK, "lifecycle": {"empty_timeout": "10m"}}, storage=storage)
    session = daemon.make(agentPrefs={"knock": True})
    host, guest, waiting = (connected(daemon, session) for _ in range(3))
    host.host("Ada")
    guest.join("Grace")
    host.send("admit", participant=guest.participant)
    guest.wait_for("joined")
    waiting.join("Alan")
    host.wait_for_people("Alan", kind="knocking")
    daemon.kill()
    daemon.start()
    assert daemon.logged("room.returning")["participants"] == 3
    again = connected(daemon, session)
    assert again.come_back(host.resume) == {
        "type": "joined", "participant": host.participant, "role": "host", "resume": host.resume
    }  # fmt: skip
    again.wait_for_people("Ada", "Grace")
    again.wait_for_people("Ada")
    assert sorted(recorded(daemon, session)[-2:]) == ["participant.denied", "participant.left"]
    actors = {event["type"]: event["actor"] for event in daemon.events(session["id"])[-2:]}
    assert actors == {"participant.denied": "room", "participant.left": "clock"}
    assert daemon.session(session["id"])["participants"] == 1


def test_a_restart_closes_with_1012_and_people_reconnect(
    storage: dict[str, Any], start_daemon: StartDaemon, connected: Enter
) -> None:
    daemon = start_daemon(**PATIENT, storage=storage)
    session = daemon.make()
    guest = connected(daemon, session)
    guest.join("Grace")
    assert daemon.terminate() == 0
    assert guest.wait_for_end() == 1012
    daemon.start()
    again = connected(daemon, session)
    assert again.come_back(guest.resume)["participant"] == guest.participant
    again.wait_for_people("Grace")
    assert recorded(daemon, session) == ["session.active", "participant.joined"]


# --- no way back after the end ----------------------------------------------------------------------------------------


def in_room(daemon: Daemon, session: JSON, connected: Enter) -> list[Person]:
    host, guest = connected(daemon, session), connected(daemon, session)
    host.host()
    guest.join()
    return [host, guest]


def no_key_opens(daemon: Daemon, session: JSON, people: list[Person]) -> None:
    """Check that no key lets anybody into a closed session."""
    for person in people:
        assert refusal(daemon, session, resume=person.resume) == (0, 4410)
    assert refusal(daemon, session, name="Ada", role="host", key=key_of(session)) == (0, 4410)
    assert refusal(daemon, session, name="Grace") == (0, 4410)


@pytest.mark.parametrize(("by", "closer"), [("anna", "agent"), ("supervisor", "operator")])
def test_the_last_message_shows_who_closed_the_session(patient: Daemon, connected: Enter, by: str, closer: str) -> None:
    session = patient.make(by="anna")
    people = in_room(patient, session, connected)
    patient.delete(f"/supportsession/{session['id']}", by=by)
    late = connected(patient, session)
    for person in (*people, late):
        assert person.wait_for_end() == 4410
        assert person.last == {"type": "closed", "reason": "closed", "by": closer}


def test_a_close_puts_everybody_out_and_no_key_opens_again(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    people = in_room(patient, session, connected)
    patient.delete(f"/supportsession/{session['id']}")
    for person in people:
        assert person.wait_for_end() == 4410
        assert person.last == {"type": "closed", "reason": "closed", "by": "agent"}
    no_key_opens(patient, session, people)


def test_a_time_limit_puts_everybody_out(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(lifecycle={"max_active": "2s"})
    session = daemon.make()
    people = in_room(daemon, session, connected)
    for person in people:
        assert person.wait_for_end() == 4410
        assert person.last == {"type": "closed", "reason": "time_limit", "by": "daemon"}
    no_key_opens(daemon, session, people)


def test_an_expiry_puts_out_those_who_wait(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(lifecycle={"new_timeout": "2s"})
    session = daemon.make(agentPrefs={"knock": True})
    waiting = connected(daemon, session)
    waiting.join()
    assert waiting.wait_for_end() == 4410
    assert waiting.last == {"type": "closed", "reason": "expired", "by": "daemon"}
    no_key_opens(daemon, session, [waiting])


def test_a_removed_guest_cannot_come_back_with_the_resume_key(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    host, guest = in_room(patient, session, connected)
    host.send("remove", participant=guest.participant)
    assert guest.wait_for_end() == 4403
    assert refusal(patient, session, resume=guest.resume) == (112404, 4404)


def reload(daemon: Daemon) -> None:
    before = len(daemon.log_lines("config.reloaded"))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: len(daemon.log_lines("config.reloaded")) > before)


def without_agent(daemon: Daemon, name: str) -> None:
    """Remove an agent from the configuration file."""
    kept = [one for one in daemon.config.read_text().split("[[agents]]") if f'"{name}@example.com"' not in one]
    daemon.config.write_text("[[agents]]".join(kept))


def without_tokens(daemon: Daemon, name: str) -> None:
    """Revoke the tokens of an agent in the configuration file."""
    hashes = f'["{digest(token_of(name))}"]'
    daemon.config.write_text(daemon.config.read_text().replace(hashes, "[]"))


def is_put_out(host: Person) -> bool:
    return host.wait_for_end() == 4403 and host.last == {"type": "removed", "reason": "revoked"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("revoke", [without_agent, without_tokens])
def test_an_agent_who_is_removed_or_has_no_token_has_no_hosts(
    kind: str,
    revoke: Callable[[Daemon, str], None],
    start_daemon: StartDaemon,
    pg_server: PostgresServer,
    connected: Enter,
) -> None:
    with contextlib.ExitStack() as stack:
        settings = dict(PATIENT)
        if kind != "sqlite":
            settings["storage"] = {"url": stack.enter_context(pg_server.database(empty=True)).configured}
        daemon = start_daemon(**settings)
        stack.callback(daemon.terminate)
        session, other = daemon.make(by="anna"), daemon.make(by="ben")
        later = daemon.make(by="anna", type="live", label="Later", startTime=from_now(hours=1))
        host, guest = in_room(daemon, session, connected)
        other_host, early = connected(daemon, other), connected(daemon, later)
        other_host.host()
        early.send("join", name="Ada", role="host", key=key_of(later))
        original = daemon.make(by="anna")
        away = connected(daemon, original)
        away.join("Ada", role="host", key=original["hostAuthToken"])
        away.vanish()

        revoke(daemon, "anna")
        reload(daemon)

        assert is_put_out(host)
        guest.wait_for_people("Grace")
        assert is_put_out(early)
        assert refusal(daemon, session, resume=host.resume) == (112404, 4404)  # the host has left
        assert refusal(daemon, original, resume=away.resume) == (113403, 4403)
        for one, key in ((session, key_of(session)), (original, original["hostAuthToken"]), (later, key_of(later))):
            assert refusal(daemon, one, name="Ada", role="host", key=key) == (113403, 4403)
        # A wrong key gets the same answer as before: only the right key shows that the agent has been removed.
        assert refusal(daemon, session, name="Eve", role="host", key="wrong") == (112403, 4403)
        assert refusal(daemon, session, resume="wrong") == (112404, 4404)
        assert recorded(daemon, session)[-1] == "participant.left"
        daemon.logged("room.host_revoked", session_id=session["id"], participant_id=host.participant)
        # Guests of the session and hosts of other agents stay.
        connected(daemon, session).join("Alan")
        other_host.send("leave")
        assert other_host.wait_for_end() == 1000
        # The keys are valid again when the agent may act again.
        daemon.configure(**settings)
        reload(daemon)
        connected(daemon, session).host()


def test_hosts_stay_while_their_agent_has_another_token(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon()
    old = f'"{digest(token_of("anna"))}"'
    daemon.config.write_text(daemon.config.read_text().replace(old, f'{old}, "{digest(token_of("anna again"))}"'))
    reload(daemon)
    session = daemon.make(by="anna")
    host, guest = in_room(daemon, session, connected)
    daemon.config.write_text(daemon.config.read_text().replace(f"{old}, ", ""))
    reload(daemon)
    assert daemon.get("/me", by="anna").status_code == 401
    guest.send("leave")
    host.wait_for_people("Ada")
    again = connected(daemon, session)
    again.come_back(host.resume)
    again.wait_for_people("Ada")


def test_hosts_are_put_out_when_the_tokens_of_their_agent_expire(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon()
    session = daemon.make(by="anna")
    host, guest = in_room(daemon, session, connected)
    hashes = f'token_sha256 = ["{digest(token_of("anna"))}"]\n'
    expires = from_now(seconds=3)
    daemon.config.write_text(daemon.config.read_text().replace(hashes, f'{hashes}expires = "{expires}"\n'))
    reload(daemon)
    assert is_put_out(host)
    guest.wait_for_people("Grace")


def test_nobody_answers_a_knock(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(rooms={"knock_timeout": "1s"})
    session = daemon.make(agentPrefs={"knock": True})
    guest = connected(daemon, session)
    guest.join()
    assert guest.wait_for_end() == 4403
    assert guest.last == {"type": "denied", "reason": "timeout"}
    assert recorded(daemon, session) == ["participant.knocked", "participant.denied"]
    assert daemon.events(session["id"])[-1]["actor"] == "clock"
    assert daemon.logged("http.websocket")["close_reason"] == "denied: timeout"
    assert refusal(daemon, session, resume=guest.resume) == (112404, 4404)


def test_nobody_answers_a_knock_of_somebody_who_was_early(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(rooms={"knock_timeout": "1s"}, lifecycle={"lead": "1s"})
    session = daemon.make(agentPrefs={"knock": True}, startTime=from_now(seconds=2))
    guest = connected(daemon, session)
    guest.join()
    assert guest.wait_for_end() == 4403
    assert guest.last == {"type": "denied", "reason": "timeout"}


# --- keys -------------------------------------------------------------------------------------------------------------


def test_forged_and_foreign_keys_open_nothing(patient: Daemon, connected: Enter) -> None:
    session, foreign = patient.make(), patient.make()
    guest = connected(patient, foreign)
    guest.join()
    for key in ("x", "x" * 32, key_of(foreign), "ключ", "\x00"):
        assert refusal(patient, session, name="Eve", role="host", key=key) == (112403, 4403)
    assert refusal(patient, session, name="Eve", role="host") == (112403, 4403)
    for resume in ("x", "x" * 32, guest.resume, key_of(session)):
        assert refusal(patient, session, resume=resume) == (112404, 4404)
    assert patient.session(session["id"])["participants"] == 0
    assert refusal(patient, {**session, "id": "nobody"}, name="Eve") == (101404, 4404)


def test_the_host_token_of_the_original_opens_the_room_for_the_host(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    host = connected(patient, session)
    assert host.join("Ada", role="host", key=session["hostAuthToken"])["role"] == "host"


def test_guesses_are_limited_and_participants_stay(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"failed_tokens": "5/hour"})
    session = daemon.make()
    guest = connected(daemon, session)
    guest.join()
    answers = [refusal(daemon, session, name="Eve", role="host", key=f"key {number}") for number in range(8)]
    assert answers == [(112403, 4403)] * 5 + [(104429, 4429)] * 3
    daemon.logged("room.limited")
    guest.send("leave")
    assert guest.wait_for_end() == 1000
    assert "key 1" not in daemon.log_text


def test_events_of_a_room_have_the_request_id_of_their_websocket(patient: Daemon, connected: Enter) -> None:
    session = patient.make(agentPrefs={"knock": True})
    host, guest = connected(patient, session), connected(patient, session)
    host.host()
    guest.join("Grace")
    host.send("admit", participant=guest.participant)
    guest.wait_for("joined")
    guest.send("leave")
    assert guest.wait_for_end() == 1000
    host.send("end")
    assert host.wait_for_end() == 4410
    patient.logged("session.closed", session_id=session["id"])
    lines = [line for line in patient.log_lines() if line.get("session_id") == session["id"]]
    kinds = ("session.", "participant.")
    named = {(line["event"], line["request_id"]) for line in lines if line["event"].startswith(kinds)}
    of_host, of_guest = (person.wire.response.headers["X-Request-Id"] for person in (host, guest))  # type: ignore[union-attr]
    assert {name for name, request_id in named if request_id == of_guest} == {"participant.knocked", "participant.left"}
    by_host = {name for name, request_id in named if request_id == of_host}
    assert by_host == {"session.active", "participant.joined", "participant.admitted", "session.closed"}


def test_whoever_has_a_right_link_gets_in_although_a_neighbour_guesses(
    start_daemon: StartDaemon, connected: Enter
) -> None:
    daemon = start_daemon(limits={"failed_tokens": "3/hour"})
    session = daemon.make(type="support")
    wrong = [refusal(daemon, {**session, "id": f"guess{number}"}, name="Eve") for number in range(5)]
    assert wrong == [(101404, 4404)] * 3 + [(104429, 4429)] * 2
    # The neighbour goes on in parallel.
    guessers = [connected(daemon, {**session, "id": f"more{number}"}) for number in range(10)]
    guest, host = connected(daemon, session), connected(daemon, session)
    assert guest.join("Grace")["role"] == "guest"
    assert host.join("Ada", role="host", key=key_of(session))["role"] == "host"
    assert {guesser.wait_for_end() for guesser in guessers} == {4429}
    assert refusal(daemon, session, name="Eve", role="host", key="wrong") == (104429, 4429)
    assert daemon.session(session["id"])["participants"] == 2


def test_guesses_in_parallel_do_not_exceed_the_limit(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"failed_tokens": "5/hour"})
    session = daemon.make()
    people = [connected(daemon, session) for _ in range(20)]
    for person in people:
        person.send("join", name="Eve", role="host", key="wrong")
    codes = [person.wait_for_end() for person in people]
    assert codes.count(4403) == 5
    assert codes.count(4429) == 15


def test_resume_keys_of_people_who_have_left_are_no_guesses(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"failed_tokens": "1/hour"})
    session = daemon.make()
    left = connected(daemon, session)
    left.join()
    left.send("leave")
    left.wait_for_end()
    for key in (left.resume, left.resume, "x" * 32):
        assert refusal(daemon, session, resume=key) == (112404, 4404)
    assert connected(daemon, session).join()["type"] == "joined"


def test_no_secret_is_in_the_log_or_in_an_event(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon()
    session = daemon.make()
    host, guest = in_room(daemon, session, connected)
    host.send("end")
    guest.wait_for_end()
    events = json.dumps(daemon.feed())
    assert daemon.terminate() == 0
    log = daemon.log_text
    assert guest.participant in log
    assert guest.participant in events
    for secret in (guest.resume, host.resume, key_of(session), session["hostAuthToken"]):
        assert secret not in log
        assert secret not in events


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        "", "null", "[]", "{}", '{"type": 1}', '{"type": "admit"}', '{"type": "join"}', '{"type": "join", "name": ""}',
        '{"type": "join", "name": "  "}', '{"type": "join", "name": "a\\u202eb"}', '{"type": "join", "name": "a\\nb"}',
        '{"type": "join", "name": "\\u200d"}', json.dumps({"type": "join", "name": "x" * 81}),
        '{"type": "join", "name": "\\ud800"}', '{"type": "join", "name": "Ada", "role": "supervisor"}', "[" * 50_000,
    ],
)  # fmt: skip
def test_a_first_message_that_is_no_valid_join_ends_the_connection(
    patient_sqlite: Daemon, connected: Enter, message: str
) -> None:
    session = patient_sqlite.make()
    person = connected(patient_sqlite, session)
    person.wire.send(message)
    assert person.wait_for_end() == 4400
    assert (person.last["type"], person.last["refcode"]) == ("error", 112400)


def test_later_messages_that_are_wrong_get_an_error_and_unknown_members_are_ignored(
    patient_sqlite: Daemon, connected: Enter
) -> None:
    session = patient_sqlite.make()
    person = connected(patient_sqlite, session)
    person.join("  Ada\u200d ", later={"than": "this version"})
    person.wait_for("participants")
    for message in ("nonsense", '{"type": "dance"}', '{"type": "join", "name": "Ada"}'):
        person.wire.send(message)
        assert person.wait_for("error")["refcode"] == 112400
    assert person.received[-4]["participants"][0]["name"] == "Ada\u200d"


def test_a_full_session_refuses_another_guest(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"participants_per_session": 2})
    session, knocking = daemon.make(), daemon.make(agentPrefs={"knock": True})
    for one in (session, knocking):
        for _ in range(2):
            connected(daemon, one).join()
        assert refusal(daemon, one, name="Third") == (102429, 4429)


def test_the_configuration_limits_the_length_of_names(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"participant_name": 3})
    session = daemon.make()
    connected(daemon, session).join("Ada")
    assert refusal(daemon, session, name="Adam") == (112400, 4400)
    page = daemon.http.get(f"{daemon.url}/?{session['id']}").text
    assert '<input id="name" name="name" autocomplete="name" maxlength="3"' in page


def test_a_session_has_one_source_of_presence_at_a_time(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    reported = patient.join(session["id"], "Alan").json()["participantId"]
    assert refusal(patient, session, name="Grace") == (112409, 4409)
    patient.logged("room.other_source", session_id=session["id"], source="participants")
    patient.delete(f"/supportsession/{session['id']}/participants/{reported}", by="room")
    guest = connected(patient, session)
    guest.join("Grace")
    answer = patient.join(session["id"], "Alan")
    assert (answer.status_code, answer.json()["refcode"]) == (409, 112409)
    patient.logged("room.other_source", session_id=session["id"], source="room")


def test_another_system_may_put_somebody_out(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    guest = connected(patient, session)
    guest.join()
    patient.delete(f"/supportsession/{session['id']}/participants/{guest.participant}", by="room")
    assert patient.join(session["id"], "Alan").status_code == 200  # nobody is in the daemon's own room any more
    assert guest.wait_for_end() == 4403
    assert guest.last == {"type": "removed", "reason": "removed"}


def test_another_system_may_deny_somebody_who_knocked(start_daemon: StartDaemon, connected: Enter) -> None:
    daemon = start_daemon(limits={"participants_per_session": 1})
    session = daemon.make(agentPrefs={"knock": True})
    for _ in range(2):
        guest = connected(daemon, session)
        assert guest.join()["type"] == "waiting"
        daemon.put(f"/supportsession/{session['id']}/participants/{guest.participant}", {"admitted": False}, by="room")
        assert guest.wait_for_end() == 4403
        assert guest.last == {"type": "denied", "reason": "denied"}


def test_a_client_must_speak_the_protocol(patient_sqlite: Daemon) -> None:
    session = patient_sqlite.make()
    address = f"{patient_sqlite.url.replace('http', 'ws', 1)}/v3/rooms/{session['id']}"
    with pytest.raises(InvalidStatus) as refused, connect(address, proxy=None):
        pass
    assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus), connect(address, proxy=None, subprotocols=["other"]):  # type: ignore[list-item]
        pass


def test_a_connection_without_a_message_ends_after_ten_seconds(patient_sqlite: Daemon, connected: Enter) -> None:
    person = connected(patient_sqlite, patient_sqlite.make())
    assert person.wait_for_end() == 4408


def test_the_client_of_the_documentation_works(start_daemon: StartDaemon, connected: Enter, tmp_path: Path) -> None:
    daemon = start_daemon(**PATIENT)
    session = daemon.make()
    page = (Path(__file__).parents[2] / "docs" / "rooms.md").read_text()
    program, output, here = tmp_path / "client.py", tmp_path / "output", "here: Alan, Grace\n"
    program.write_text(page.partition("```python\n")[2].partition("```")[0])
    url = daemon.url.replace("http", "ws", 1)
    other = connected(daemon, session)
    other.join("Alan")
    with output.open("wb") as written:
        client = subprocess.Popen(
            [sys.executable, program, url, session["id"], "Grace"], stdout=written, stderr=written
        )
    try:
        other.wait_for_people("Alan", "Grace")
        eventually(lambda: here in output.read_text())
        assert daemon.terminate() == 0
        port = daemon.url.rpartition(":")[2]
        daemon.config.write_text(daemon.config.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
        daemon.start()
        eventually(lambda: output.read_text().count(here) == 2)
        daemon.delete(f"/supportsession/{session['id']}")
        assert client.wait(30) == 0
        assert output.read_text().endswith("{'type': 'closed', 'reason': 'closed', 'by': 'agent'}\n")
        assert recorded(daemon, session).count("participant.joined") == 2
    finally:
        client.kill()
        client.wait()


def test_a_guest_who_is_gone_leaves_the_door_and_knocks_again_once(quick: Daemon, connected: Enter) -> None:
    session = quick.make(agentPrefs={"knock": True})
    host, gone = connected(quick, session), connected(quick, session)
    host.host("Ada")
    gone.join("Grace")
    host.wait_for_people("Grace", kind="knocking")
    gone.vanish()
    host.wait_for_people(kind="knocking")
    assert refusal(quick, session, resume=gone.resume) == (112404, 4404)
    for answer in ("deny", "admit"):
        again = connected(quick, session)
        again.join("Grace")
        host.wait_for_people("Grace", kind="knocking")
        host.send(answer, participant=again.participant)
        host.wait_for_people(kind="knocking")
    assert again.wait_for("joined")["participant"] == again.participant


def test_a_host_who_comes_back_sees_waiting_guests_and_can_remove_a_lost_one(patient: Daemon, connected: Enter) -> None:
    session = patient.make(agentPrefs={"knock": True})
    host, grace = connected(patient, session), connected(patient, session)
    host.host("Ada")
    grace.join("Grace")
    host.wait_for_people("Grace", kind="knocking")
    back = connected(patient, session)
    back.come_back(host.resume)
    back.wait_for_people("Grace", kind="knocking")
    grace.vanish()
    back.send("admit", participant=grace.participant)
    back.wait_for_people("Ada", "Grace")
    back.send("remove", participant=grace.participant)
    back.wait_for_people("Ada")
    assert refusal(patient, session, resume=grace.resume) == (112404, 4404)


def test_a_guest_who_comes_back_sees_who_has_left_meanwhile(patient: Daemon, connected: Enter) -> None:
    session = patient.make()
    grace, alan = connected(patient, session), connected(patient, session)
    grace.join("Grace")
    alan.join("Alan")
    grace.wait_for_people("Grace", "Alan")
    grace.vanish()
    alan.send("leave")
    assert alan.wait_for_end() == 1000
    back = connected(patient, session)
    back.come_back(grace.resume)
    assert [one["name"] for one in back.wait_for("participants")["participants"]] == ["Grace"]


# --- two daemons ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(start_daemon: StartDaemon, pg_server: PostgresServer) -> Iterator[tuple[Daemon, Daemon]]:
    with pg_server.database(empty=True) as database:
        settings = {**PATIENT, "rooms": {"reconnect": "1m", "restart": "1m"}, "storage": {"url": database.configured}}
        one, other = (start_daemon(**settings) for _ in range(2))
        yield one, other
        for daemon in (one, other):
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.terminate()


def test_a_close_beside_joins_and_admissions_on_two_daemons_ends_all_of_them(
    two: tuple[Daemon, Daemon], connected: Enter
) -> None:
    for number in range(4):
        session = two[0].make(agentPrefs={"knock": True})
        hosts = [connected(daemon, session) for daemon in two]
        for host in hosts:
            host.host()
        guests = [connected(two[index % 2], session) for index in range(4)]
        for guest in guests:
            guest.join()
        late = [connected(two[index % 2], session) for index in range(4)]

        def send(person: Person, kind: str, **members: Any) -> None:
            with contextlib.suppress(ConnectionClosed):
                person.send(kind, **members)

        def close(session_id: str) -> None:
            assert two[1].delete(f"/supportsession/{session_id}").status_code == 200

        with ThreadPoolExecutor(12) as pool:
            sent = [
                pool.submit(send, host, answer, participant=guest.participant)
                for host, answer in zip(hosts, ("admit", "deny"), strict=True)
                for guest in guests
            ]
            sent += [pool.submit(send, person, "join", name="Eve", role="host", key=key_of(session)) for person in late]
            sent.append(pool.submit(send, hosts[0], "end") if number % 2 else pool.submit(close, session["id"]))
        for one in sent:
            one.result()
        for person in (*hosts, *guests, *late):
            assert person.wait_for_end() in (4403, 4410)
        events = recorded(two[0], session)
        assert events[-1] == "session.closed"
        assert events.count("session.closed") == 1
        for person in (*hosts, *guests):
            assert refusal(two[1], session, resume=person.resume) == (0, 4410)


def test_people_of_one_session_can_use_different_daemons(two: tuple[Daemon, Daemon], connected: Enter) -> None:
    one, other = two
    session = one.make(agentPrefs={"knock": True})
    host, guest = connected(one, session), connected(other, session)
    host.host("Ada")
    guest.join("Grace")
    host.wait_for_people("Grace", kind="knocking")
    host.send("admit", participant=guest.participant)
    guest.wait_for_people("Ada", "Grace")
    host.wait_for_people("Ada", "Grace")
    # A page may reconnect to the other daemon. That records no event.
    guest.close()
    moved = connected(one, session)
    assert moved.come_back(guest.resume)["participant"] == guest.participant
    third = connected(other, session)
    third.join("Alan")
    host.send("admit", participant=third.participant)
    third.wait_for_people("Ada", "Grace", "Alan")
    one.delete(f"/supportsession/{session['id']}")
    for person in (host, moved, third):
        assert person.wait_for_end() == 4410
        assert person.last == {"type": "closed", "reason": "closed", "by": "agent"}
    for daemon in two:
        assert refusal(daemon, session, resume=third.resume) == (0, 4410)
    assert recorded(one, session).count("participant.left") == 0


def test_hosts_of_an_agent_who_is_removed_are_put_out_of_all_daemons(
    two: tuple[Daemon, Daemon], connected: Enter
) -> None:
    one, other = two
    session = one.make(by="anna")
    here, there, guest = connected(one, session), connected(other, session), connected(other, session)
    here.host("Ada")
    there.host("Ida")
    guest.join()
    for daemon in two:
        without_agent(daemon, "anna")
        reload(daemon)
    assert is_put_out(here)
    assert is_put_out(there)
    guest.wait_for_people("Grace")
    for daemon in two:
        assert refusal(daemon, session, name="Ada", role="host", key=key_of(session)) == (113403, 4403)
    assert recorded(one, session).count("participant.left") == 2


def test_people_of_a_daemon_that_does_not_come_back_leave(two: tuple[Daemon, Daemon], connected: Enter) -> None:
    one, other = two
    session = one.make()
    lost, staying = connected(one, session), connected(other, session)
    lost.join("Grace")
    staying.join("Alan")
    staying.wait_for_people("Grace", "Alan")
    one.kill()
    eventually(lambda: other.session(session["id"])["participants"] == 1, deadline=90)
    staying.wait_for_people("Alan")
    other.logged("room.lease_lost", participants=1)


def test_the_first_connection_ends_when_its_guest_reconnects_to_another_daemon(
    two: tuple[Daemon, Daemon], connected: Enter
) -> None:
    one, other = two
    session = one.make()
    first, second = connected(one, session), connected(other, session)
    first.join("Grace")
    second.come_back(first.resume)
    assert first.wait_for_end() == 4409
    assert other.session(session["id"])["participants"] == 1
