"""Webhooks over HTTP: each event is delivered at least once and in order, whatever the receiver does."""

import asyncio
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import delete, text
from tests.support.databases import Database, PostgresServer, SqliteServer
from tests.support.receivers import OTHER_SECRET, SECRET, Handler, Receiver, flood, hang_up, status, trickle
from tests.support.waiting import eventually
from tests.support.worlds import World

from tminus import clock as wall_clock
from tminus import config
from tminus.config import Settings, Webhook
from tminus.delivery import EndpointStatus, Webhooks, due, read_secrets, tls, worker
from tminus.delivery.client import Client
from tminus.delivery.connection import ANSWER_BYTES
from tminus.delivery.webhook_sender import BODY_BYTES
from tminus.delivery.worker import DeliveryWorker
from tminus.domain.errors import UnknownSession, UnknownWebhook
from tminus.domain.model import Delivery, Session
from tminus.domain.types import PauseReason, SessionType
from tminus.scheduler import sweeps
from tminus.storage import READERS, Store, View, listen_notify, outbox, view
from tminus.storage.store import Lane
from tminus.storage.tables import EVENTS

SOON = timedelta(milliseconds=20)
"""The first pause after a failure, in place of five seconds."""

HOUR = timedelta(hours=1)

Lines = Callable[[], list[dict[str, Any]]]


ON_SQLITE = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
"""For tests whose subject does not depend on the database."""


