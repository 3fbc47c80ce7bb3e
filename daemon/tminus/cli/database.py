"""The commands `tminus db`: back up, restore, check, compact and upgrade the database."""

import os
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
from tminus.domain.errors import StateDirectoryUnusable
from tminus.system.privileges import acting_for

if TYPE_CHECKING:
    from tminus.storage import Store
    from tminus.storage.snapshot import Contents


def settings_and_state(connection: Connection) -> tuple[Settings, Path]:
    """Return the settings and the state directory."""
    path = connection.config
    settings = config.load(config.find(path, os.environ), os.environ).settings
    return settings, config.command_state_directory(path, os.environ)


def as_owner(settings: Settings, state: Path) -> AbstractContextManager[None]:
    """Take the rights of the user who controls the database's directory, if the command runs as root."""
    file = config.database_file(settings, state)
    return acting_for(file.parent if file is not None else state)


def open_store(settings: Settings, state: Path) -> "Store":
    """Open the database, and migrate an older schema. A daemon may use the database at the same time."""
    from tminus.storage import Store  # noqa: PLC0415 - slow to load

    database = database_of(settings, state)
    return Store(database.url, None, password=database.password)


def database_of(settings: Settings, state: Path) -> config.Database:
    return config.database(settings, state, os.environ)


@click.command(cls=Command)
@click.pass_obj
def upgrade(connection: Connection) -> None:
    """Upgrade the database's schema, as the daemon does when it starts."""
    from tminus import storage  # noqa: F401, PLC0415 - slow to load; loaded before root gives up its rights

    with reporting_errors():
        settings, state = settings_and_state(connection)
        with as_owner(settings, state):
            try:
                config.create_state_directory(state)
            except OSError as error:
                problem = f"cannot be used as the state directory ({error.strerror})"
                raise StateDirectoryUnusable(str(state), problem) from error
            if (file := config.database_file(settings, state)) is not None:
                config.create_private_database(file)
            store = open_store(settings, state)
            store.close()
    before, after = store.migrated_from, store.schema
    output.put(f"schema {after}: nothing to do" if before == after else f"schema {before or '(none)'} -> {after}")


@click.command(cls=Command)
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Keep the N latest dated copies in the directory, and remove older ones.",
)
@as_json
@click.pass_obj
def backup(connection: Connection, file: Path, force: bool, keep: int | None, as_json: bool) -> None:
    """Copy the SQLite database, also while a daemon runs. The copy contains secrets, so it has mode 0600.

    FILE is the name of the copy, or a directory in which the copy gets a name with the date.
    """
    from tminus.storage import backup as backups  # noqa: PLC0415 - slow to load

    if str(file) == "-":
        raise fail("a backup is a file: name one, or a directory", USAGE)
    if keep is not None and not file.is_dir():
        raise fail(f"--keep needs a directory, and {file} is not a directory", USAGE)
    with reporting_errors():
        database = database_of(*settings_and_state(connection))
        done = backups.back_up(database.url, file, clock.now(), force=force, keep=keep)
    removed = [str(path) for path in done.removed]
    if as_json:
        seconds = round(done.seconds, 3)
        output.put_json(
            {"file": str(done.path), **_contents(done.contents), "seconds": seconds, "removed": removed}, indent=None
        )
    else:
        output.put(f"{done.path}: {_described(done.contents)}, in {done.seconds:.1f} s")
        for path in removed:
            output.put(f"{path}: removed")


@click.command(cls=Command)
@click.argument("file", type=FILE)
@as_json
@click.pass_obj
def restore(connection: Connection, file: Path, as_json: bool) -> None:
    """Replace the database with a backup, while no daemon runs. The old database is renamed, with the date.

    FILE is a copy that `tminus db backup` wrote.
    """
    from tminus.storage import restore as restores  # noqa: PLC0415 - slow to load

    with reporting_errors():
        settings, state = settings_and_state(connection)
        database = database_of(settings, state)
        with config.lock(state, config.database_file(settings, state)):
            done = restores.restore(database.url, file, clock.now())
    moved = str(done.moved_to) if done.moved_to else None
    if as_json:
        result = {"database": str(done.path), **_contents(done.contents), "databaseId": done.database_id}
        output.put_json(
            result | {"schemaBefore": done.schema_before, "schema": done.schema, "movedTo": moved}, indent=None
        )
        return
    output.put(f"{done.path}: {_described(done.contents)}; its id is now {done.database_id}")
    if done.schema_before != done.schema:
        output.put(f"schema {done.schema_before} -> {done.schema}")
    if moved:
        output.put(f"{moved}: the previous database")


@click.command(cls=Command)
@as_json
@click.pass_obj
def compact(connection: Connection, as_json: bool) -> None:
    """Shrink the SQLite database file to the size of its data, while no daemon runs."""
    from tminus.storage import checkpoint  # noqa: PLC0415 - slow to load

    with reporting_errors():
        settings, state = settings_and_state(connection)
        database = database_of(settings, state)
        with config.lock(state, config.database_file(settings, state)), as_owner(settings, state):
            path, before, after = checkpoint.compact(database.url)
    if as_json:
        output.put_json({"database": str(path), "bytesBefore": before, "bytes": after}, indent=None)
    else:
        output.put(f"{path}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB")


@click.command(cls=Command)
@click.argument("file", type=FILE, required=False)
@as_json
@click.pass_obj
def check(connection: Connection, file: Path | None, as_json: bool) -> None:
    """Check the database or a backup for damage. Print a line for each problem; exit code 1 if there is one.

    FILE is a backup; without it, the database itself is checked.
    """
    from tminus.storage import check as checks  # noqa: PLC0415 - slow to load

    with reporting_errors():
        settings, state = settings_and_state(connection)
        database = config.Database(file.absolute()) if file else database_of(settings, state)
        with acting_for(file.absolute().parent) if file else as_owner(settings, state):
            found = checks.check_database(
                database.url, settings.lifecycle.timeouts, clock.now(), password=database.password
            )
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
            "nothing wrong with the file; its sessions were not checked, since it has the older schema "
            f"{found.schema}: run `tminus db upgrade` first"
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


def _described(contents: "Contents") -> str:
    size = f"{contents.size / 1e6:.1f} MB"
    return f"{contents.sessions} sessions, {contents.events} events, the last is {contents.last_seq}, {size}"
