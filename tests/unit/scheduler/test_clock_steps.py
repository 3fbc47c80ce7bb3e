"""The clock-step detector, with its real thread and a wall clock that the tests set."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from tests.support.waiting import eventually

from tminus import clock
from tminus.domain.errors import StoreUnavailable
from tminus.scheduler import clock_steps
from tminus.scheduler.clock_steps import ClockStepDetector
from tminus.scheduler.failures import FailureLog

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.usefixtures("log_lines")  # the log lines of the tests are not written to the terminal


class Calls:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> None:
        self.number += 1


@pytest.fixture
def set_back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Compare the clocks every 20 ms, and return a function that sets the wall clock back by an hour."""
    monkeypatch.setattr(clock_steps, "INTERVAL", timedelta(milliseconds=20))
    wall, offset = clock.outside, [timedelta(0)]
    monkeypatch.setattr(clock, "outside", lambda: wall() + offset[0])

    def set_back() -> None:
        offset[0] = -HOUR

    return set_back


@contextmanager
def detecting(
    reset_timers: Callable[[], None] = lambda: None,
    on_step: Callable[[], object] = lambda: None,
    every_second: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    detector = ClockStepDetector(FailureLog(), reset_timers, on_step, every_second=every_second)
    detector.start()
    try:
        yield
    finally:
        detector.stop()


def test_callbacks_are_called_after_a_clock_step(set_back: Callable[[], None]) -> None:
    timers_reset, step_reported = threading.Event(), threading.Event()
    with detecting(timers_reset.set, step_reported.set):
        set_back()
        assert timers_reset.wait(10)
        assert step_reported.wait(10)


def test_a_callback_that_fails_after_a_clock_step_is_called_again_until_it_succeeds(
    set_back: Callable[[], None],
) -> None:
    reports, comparisons = Calls(), Calls()

    def fail_twice() -> None:
        reports()
        if reports.number < 3:
            raise StoreUnavailable

    with detecting(on_step=fail_twice, every_second=comparisons):
        set_back()
        eventually(lambda: reports.number == 3)
        seen = comparisons.number
        eventually(lambda: comparisons.number > seen + 5)
        assert reports.number == 3, "it is not called again after that"
