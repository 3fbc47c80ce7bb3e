"""The commands for whoever runs the daemon: they work on the configuration and the database, not on a running one."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from tminus import clock, config
from tminus.cli import output
from tminus.cli.connection import REFUSED, USAGE, Connection, fail, reporting_errors
from tminus.cli.options import FILE, Command, as_json
from tminus.config import Settings
from tminus.domain import timestamps
from tminus.domain.errors import CannotOpenDatabase, StateDirectoryUnusable
from tminus.service.signals import StartSignals
from tminus.system.privileges import acting_for

if TYPE_CHECKING:
    from tminus.storage import Store
    from tminus.storage.backup import Contents


@click.command(cls=Command)
@click.pass_obj
def run(connection: Connection) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C; SIGHUP reloads the configuration."""
    signals = StartSignals()
    signals.listen()  # it ends when it is loaded: half a library is none

    from tminus.service import main  # noqa: PLC0415 - what serves takes a second to load, and only this command serves

    with reporting_errors():
        code = main.run(connection.config, os.environ, signals)
    raise Exit(code)


@click.command(cls=Command)
@click.option("--effective", is_flag=True, help="Print what is in force, and where it comes from.")
@click.pass_obj
def check(connection: Connection, effective: bool) -> None:
    """Check the configuration without starting anything; exit code 0 or 1."""
    with reporting_errors():
        path = connection.config
        read = config.load(config.find(path, os.environ), os.environ)
        state = config.command_state_directory(path, os.environ)
        reads: list[Callable[[], object]] = [lambda: config.database(read.settings, state, os.environ)]
        if read.settings.webhooks:
            from tminus import delivery  # noqa: PLC0415 - loaded only where there is something to read

            reads.append(lambda: delivery.read_secrets(read.settings, state, os.environ))
        config.read_all(read.origins, *reads)
    if effective:
        output.put_text(config.effective(read))
    else:
        read_from = read.path or "no file: the built-in defaults"
        output.put(f"{read_from}: nothing wrong (fingerprint {read.fingerprint})")


@click.command(cls=Command)
def lifecycle() -> None:
    """Print the transition table: every status, and every trigger by which a session goes from one to another. It is a
    Mermaid diagram, which GitHub, GitLab and https://mermaid.live draw.
    """
    from tminus.domain.diagram import mermaid  # noqa: PLC0415 - to draw takes longer to import than all else

    for line in mermaid().splitlines():
        output.put(line)


@click.command(cls=Command)
@as_json
@click.pass_obj
def advance(connection: Connection, as_json: bool) -> None:
    """Do by hand, once, what the clock does: open, expire and close what is due. Harmless beside a running daemon."""
    from tminus.scheduler import sweeps  # noqa: PLC0415 - as in `run`

    with reporting_errors():
        settings, state = _settings(connection)
        file = config.database_file(settings, state)
        if file is not None and not config.exists(file):
            raise CannotOpenDatabase(str(file), "there is no such file: the daemon makes it, or `tminus db upgrade`")
        with _as_owner(settings, state):
            store = _store(settings, state)
            try:
                sweeps.follow_timeouts(store.submit, settings.lifecycle.timeouts)
                sweep = sweeps.advance(store.submit, settings.lifecycle.timeouts)
                held = store.submit(sweeps.held).result()
                removed = 0
                if held is None:
                    removed = sweeps.clean(
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
            parts.append(f"nothing removed before {timestamps.text(held.until)}, as the clock has jumped ahead")
        output.put(", ".join(parts) or "nothing was due")


@click.command(cls=Command)
@click.pass_obj
def db_upgrade(connection: Connection) -> None:
    """Bring the database's schema up to date; the daemon does so itself when it starts."""
    from tminus import storage  # noqa: F401, PLC0415 - as in `run`, and before root gives up its rights

    with reporting_errors():
        settings, state = _settings(connection)
        with _as_owner(settings, state):
            try:
                config.create_state_directory(state)
            except OSError as error:
                problem = f"cannot be used as the state directory ({error.strerror})"
                raise StateDirectoryUnusable(str(state), problem) from error
            if (file := config.database_file(settings, state)) is not None:
                config.create_private_database(file)
            store = _store(settings, state)
            store.close()
    before, after = store.migrated_from, store.schema
    output.put(f"schema {after}: nothing to do" if before == after else f"schema {before or '(none)'} -> {after}")


@click.command(cls=Command)
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="In a directory: keep N dated copies, no more.")
@as_json
@click.pass_obj
def db_backup(connection: Connection, file: Path, force: bool, keep: int | None, as_json: bool) -> None:
    """Copy the database (SQLite) as it is at one moment; a daemon works on meanwhile. It holds secrets: mode 0600.

    FILE is where to; in a directory, it is under a name with the date.
    """
    from tminus.storage import backup  # noqa: PLC0415 - as in `run`

    if str(file) == "-":
        raise fail("a backup is a file: name one, or a directory", USAGE)
    if keep is not None and not file.is_dir():
        raise fail(f"--keep counts the copies in a directory, and {file} is none", USAGE)
    with reporting_errors():
        database = _database(*_settings(connection))
        done = backup.back_up(database.url, file, clock.now(), force=force, keep=keep)
    removed = [str(path) for path in done.removed]
    if as_json:
        seconds = round(done.seconds, 3)
        output.put_json(
            {"file": str(done.path), **_contents(done.contents), "seconds": seconds, "removed": removed}, indent=None
        )
    else:
        output.put(f"{done.path}: {_told(done.contents)}, in {done.seconds:.1f} s")
        for path in removed:
            output.put(f"{path}: removed")


