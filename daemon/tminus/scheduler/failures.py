"""Log the failures of jobs. A repeated failure is logged again only after a success or a different failure."""

from collections.abc import Callable
from typing import Any

from tminus.domain.errors import StoreUnavailable
from tminus.logs.output import error_fields, log
from tminus.storage.failures import reason


class Failed:
    """The result of `FailureLog.run` for a job that raised."""


class FailureLog:
    """Runs jobs and logs their failures. Without it, a job that fails every second would write a line every second."""

    def __init__(self) -> None:
        self._errors: dict[str, str] = {}
        """Job -> the error that was logged last."""

    def run(self, job: str, work: Callable[[], Any]) -> Any:
        """Run a job; return its result, or a `Failed` if it raised."""
        try:
            result = work()
        except Exception as error:
            fields = _fields(error)
            if self._errors.get(job) != fields["error"]:
                self._errors[job] = fields["error"]
                log("clock.failed", job=job, **fields)
            return Failed()
        if self._errors.pop(job, None) is not None:
            log("clock.recovered", job=job)
        return result


def _fields(error: Exception) -> dict[str, str]:
    """Return the log fields of an error.

    For an unreachable database they contain the driver's error and no traceback: it is no defect of tminus, and the
    message of `StoreUnavailable` is meant for callers.
    """
    if isinstance(error, StoreUnavailable):
        return {"error": f"the database is not available: {reason(error.__cause__ or error)}"}
    return error_fields(error)
