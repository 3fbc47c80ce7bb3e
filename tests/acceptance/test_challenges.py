"""Wrong PINs are limited. A person who answers a challenge can go on: each answer allows one look-up."""

import xml.etree.ElementTree as ET
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.support import challenges
from tests.support.databases import PostgresServer
from tminus import clock

pytestmark = pytest.mark.slow

LIMITS = {"pin_lookups": "2/hour", "challenges": "", "challenge_guesses": "", "challenge_guesses_in_all": ""}


def look_up(daemon: Daemon, pin: object, address: str = "192.0.2.1", path: str = "meta", **query: str) -> Any:
    """Look up a PIN from an address. The daemon trusts the tests as its proxy."""
    params = "&".join(f"{name}={value}" for name, value in query.items())
    return daemon.get(f"/support/{pin}/{path}?{params}", by=None, headers={"X-Forwarded-For": address})


def challenge(daemon: Daemon, address: str = "192.0.2.1") -> JSON:
    answer = daemon.get("/support/challenge", by=None, headers={"X-Forwarded-For": address})
    assert answer.status_code == 200, answer.text
    made: JSON = answer.json()
    return made


def solved(daemon: Daemon, address: str = "192.0.2.1") -> dict[str, str]:
    """Solve a new challenge; return the query parameters with its answer."""
    uuid = challenge(daemon, address)["uuid"]
    return {"challenge": uuid, "answer": challenges.solve(daemon.database, uuid)}


def outcome(answer: Any) -> tuple[int, int]:
    """Return the status and the refcode of an answer; the refcode of a success is 0."""
    body = answer.json()
    if answer.status_code != 200:
        assert body["code"] == answer.status_code
    return answer.status_code, body.get("refcode", 0)


FOUND, UNKNOWN, CHALLENGED, TOO_MANY = (200, 0), (404, 101404), (400, 169400), (429, 169429)


@pytest.fixture
def limited(storage: JSON, start_daemon: StartDaemon) -> Callable[..., Daemon]:
    """Return a function that starts a daemon, and sends too many wrong PINs from one address."""

    def start(**limits: str) -> Daemon:
        daemon = start_daemon(storage=storage, limits={**LIMITS, **limits}, server={"trusted_proxies": ["127.0.0.1"]})
        assert [outcome(look_up(daemon, 999999)) for _ in range(3)] == [UNKNOWN, UNKNOWN, CHALLENGED]
        return daemon

    return start


def test_an_answer_lets_a_person_go_on_at_once(limited: Callable[..., Daemon]) -> None:
    daemon = limited()
    session = daemon.make(type="support")
    refused = look_up(daemon, session["pin"])
    assert outcome(refused) == CHALLENGED
    assert 3500 <= int(refused.headers["Retry-After"]) <= 3600
    assert "GET /v3/support/challenge" in refused.json()["description"]
    assert look_up(daemon, session["pin"], **solved(daemon)).json()["id"] == session["id"]
    assert outcome(look_up(daemon, session["pin"])) == CHALLENGED, "an answer allows one look-up"
    assert outcome(look_up(daemon, session["pin"], path="metadata", **solved(daemon))) == FOUND
    assert outcome(look_up(daemon, 999999, **solved(daemon))) == UNKNOWN
    assert outcome(look_up(daemon, session["pin"], "192.0.2.2")) == FOUND
    # A person types spaces; a client sends the uuid in upper case.
    answer = solved(daemon)
    spaced = {"challenge": answer["challenge"].upper(), "answer": "%20".join(answer["answer"])}
    assert outcome(look_up(daemon, session["pin"], **spaced)) == FOUND
    assert outcome(look_up(daemon, session["pin"], **answer)) == CHALLENGED
    log = daemon.log_text
    assert str(session["pin"]) not in log
    assert answer["challenge"] not in log


