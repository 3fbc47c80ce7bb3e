"""Find the configuration file, the state directory, the database, and the files that contain secrets."""

import os
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.settings import Mail, Oidc, Settings, Webhook
from tminus.config.text import NotText, decode
from tminus.domain.errors import StateDirectoryUnusable
from tminus.system import checkout
from tminus.system.privileges import acting_for, controller, user_name

SYSTEM_FILE = Path("/etc/tminus/tminus.toml")

SERVICE_STATE = Path("/var/lib/tminus")
"""The state directory of `systemd/tminus.service`."""


def find(explicit: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file to load, or None to use the defaults.

    The first of: `explicit` (--config), `$TMINUS_CONFIG`, the file of a checkout if this is the checkout's own command
    and runs there, and the file in /etc. Raises `ConfigError` if one of the first two is given but does not exist.
    """
    named = environ.get("TMINUS_CONFIG")
    if explicit is not None:
        path, where = explicit, "--config"
    elif named:
        path, where = Path(named), "environment TMINUS_CONFIG"
    elif (own := checkout.configuration_file()) is not None:
        return own
    else:
        return SYSTEM_FILE if exists(SYSTEM_FILE) else None
    if not exists(path):
        raise ConfigError((ConfigProblem(where, "", f"there is no file {path}"),))
    return path


def exists(path: Path) -> bool:
    """Return whether the file exists, or may exist in a directory that this user may not search."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # the caller tries to read it, and reports the error
    return True


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return the first directory of `$STATE_DIRECTORY`, or else `var` in the working directory, as an absolute path.

    Raises `StateDirectoryUnusable` if it is relative to the working directory, and that was removed.
    """
    named = Path(environ.get("STATE_DIRECTORY", "").split(":")[0] or "var")
    try:
        return named.absolute()
    except FileNotFoundError:
        problem = "the working directory was removed: set STATE_DIRECTORY to the state directory"
        raise StateDirectoryUnusable(str(named), problem) from None


def check_ownership(state: Path, environ: Mapping[str, str]) -> None:
    """Raise `StateDirectoryUnusable` if another user controls `state`, unless `$STATE_DIRECTORY` names it.

    Otherwise another user could prepare a state directory, and wait for somebody to run tminus next to it.
    """
    owner, _ = controller(state)
    if not environ.get("STATE_DIRECTORY") and owner not in (0, os.geteuid()):
        problem = f"belongs to {user_name(owner)}: to use it anyway, set STATE_DIRECTORY to it"
        raise StateDirectoryUnusable(str(state), problem)


def command_state_directory(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the state directory of a command that works without a daemon. Raises `StateDirectoryUnusable`.

    This is the systemd service's if this user may enter it, no option or variable names another daemon, and the working
    directory has no state directory. Other commands look for the local socket in the same places.
    """
    own = state_directory(environ)
    is_here = exists(own) and own != Path("/var")  # every machine has /var; it is not a state directory
    if _is_explicit(explicit, environ) or is_here or not os.access(SERVICE_STATE, os.X_OK):
        check_ownership(own, environ)
        return own
    return SERVICE_STATE


def _is_explicit(explicit: Path | None, environ: Mapping[str, str]) -> bool:
    return (
        explicit is not None
        or any(environ.get(name) for name in ("TMINUS_CONFIG", "STATE_DIRECTORY"))
        or checkout.configuration_file() is not None
    )


@dataclass(frozen=True, slots=True)
class Database:
    """The location of the database: the path of an SQLite file, or a PostgreSQL URL and its password."""

    url: str | Path
    password: str | None = field(default=None, repr=False)


def database_file(settings: Settings, state_directory: Path) -> Path | None:
    """Return the file of an SQLite database, or None for PostgreSQL."""
    relative = settings.storage.url.removeprefix("sqlite:///")
    return state_directory.absolute() / relative if relative != settings.storage.url else None


def database(settings: Settings, state_directory: Path, environ: Mapping[str, str]) -> Database:
    """Return the database that the settings name: an SQLite file as an absolute path, or PostgreSQL with its password.

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


def client_secret(oidc: Oidc, state_directory: Path, environ: Mapping[str, str]) -> str:
    """Return the client secret of the OpenID Connect issuer. Raises `ConfigError`."""
    if oidc.client_secret_file:
        return _secret("signin.oidc.client_secret_file", state_directory / oidc.client_secret_file)
    key = "signin.oidc.client_secret_credential"
    return _secret(key, _credentials(key, environ) / oidc.client_secret_credential)


def mail_password(mail: Mail, state_directory: Path, environ: Mapping[str, str]) -> str:
    """Return the password for the mail server; "" if none is configured. Raises `ConfigError`."""
    if mail.password_file:
        return _secret("mail.password_file", state_directory / mail.password_file)
    if mail.password_credential:
        key = "mail.password_credential"
        return _secret(key, _credentials(key, environ) / mail.password_credential)
    return ""


def secrets(webhook: Webhook, state_directory: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the signing secrets of an endpoint, in the order of the configuration.

    Raises `ConfigError` with the problems of all of them.
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
    """Read a secret in the form that the receivers' libraries accept: `whsec_` and base64 of 24 to 64 bytes."""
    secret = _secret(key, path)
    try:
        length = len(b64decode(secret.removeprefix("whsec_"), validate=True)) if secret.startswith("whsec_") else 0
    except ValueError:
        length = 0
    if not 24 <= length <= 64:
        raise _unreadable(key, "it is not a `whsec_…` of 24 to 64 bytes; `tminus webhooks secret` generates one")
    return secret


def _credentials(key: str, environ: Mapping[str, str]) -> Path:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise _unreadable(key, "$CREDENTIALS_DIRECTORY is not set: systemd sets it")
    return Path(directory)


def _secret(key: str, path: Path) -> str:
    """Return the text of a secret's file, without the line end that an editor appends."""
    try:
        with acting_for(path.parent):
            secret = decode(path.read_bytes()).rstrip("\r\n")
    except OSError as error:
        # The message does not contain the path: somebody may have written the password in its place.
        raise _unreadable(key, error.strerror or "it failed") from None
    except NotText as error:
        raise _unreadable(key, error.problem.replace("this is", "it is", 1)) from None
    if not secret:
        raise _unreadable(key, "it is empty")
    return secret


def _unreadable(key: str, problem: str) -> ConfigError:
    return ConfigError((ConfigProblem("", key, f"names a secret that cannot be read: {problem}"),))
