"""Apply the entries `[[series]]` of the configuration: at the start, after a reload, and again after an error."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tminus import config
from tminus.config import Settings
from tminus.domain import timestamps
from tminus.domain.errors import RequestError, StoreUnavailable
from tminus.domain.model import Series
from tminus.logs.output import log
from tminus.sessions import series
from tminus.storage import Store, Transaction
from tminus.storage import series as stored

RETRY = timedelta(minutes=5)
"""Time until an entry that could not be applied is tried again."""

PART = 20
"""Number of entries after which other work that has fallen due is done. Each entry takes some 20 ms."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class ConfiguredSeries:
    """Creates, changes and ends series until they equal the entries `[[series]]`.

    Each entry has a transaction of its own, so one that is refused does not hold up the others. If several daemons of a
    database have the same entries, the first applies them, and the others find nothing to do.

    Parameters
    ----------
    store
        The database.
    submit
        Runs a job on the writer.
    meanwhile
        Does other work that has fallen due; returns whether to go on. Called after each `PART` entries.
    """

    def __init__(
        self, store: Store, submit: Callable[..., Future[Any]], meanwhile: Callable[[Settings], bool] = lambda _: True
    ) -> None:
        self._store = store
        self._submit = submit
        self._meanwhile = meanwhile
        self._due: datetime | None = _LONG_AGO
        """When entries are to be applied; None: all are applied."""
        self._problems: dict[str, str] | None = None
        """Entry that could not be applied -> a text that identifies the error. None: all entries are to be applied."""

    def set_changed(self) -> None:
        """Apply the entries again at the next tick: the settings have changed."""
        self._due = _LONG_AGO
        self._problems = None

    def apply(self, settings: Settings, now: datetime) -> None:
        """Apply the entries, if that is due. If this raises `StoreUnavailable`, the next tick tries again.

        A retry concerns only the entries that could not be applied: another daemon may have applied newer versions of
        the others meanwhile, and they must stay.
        """
        if self._due is None or now < self._due:
            return
        problems: dict[str, str] = {}
        for number, (name, outcome, job) in enumerate(self._jobs(settings)):
            if number % PART == PART - 1 and not self._meanwhile(settings):
                return
            if problem := self._run(name, outcome, job, now + RETRY):
                problems[name] = problem
        self._problems = problems
        self._due = now + RETRY if problems else None

    def _jobs(self, settings: Settings) -> Iterator[tuple[str, str, Callable[..., str | None]]]:
        """Yield the names of the entries whose series is to change, each with the outcome and the job."""
        tried = self._problems
        existing = {one.entry: one for one in self._store.read(stored.of_configuration, lane="clock")}
        for entry in settings.series:
            present = existing.pop(entry.name, None)
            if _is_current(present, entry) or (tried is not None and entry.name not in tried):
                continue
            is_new = present is None or present.agent_id != entry.agent
            job = partial(series.configure, settings=settings, entry=entry)
            yield entry.name, "created" if is_new else "changed", job
        for name in existing:
            assert name is not None
            if tried is None or name in tried:
                yield name, "ended", partial(series.remove_entry, settings=settings, name=name)

    def _run(self, name: str, outcome: str, job: Callable[..., str | None], retry_at: datetime) -> str | None:
        """Run a job on the series of an entry; return a text that identifies the error, if there is one."""
        key = f"series[{name}]"
        try:
            series_id = self._submit(partial(_contained, name=name, job=job), clock=True).result()
        except StoreUnavailable:
            raise
        except RequestError as error:
            fields = "; ".join(f"{one.field} {one.message}" for one in error.errors)
            problem = fields or str(error.refcode)  # a description may contain a time, which differs
            if self._is_new(name, problem):
                log("series.refused", key=key, error=fields or error.description, retry_at=timestamps.text(retry_at))
            return problem
        except series.SeriesDefect as defect:
            found = defect.fields()
            if self._is_new(name, found["error"]):
                log("series.refused", key=key, **found, retry_at=timestamps.text(retry_at))
            return found["error"]
        if series_id is not None:
            log("series.configured", key=key, series=series_id, outcome=outcome)
        return None

    def _is_new(self, name: str, problem: str) -> bool:
        """Return whether the last attempt to apply an entry did not end with this problem."""
        return self._problems is None or self._problems.get(name) != problem


def _is_current(present: Series | None, entry: config.Series) -> bool:
    try:
        return series.is_current(present, entry)
    except Exception:
        return False  # the job of this entry raises it again, and it is logged there


def _contained(tx: Transaction, name: str, job: Callable[..., str | None]) -> str | None:
    with series.contained(name):
        return job(tx)
