"""Where things are: the configuration file, the state directory, the database and its password."""

import os
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.settings import Settings, Webhook
from tminus.config.text import NotText, decode
from tminus.domain.errors import StateDirectoryUnusable
from tminus.system import checkout
from tminus.system.privileges import acting_for, controller, user_name

SYSTEM_FILE = Path("/etc/tminus/tminus.toml")

SERVICE_STATE = Path("/var/lib/tminus")
"""The state directory of `systemd/tminus.service`."""


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to load: `explicit` (--config), else `$TMINUS_CONFIG`, else that of the checkout in which the checkout's
    own command runs, else the one in /etc, else None: the defaults.

    Raises `ConfigError` if one that was named is not there.
    """
    named = environ.get("TMINUS_CONFIG")
    if explicit is not None:
        path, where = explicit, "--config"
    elif named:
        path, where = Path(named), "environment TMINUS_CONFIG"
    elif (own := checkout.configuration_file()) is not None:
        return own
    else:
        return SYSTEM_FILE if is_there(SYSTEM_FILE) else None
    if not is_there(path):
        raise ConfigError((ConfigProblem(where, "", f"there is no file {path}"),))
    return path


def is_there(path: Path) -> bool:
    """Whether there is such a file, or may be one that is not for us."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # going on without it would be wrong, and reading it will say why
    return True


def state_directory(environ: Mapping[str, str]) -> Path:
    """`$STATE_DIRECTORY` (the first, if systemd made several), else `var` where the command runs; absolute.

    Raises `StateDirectoryUnusable` if it is where the command runs, and that directory was removed.
    """
    named = Path(environ.get("STATE_DIRECTORY", "").split(":")[0] or "var")
    try:
        return named.absolute()
    except FileNotFoundError:
        problem = "the directory in which the command runs was removed: name the state directory in STATE_DIRECTORY"
        raise StateDirectoryUnusable(str(named), problem) from None


def check_ownership(state: Path, environ: Mapping[str, str]) -> None:
    """Raise `StateDirectoryUnusable` if `state` is another user's, and is taken only because the command runs there.

    Whoever stands in a directory of somebody else must not work on a state that was prepared for that.
    """
    owner, _ = controller(state)
    if not environ.get("STATE_DIRECTORY") and owner not in (0, os.geteuid()):
        problem = f"belongs to {user_name(owner)}: to use it all the same, name it in STATE_DIRECTORY"
        raise StateDirectoryUnusable(str(state), problem)


def operated_state(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The state directory of a command that works without a daemon. Raises `StateDirectoryUnusable`.

    As for the local socket of a command: where nothing says which is meant, and there is none here, it is the
    service's, if there is one that may be looked into.
    """
    own = state_directory(environ)
    is_here = is_there(own) and own != Path("/var")  # which every machine has, and which is nobody's state
    if _is_said(explicit, environ) or is_here or not os.access(SERVICE_STATE, os.X_OK):
        check_ownership(own, environ)
        return own
    return SERVICE_STATE


def _is_said(explicit: Path | None, environ: Mapping[str, str]) -> bool:
    return (
        explicit is not None
        or any(environ.get(name) for name in ("TMINUS_CONFIG", "STATE_DIRECTORY"))
        or checkout.configuration_file() is not None
    )


@dataclass(frozen=True, slots=True)
class Database:
    """Where the database is: the path of an SQLite file or a URL of PostgreSQL, and apart from it the password."""

    url: str | Path
    password: str | None = field(default=None, repr=False)


def database_file(settings: Settings, state_directory: Path) -> Path | None:
    """The file of an SQLite database; None: it is PostgreSQL's."""
    relative = settings.storage.url.removeprefix("sqlite:///")
    return state_directory.absolute() / relative if relative != settings.storage.url else None


def database(settings: Settings, state_directory: Path, environ: Mapping[str, str]) -> Database:
    """The database of these settings: an SQLite file by its absolute path, or PostgreSQL with its password read.

    Raises `ConfigError` if the password cannot be read.
    """
    storage = settings.storage
    if (file := database_file(settings, state_directory)) is not None:
        return Database(file)
    if storage.password_file:
        return Database(storage.url, _secret("storage.password_file", state_directory / storage.password_file))
    if storage.password_credential:
        key = "storage.password_credential"
        return Database(storage.url, _secret(key, _credentials(key, environ) / storage.password_credential))
    return Database(storage.url)


def secrets(webhook: Webhook, state_directory: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets of an endpoint, as text, in the order in which they are named.

    Raises `ConfigError` with what is wrong with each of them.
    """
    key = f"webhooks[{webhook.name}]"
    read: list[str] = []
    problems: list[ConfigProblem] = []
    for name in webhook.secret_file:
        try:
            read.append(_signing_secret(f"{key}.secret_file", state_directory / name))
        except ConfigError as error:
            problems += error.problems
    for name in webhook.secret_credential:
        credential = f"{key}.secret_credential"
        try:
            read.append(_signing_secret(credential, _credentials(credential, environ) / name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(tuple(problems))
    return tuple(read)


def _signing_secret(key: str, path: Path) -> str:
    """What receivers' libraries take: `whsec_` and base64 of 24 to 64 bytes."""
    secret = _secret(key, path)
    try:
        length = len(b64decode(secret.removeprefix("whsec_"), validate=True)) if secret.startswith("whsec_") else 0
    except ValueError:
        length = 0
    if not 24 <= length <= 64:
        raise _unreadable(key, "it is no `whsec_…` of 24 to 64 bytes; `tminus webhooks secret` makes one")
    return secret


def _credentials(key: str, environ: Mapping[str, str]) -> Path:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise _unreadable(key, "$CREDENTIALS_DIRECTORY is not set: systemd sets it")
    return Path(directory)


def _secret(key: str, path: Path) -> str:
    """A secret's text, without the line end that an editor leaves."""
    try:
        with acting_for(path.parent):
            secret = decode(path.read_bytes()).rstrip("\r\n")
    except OSError as error:
        # Without the path: somebody may have written the password itself in its place.
        raise _unreadable(key, error.strerror or "it failed") from None
    except NotText as error:
        raise _unreadable(key, error.problem.replace("this is", "it is", 1)) from None
    if not secret:
        raise _unreadable(key, "it is empty")
    return secret


def _unreadable(key: str, problem: str) -> ConfigError:
    return ConfigError((ConfigProblem("", key, f"names a secret that cannot be read: {problem}"),))
