"""The writer: one thread that executes all writes, with group commit.

A durable commit costs an fsync. Requests that wait at the same time share one: the writer takes the waiting jobs, runs
them in one transaction, commits, and then answers. The scheduler has a queue of its own that is served first, so it
never waits behind requests. Between two of its batches a batch of requests runs, so requests do not wait until all due
sessions are done.

A job is a function of the transaction that reads and decides first, and writes afterwards. A job that raises
`RequestError` before it has written does not affect the others. After any other error the whole batch is rolled back,
and each job runs again in a transaction of its own, so that one job's error does not make others fail. A job may
therefore run twice, and must keep no state between its runs.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from tminus import clock
from tminus.domain.errors import Draining, Overloaded, RequestError, StoreUnavailable
from tminus.storage.allowances import Allowances
from tminus.storage.failures import (  # fmt: skip
    DEADLOCK_DETECTED,
    NoAnswer,
    NotReplicated,
    is_damage,
    is_unavailable,
    reason,
    sqlstate,
)
from tminus.storage.observer import StoreObserver
from tminus.storage.transaction import Transaction
from tminus.storage.watch import PersistentConnection, Watch
from tminus.system.threads import RestartingThread, for_future

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

T = TypeVar("T")
U = TypeVar("U")

BATCH = 128
"""Maximum number of jobs that share one commit. It limits how long the first of them waits for the last."""

WAITING = 2000
"""Maximum number of waiting jobs. Another one is refused at once, because it would be answered too late."""

PAUSE = 1.0
"""Seconds after a failure of the database in which requests are refused at once."""

SLOW = 3.0
"""Seconds after which a transaction is slow: new requests are refused at once, and if it fails, those that wait."""

DEAD_WITHIN = 0.2
"""Seconds within which a batch that loses its connection before the commit runs again on a new one: the connection was
dead before it began, for example because the server was restarted while the daemon was idle.
"""

COLLISIONS = 4
"""Maximum number of times that a job runs again because its random id or PIN is in use."""


@dataclass(slots=True)
class _Work:
    job: Callable[[Transaction], Any]
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None = None
    session_id: str | None = None
    large: bool = False
    then: Callable[[Any], Any] | None = None
    result: Any = None
    error: BaseException | None = None

    def convert(self) -> None:
        """Replace the result of a committed job by what `then` returns."""
        if self.then is not None and self.error is None and not self.future.cancelled():
            try:
                self.result = self.then(self.result)
            except BaseException as error:  # one that is no `Exception` must not leave the other jobs without an answer
                self.error = error

    def finish(self) -> None:
        # The caller may have cancelled it, perhaps on another thread just now. What was written stays written.
        with suppress(InvalidStateError, asyncio.InvalidStateError):
            if self.error is None:
                self.future.set_result(self.result)
            else:
                self.future.set_exception(for_future(self.error))


class Writer:
    """Accepts jobs on any thread and runs them on its own.

    Parameters
    ----------
    now
        The clock, read once per transaction.
    observer
        Its `committed` and `health` are called.
    damaged
        Called with each error by which the database reports that its file is damaged.
    notify
        Called in each transaction that other daemons have to look at, with its earliest deadline.
    """

    def __init__(
        self,
        engine: Engine,
        watch: Watch,
        now: Callable[[], datetime],
        observer: StoreObserver,
        damaged: Callable[[BaseException], None],
        notify: Callable[[Connection, datetime | None], None] | None = None,
    ) -> None:
        self._watch = watch
        self._persistent = PersistentConnection(engine, watch, self._hear_warnings)
        self._allowances = Allowances()
        self._now = now
        self._observer = observer
        self._damaged = damaged
        self._notify = notify
        self._requests: deque[_Work] = deque()
        self._clock: deque[_Work] = deque()
        self._arriving: list[_Work] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._try_again = 0.0
        self._committing = False
        """Whether the last transaction has reached its commit. If it failed then, it may be committed or not."""
        self._unreplicated: str | None = None
        """The server's warning that it has not waited for its standbys at the last commit; None if there was none."""
        self._begun: float | None = None
        """When the running batch began; None if none is running."""
        self.failing: str | None = None
        """Why the last transaction failed; None if it succeeded."""
        self.failing_since: datetime | None = None
        """When the first failed transaction began."""
        self._thread = RestartingThread("writer", self._run)

    def start(self) -> None:
        """Begin to execute jobs."""
        self._thread.start()

    def stop(self) -> None:
        """Refuse new jobs, finish those that wait, and return after the last commit."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    @property
    def writing_for(self) -> float:
        """Seconds that the running batch has taken so far; 0 if none is running."""
        begun = self._begun
        return clock.monotonic() - begun if begun is not None else 0.0

    @property
    def waiting(self) -> int:
        """Number of waiting jobs of requests, without those of the running batch."""
        return len(self._requests) + len(self._arriving)

    def submit(self, job: Callable[[Transaction], T], *, clock: bool = False, large: bool = False) -> Future[T]:
        """Queue a job; return a future that is done after its commit.

        `clock`: before all requests; `large`: as for `transact`.
        """
        future: Future[T] = Future()
        self._enqueue(_Work(job, future, large=large), self._clock if clock else self._requests)
        return future

    async def transact(
        self, job: Callable[[Transaction], T], session_id: str | None = None, *, large: bool = False
    ) -> T:
        """Run a job and return its result after the commit. Raises what it raised, `Overloaded`, `StoreUnavailable`.

        `session_id`: the session that the job will read, if it is known. Those of a batch are read together.
        `large`: the job writes many rows. No two such jobs share a transaction, so that others do not wait for both.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._add(_Work(job, future, loop, session_id, large), loop)
        return await future

    async def transact_then(
        self, job: Callable[[Transaction], T], then: Callable[[T], U], session_id: str | None = None
    ) -> U:
        """Run a job as `transact` does, and return what `then` returns for its result after the commit.

        `then` is called on the writer's thread: the objects of the job are still in its processor's cache, and only
        what the caller needs of them is passed to another thread.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[U] = loop.create_future()
        self._add(_Work(job, future, loop, session_id, then=then), loop)
        return await future

    def _add(self, work: _Work, loop: asyncio.AbstractEventLoop) -> None:
        self._check_queue(self._requests, len(self._arriving))
        if self._would_fail():
            raise StoreUnavailable  # another attempt would take as long as the one before
        # The jobs of one iteration of the event loop are passed on together, at its end. A writer that is woken for the
        # first of them would run a batch of one, and compete with the loop for the interpreter lock.
        if not self._arriving:
            loop.call_soon(self._hand_over)
        self._arriving.append(work)

    def _hand_over(self) -> None:
        arrived, self._arriving = self._arriving, []
        with self._wake:
            self._requests.extend(arrived)
            self._wake.notify()

    def _enqueue(self, work: _Work, queue: deque[_Work]) -> None:
        with self._wake:
            self._check_queue(queue)
            queue.append(work)
            self._wake.notify()

    def _check_queue(self, queue: deque[_Work], more: int = 0) -> None:
        if self._stopping:
            raise Draining
        if len(queue) + more >= WAITING:
            raise Overloaded

    def _would_fail(self) -> bool:
        if self._watch.silent_for or self.writing_for > SLOW:
            return True
        return self.failing is not None and (self._begun is not None or clock.monotonic() < self._try_again)

    # --- on the writer's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        clock_next = True
        while True:
            with self._wake:
                while not (self._clock or self._requests or self._stopping):
                    self._wake.wait()
                clocks_turn = bool(self._clock) and (clock_next or not self._requests)
                if clocks_turn:
                    batch = [self._clock.popleft()]
                elif self._requests:
                    batch = self._take_requests()
                else:
                    break
                clock_next = not clocks_turn
            begun = self._begun = clock.monotonic()
            try:
                self._write(batch)
            except BaseException as error:
                self._give_up(batch, error)
                raise
            finally:
                self._begun = None
            if self.failing is not None and clock.monotonic() - begun > SLOW:
                batch += self._refuse_waiting()
            self._answer(batch)
        self._persistent.close()

    def _take_requests(self) -> list[_Work]:
        """Remove and return the jobs that share the next transaction, in order. At most one of them is large."""
        batch = [self._requests.popleft()]
        has_large = batch[0].large
        while self._requests and len(batch) < BATCH and not (has_large and self._requests[0].large):
            batch.append(self._requests.popleft())
            has_large |= batch[-1].large
        return batch

    def _give_up(self, batch: Sequence[_Work], error: BaseException) -> None:
        """Fail these jobs because the writer itself has failed; its thread starts again."""
        self._persistent.drop()
        for work in batch:
            if work.error is None:
                work.result, work.error = None, RuntimeError("the writer has failed")
                work.error.__cause__ = error
        self._answer(batch)

    def _refuse_waiting(self) -> list[_Work]:
        """Refuse the jobs that waited for a transaction that was slow and failed: each would wait as long again."""
        with self._wake:
            refused = list(self._requests)
            self._requests.clear()
        for work in refused:
            work.error = StoreUnavailable()
        return refused

    def _write(self, batch: Sequence[_Work]) -> None:
        try:
            self._transact(batch)
        except Exception as error:
            if is_unavailable(error) and not is_damage(error):
                # The cause is the database and no job: one by one each job would only fail as slowly.
                self._unavailable(batch, error)
            elif len(batch) == 1:
                self._handle_single(batch[0], error)
            else:
                self._discard_results(batch)
                for work in batch:
                    self._write([work])

    @staticmethod
    def _discard_results(batch: Sequence[_Work]) -> None:
        """Discard the results of these jobs: nothing was written, and they run again."""
        for work in batch:
            work.result = work.error = None

    def _handle_single(self, work: _Work, error: Exception) -> None:
        """Handle a job that failed in a transaction of its own. If its random id or PIN is taken, it runs again."""
        for _ in range(COLLISIONS):
            if not isinstance(error, IntegrityError):
                break
            try:
                self._transact([work])
                return
            except Exception as another:
                error = another
        if is_damage(error):
            # Perhaps only one page is damaged, and other jobs can succeed.
            self._damaged(error)
            self._refuse([work], error)
        elif is_unavailable(error):
            self._unavailable([work], error)
        elif isinstance(error, IntegrityError):
            # The database's message contains the value, which may be a PIN.
            work.error = RuntimeError(f"a random id or PIN was taken {1 + COLLISIONS} times in a row")
        else:
            work.error = error

    def _unavailable(self, batch: Sequence[_Work], error: Exception) -> None:
        self._try_again = clock.monotonic() + PAUSE
        self._set_health(reason(error))
        self._refuse(batch, error)

    @staticmethod
    def _refuse(batch: Sequence[_Work], error: Exception) -> None:
        for work in batch:
            work.result, work.error = None, StoreUnavailable()
            work.error.__cause__ = error

    def _transact(self, batch: Sequence[_Work]) -> None:
        """Run the jobs and commit, or raise with nothing written. A second attempt follows if the connection was dead
        before, or after a deadlock.
        """
        begun = clock.monotonic()
        try:
            self._transact_once(batch)
        except DBAPIError as error:
            dead = error.connection_invalidated and clock.monotonic() - begun <= DEAD_WITHIN
            # A transaction can only deadlock with a migration, which locks several tables, and has continued since.
            deadlock = sqlstate(error) == DEADLOCK_DETECTED
            if self._committing or not (dead or deadlock):
                raise
            self._discard_results(batch)
            self._transact_once(batch)

    def _transact_once(self, batch: Sequence[_Work]) -> None:
        self._committing = False
        self._unreplicated = None
        connection = self._persistent.get()
        try:
            with self._watch.guard(connection), connection.begin():
                tx = Transaction(connection, self._now(), self._allowances)
                tx.jobs = len(batch)
                ids = {work.session_id for work in batch if work.session_id is not None}
                if len(ids) > 1:
                    tx.read_ahead(ids)
                for work in batch:
                    writes = tx.writes
                    try:
                        work.result = work.job(tx)
                    except RequestError as refusal:
                        if tx.writes != writes:
                            raise
                        work.error = refusal
                tx.flush()
                if tx.has_events:
                    passed = tx.recorded and not tx.has_bulk_events
                    tx.newest_seq = tx.recorded[-1].event.seq if passed else tx.last_seq()
                if self._notify is not None and (tx.has_events or tx.earliest_due is not None):
                    self._notify(connection, tx.earliest_due)
                self._committing = True
            self._check_replicated()
        except BaseException as error:
            self._allowances.forget()
            if isinstance(error, SQLAlchemyError):
                self._persistent.drop()
            raise
        try:
            self._set_health(self._write_failure() if self.failing is not None else None)
            self._observer.committed(tx)
        except Exception:
            # The transaction is committed. Handled as a failure, its jobs would run again.
            logging.getLogger(__name__).exception("the observer of a commit failed")

    def _hear_warnings(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            raw: Any = connection.connection.driver_connection
            raw.add_notice_handler(self._hear)

    def _hear(self, notice: "Diagnostic") -> None:
        """Note a warning that a wait for standbys was cancelled. Its text may be in another language."""
        if notice.severity_nonlocalized == "WARNING" and notice.source_function == "SyncRepWaitForLSN":
            self._unreplicated = ": ".join(filter(None, (notice.message_primary, notice.message_detail)))

    def _check_replicated(self) -> None:
        """Raise `NotReplicated` if the server has not waited for its standbys: like a transaction that has lost its
        connection during the commit, this one may be lost with the server.
        """
        if self._unreplicated is not None:
            raise NotReplicated(self._unreplicated)

    def _write_failure(self) -> str | None:
        """Return why a table cannot be written; None if all can. After a failure one successful commit is not enough,
        since it did not write to every table.
        """
        try:
            connection = self._persistent.get()
            with self._watch.guard(connection), connection.begin():
                Transaction(connection, self._now()).try_to_write()
            self._check_replicated()
        except (SQLAlchemyError, NoAnswer) as error:
            self._persistent.drop()
            return reason(error)
        return None

    def _set_health(self, failing: str | None) -> None:
        was, self.failing = self.failing, failing
        if (was is None) != (failing is None):
            waited = timedelta(seconds=self.writing_for)
            self.failing_since = None if failing is None else self._now() - waited
            self._observer.health(failing)

    @staticmethod
    def _answer(batch: Sequence[_Work]) -> None:
        """Finish the futures of the jobs. An event loop is woken once per batch, not once per job."""
        loops: dict[asyncio.AbstractEventLoop, list[_Work]] = {}
        for work in batch:
            work.convert()
            if work.loop is None:
                work.finish()
            else:
                loops.setdefault(work.loop, []).append(work)
        for loop, works in loops.items():
            with suppress(RuntimeError):  # the loop is closed, and nothing waits on it any more
                loop.call_soon_threadsafe(_finish, works)


def _finish(works: Sequence[_Work]) -> None:
    for work in works:
        work.finish()