class Sender:
    """A store with webhooks, as in a daemon, and helpers to create sessions and to read the state of an endpoint."""

    peer_commits = 0
    """Number of notifications of commits by other daemons."""

    def __init__(self, database: Database, state: Path) -> None:
        store = database.open(wall_clock.now, committed=self._committed, peer_committed=self._peer_committed)
        self.world = World(store, wall_clock)  # type: ignore[arg-type]
        self.webhooks = Webhooks(self.world.store, state, first_delay=SOON)
        self.webhooks.start()

    def _committed(self, _tx: object) -> None:
        self.webhooks.wake()

    def _peer_committed(self, due: datetime | None) -> None:
        self.peer_commits += 1
        if hasattr(self, "webhooks"):
            self.webhooks.wake(also_blocked=due is None)

    def apply(self, *webhooks: dict[str, Any], **secrets: tuple[str, ...]) -> None:
        """Apply a configuration of endpoints, as a start or a reload does."""
        configured = tuple(Webhook.model_validate({"secret_file": "s", **one}) for one in webhooks)
        settings = Settings(webhooks=configured)
        self.webhooks.apply(settings, {one.name: secrets.get(one.name, (SECRET,)) for one in configured})

    def make(self, number: int = 1, session_type: SessionType = SessionType.LIVE) -> list[Session]:
        return [self.world.create(session_type) for _ in range(number)]

    def status(self, name: str = "desk") -> EndpointStatus:
        return self.world.store.read(lambda view: self.webhooks.endpoint_status(view, name))

    def deliveries(self, name: str = "desk", *, failed: bool = False) -> list[Delivery]:
        """Return the delivery log, oldest first."""
        found = self.world.store.read(
            lambda view: self.webhooks.deliveries(view, name, failed=failed, before=None, limit=1000)[0]
        )
        return found[::-1]

    def seqs(self) -> list[int]:
        """Return the numbers of all stored events."""
        return [entry.event.seq for entry in self.world.store.read(lambda view: view.events(0, 100_000))]

    def run(self, call: Any) -> Any:
        """Run an operator's command; return its result."""
        return asyncio.run(call)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the thread that listens to PostgreSQL stop soon, rather than after up to a second."""
    monkeypatch.setattr(listen_notify, "STOP_WITHIN", 0.05)


@pytest.fixture
def sender(database: Database, tmp_path: Path) -> Iterator[Sender]:
    one = Sender(database, tmp_path)
    yield one
    one.webhooks.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as one:
        yield one


def desk(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"name": "desk", "url": receiver.url, **more}


def test_every_event_arrives_once_in_order_signed_and_in_batches(sender: Sender, receiver: Receiver) -> None:
    sender.make(3)  # the endpoint does not exist yet, so it receives none of these
    sender.apply(desk(receiver, batch=4))
    earlier = sender.seqs()
    sender.make(10)
    eventually(lambda: len(receiver.seqs) == 10)
    assert receiver.seqs == sender.seqs()[len(earlier) :]
    for request in receiver.requests:
        assert 1 <= len(request.events) <= 4
        request.verify()
        assert request.headers["content-type"] == "application/json"
        assert request.headers["user-agent"].startswith("tminus/")
        event = request.events[0]
        assert (event["type"], event["status"], event["eventId"].rpartition("-")[2]) == (
            "session.created",
            "new",
            str(event["seq"]),
        )
    eventually(lambda: sum(row.events for row in sender.deliveries()) == 10)
    assert all(row.ok and row.status == 200 and row.answer == "ok" for row in sender.deliveries())
    assert sender.status().backlog.events == 0


def test_an_endpoint_from_the_beginning_receives_earlier_events(sender: Sender, receiver: Receiver) -> None:
    sender.make(3)
    sender.apply(desk(receiver, **{"from": "beginning"}))
    eventually(lambda: receiver.seqs == sender.seqs())


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (status(500), 500),
        (status(302, Location="http://127.0.0.1:1/"), 302),
        (status(404), 404),
        (hang_up, None),
        (trickle, None),
    ],
)
@ON_SQLITE
def test_a_failed_request_is_retried_with_the_same_id_until_it_succeeds(
    sender: Sender, receiver: Receiver, answer: Any, code: int | None
) -> None:
    receiver.answers = [answer, answer]
    sender.apply(desk(receiver, timeout="1s" if answer is trickle else "1m"))
    sender.make()
    eventually(lambda: len(receiver.requests) >= 1)
    sender.make()  # the retried batch must not contain this event
    eventually(lambda: len(receiver.requests) == 4)
    first, second, third, fourth = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == third.headers["webhook-id"]
    assert first.body == second.body == third.body
    assert fourth.headers["webhook-id"] != first.headers["webhook-id"]
    assert receiver.seqs[2:] == sender.seqs()
    for request in receiver.requests:
        request.verify()
    eventually(lambda: len(sender.deliveries()) == 4)
    assert [(row.ok, row.status) for row in sender.deliveries()] == [(False, code)] * 2 + [(True, 200)] * 2
    assert all(row.error for row in sender.deliveries(failed=True))


@ON_SQLITE
def test_a_request_has_at_most_a_mebibyte_unless_one_event_is_longer(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver, batch=1000))
    sender.run(sender.webhooks.pause("desk"))
    for size in [60_000] * 30 + [2 * BODY_BYTES, 100]:
        sender.world.create(parent_object={"id": "1", "type": "case", "notes": "x" * size})
    receiver.answers = [status(500)]
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: sender.status().backlog.events == 0)
    first, *taken = receiver.requests
    assert (first.headers["webhook-id"], first.body) == (taken[0].headers["webhook-id"], taken[0].body)
    assert [len(request.events) for request in taken] == [17, 13, 1, 1]
    assert [len(request.body) <= BODY_BYTES for request in taken] == [True, True, False, True]
    assert [seq for request in taken for seq in request.seqs] == sender.seqs()
    before = len(receiver.requests)
    sender.run(sender.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: sender.status().replays == 0)
    assert [request.body for request in receiver.requests[before:]] == [request.body for request in taken]


def test_a_receiver_that_starts_late_receives_everything(sender: Sender, log_lines: Lines) -> None:
    with Receiver() as gone:
        port = gone.port
    sender.apply({"name": "desk", "url": f"http://127.0.0.1:{port}/", "batch": 7})
    sender.make(20)
    eventually(lambda: sender.status().state.failures >= 2)
    behind = sender.status()
    assert "refused" in (behind.state.last_error or "").lower()
    assert behind.backlog.events == 20
    with Receiver(port=port) as back:
        eventually(lambda: len(back.seqs) == 20)
        assert back.seqs == sender.seqs()
        eventually(lambda: sender.status().state.failures == 0)
        eventually(lambda: [line for line in log_lines() if line["event"] == "webhook.caught_up"])
    lines = [line for line in log_lines() if line["event"].startswith("webhook.")]
    names = [line["event"] for line in lines]
    assert names[:2] == ["webhook.added", "webhook.failed"]
    assert names[-2:] == ["webhook.recovered", "webhook.caught_up"]
    assert lines.pop()["events"] == 20
    assert len({line["since"] for line in lines[1:]}) == 1, "all lines have the time of the first failure"
    assert lines[1]["since"] <= lines[1]["ts"]
    assert 0 < lines[-2]["undelivered_events"] <= 20
    assert lines[-2]["oldest_undelivered"] <= lines[-2]["ts"]
    assert 0 <= lines[-1]["undelivered_events"] < 20, "without the batch that was accepted"


@ON_SQLITE
def test_two_kilobytes_of_a_long_response_are_read(sender: Sender, receiver: Receiver) -> None:
    receiver.answer = flood
    sender.apply(desk(receiver))
    sender.make(2)
    eventually(lambda: sum(row.events for row in sender.deliveries()) == 2)
    assert all(row.ok and len(row.answer or "") == ANSWER_BYTES for row in sender.deliveries())


@ON_SQLITE
@pytest.mark.parametrize("answer", [status(410), status(503, Retry_After="3600")])
def test_a_paused_or_waiting_endpoint_reads_nothing_at_a_commit_and_resumes_at_once(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    reads, find_due = Counter[str](), DeliveryWorker._find_due

    def counted(self: DeliveryWorker, view: View) -> Any:
        reads[self.name] += 1
        return find_due(self, view)

    monkeypatch.setattr(DeliveryWorker, "_find_due", counted)
    monkeypatch.setattr(due, "POLL_INTERVAL", 60.0)
    receiver.answers = [answer]
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: sender.status().state.last_error)
    before = reads["desk"]
    sender.make(50)
    assert reads["desk"] < before + 5, "some reads may be in progress when the request fails"
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: sender.status().backlog.events == 0)


@ON_SQLITE
def test_retry_after_of_the_receiver_is_respected(sender: Sender, receiver: Receiver) -> None:
    receiver.answers = [status(503, Retry_After="3600")]
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: sender.status().state.failures == 1)
    state = sender.status().state
    assert state.failing_since is not None
    assert state.retry_at is not None
    assert timedelta(minutes=59) < state.retry_at - state.failing_since < timedelta(minutes=61)
    sender.run(sender.webhooks.resume("desk"))  # a resume ignores Retry-After
    eventually(lambda: len(receiver.requests) == 2)


def test_after_a_clock_step_waiting_endpoints_are_tried_at_once(sender: Sender, receiver: Receiver) -> None:
    receiver.answers = [status(503, Retry_After="3600")]
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: sender.status().state.retry_at)
    sender.webhooks.retry_all_now()
    eventually(lambda: receiver.seqs == [1, 1])


@ON_SQLITE
def test_an_attempt_that_fails_across_a_clock_step_is_repeated_soon(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = wall_clock.now

    def step_back(handler: Handler) -> None:
        monkeypatch.setattr(wall_clock, "now", lambda: now() - HOUR)
        status(500)(handler)

    receiver.answers = [step_back]
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: receiver.seqs == [1, 1])


def test_an_endpoint_that_responds_with_410_is_paused_and_loses_no_event(
    sender: Sender, receiver: Receiver, log_lines: Lines
) -> None:
    receiver.answers = [status(410)]
    sender.apply(desk(receiver))
    sender.make(3)
    eventually(lambda: sender.status().state.pause_reason is PauseReason.GONE)
    before = len(receiver.requests)
    sender.make(3)
    paused = eventually(lambda: [line for line in log_lines() if line["event"] == "webhook.paused"])
    assert [(line["level"], line["pause_reason"], line["endpoint"]) for line in paused] == [("error", "gone", "desk")]
    assert len(receiver.requests) == before
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: set(receiver.seqs) == set(sender.seqs()))
    assert [seq for request in receiver.requests[1:] for seq in request.seqs] == sender.seqs()


def test_an_endpoint_that_fails_for_too_long_is_paused_and_resumes_with_its_backlog(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.answer = status(500)
    sender.apply(desk(receiver, give_up_after="100ms"))
    sender.make(2)
    eventually(lambda: sender.status().state.pause_reason is PauseReason.GAVE_UP)
    receiver.answer = status(200)
    before = len(receiver.requests)
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: [seq for request in receiver.requests[before:] for seq in request.seqs] == sender.seqs())


@ON_SQLITE
def test_a_retry_after_beyond_the_limit_of_retries_is_followed_by_a_last_attempt(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.answer = status(503, Retry_After="7200")
    sender.apply(desk(receiver, give_up_after="1h"), desk(receiver, name="impatient", give_up_after="300ms"))
    sender.make()
    eventually(lambda: sender.status("impatient").state.pause_reason is PauseReason.GAVE_UP)
    first, last = sender.deliveries("impatient")
    assert last.at - first.at >= timedelta(milliseconds=300)
    eventually(lambda: sender.status().state.failures == 1)
    state = sender.status().state
    assert state.failing_since is not None
    assert (state.paused_at, state.retry_at) == (None, state.failing_since + HOUR)


def test_a_resume_during_a_request_takes_effect(sender: Sender, receiver: Receiver) -> None:
    resumed = threading.Event()

    def fail_when_resumed(handler: Handler) -> None:
        resumed.wait(30)
        status(500)(handler)

    # Retry-After makes the second attempt the last one before the endpoint is paused.
    receiver.answers = [status(503, Retry_After="60"), fail_when_resumed]
    sender.apply(desk(receiver, give_up_after="100ms"))
    sender.make()
    eventually(lambda: len(receiver.requests) == 2)
    sender.run(sender.webhooks.resume("desk"))
    resumed.set()
    eventually(lambda: len(receiver.requests) == 3)
    eventually(lambda: sender.status().state.failures == 0)
    assert sender.status().state.paused_at is None
    assert [row.ok for row in sender.deliveries()] == [False, False, True]


def test_a_replay_since_a_time_includes_every_event_although_clocks_differ(sender: Sender, receiver: Receiver) -> None:
    one, two = sender.make(2)
    earlier = {"ts": one.created_at - HOUR}
    sender.world.run(lambda tx: tx.execute(EVENTS.update().where(EVENTS.c.session_id == two.id).values(earlier)))
    assert sender.world.store.read(lambda view: outbox.seq_before(view, one.created_at)) == sender.seqs()[0] - 1


@ON_SQLITE
def test_a_dead_or_slow_endpoint_delays_no_other_and_no_request(sender: Sender, receiver: Receiver) -> None:
    with Receiver() as stuck:
        stuck.answer = trickle
        sender.apply(
            desk(receiver), {"name": "stuck", "url": stuck.url}, {"name": "dead", "url": "http://127.0.0.1:1/"}
        )
        for _ in range(30):
            sender.make()
        eventually(lambda: receiver.seqs == sender.seqs())
        assert len(stuck.requests) == 1, "the first request still waits for its response"


@contextmanager
def all_busy(store: Store, lane: Lane) -> Iterator[threading.Event]:
    """Occupy all connections of a lane with reads that end when the event is set or the block ends."""
    taken, release = threading.Semaphore(0), threading.Event()

    def occupy(_view: View) -> None:
        taken.release()
        release.wait()

    with ThreadPoolExecutor(READERS) as readers:
        for _ in range(READERS):
            readers.submit(store.read, occupy, lane=lane)
        try:
            for _ in range(READERS):
                assert taken.acquire(timeout=10)
            yield release
        finally:
            release.set()


def test_slow_reads_of_other_requests_delay_no_delivery(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    with all_busy(sender.world.store, "requests"):
        sender.make(3)
        eventually(lambda: receiver.seqs == [1, 2, 3])


def test_a_received_response_counts_however_slow_the_database_is(sender: Sender, receiver: Receiver) -> None:
    """The reads of other endpoints wait for the database until the response is recorded."""
    answer_now = threading.Event()

    def answer(handler: Any) -> None:
        answer_now.wait()
        status(200)(handler)

    receiver.answer = answer
    with Receiver() as second:
        others = [{"name": f"other{number}", "url": second.url} for number in range(2 * READERS)]
        sender.apply(desk(receiver, timeout="5m"), *others)
        store = sender.world.store
        sender.make()
        eventually(lambda: receiver.requests and len(second.requests) == len(others))
        eventually(lambda: sum(row.events for row in sender.deliveries("other0")) == 1)
        with all_busy(store, "deliveries"):
            sender.make()  # each other endpoint begins a read, which waits for a connection
            answer_now.set()
            eventually(sender.deliveries)
            [delivery] = sender.deliveries()
            assert (delivery.ok, delivery.error) == (True, None)
            assert len(receiver.requests) == 1
        eventually(lambda: receiver.seqs == [1, 2])


@ON_SQLITE
def test_a_name_server_that_does_not_respond_delays_only_its_endpoint_and_no_stop(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup, responds, lookups = socket.getaddrinfo, threading.Event(), Counter[str]()

    def silent(host: str, port: int, *args: Any, **more: Any) -> Any:
        if host.startswith("silent") and not more.get("flags"):
            lookups[host] += 1
            responds.wait()
            return lookup("127.0.0.1", port, *args, **more)
        return lookup(host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    receiver.answer = status(200, Connection="close")  # otherwise the name is not resolved again
    names = [f"silent{number}" for number in range(33)]  # more than the default threads of an event loop
    try:
        sender.apply(
            *({"name": name, "url": f"http://{name}:{receiver.port}/", "timeout": "200ms"} for name in names),
            desk(receiver, timeout="5m"),
        )
        sender.make()
        eventually(lambda: all(sender.status(name).state.failures >= 2 for name in names))
        eventually(lambda: receiver.seqs == sender.seqs())
        assert lookups == Counter(names), "no second look-up while the first is in progress"
        responds.set()
        eventually(lambda: all(sender.status(name).state.failures == 0 for name in names))
        responds.clear()
        lookups.clear()
        sender.make()
        eventually(lambda: lookups)
        # The name server does not respond before the end of the test, so a stop that waited for it would not return.
        stop = threading.Thread(target=sender.webhooks.stop)
        stop.start()
        eventually(lambda: not stop.is_alive())
    finally:
        responds.set()


def test_a_filter_selects_types_of_events_and_of_sessions(sender: Sender, receiver: Receiver) -> None:
    with Receiver() as pattern, Receiver() as other:
        sender.apply(
            desk(receiver, events=["session.closed"]),
            {"name": "pattern", "url": pattern.url, "events": ["session.*"]},
            {"name": "support", "url": other.url, "session_types": ["support"]},
        )
        [live] = sender.make()
        [support] = sender.make(session_type=SessionType.SUPPORT)
        sender.world.join(live)
        sender.world.close(live)
        sender.world.close(support)
        eventually(lambda: len(receiver.seqs) == 2 and len(other.seqs) == 2 and len(pattern.seqs) == 5)
        assert receiver.types == ["session.closed"] * 2
        assert pattern.types == ["session.created"] * 2 + ["session.active"] + ["session.closed"] * 2
        assert {event["id"] for request in other.requests for event in request.events} == {support.id}
        eventually(lambda: sender.status().backlog.events == 0)


def test_the_backlog_counts_only_events_that_pass_the_filter(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver, session_types=["support"]), desk(receiver, name="closed", events=["session.closed"]))
    for name in ("desk", "closed"):
        sender.run(sender.webhooks.pause(name))
    [first, *_] = sender.make(3, SessionType.SUPPORT)
    lives = sender.make(4)
    behind = sender.status().backlog
    assert (behind.events, behind.oldest) == (3, first.created_at)
    assert sender.status("closed").backlog == outbox.Backlog(0, None)
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: sender.status().backlog == outbox.Backlog(0, None))
    for live in lives:
        sender.world.close(live)  # the filter skips these events, and the cursor is not stored for each
    assert sender.status().backlog == outbox.Backlog(0, None)


def test_a_reload_adds_changes_and_removes_endpoints_and_a_readded_one_continues(
    sender: Sender, receiver: Receiver
) -> None:
    with Receiver() as second:
        sender.apply(desk(receiver))
        sender.make()
        eventually(lambda: len(receiver.seqs) == 1)
        sender.apply(desk(receiver), {"name": "second", "url": second.url})
        sender.make()
        eventually(lambda: len(receiver.seqs) == 2 and len(second.seqs) == 1)
        sender.apply({"name": "second", "url": second.url, "content_type": "text/plain"})
        sender.make()
        eventually(lambda: len(second.seqs) == 2)
        assert second.requests[-1].headers["content-type"] == "text/plain"
        with pytest.raises(UnknownWebhook):
            sender.status("desk")
        assert len(receiver.seqs) == 2
        sender.apply(desk(receiver))
        eventually(lambda: receiver.seqs == sender.seqs())


BUSY = status(503, Retry_After="3600")


def fail_once(sender: Sender, receiver: Receiver, **more: Any) -> Session:
    """Let the first request to `desk` fail, so that the next one is due in an hour; return the session."""
    receiver.answers = [BUSY]
    sender.apply(desk(receiver, **more))
    [session] = sender.make()
    eventually(lambda: sender.status().state.retry_at)
    return session


def failure(sender: Sender) -> tuple[int, datetime | None, datetime | None]:
    state = sender.status().state
    return state.failures, state.failing_since, state.retry_at


@pytest.mark.parametrize("removed_by", ["filter", "retention"])
def test_the_failure_of_a_batch_that_is_gone_does_not_count(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, removed_by: str
) -> None:
    monkeypatch.setattr(due, "POLL_INTERVAL", 0.05)
    session = fail_once(sender, receiver, give_up_after="2h")
    others = sender.make()
    if removed_by == "retention":
        sender.world.run(lambda tx: tx.execute(delete(EVENTS).where(EVENTS.c.session_id == session.id)))
    else:
        sender.apply(desk(receiver, give_up_after="2h", events=["session.closed"]))
        eventually(lambda: failure(sender) == (0, None, None))
        sender.world.close(others[0])
    eventually(lambda: len(receiver.requests) == 2 and failure(sender) == (0, None, None))
    assert receiver.requests[1].seqs == [sender.seqs()[-1]]


def test_attempts_for_other_events_do_not_pause_an_endpoint(sender: Sender, receiver: Receiver) -> None:
    session = fail_once(sender, receiver, give_up_after="2h")
    sender.apply(desk(receiver, give_up_after="300ms", events=["session.closed"]))
    time.sleep(0.5)  # longer than it is tried
    receiver.answers = [status(500)]
    sender.world.close(session)
    eventually(lambda: receiver.seqs == sender.seqs() + sender.seqs()[-1:])
    assert sender.status().state.pause_reason is None


@pytest.mark.parametrize("by_restart", [False, True])
def test_an_endpoint_that_is_added_again_has_not_failed_yet(
    sender: Sender, receiver: Receiver, tmp_path: Path, by_restart: bool
) -> None:
    fail_once(sender, receiver)
    if by_restart:
        sender.webhooks.stop()
        sender.webhooks = Webhooks(sender.world.store, tmp_path, first_delay=SOON)
        sender.webhooks.start()
    sender.apply({"name": "other", "url": receiver.url})
    assert len(receiver.requests) == 1
    receiver.answers = [status(500)]
    sender.apply(desk(receiver))
    eventually(lambda: receiver.seqs == [1, 1, 1])
    eventually(lambda: failure(sender) == (0, None, None))


def test_another_url_does_not_wait_for_the_old_one(sender: Sender, receiver: Receiver) -> None:
    fail_once(sender, receiver)
    receiver.answers = [BUSY]
    sender.run(sender.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: len(receiver.requests) == 2)
    with Receiver() as second:
        second.answers = [hang_up]
        sender.apply(desk(second))
        eventually(lambda: len(second.requests) == 1)
        eventually(lambda: (sender.status().state.failures, sender.status().replays) == (0, 0))
        assert second.seqs == [1, 1, 1], "the event, its replay, and once more what failed"
    assert [row.error for row in sender.deliveries(failed=True)][:2] == ["answered 503"] * 2


def test_a_restart_or_another_setting_keeps_a_failure(sender: Sender, receiver: Receiver, tmp_path: Path) -> None:
    fail_once(sender, receiver)
    before = failure(sender)
    sender.webhooks.stop()
    assert sender.world.store.read(lambda view: outbox.endpoint(view, "desk")).failures == 1  # type: ignore[union-attr]
    sender.webhooks = Webhooks(sender.world.store, tmp_path, first_delay=SOON)
    sender.webhooks.start()
    sender.apply(desk(receiver))
    sender.apply(desk(receiver, batch=1, timeout="5s"))
    assert failure(sender) == before
    assert sender.status().state.last_error == "answered 503"
    assert len(receiver.requests) == 1


def test_a_paused_endpoint_stays_paused_when_it_moves_or_is_added_again(sender: Sender, receiver: Receiver) -> None:
    receiver.answers = [status(410)]
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: sender.status().state.pause_reason is PauseReason.GONE)
    before = sender.status().state
    sender.apply()
    with Receiver() as second:
        sender.apply(desk(receiver))
        sender.apply(desk(second, events=["session.closed"]))
        sender.make()
        assert sender.status().state == before
        assert not second.requests


@ON_SQLITE
def test_a_reload_keeps_the_worker_of_an_unchanged_endpoint(sender: Sender, receiver: Receiver, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    webhooks = [desk(receiver), desk(receiver, name="private", ca_file="ca.pem"), desk(receiver, name="third")]

    def reload() -> dict[str, DeliveryWorker]:
        sender.apply(*webhooks)
        return {name: running.worker for name, running in sender.webhooks._workers.items()}

    before = reload()
    assert sender.webhooks._workers["desk"].inputs.trust is None, "without TLS, no certificates are loaded"
    assert reload() == before
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    after = reload()
    assert {name for name in after if after[name] is not before[name]} == {"private"}


@ON_SQLITE
@pytest.mark.slow
def test_many_endpoints_share_a_tls_context_and_a_reload_makes_nothing_anew(
    sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 endpoints all but one use one TLS context; a reload makes no context and registers no endpoint.

    The reload reads 2,000 agents and 300 webhooks in 200 files again. Then one endpoint changes, and it alone is made.
    """
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "s").write_text(SECRET)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "tminus.toml").touch()
    for file in range(200):
        (tmp_path / "conf.d" / f"{file:03}.toml").write_text(
            "".join(
                f'[[agents]]\nid = {number + 1}\nname = "A"\nroles = ["agent"]\ntoken_sha256 = ["{number:064x}"]\n'
                for number in range(10 * file, 10 * file + 10)
            )
            + "".join(
                f'[[webhooks]]\nname = "e{number}"\nurl = "https://127.0.0.1:1/{number}"\nsecret_file = "s"\n'
                for number in range(file * 3 // 2, (file + 1) * 3 // 2)
            )
        )
    with (tmp_path / "conf.d" / "199.toml").open("a") as last:
        last.write('ca_file = "ca.pem"\n')
    made: Counter[str] = Counter()

    def count(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def counting(*arguments: Any, **named: Any) -> Any:
            made[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, method, staticmethod(counting) if method == "__new__" else counting)

    count(ssl.SSLContext, "__new__", "contexts")
    count(Client, "__init__", "clients")
    count(DeliveryWorker, "__init__", "workers")
    count(DeliveryWorker, "register", "registrations")
    tls._context.cache_clear()
    tls._check.cache_clear()

    def reload() -> Counter[str]:
        """Read and apply the configuration as a start or a reload does, and connect to each endpoint."""
        made.clear()
        loaded = config.load(tmp_path / "tminus.toml", {}).settings
        assert (len(loaded.agents), len(loaded.webhooks)) == (2000, 300)
        sender.webhooks.apply(loaded, read_secrets(loaded, tmp_path, {}))
        applied = Counter(made)

        async def connect() -> None:
            await asyncio.gather(*(sender.webhooks.ping(webhook.name) for webhook in loaded.webhooks))

        asyncio.run(connect())
        return applied | Counter(contexts=made["contexts"])

    first = reload()
    assert (first["clients"], first["workers"], first["registrations"]) == (300, 300, 300)
    assert first["contexts"] == 3, "one that 299 endpoints share, one with the own authority, and one that checks it"
    assert reload() == Counter(contexts=0)
    changed = tmp_path / "conf.d" / "007.toml"
    changed.write_text(changed.read_text() + "batch = 5\n")
    assert reload() == Counter(clients=1, workers=1, registrations=1)


@ON_SQLITE
def test_while_a_secret_is_replaced_receivers_with_either_secret_accept_requests(
    sender: Sender, receiver: Receiver, log_lines: Lines
) -> None:
    sender.apply(desk(receiver), desk=(SECRET,))
    sender.make()
    eventually(lambda: len(receiver.requests) == 1)
    sender.apply(desk(receiver), desk=(OTHER_SECRET, SECRET))
    sender.make()
    eventually(lambda: len(receiver.requests) == 2)
    receiver.requests[1].verify(SECRET)
    receiver.requests[1].verify(OTHER_SECRET)
    sender.apply(desk(receiver), desk=(OTHER_SECRET,))
    sender.make()
    eventually(lambda: len(receiver.requests) == 3)
    receiver.requests[2].verify(OTHER_SECRET)
    assert "," not in receiver.requests[2].headers["webhook-signature"].removeprefix("v1,")
    assert receiver.seqs == sender.seqs()
    eventually(lambda: len([line for line in log_lines() if line["event"] == "webhook.secret"]) == 2)


@ON_SQLITE
def test_a_request_interrupted_by_a_reload_is_repeated_at_once_with_the_same_id(
    sender: Sender, receiver: Receiver
) -> None:
    """The reload changes the secret. The interruption does not count as a failure of the receiver, and the repeated
    request has no newer events.
    """
    receiver.answers = [trickle]
    sender.apply(desk(receiver, timeout="1m", give_up_after="1ms"))
    sender.make()
    eventually(lambda: receiver.requests)
    sender.make()
    sender.apply(desk(receiver, timeout="1m", give_up_after="1ms"), desk=(OTHER_SECRET,))
    eventually(lambda: len(receiver.requests) == 3)
    first, again, later = receiver.requests
    assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
    assert [*again.seqs, *later.seqs] == sender.seqs()
    again.verify(OTHER_SECRET)
    eventually(lambda: len(sender.deliveries()) == 3)
    cut_off, *taken = sender.deliveries()
    assert (cut_off.ok, cut_off.status, (cut_off.error or "").partition(":")[0]) == (False, None, "cancelled")
    assert [row.ok for row in taken] == [True, True]
    assert sender.status().state.failures == 0


def test_a_request_interrupted_by_a_stop_is_repeated_with_the_same_id(
    sender: Sender, receiver: Receiver, tmp_path: Path
) -> None:
    sender.apply(desk(receiver, timeout="1m"))
    [session] = sender.make()
    eventually(lambda: sender.status().backlog.events == 0)
    receiver.answers = [trickle]
    sender.run(sender.webhooks.replay("desk", from_seq=None, since=None, session=session.id))
    eventually(lambda: len(receiver.requests) == 2)
    sender.webhooks.stop()
    sender.webhooks = Webhooks(sender.world.store, tmp_path)
    sender.webhooks.start()
    sender.apply(desk(receiver, timeout="1m"))
    eventually(lambda: sender.status().replays == 0)
    receiver.answers = [trickle]
    sender.make()
    eventually(lambda: len(receiver.requests) == 4)
    sender.make()
    sender.webhooks.stop()
    sender.webhooks = Webhooks(sender.world.store, tmp_path)
    sender.webhooks.start()
    sender.apply(desk(receiver, timeout="1m"))
    eventually(lambda: sender.status().backlog.events == 0)
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] == ids[4] != ids[5]
    assert [row.ok for row in sender.deliveries()] == [True, False, True, False, True, True]


@ON_SQLITE
def test_an_expired_certificate_is_refused_and_a_private_authority_is_trusted_if_named(
    sender: Sender, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def server(certificate: trustme.LeafCert) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context

    expired = authority.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    with Receiver(server(expired)) as receiver:
        port = receiver.port
        sender.apply(desk(receiver, ca_file="ca.pem"), {"name": "unknown", "url": receiver.url})
        sender.make()
        eventually(lambda: "expired" in (sender.status().state.last_error or ""))
        assert receiver.requests == []
    with Receiver(server(authority.issue_cert("localhost")), port=port) as receiver:
        eventually(lambda: receiver.seqs == sender.seqs())
        eventually(lambda: "unable to get local issuer" in (sender.status("unknown").state.last_error or ""))


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::23]", "[64:ff9b::a9fe:a9fe]"])
@ON_SQLITE
def test_nothing_is_sent_to_metadata_addresses_of_clouds(sender: Sender, host: str) -> None:
    sender.apply({"name": "desk", "url": f"http://{host}:1/latest/meta-data"})
    sender.make()
    eventually(lambda: "allow_link_local" in (sender.status().state.last_error or ""))


@ON_SQLITE
def test_requests_to_link_local_addresses_are_sent_if_the_configuration_allows_them(sender: Sender) -> None:
    sender.apply({"name": "desk", "url": "http://0.0.0.0:1/", "allow_link_local": True})
    sender.make()
    eventually(lambda: "refused" in (sender.status().state.last_error or "").lower())


def test_a_replay_keeps_the_ids_and_works_while_paused(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    one, _ = sender.make(2)
    sender.world.close(one)
    eventually(lambda: receiver.seqs == sender.seqs())
    first, _, third = sender.seqs()
    ids = {request.headers["webhook-id"]: request.seqs for request in receiver.requests}
    sender.run(sender.webhooks.pause("desk"))
    sender.make()

    def replayed(**what: Any) -> list[int]:
        """Request a replay; return the numbers of the events that arrive."""
        before = len(receiver.requests)
        query: dict[str, Any] = {"from_seq": None, "since": None, "session": None}
        sender.run(sender.webhooks.replay("desk", **{**query, **what}))
        eventually(lambda: len(receiver.requests) > before and sender.status().replays == 0)
        for request in receiver.requests[before:]:
            request.verify()
            assert ids.get(request.headers["webhook-id"], request.seqs) == request.seqs
        return [seq for request in receiver.requests[before:] for seq in request.seqs]

    assert replayed(from_seq=third) == sender.seqs()[2:]
    assert replayed(session=one.id) == [first, third]
    assert replayed(since=one.created_at - HOUR) == sender.seqs()
    assert sender.status().backlog.events == 1, "a replay does not move the cursor"
    sender.run(sender.webhooks.resume("desk"))
    eventually(lambda: sender.status().backlog.events == 0)
    assert [event["eventId"] for event in receiver.requests[-1].events] == [
        entry.payload(sender.world.store.database_id)["eventId"] for entry in sender.world.events()[-1:]
    ]


@ON_SQLITE
def test_during_a_long_replay_every_other_request_has_new_events(sender: Sender, receiver: Receiver) -> None:
    history = [one.id for one in sender.make(40)]
    sender.apply(desk(receiver, batch=1))
    new: list[str] = []

    def answer(*_: Any) -> Any:
        if len(new) < 5:
            new.extend(one.id for one in sender.make())
        return status(200)(*_)

    receiver.answer = answer
    sender.run(sender.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: sender.status().replays == 0 and len(receiver.requests) == 45)
    sent = [request.events[0]["id"] for request in receiver.requests]
    assert [one for one in sent if one in history] == history
    assert [one for one in sent if one in new] == new
    assert sent.index(new[-1]) < 12


@ON_SQLITE
def test_a_filter_that_matches_nothing_advances_its_cursor_in_bounded_reads(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "WINDOW", 10)
    monkeypatch.setattr(worker, "SKIPPED_ON_THE_WAY", 20)
    reads: list[int] = []
    page = View.page

    def record(self: View, after: int, *rest: Any) -> Any:
        reads.append(after)
        return page(self, after, *rest)

    monkeypatch.setattr(View, "page", record)
    sender.make(100)
    sender.apply(desk(receiver, session_types=["support"], **{"from": "beginning"}))
    eventually(lambda: max(reads, default=0) >= 100)
    assert sender.status().state.cursor >= 80, "the worker stores the cursor on the way"
    assert reads == sorted(reads)
    assert len([after for after in reads if after < 100]) <= 12, "no event is read twice"
    [support] = sender.make(session_type=SessionType.SUPPORT)
    eventually(lambda: len(receiver.requests) == 1)
    assert receiver.requests[0].events[0]["id"] == support.id


def test_a_replay_of_an_unknown_session_is_refused(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    with pytest.raises(UnknownSession):
        sender.run(sender.webhooks.replay("desk", from_seq=None, since=None, session="nobody"))
    assert sender.status().replays == 0


def test_a_failed_replay_is_retried(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    sender.make(3)
    eventually(lambda: receiver.seqs == sender.seqs())
    before = len(receiver.requests)
    receiver.answers = [status(500), status(500)]
    sender.run(sender.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: sender.status().replays == 0 and len(receiver.requests) == before + 3)
    assert receiver.requests[-1].seqs == sender.seqs()
    assert sender.status().state.failures == 0, "a failed replay is no failure of the endpoint"


@pytest.mark.parametrize(("answer", "patience"), [(status(410), "3d"), (status(500), "100ms")])
@ON_SQLITE
def test_an_abandoned_replay_is_logged_and_stops_nothing_else(
    sender: Sender, receiver: Receiver, log_lines: Lines, answer: Any, patience: str
) -> None:
    sender.apply(desk(receiver, give_up_after=patience))
    sender.make(3)
    eventually(lambda: sender.status().backlog.events == 0)
    receiver.answer = answer
    sender.run(sender.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: sender.status().replays == 0)
    [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "webhook.replay_ended"])
    assert (line["level"], line["endpoint"]) == ("error", "desk")
    assert sender.status().state.paused_at is None
    receiver.answer = status(200)
    before = len(receiver.requests)
    sender.make()
    eventually(lambda: sender.status().backlog.events == 0)
    assert [request.seqs for request in receiver.requests[before:]] == [sender.seqs()[-1:]]


@ON_SQLITE
def test_at_most_two_connections_are_open_to_an_endpoint(sender: Sender, receiver: Receiver) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def counted(handler: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        handler.receiver.closing.wait(0.05)
        with lock:  # before the response: afterwards the next request may be sent
            now -= 1
        status(200)(handler)

    receiver.answer = counted
    sender.apply(desk(receiver))
    sender.make(5)

    async def ping_often() -> list[Delivery]:
        return await asyncio.gather(*(sender.webhooks.ping("desk") for _ in range(10)))

    assert all(tried.ok for tried in sender.run(ping_often()))
    eventually(lambda: sender.status().backlog.events == 0)
    assert most == 2


def test_a_ping_is_signed_and_recorded_and_is_no_event(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    sender.run(sender.webhooks.pause("desk"))
    delivery = sender.run(sender.webhooks.ping("desk"))
    assert (delivery.ok, delivery.status) == (True, 200)
    [request] = receiver.requests
    request.verify()
    [body] = request.events
    assert body.keys() == {"type", "ts", "message"}
    assert body["type"] == "ping"
    assert sender.seqs() == []
    assert [row.kind for row in sender.deliveries()] == ["ping"]
    with pytest.raises(UnknownWebhook):
        sender.run(sender.webhooks.ping("nobody"))


def test_the_delivery_log_has_its_own_retention(sender: Sender, receiver: Receiver) -> None:
    sender.apply(desk(receiver))
    sender.make()
    eventually(lambda: len(sender.deliveries()) == 1)
    sweeps.remove_old(sender.world.store.submit, None, HOUR)
    assert len(sender.deliveries()) == 1
    old = Delivery(
        endpoint="desk",
        kind=sender.deliveries()[0].kind,
        webhook_id="x",
        at=wall_clock.now() - 2 * HOUR,
        ok=False,
        ms=1,
    )
    sender.world.run(lambda tx: outbox.add_delivery(tx, old))
    assert len(sender.deliveries()) == 2
    sweeps.remove_old(sender.world.store.submit, None, HOUR)
    assert [row.ok for row in sender.deliveries()] == [True]


def test_events_of_many_writers_all_arrive_in_order(sender: Sender, receiver: Receiver) -> None:
    receiver.answers = [status(500), status(200), hang_up, status(200), status(429)]
    sender.apply(desk(receiver, batch=7, timeout="1s"))
    threads = [threading.Thread(target=sender.make, args=(25,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: sender.status().backlog.events == 0, deadline=30)
    taken = [row for row in sender.deliveries() if row.ok]
    delivered = [
        seq
        for row in taken
        for request in [next(one for one in receiver.requests if one.headers["webhook-id"] == row.webhook_id)]
        for seq in request.seqs
    ]
    assert delivered == sender.seqs()
    assert len(delivered) == 100


@pytest.fixture
def senders(pg_server: PostgresServer, tmp_path: Path) -> Iterator[tuple[Sender, Sender]]:
    """The webhooks of two daemons on one PostgreSQL."""
    with pg_server.database() as database:
        two = Sender(database, tmp_path), Sender(database, tmp_path)
        yield two
        for one in two:
            one.webhooks.stop()


def test_one_of_two_daemons_delivers_the_events_of_both(senders: tuple[Sender, Sender], receiver: Receiver) -> None:
    for sender in senders:
        sender.apply(desk(receiver, batch=3))
    threads = [threading.Thread(target=sender.make, args=(20,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(receiver.seqs) >= 40)
    assert receiver.seqs == senders[0].seqs(), "in order, each once"
    assert all(sender.peer_commits for sender in senders)


def test_a_command_sent_to_the_other_daemon_takes_effect_at_once(
    senders: tuple[Sender, Sender], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "POLL_INTERVAL", 600.0)  # no periodic reads
    one, two = senders
    one.apply(desk(receiver))
    one.make(2)
    eventually(lambda: len(receiver.seqs) == 2)
    two.apply(desk(receiver))
    two.run(two.webhooks.replay("desk", from_seq=1, since=None, session=None))
    eventually(lambda: receiver.seqs == [1, 2, 1, 2])
    two.run(two.webhooks.pause("desk"))
    two.make()
    two.run(two.webhooks.resume("desk"))
    eventually(lambda: receiver.seqs == [1, 2, 1, 2, 3])


def test_the_remaining_daemon_takes_over_deliveries_within_seconds(
    senders: tuple[Sender, Sender], receiver: Receiver
) -> None:
    one, two = senders
    one.apply(desk(receiver))
    one.make(2)
    eventually(lambda: len(receiver.seqs) == 2)
    two.apply(desk(receiver))
    one.webhooks.stop()  # to the other daemon, this looks like the end of the process
    two.make(2)
    eventually(lambda: receiver.seqs == two.seqs())


def test_a_daemon_that_drops_an_endpoint_during_a_request_releases_it(
    senders: tuple[Sender, Sender], receiver: Receiver
) -> None:
    one, two = senders
    with Receiver() as stuck:
        stuck.answer = trickle
        one.apply({"name": "desk", "url": stuck.url, "timeout": "1m"})
        one.make()
        eventually(lambda: len(stuck.requests) == 1)
        two.apply(desk(receiver))
        one.apply()  # this cancels the request and releases the endpoint
        eventually(lambda: receiver.seqs == two.seqs())


def test_endpoints_configured_during_a_database_failure_start_after_it(
    sqlite_server: SqliteServer, receiver: Receiver, tmp_path: Path
) -> None:
    with sqlite_server.database() as database:
        sender = Sender(database, tmp_path)
        sender.world.run(lambda tx: tx.execute(text("ALTER TABLE endpoint RENAME TO away")))
        sender.apply(desk(receiver, **{"from": "beginning"}))
        sender.make()
        assert receiver.requests == []
        sender.world.run(lambda tx: tx.execute(text("ALTER TABLE away RENAME TO endpoint")))
        eventually(lambda: receiver.seqs == sender.seqs() != [])
        sender.webhooks.stop()
