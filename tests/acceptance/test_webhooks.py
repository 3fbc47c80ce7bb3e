"""Webhooks of a real daemon: kills, reloads, metrics and the commands of operators."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.support.commands import invoke
from tests.support.pages import ROOT
from tests.support.receivers import OTHER_SECRET, SECRET, Receiver, status, trickle
from tests.support.waiting import eventually
from tminus.client import ScreenMeet


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def desk(daemon: Daemon, receiver: Receiver, secret: str = SECRET, **more: Any) -> list[JSON]:
    """Return the configuration of an endpoint, with its secret in a file."""
    path = daemon.home / "secret"
    path.write_text(secret + "\n")
    return [{"name": "desk", "url": receiver.url, "secret_file": str(path), **more}]


def webhook(daemon: Daemon) -> JSON:
    answer = daemon.get("/webhooks/desk")
    assert answer.status_code == 200, answer.text
    shown: JSON = answer.json()
    return shown


def test_events_committed_before_a_kill_are_delivered_after_it(make_daemon: StartDaemon, receiver: Receiver) -> None:
    daemon = make_daemon()
    daemon.configure(webhooks=desk(daemon, receiver))
    daemon.start()
    receiver.answer = trickle  # delivered, but the response never ends
    session = daemon.make()
    eventually(lambda: len(receiver.requests) == 1)
    daemon.delete(f"/supportsession/{session['id']}")
    daemon.kill()
    receiver.answer = status(200)
    daemon.start()
    seqs = [event["seq"] for event in daemon.events(session["id"])]
    eventually(lambda: receiver.seqs[1:] == seqs)
    for request in receiver.requests:
        request.verify()
    assert receiver.requests[-1].events == daemon.events(session["id"]), "webhooks and the history are equal"


def test_the_page_shows_a_real_request(make_daemon: StartDaemon, receiver: Receiver) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text()
    sample, ping = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    daemon = make_daemon()
    daemon.configure(webhooks=desk(daemon, receiver))
    daemon.start()
    daemon.make()
    eventually(lambda: receiver.requests)
    assert invoke("--socket", str(daemon.socket), "webhooks", "ping", "desk").exit_code == 0
    created, pinged = receiver.requests
    for request in (created, pinged):
        request.verify()
        assert re.fullmatch("msg_[0-9a-f]{32}", request.headers["webhook-id"])
        for name in re.findall(r"(?m)^\| `([\w-]+)` \|", page.partition("| header |")[2].partition("\n\n")[0]):
            assert request.headers[name.lower()], name
    assert [len(sample), len(ping), len(created.events), len(pinged.events)] == [1] * 4
    sent = created.events[0]
    assert {name: type(value) for name, value in sample[0].items()} == {name: type(sent[name]) for name in sample[0]}
    changing = {"seq", "eventId", "ts", "id", "message", "label", "expiresAt"}
    assert {name: sent[name] for name in sample[0].keys() - changing} == {
        name: value for name, value in sample[0].items() if name not in changing
    }
    assert ping[0] == {**pinged.events[0], "ts": ping[0]["ts"]}


def test_a_paused_endpoint_is_logged_once_and_in_the_metrics_and_the_daemon_stays_ready(
    make_daemon: StartDaemon, receiver: Receiver
) -> None:
    daemon = make_daemon()
    daemon.configure(webhooks=desk(daemon, receiver))
    daemon.start()

    def measured() -> JSON:
        """Return the endpoint's metrics in a scrape."""
        text = daemon.http.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.token}).text
        lines = (line.rpartition(" ") for line in text.splitlines() if 'endpoint="desk"' in line)
        return {name.replace('endpoint="desk"', "").replace("{}", ""): float(value) for name, _, value in lines}

    receiver.answers = [status(410)]
    daemon.make()
    assert daemon.logged("webhook.paused", endpoint="desk")["pause_reason"] == "gone"
    daemon.make()
    paused = measured()
    assert (paused["tminus_webhook_paused"], paused["tminus_webhook_backlog_events"]) == (1, 2)
    assert paused["tminus_webhook_oldest_undelivered_seconds"] > 0
    assert paused['tminus_deliveries_total{,outcome="failed"}'] == 1
    assert daemon.http.get(f"{daemon.url}/readyz").json() == {"ready": True, "reasons": [], "notes": []}
    assert len(daemon.log_lines("webhook.paused")) == 1

    assert daemon.post("/webhooks/desk/resume").json()["state"] != "paused"
    eventually(lambda: measured().get("tminus_events_delivered_total") == 2)
    served = measured()
    assert (served["tminus_webhook_paused"], served["tminus_webhook_backlog_events"]) == (0, 0)
    assert served["tminus_webhook_oldest_undelivered_seconds"] == 0
    assert served['tminus_deliveries_total{,outcome="delivered"}'] >= 1


