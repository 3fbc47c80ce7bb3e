"""Makes the series of the configuration: at the start, after a reload, and again after an error."""

from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from tminus.config import Settings
from tminus.domain.errors import RequestError, StoreUnavailable
from tminus.logs.output import log
from tminus.sessions import series
from tminus.storage import Store
from tminus.storage import series as stored

RETRY = timedelta(minutes=5)
"""Time until an entry that could not be applied is tried again."""

_AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


class ConfiguredSeries:
    """Creates, changes and ends series until they are as the entries `[[series]]` say.

    Each entry has a transaction of its own, so one that is refused does not hold up the others. Daemons of one database
    do this one after the other, and the second finds nothing to do.

    Parameters
    ----------
    store
        The database.
    submit
        Runs a job on the writer.
    """

    def __init__(self, store: Store, submit: Callable[..., Future[Any]]) -> None:
        self._store = store
        self._submit = submit
        self._due: datetime | None = _AT_ONCE
        """When entries are to be applied; None: all are applied."""
        self._problems: dict[str, str] | None = None
        """The entries that could not be applied, each with the error that was logged; None: all are to be applied."""

    def set_changed(self) -> None:
        """Apply the entries again at the next tick: the settings have changed."""
        self._due = _AT_ONCE
        self._problems = None

    def apply(self, settings: Settings, now: datetime) -> None:
        """Apply the entries, if that is due. If this raises `StoreUnavailable`, the next tick tries again.

        A later attempt is only for entries that could not be applied. Another daemon may have reloaded newer entries
        meanwhile, whose series must stay.
        """
        if self._due is None or now < self._due:
            return
        tried = self._problems
        there_are = {one.entry: one for one in self._store.read(stored.of_configuration, lane="clock")}
        problems: dict[str, str] = {}
        for entry in settings.series:
            present = there_are.pop(entry.name, None)
            if series.is_current(present, entry) or (tried is not None and entry.name not in tried):
                continue
            job = partial(series.configure, settings=settings, entry=entry)
            is_new = present is None or present.agent_id != entry.agent
            if problem := self._run(entry.name, "created" if is_new else "changed", job):
                problems[entry.name] = problem
        for name in there_are:
            assert name is not None
            if tried is not None and name not in tried:
                continue
            if problem := self._run(name, "ended", partial(series.remove_entry, settings=settings, name=name)):
                problems[name] = problem
        self._problems = problems
        self._due = now + RETRY if problems else None

    def _run(self, name: str, outcome: str, job: Callable[..., str | None]) -> str | None:
        """Run a job on the series of an entry; return the error, if there is one."""
        key = f"series[{name}]"
        try:
            series_id = self._submit(job, clock=True).result()
        except StoreUnavailable:
            raise
        except RequestError as error:
            problem = "; ".join(f"{one.field} {one.message}" for one in error.errors) or error.description
            if self._problems is None or self._problems.get(name) != problem:
                log("series.refused", key=key, error=problem)
            return problem
        if series_id is not None:
            log("series.configured", key=key, series=series_id, outcome=outcome)
        return None