@click.command(cls=Command)
@click.argument("file", type=FILE)
@as_json
@click.pass_obj
def db_restore(connection: Connection, file: Path, as_json: bool) -> None:
    """Put a backup in the database's place, while no daemon runs; the present one is kept under a dated name.

    FILE is what `tminus db backup` wrote.
    """
    from tminus.storage import backup  # noqa: PLC0415 - as in `run`

    with reporting_errors():
        settings, state = _settings(connection)
        database = _database(settings, state)
        with config.lock(state, config.database_file(settings, state)):
            done = backup.restore(database.url, file, clock.now())
    moved = str(done.moved_to) if done.moved_to else None
    if as_json:
        result = {"database": str(done.path), **_contents(done.contents), "databaseId": done.database_id}
        output.put_json(
            result | {"schemaBefore": done.schema_before, "schema": done.schema, "movedTo": moved}, indent=None
        )
        return
    output.put(f"{done.path}: {_told(done.contents)}; its id is now {done.database_id}")
    if done.schema_before != done.schema:
        output.put(f"schema {done.schema_before} -> {done.schema}")
    if moved:
        output.put(f"{moved}: what was there before")


@click.command(cls=Command)
@as_json
@click.pass_obj
def db_compact(connection: Connection, as_json: bool) -> None:
    """Make the database's file (SQLite) as small as what is in it, while no daemon runs."""
    from tminus.storage import checkpoint  # noqa: PLC0415 - as in `run`

    with reporting_errors():
        settings, state = _settings(connection)
        database = _database(settings, state)
        with config.lock(state, config.database_file(settings, state)), _as_owner(settings, state):
            path, before, after = checkpoint.compact(database.url)
    if as_json:
        output.put_json({"database": str(path), "bytesBefore": before, "bytes": after}, indent=None)
    else:
        output.put(f"{path}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB")


@click.command(cls=Command)
@click.argument("file", type=FILE, required=False)
@as_json
@click.pass_obj
def db_check(connection: Connection, file: Path | None, as_json: bool) -> None:
    """Look whether the database, or a backup, is whole: a line for each thing that is wrong; exit code 0 or 1.

    FILE is a backup; without it, the database itself is examined.
    """
    from tminus.storage import check as checks  # noqa: PLC0415 - as in `run`

    with reporting_errors():
        settings, state = _settings(connection)
        database = config.Database(file.absolute()) if file else _database(settings, state)
        with acting_for(file.absolute().parent) if file else _as_owner(settings, state):
            found = checks.examine(database.url, settings.lifecycle.timeouts, clock.now(), password=database.password)
    if as_json:
        problems = [{"check": one.check, "session": one.session, "text": one.text} for one in found.problems]
        counts = {"sessions": found.sessions, "events": found.events, "lastSeq": found.last_seq}
        output.put_json(
            {"problems": problems, "schema": found.schema, "examined": found.is_current, **counts}, indent=None
        )
    elif found.problems:
        for problem in found.problems:
            output.put(f"{problem.check}: {problem.text}")
    elif found.is_current:
        output.put(f"nothing wrong: {found.sessions} sessions, {found.events} events, the last is {found.last_seq}")
    else:
        output.put(
            f"nothing wrong with the file; its sessions can be looked at after `tminus db upgrade` ({found.schema})"
        )
    if found.problems:
        raise Exit(REFUSED)


def _contents(contents: "Contents") -> dict[str, int]:
    return {
        "sessions": contents.sessions,
        "events": contents.events,
        "lastSeq": contents.last_seq,
        "bytes": contents.size,
    }


def _told(contents: "Contents") -> str:
    size = f"{contents.size / 1e6:.1f} MB"
    return f"{contents.sessions} sessions, {contents.events} events, the last is {contents.last_seq}, {size}"


def _settings(connection: Connection) -> tuple[Settings, Path]:
    """The settings, and the state directory."""
    path = connection.config
    settings = config.load(config.find(path, os.environ), os.environ).settings
    return settings, config.command_state_directory(path, os.environ)


def _as_owner(settings: Settings, state: Path) -> AbstractContextManager[None]:
    """For root: the rights of whoever controls the directory of the database, while the command works there."""
    file = config.database_file(settings, state)
    return acting_for(file.parent if file is not None else state)


def _store(settings: Settings, state: Path) -> "Store":
    """The database of these settings, opened beside whoever else uses it."""
    from tminus.storage import Store  # noqa: PLC0415 - as in `run`

    database = _database(settings, state)
    return Store(database.url, None, password=database.password)


def _database(settings: Settings, state: Path) -> config.Database:
    return config.database(settings, state, os.environ)