def test_a_challenge_has_the_shape_of_the_original_and_no_text(limited: Callable[..., Daemon]) -> None:
    daemon = limited()
    made = challenge(daemon)
    assert sorted(made) == ["challengeDisplay", "createdAt", "uuid"]
    picture = ET.fromstring(made["challengeDisplay"])
    assert [child.tag for child in picture.iter()] == [
        f"{{http://www.w3.org/2000/svg}}{one}" for one in ("svg", "image")
    ]
    data = picture[0].attrib["{http://www.w3.org/1999/xlink}href"]
    assert b64decode(data.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    text = challenges.solve(daemon.database, made["uuid"])
    assert len(text) == 4
    assert text.isdigit()
    assert len({challenge(daemon)["uuid"] for _ in range(5)}) == 5
    assert daemon.get("/support/challenge").headers["Cache-Control"] == "no-store"


def test_an_answer_serves_once(limited: Callable[..., Daemon]) -> None:
    daemon = limited()
    pin = daemon.make(type="support")["pin"]
    right, wrong = solved(daemon), solved(daemon)
    assert outcome(look_up(daemon, pin, **right)) == FOUND
    assert outcome(look_up(daemon, pin, **right)) == CHALLENGED
    digit = wrong["answer"][0]
    missed = {**wrong, "answer": ("1" if digit != "1" else "2") + wrong["answer"][1:]}
    assert outcome(look_up(daemon, pin, **missed)) == CHALLENGED
    assert outcome(look_up(daemon, pin, **wrong)) == CHALLENGED, "a wrong answer uses up the challenge"
    guess = solved(daemon)
    assert outcome(look_up(daemon, 999999, **guess)) == UNKNOWN
    assert outcome(look_up(daemon, pin, **guess)) == CHALLENGED, "a wrong PIN uses up the challenge"
    daemon.logged("pin.challenge_refused", remote_ip="192.0.2.1")


def test_of_parallel_uses_of_one_answer_one_counts(limited: Callable[..., Daemon]) -> None:
    daemon = limited()
    pin = daemon.make(type="support")["pin"]
    answer = solved(daemon)
    with ThreadPoolExecutor(20) as people:
        codes = Counter(people.map(lambda _: outcome(look_up(daemon, pin, **answer)), range(20)))
    assert codes == {FOUND: 1, CHALLENGED: 19}


def test_forged_foreign_and_late_answers_are_refused(limited: Callable[..., Daemon], start_daemon: StartDaemon) -> None:
    daemon = limited()
    pin = daemon.make(type="support")["pin"]
    mine = solved(daemon)
    other = start_daemon()
    foreign = challenge(other)["uuid"]
    late = challenges.make(daemon.database, clock.now() - timedelta(minutes=3))
    early = challenges.make(daemon.database, clock.now() + timedelta(minutes=1))
    changed = mine["challenge"][:-1] + ("0" if mine["challenge"][-1] != "0" else "1")
    for uuid in (foreign, late, early, changed, str(uuid4()), "x", "0" * 32, "%00", "%F0%9F%98%80"):
        answers = {challenges.solve(daemon.database, uuid)} if uuid in (late, early, changed) else {"0000"}
        for answer in (*answers, challenges.solve(other.database, foreign)):
            assert outcome(look_up(daemon, pin, challenge=uuid, answer=answer)) in (CHALLENGED, (400, 100400)), uuid
    for answer in ("", "%00", "12345", "%EF%BC%91" * 4, "-1", "1e3"):
        uuid = challenge(daemon)["uuid"]
        assert outcome(look_up(daemon, pin, challenge=uuid, answer=answer)) in (CHALLENGED, (400, 100400))
    assert outcome(look_up(daemon, pin, challenge=mine["challenge"], answer="1" * 65)) == (400, 100400)
    assert outcome(look_up(daemon, pin, challenge="1" * 60_000, answer="1")) in ((400, 100400), (431, 100431))
    assert outcome(look_up(daemon, pin, **mine)) == FOUND, "none of these requests used up the challenge"


def test_an_answer_outlives_a_restart_and_a_change_of_address(limited: Callable[..., Daemon]) -> None:
    daemon = limited()
    pin = daemon.make(type="support")["pin"]
    before, used = solved(daemon), solved(daemon)
    assert outcome(look_up(daemon, pin, **used)) == FOUND
    daemon.restart()
    for address in ("192.0.2.1", "192.0.2.7"):
        assert [outcome(look_up(daemon, 999999, address)) for _ in range(3)] == [UNKNOWN, UNKNOWN, CHALLENGED]
    assert outcome(look_up(daemon, pin, **used)) == CHALLENGED
    # A phone changes from the wireless network to the mobile one.
    assert outcome(look_up(daemon, pin, "192.0.2.7", **before)) == FOUND


def test_guesses_with_answers_are_limited_for_each_address_and_for_all(limited: Callable[..., Daemon]) -> None:
    daemon = limited(challenge_guesses="3/hour", challenge_guesses_in_all="5/hour")
    pin = daemon.make(type="support")["pin"]
    assert outcome(look_up(daemon, pin, **solved(daemon))) == FOUND
    assert [outcome(look_up(daemon, 999999, **solved(daemon))) for _ in range(4)] == [UNKNOWN] * 3 + [TOO_MANY]
    assert outcome(look_up(daemon, pin, **solved(daemon))) == TOO_MANY, "otherwise somebody could try every PIN"
    for _ in range(3):
        look_up(daemon, 999999, "192.0.2.2")
    kept = solved(daemon)
    codes = [outcome(look_up(daemon, 999999, "192.0.2.2", **solved(daemon))) for _ in range(4)]
    assert codes == [UNKNOWN] * 2 + [TOO_MANY] * 2, "five guesses in all"
    full = look_up(daemon, pin, "192.0.2.2", **kept)
    assert outcome(full) == TOO_MANY
    assert 3000 <= int(full.headers["Retry-After"]) <= 3600
    assert outcome(look_up(daemon, pin, "192.0.2.3")) == FOUND, "an address without wrong PINs needs no challenge"


def test_parallel_guesses_with_answers_have_the_same_limits(limited: Callable[..., Daemon]) -> None:
    daemon = limited(challenge_guesses="4/hour")
    answers = [solved(daemon) for _ in range(20)]
    with ThreadPoolExecutor(20) as guessers:
        codes = Counter(guessers.map(lambda answer: outcome(look_up(daemon, 999999, **answer)), answers))
    assert codes[UNKNOWN] == 4
    assert codes[TOO_MANY] == 16


def test_parallel_guesses_of_pins_do_not_exceed_the_limit_and_right_ones_do_not_count(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(limits={"pin_lookups": "5/hour"})
    pin = daemon.make(type="support")["pin"]
    assert [outcome(look_up(daemon, pin)) for _ in range(20)] == [FOUND] * 20
    with ThreadPoolExecutor(30) as guessers:
        codes = Counter(guessers.map(lambda number: outcome(look_up(daemon, number)), range(900000, 900030)))
    assert codes[UNKNOWN] <= 5
    while outcome(look_up(daemon, 999999)) == UNKNOWN:
        codes[UNKNOWN] += 1
    assert codes[UNKNOWN] == 5
    assert outcome(look_up(daemon, pin)) == CHALLENGED


def test_a_neighbour_cannot_use_up_the_challenges_of_an_address(limited: Callable[..., Daemon]) -> None:
    daemon = limited(challenges="5/hour")
    pin = daemon.make(type="support")["pin"]
    begun = clock.monotonic()
    with ThreadPoolExecutor(20) as people:
        made = list(people.map(lambda _: challenge(daemon)["uuid"], range(20)))
    assert len(set(made)) == 20
    assert clock.monotonic() - begun >= 1.5, "15 requests waited in a queue that admits ten a second"
    assert outcome(look_up(daemon, pin, **solved(daemon))) == FOUND


def test_somebody_with_many_ipv6_networks_needs_challenges_for_all_of_them(limited: Callable[..., Daemon]) -> None:
    """A /48 has 65,536 networks. With two free guesses in each, its owner could try 131,072 PINs."""
    daemon = limited()
    pin = daemon.make(type="support")["pin"]
    codes = Counter(outcome(look_up(daemon, 999999, f"2001:db8:1:{network:x}::1")) for network in range(30))
    assert codes == {UNKNOWN: 16, CHALLENGED: 14}
    assert outcome(look_up(daemon, pin, "2001:db8:1:ffff::1", **solved(daemon, "2001:db8:1:ffff::1"))) == FOUND
    assert outcome(look_up(daemon, pin, "2001:db8:2::1")) == FOUND
    wide = Counter(outcome(look_up(daemon, 999999, f"2001:db8:{network:x}::1")) for network in range(16, 150))
    assert wide == {UNKNOWN: 112, CHALLENGED: 22}, "the limit for a /32 is eight times that for a /48"
    assert outcome(look_up(daemon, pin, "2001:db9::1")) == FOUND


def test_daemons_on_one_postgresql_share_challenges_and_the_limit_of_guesses(
    pg_server: PostgresServer, start_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database:
        limits = {**LIMITS, "challenge_guesses_in_all": "6/hour"}
        one, two = (
            start_daemon(storage={"url": database.configured}, limits=limits, server={"trusted_proxies": ["127.0.0.1"]})
            for _ in range(2)
        )
        pin = one.make(type="support")["pin"]
        for daemon in (one, two):
            assert [outcome(look_up(daemon, 999999)) for _ in range(3)] == [UNKNOWN, UNKNOWN, CHALLENGED]
        answer = solved(one)
        assert outcome(look_up(two, pin, **answer)) == FOUND
        assert outcome(look_up(one, pin, **answer)) == CHALLENGED
        shared = [solved(one if number % 2 else two) for number in range(4)]
        with ThreadPoolExecutor(16) as people:
            tried = [(daemon, answer) for answer in shared for daemon in (one, two) for _ in range(2)]
            codes = Counter(people.map(lambda each: outcome(look_up(each[0], pin, **each[1])), tried))
        assert codes == {FOUND: 4, CHALLENGED: 12}
        with ThreadPoolExecutor(16) as guessers:
            guesses = [(one if number % 2 else two, solved(one)) for number in range(16)]
            codes = Counter(guessers.map(lambda each: outcome(look_up(each[0], 999999, **each[1])), guesses))
        assert codes == {UNKNOWN: 6, TOO_MANY: 10}
        for daemon in (one, two):
            assert daemon.terminate() == 0