def test_endpoints_follow_the_configuration_and_operators(start_daemon: StartDaemon, receiver: Receiver) -> None:
    daemon = start_daemon()
    assert "no webhooks" in daemon.command("webhooks", "list").stdout

    def reload(**sections: Any) -> str:
        """Reload the configuration; return the log line with the result."""
        before = len(daemon.log_lines("config.reloaded") + daemon.log_lines("config.rejected"))
        daemon.configure(**sections)
        daemon.signal(signal.SIGHUP)
        lines = eventually(
            lambda: [one for one in daemon.log_lines() if one["event"] in ("config.reloaded", "config.rejected")][
                before:
            ]
        )
        return str(lines[0]["event"])

    # A reload with an invalid secret is refused as a whole.
    assert reload(webhooks=desk(daemon, receiver, "whsec_short")) == "config.rejected"
    fault = daemon.logged("config.fault")
    assert (fault["key"], "whsec_short" in str(fault)) == ("webhooks[desk].secret_file", False)
    assert reload(webhooks=desk(daemon, receiver)) == "config.reloaded"
    daemon.logged("webhook.added", endpoint="desk")

    session = daemon.make()
    eventually(lambda: receiver.seqs == [1])
    receiver.requests[0].verify()
    shown = eventually(lambda: (found := webhook(daemon))["state"] == "idle" and found)
    assert (shown["url"], shown["cursor"], shown["backlog"]) == (receiver.url, 1, 0)

    # While its secret is replaced, requests have the signatures of both.
    new = daemon.home / "new"
    new.write_text(OTHER_SECRET)
    old = str(daemon.home / "secret")
    assert reload(
        webhooks=desk(daemon, receiver) and [{**desk(daemon, receiver)[0], "secret_file": [str(new), old]}]
    ) == ("config.reloaded")
    daemon.join(session["id"])
    eventually(lambda: receiver.seqs == [1, 2, 3])
    for secret in (SECRET, OTHER_SECRET):
        receiver.requests[-1].verify(secret)

    # The command, for people and programs.
    assert "desk answered 200" in daemon.command("webhooks", "ping", "desk").stdout
    assert "paused (operator)" in daemon.command("webhooks", "pause", "desk").stdout
    assert "PAUSED (operator) by local;" in daemon.logged("webhook.paused", endpoint="desk", actor="local")["message"]
    daemon.delete(f"/supportsession/{session['id']}")
    listed = json.loads(daemon.command("webhooks", "list", "--json").stdout)["webhooks"]
    assert [(one["name"], one["state"], one["backlog"]) for one in listed] == [("desk", "paused", 1)]
    before = len(receiver.requests)
    assert daemon.command("webhooks", "replay", "desk", "--from-seq", "2").returncode == 0
    eventually(lambda: [seq for request in receiver.requests[before:] for seq in request.seqs] == [2, 3, 4])
    resumed = daemon.command("webhooks", "resume", "desk").stdout.strip()
    # The number is 0 if the event was delivered before the daemon counted.
    assert resumed in ("desk is resumed; events waiting: 1", "desk is resumed; events waiting: 0")
    assert daemon.logged("webhook.resumed", endpoint="desk")["actor"] == "local"
    eventually(lambda: webhook(daemon)["backlog"] == 0)
    receiver.answers = [status(500)]
    failed = daemon.command("webhooks", "ping", "desk")
    assert (failed.returncode, failed.stderr) == (1, "tminus: desk did not accept the ping: answered 500\n")
    log = json.loads(daemon.command("webhooks", "deliveries", "desk", "--failed", "--json").stdout)["deliveries"]
    assert [(one["kind"], one["status"], one["answer"]) for one in log] == [("ping", 500, "no")]
    assert daemon.command("webhooks", "ping", "nobody").returncode == 3
    assert daemon.command("webhooks", "replay", "desk").returncode == 2
    unknown = daemon.command("webhooks", "replay", "desk", "--session", "nobody")
    assert (unknown.returncode, unknown.stderr) == (3, "tminus: Session not found nobody (refcode 101404)\n")
    made = daemon.command("webhooks", "secret").stdout.strip()
    Path(old).write_text(made)
    assert reload(webhooks=[{**desk(daemon, receiver, made)[0]}]) == "config.reloaded"

    # An endpoint that was removed from the configuration is not shown.
    assert reload() == "config.reloaded"
    assert daemon.get("/webhooks/desk").status_code == 404
    assert SECRET not in daemon.log_text


def test_a_ping_waits_for_the_receiver_longer_than_for_the_daemon(
    make_daemon: StartDaemon, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make_daemon()
    daemon.configure(webhooks=desk(daemon, receiver, timeout="2s"))
    daemon.start()
    receiver.answer = trickle
    assert ScreenMeet.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(ScreenMeet.__init__.__kwdefaults__, "timeout", 1.0)  # in place of ten seconds
    pinged = invoke("--socket", str(daemon.socket), "webhooks", "ping", "desk")
    assert (pinged.exit_code, pinged.stderr) == (1, "tminus: desk did not accept the ping: no answer within 2 s\n")
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("by", ["anna", "supervisor", "monitor", "room", "api"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/desk"), ("POST", "/desk/ping"), ("POST", "/desk/pause"), ("GET", "/desk/deliveries")],
)
def test_webhook_calls_need_the_role_group_admin(daemon: Daemon, by: str, method: str, path: str) -> None:
    assert daemon.call(method, f"/webhooks{path}", by=by).json()["refcode"] == 104403


@pytest.mark.parametrize("body", [{}, {"fromSeq": 1, "session": "x"}, {"fromSeq": 0}, {"since": "yesterday"}])
def test_a_replay_needs_exactly_one_of_its_parameters(daemon: Daemon, body: JSON) -> None:
    assert daemon.post("/webhooks/desk/replay", body).status_code == 400
