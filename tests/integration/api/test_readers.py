"""Reads of API requests: concurrent reads share a transaction, and no read affects another."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.databases import Database

from tminus.api.readers import MAX_BATCH, Readers
from tminus.domain.errors import UnknownSession
from tminus.storage import Transaction, View
from tminus.system.threads import RestartingThread

DEADLINE = 20
"""Seconds after which a test fails."""


def _set(value: str) -> Callable[[Transaction], None]:
    return lambda tx: tx.set_meta("a test", value)


def _run(database: Database, body: Callable[[Any, Readers], Any], threads: int = 4) -> Any:
    store = database.open()
    readers = Readers(store, threads)
    try:
        return asyncio.run(asyncio.wait_for(body(store, readers), DEADLINE))
    finally:
        readers.close()


def test_concurrent_reads_share_a_transaction_up_to_a_maximum(database: Database) -> None:
    views: list[View] = []

    async def body(_store: Any, readers: Readers) -> list[int]:
        def read(number: int) -> Callable[[View], int]:
            def record(view: View) -> int:
                views.append(view)
                return number

            return record

        return await asyncio.gather(*(readers.query(read(number)) for number in range(MAX_BATCH + 3)))

    assert _run(database, body, threads=1) == list(range(MAX_BATCH + 3))
    assert len(set(map(id, views))) <= 2
    assert [view is views[0] for view in views] == [True] * MAX_BATCH + [False] * 3


def test_a_read_includes_earlier_commits_although_another_read_is_running(database: Database) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(view: View) -> str | None:
        before = view.meta("a test")
        running.set()
        assert go_on.wait(DEADLINE)
        return before

    async def body(store: Any, readers: Readers) -> tuple[str | None, str | None]:
        first = asyncio.ensure_future(readers.query(slow))
        await asyncio.to_thread(running.wait, DEADLINE)
        await store.transact(_set("new"))
        second = asyncio.ensure_future(readers.query(lambda view: view.meta("a test")))
        await asyncio.sleep(0)
        go_on.set()
        return await first, await second

    assert _run(database, body, threads=1) == (None, "new")


def test_a_failed_read_does_not_fail_the_others_of_its_batch(database: Database) -> None:
    def refused(_view: View) -> None:
        raise UnknownSession("x")

    def broken(view: View) -> None:
        view.scalar("no SQL at all")  # type: ignore[arg-type]

    def sound(view: View) -> bool:
        return view.last_seq() >= 0

    async def body(_store: Any, readers: Readers) -> list[Any]:
        reads = (sound, refused, broken, sound)
        return await asyncio.gather(*(readers.query(read) for read in reads), return_exceptions=True)

    first, refusal, defect, last = _run(database, body)
    assert (first, last) == (True, True)
    assert isinstance(refusal, UnknownSession)
    assert isinstance(defect, Exception)
    assert not isinstance(defect, UnknownSession)


def test_each_read_gets_an_error_when_its_thread_fails_and_later_ones_an_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches fail the only thread. No later request wakes it for the last read."""
    read = Readers._read
    failures = iter([RuntimeError("a defect"), SystemExit()])

    def failing(readers: Readers, batch: Any) -> None:
        for failure in failures:
            raise failure
        read(readers, batch)

    monkeypatch.setattr(Readers, "_read", failing)
    monkeypatch.setattr("tminus.system.threads.RESTART_DELAY", 0.01)

    async def body(_store: Any, readers: Readers) -> list[Any]:
        reads = (readers.query(lambda _view: "answer") for _ in range(2 * MAX_BATCH + 1))
        return await asyncio.gather(*reads, return_exceptions=True)

    results = _run(database, body, threads=1)
    causes = [type(one.__cause__) for one in results[:-1]]
    assert causes == [RuntimeError] * MAX_BATCH + [SystemExit] * MAX_BATCH
    assert results[-1] == "answer"


def test_a_read_gets_an_error_while_no_thread_can_be_started(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = RestartingThread.start
    failures = iter([RuntimeError("can't start new thread")])

    def limited(thread: RestartingThread) -> None:
        if thread.name == "read_1":
            for failure in failures:
                raise failure
        start(thread)

    async def body(_store: Any, readers: Readers) -> tuple[Any, Any]:
        with pytest.raises(RuntimeError, match="can't start"):
            await readers.query(lambda _view: "first")
        return await readers.query(lambda _view: "second"), await readers.query(lambda _view: "third")

    monkeypatch.setattr(RestartingThread, "start", limited)
    assert _run(database, body, threads=2) == ("second", "third")


def test_a_read_that_raises_stop_iteration_gets_an_error(database: Database) -> None:
    """A future refuses `StopIteration`, which Python uses for the end of an iterator."""

    def defect(_view: View) -> None:
        raise StopIteration

    async def body(_store: Any, readers: Readers) -> list[Any]:
        reads = (defect, lambda _view: "answer")
        return await asyncio.gather(*(readers.query(read) for read in reads), return_exceptions=True)

    error, answer = _run(database, body)
    assert isinstance(error, RuntimeError)
    assert answer == "answer"


def test_another_thread_runs_the_reads_behind_a_slow_one(database: Database) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(_view: View) -> str:
        running.set()
        assert go_on.wait(DEADLINE)
        return "slow"

    async def body(_store: Any, readers: Readers) -> list[str]:
        first = asyncio.ensure_future(readers.query(slow))
        await asyncio.to_thread(running.wait, DEADLINE)
        answers = [await readers.query(lambda _view: "quick") for _ in range(3)]
        go_on.set()
        return [*answers, await first]

    assert _run(database, body, threads=2) == ["quick", "quick", "quick", "slow"]


def test_a_request_may_be_cancelled_during_its_read(database: Database) -> None:
    running, go_on = threading.Event(), threading.Event()

    def slow(_view: View) -> None:
        running.set()
        assert go_on.wait(DEADLINE)

    async def body(_store: Any, readers: Readers) -> str:
        first = asyncio.ensure_future(readers.query(slow))
        await asyncio.to_thread(running.wait, DEADLINE)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        return await readers.query(lambda _view: "next")

    assert _run(database, body, threads=1) == "next"


def test_readers_without_started_threads_can_be_closed(database: Database) -> None:
    Readers(database.open(), 4).close()
