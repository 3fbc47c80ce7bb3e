"""The commands with which an operator runs the daemon, or works on its configuration or database without it."""

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import click
from click.exceptions import Exit

from tminus import clock, config
from tminus.cli import output
from tminus.cli.connection import Connection, reporting_errors
from tminus.cli.database import as_owner, open_store, settings_and_state
from tminus.cli.imports import without_collections
from tminus.cli.options import Command, Time, as_json
from tminus.domain import timestamps
from tminus.domain.errors import CannotOpenDatabase, WrongClock
from tminus.service.signals import StartSignals


class _TestClock(Time):
    """A time, or empty text for the present time."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = "" if value == "" else super().convert(value, param, ctx)
        if text and not timestamps.EPOCH <= timestamps.parse(text) <= clock.LATEST:
            self.fail(f"{value!r} is not between 1970 and {clock.LATEST.year}", param, ctx)
        return text


TEST_CLOCK = _TestClock()


@click.command(cls=Command)
@click.option(
    "--test-clock",
    is_flag=False,
    flag_value="",
    type=TEST_CLOCK,
    metavar="[TIME]",
    help="Run on a clock that stands still until `tminus clock` moves it; needs a new database, or one that has a test "
    "clock. TIME: where the clock of a new database begins. Default: now.",
)
@click.pass_obj
def run(connection: Connection, test_clock: str | None) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C; SIGHUP reloads the configuration."""
    signals = StartSignals()
    signals.listen()  # from here on, a signal to stop takes effect only after all modules are imported
    # With Python's default of 700, collections would examine the objects of requests in flight again and again.
    gc.set_threshold(20_000)
    # With Python's default of 5 ms, the scheduler and the writer wait longer for the event loop. At ten times the
    # maximum load one session then opened 0.2 s late instead of 0.05 s, and a third fewer requests were accepted.
    sys.setswitchinterval(0.002)

    with without_collections():
        from tminus.service import main  # noqa: PLC0415 - takes half a second to import; only this command needs it
        from tminus.service.clock_choice import TestClockStart  # noqa: PLC0415

    start = None
    if test_clock is not None:
        start = TestClockStart(timestamps.parse(test_clock) if test_clock else None)
    with reporting_errors():
        code = main.run(connection.config, os.environ, signals, start)
    raise Exit(code)


@click.command(cls=Command)
@click.option("--effective", is_flag=True, help="Print all settings in force, with their origins.")
@click.pass_obj
def check(connection: Connection, effective: bool) -> None:
    """Check the configuration without starting anything; exit code 1 if it has errors."""
    with reporting_errors():
        path = connection.config
        read = config.load(config.find(path, os.environ), os.environ)
        state = config.command_state_directory(path, os.environ)
        reads: list[Callable[[], object]] = [lambda: config.database(read.settings, state, os.environ)]
        if read.settings.webhooks or read.settings.mail.host:
            from tminus import delivery  # noqa: PLC0415 - slow to load, and needed only with endpoints or mail

            reads.append(lambda: delivery.read_secrets(read.settings, state, os.environ))
        if read.settings.signin.oidc.issuer:
            from tminus.oidc import settings as oidc  # noqa: PLC0415 - needed only with an issuer

            reads.append(lambda: oidc.read(read.settings, state, os.environ))
        config.read_all(read.origins, *reads)
    if effective:
        output.put_text(config.effective(read))
    else:
        read_from = read.path or "no file: the built-in defaults"
        output.put(f"{read_from}: nothing wrong (fingerprint {read.fingerprint})")
        for note in config.notes(read.settings):
            output.put(f"note: {note}")


@click.command(cls=Command)
def lifecycle() -> None:
    """Print the transition table: all statuses, and the triggers between them. The format is Mermaid, which GitHub,
    GitLab and https://mermaid.live display.
    """
    from tminus.domain.diagram import mermaid  # noqa: PLC0415 - slow to import

    for line in mermaid().splitlines():
        output.put(line)


@click.command(cls=Command)
@as_json
@click.pass_obj
def advance(connection: Connection, as_json: bool) -> None:
    """Run the scheduler once: open, expire and close the sessions that are due. Safe while a daemon runs."""
    from tminus.scheduler import sweeps  # noqa: PLC0415 - slow to load
    from tminus.storage import batches, test_clock  # noqa: PLC0415

    with reporting_errors():
        settings, state = settings_and_state(connection)
        file = config.database_file(settings, state)
        if file is not None and not config.exists(file):
            raise CannotOpenDatabase(str(file), "no such file: the daemon or `tminus db upgrade` creates it")
        with as_owner(settings, state):
            store = open_store(settings, state)
            try:
                if store.read(test_clock.read_time) is not None:
                    raise WrongClock(str(file), "its test clock is moved by `tminus clock`, while the daemon runs")
                sweeps.recompute_deadlines(store.submit, settings.lifecycle.timeouts)
                sweeps.finish_batches(store.submit, settings, store.read(batches.unfinished))
                sweep = sweeps.do_all_due(store.submit, settings.lifecycle.timeouts, settings=settings)
                held = store.submit(sweeps.retention_pause).result()
                removed = 0
                if held is None:
                    removed = sweeps.remove_old(
                        store.submit, settings.storage.retention, settings.storage.delivery_retention
                    )
            finally:
                store.close()
    moves = dict(sweep.transitions)
    if as_json:
        output.put_json({"moves": moves, "removed": removed, "withoutPin": sweep.without_pin}, indent=None)
    else:
        parts = [f"{trigger} {count}" for trigger, count in moves.items()] + ([f"removed {removed}"] if removed else [])
        if held is not None:
            parts.append(f"nothing is removed until {timestamps.text(held.until)}, since the clock has jumped ahead")
        output.put(", ".join(parts) or "nothing was due")
