"""Log lines are found by label, record or agent, and contain what an operator needs to know."""

import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from hashlib import sha256

import psycopg
import pytest
from sqlalchemy import text

from tests.acceptance.conftest import StartDaemon, shared, unexpected_fields
from tests.acceptance.daemons import JSON, Daemon, agents_toml
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.receivers import SECRET, Receiver, status
from tests.support.tables import multiply, tables_of
from tests.support.waiting import eventually
from tminus.logs.fields import HEAD
from tminus.scheduler.clock_steps import FROZEN

pytestmark = pytest.mark.slow

RECORD = {"id": "sys0010001", "type": "sn_customerservice_case", "name": "Case CS0010001"}


@pytest.fixture(scope="module")
def limited() -> Iterator[Daemon]:
    yield from shared(limits={"failed_tokens": "20/minute", "pin_lookups": "30/minute"})


def test_every_line_about_a_session_has_its_label_and_record(limited: Daemon) -> None:
    body = {"label": "Łódź", "externalMapping": "CS0010001", "parentObject": RECORD}
    made = limited.make(type="support", startTime=from_now(minutes=30), **body)
    moved = from_now(minutes=40)
    limited.put(f"/supportsession/{made['id']}", {"startTime": moved})
    line = limited.logged("session.rescheduled", session_id=made["id"])
    assert (line["label"], line["session_type"], line["owner"]) == ("Łódź", "support", line["actor"])
    assert (line["external_key"], line["record_table"], line["record_id"], line["record_name"]) == (
        "CS0010001", RECORD["type"], RECORD["id"], RECORD["name"],
    )  # fmt: skip
    assert (line["previous_start"], line["start"]) == (made["startTime"], limited.session(made["id"])["startTime"])
    now = limited.make(
        type="support", label="now", **{name: body[name] for name in ("externalMapping", "parentObject")}
    )
    limited.join(now["id"], name="Grace")
    joined = limited.logged("participant.joined", session_id=now["id"])
    assert (joined["participant_name"], joined["record_name"]) == ("Grace", "Case CS0010001")
    limited.delete(f"/supportsession/{now['id']}")
    closed = limited.logged("session.closed", session_id=now["id"])
    by = f"{closed['actor_name']} ({closed['actor'].replace(':', ' ')})"
    assert closed["actor_name"] == line["actor_name"] == line["owner_name"]
    assert closed["message"].endswith(f"was closed by {by}")
    assert [event["actorName"] for event in limited.events(now["id"]) if event["type"] == "session.closed"] == [
        closed["actor_name"]
    ]
    assert re.search(rf"closed by\t{re.escape(by)}", limited.command("show", now["id"]).stdout)


def test_a_request_that_records_no_event_has_a_log_line_with_session_and_replay(limited: Daemon) -> None:
    headers = {"Idempotency-Key": "once", "X-Request-Id": "first.1"}
    made = limited.post("/supportsessions", {"type": "live", "label": "A"}, headers=headers).json()
    again = {**headers, "X-Request-Id": "again.1"}
    assert limited.post("/supportsessions", {"type": "live", "label": "A"}, headers=again).json()["id"] == made["id"]
    line = limited.logged("http.request", request_id="again.1")
    assert (line["session_id"], line["replayed"], line["label"]) == (made["id"], "yes", "A")
    other = {"type": "support", "label": "B", "externalMapping": "CS7", "parentObject": RECORD}
    refused = limited.post("/supportsessions", other, headers={**headers, "X-Request-Id": "refused.1"})
    assert not refused.is_success
    line = limited.logged("http.request", request_id="refused.1")
    assert (line["label"], line["external_key"], line["record_name"]) == ("B", "CS7", RECORD["name"])
    assert line["error"] in line["message"]
    assert line["error"] == refused.json()["description"]
    coming = limited.make(**other, startTime=from_now(minutes=30))["id"]
    headers = {"If-Match": '"77"', "X-Request-Id": "stale.1"}
    assert limited.put(f"/supportsession/{coming}", {"startTime": from_now(minutes=40)}, headers=headers).is_error
    joins = limited.join(coming)
    assert joins.status_code == 409
    for request_id in ("stale.1", joins.headers["X-Request-Id"]):
        line = limited.logged("http.request", request_id=request_id)
        assert (line["session_id"], line["external_key"], line["record_name"]) == (coming, "CS7", RECORD["name"])
    wrong = limited.post("/supportsessions", {"type": "live", "label": "a\0", "s3cret": 1, "startTime": "s3cret"})
    line = limited.logged("http.request", request_id=wrong.headers["X-Request-Id"])
    assert line["error"].endswith("the answer names the wrong fields (label, startTime)")
    assert "s3cret" not in str(line)
    limited.get(f"/supportsession/{made['id']}", headers={"X-Request-Id": "read.1"})
    assert limited.logged("http.request", request_id="read.1")["session_id"] == made["id"]
    assert limited.command("list").returncode == 0
    limited.get("/me", headers={"X-Request-Id": "last.1"})
    limited.logged("http.request", request_id="last.1")
    lines = limited.log_lines("http.request")
    assert not [line for line in lines if line["request_id"] == "first.1" or line["remote_ip"] == "local"]
    assert limited.logged("session.created", request_id="first.1")["session_id"] == made["id"]


def test_a_revoked_token_has_the_same_fingerprint_when_it_is_revoked_and_when_it_is_used(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon()
    token = daemon.tokens["anna"]
    fingerprint = sha256(token.encode()).hexdigest()[:12]
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(agents_toml(), agents_toml().split("[[agents]]\nid = 7", maxsplit=1)[0]))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    assert daemon.get("/me", by="anna").status_code == 401
    assert daemon.get("/me", by=None, headers={"Session-id": "x" * 40}).status_code == 401
    failed = eventually(lambda: daemon.log_lines("auth.failed")[:2] if daemon.log_lines("auth.failed")[1:] else [])
    assert [line["token_state"] for line in failed] == ["revoked", "unknown"]
    assert failed[0]["token"] == fingerprint
    [changed] = [line for line in daemon.log_lines("config.changed") if fingerprint in line.get("old", "")]
    assert (changed["key"], changed["agent_name"]) == ("agents[7].token_sha256", "Anna Agent")
    assert token[:8] not in daemon.log_text


def test_an_expired_token_is_in_the_log_as_expired(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    fingerprint = sha256(daemon.tokens["anna"].encode()).hexdigest()[:12]
    text = daemon.config.read_text()
    daemon.config.write_text(
        text.replace("[[agents]]\nid = 7\n", "[[agents]]\nid = 7\nexpires = 2021-01-01T00:00:00Z\n")
    )
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    assert daemon.get("/me", by="anna").status_code == 401
    line = daemon.logged("auth.failed")
    assert (line["token"], line["token_state"]) == (fingerprint, "expired")


def test_a_revoked_token_is_named_although_its_address_has_guessed_too_often(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"failed_tokens": "2/hour"})
    fingerprint = sha256(daemon.tokens["anna"].encode()).hexdigest()[:12]
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(agents_toml(), agents_toml().split("[[agents]]\nid = 7", maxsplit=1)[0]))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")
    codes = [daemon.get("/me", by=None, headers={"Session-id": f"{number:040}"}).status_code for number in range(3)]
    assert codes == [401, 401, 429]
    assert daemon.get("/me", by="anna").status_code == 429
    line = daemon.logged("auth.limited", token=fingerprint)
    assert line["token_state"] == "revoked"
    assert f"among them revoked token {fingerprint}" in line["message"]
    assert "token" not in daemon.log_lines("auth.limited")[0], "the line has no fingerprint of an unknown token"


def test_a_pin_that_was_found_after_wrong_ones_is_in_the_log(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(server={"trusted_proxies": ["127.0.0.0/8"]})
    made = daemon.make(type="support", label="Printer")

    def look_up(pin: str, address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return int(daemon.get(f"/support/{pin}/meta", by=None, headers=headers).status_code)

    wrong = next(pin for pin in ("123456", "234567") if pin != str(made["pin"]))
    assert [look_up(pin, "192.0.2.1") for pin in (str(made["pin"]), wrong, wrong)] == [200, 404, 404]
    assert look_up(str(made["pin"]), "192.0.2.2") == 200
    assert look_up(str(made["pin"]), "192.0.2.1") == 200
    line = daemon.logged("pin.found")
    assert (line["session_id"], line["label"], line["wrong"]) == (made["id"], "Printer", 2)
    assert [found["remote_ip"] for found in daemon.log_lines("pin.found")] == ["192.0.2.1"]
    assert str(made["pin"]) not in line["message"]


def test_an_address_that_guesses_or_sends_malformed_requests_causes_few_log_lines(limited: Daemon) -> None:
    limited.get("/me")
    before = len(limited.log_lines())
    size = limited.log.stat().st_size
    for number in range(150):
        limited.get("/me", by=None, headers={"Session-id": f"{number:040}"})
        limited.get(f"/support/{number:06}/meta", by=None)
        limited.get(f"/nothing/{number}", by=None)
        limited.call("BREW", "/me", by=None)
    limited.get("/me", headers={"X-Request-Id": "after.1"})
    limited.logged("http.request", request_id="after.1")
    assert len(limited.log_lines()) - before < 10, "few lines for 600 requests"
    assert limited.log.stat().st_size - size < 5000


def test_a_lock_is_logged_while_it_lasts_and_named_as_the_cause_of_late_transitions(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    opening = daemon.make(startTime=from_now(minutes=10, seconds=2))
    with sqlite3.connect(daemon.state / "tminus.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        eventually(lambda: daemon.log_lines("storage.blocked"), deadline=30)
        eventually(lambda: from_now(minutes=10, seconds=-1.3) > opening["startTime"])
        other.execute("ROLLBACK")
    other.close()
    daemon.logged("session.ready", session_id=opening["id"])
    assert eventually(lambda: daemon.log_lines("storage.unblocked"))[0]["blocked_ms"] > 1000
    assert daemon.logged("clock.late")["cause"] == "write held up"


def test_a_table_lock_is_named_as_the_cause_of_late_transitions(
    pg_server: PostgresServer, start_daemon: StartDaemon
) -> None:
    with pg_server.database(empty=True) as database:
        daemon = start_daemon(storage={"url": database.configured}, lifecycle={"lead": "1s"})
        opening = daemon.make(startTime=from_now(seconds=5))
        with psycopg.connect(database.url.replace("+psycopg", "")) as other:
            other.execute("LOCK TABLE session IN ACCESS EXCLUSIVE MODE")
            eventually(lambda: from_now(seconds=-2) > opening["startTime"])
        assert "held up" in daemon.logged("clock.late")["cause"]
        daemon.logged("session.ready", session_id=opening["id"])
        assert daemon.terminate() == 0


def test_a_pause_of_the_process_is_logged_with_its_length_as_the_cause_of_late_transitions(
    start_daemon: StartDaemon,
) -> None:
    daemon = start_daemon(lifecycle={"lead": "1s"})
    opening = daemon.make(startTime=from_now(seconds=4))
    begun = time.monotonic()
    daemon.signal(signal.SIGSTOP)
    eventually(lambda: time.monotonic() - begun > FROZEN + 2 and from_now(seconds=-1) > opening["startTime"])
    daemon.signal(signal.SIGCONT)
    frozen = daemon.logged("daemon.frozen")
    assert FROZEN <= frozen["frozen_s"] <= time.monotonic() - begun + 1
    assert f"{frozen['frozen_s']} seconds" in frozen["message"]
    daemon.logged("session.ready", session_id=opening["id"])
    assert daemon.logged("clock.late")["cause"] == "daemon frozen"
    assert daemon.log_lines("clock.stepped") == []


HERD = 12_000
"""Number of sessions that fall due at once."""


def test_backlog_outage_and_lateness_are_in_the_log(make_daemon: StartDaemon, receiver: Receiver) -> None:
    """Backlog of a receiver that is down; length of a database outage and refused requests; lateness caused by load."""
    daemon = make_daemon()
    secret = daemon.home / "secret"
    secret.write_text(SECRET)
    webhook = {"name": "desk", "url": receiver.url, "secret_file": str(secret), "events": ["session.created"]}
    daemon.configure(log={"heartbeat": "1s"}, lifecycle={"lead": "1s"}, webhooks=[webhook])
    daemon.start()
    template = daemon.make(startTime=from_now(days=300))["id"]
    receiver.answer = status(500)
    made = [daemon.make()["id"] for _ in range(3)]
    oldest = daemon.logged("session.created", session_id=made[0])
    heartbeat = daemon.logged("daemon.heartbeat", undelivered={"desk": 3}, undelivered_events=3)
    assert heartbeat["oldest_undelivered"] == oldest["ts"]
    assert f"3 events waiting for desk, the oldest since {oldest['ts']}" in heartbeat["message"]

    with tables_of(daemon) as tables:
        multiply(tables, template, HERD)
        past = {"past": time.time_ns() // 1_000_000 - 1000}
        tables.execute(text("UPDATE session SET due_at = :past WHERE status = 'scheduled'"), past)
    causes = eventually(lambda: daemon.log_lines("clock.late"))
    # On a slow machine, the insertion above may hold up a write of the daemon for a second.
    assert {line["cause"] for line in causes} <= {"load", "write held up"}

    refused = 0
    with tables_of(daemon) as other:
        other.execute(text("BEGIN IMMEDIATE"))
        begun = time.monotonic()
        while refused < 3:
            refused += daemon.post("/supportsessions", {"type": "live", "label": "A"}).status_code == 503
        other.execute(text("ROLLBACK"))
    recovered = eventually(lambda: daemon.log_lines("storage.recovered"))[0]
    assert recovered["refused"] == refused
    assert 4 <= recovered["away_s"] <= time.monotonic() - begun
    assert daemon.terminate() == 0


def test_every_line_has_the_fields_of_the_catalogue_with_their_types(limited: Daemon) -> None:
    """Check all lines of the earlier tests."""
    lines: list[JSON] = limited.log_lines()
    for line in lines:
        assert tuple(line)[: len(HEAD)] == HEAD
        assert not unexpected_fields(line), line
