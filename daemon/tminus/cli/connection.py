"""How a command reaches the daemon, and how it tells what went wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tminus import client, config
from tminus.config import ConfigError
from tminus.errors import TminusError, UnknownParticipant, UnknownSession, UnknownWebhook

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

REFUSED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNAVAILABLE = 1, 2, 3, 4, 5, 6

_EXIT_CODES: tuple[tuple[type[client.ScreenMeetError], int], ...] = (
    (client.Conflict, CONFLICT),
    (client.NotAuthenticated, NOT_ALLOWED),
    (client.Forbidden, NOT_ALLOWED),
    (client.Unavailable, UNAVAILABLE),
)


@dataclass
class Connection:
    """What was said on the command line, before the command's name."""

    config: Path | None = None
    url: str | None = None
    token_file: Path | None = None
    socket: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is the local socket that is used."""
        return self.url is None

    def open(self) -> client.ScreenMeet:
        """A client: of `--url` or `$TMINUS_URL` with a token, else of the local socket."""
        if self.url is not None:
            return client.ScreenMeet(self.url, self._token())
        return client.ScreenMeet(socket=self._local_socket())

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get("TMINUS_TOKEN")
        try:
            return self.token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise fail(f"cannot read the token file {self.token_file}: {error}", USAGE) from None

    def _local_socket(self) -> Path:
        sockets = [self.socket] if self.socket else self._configured_sockets()
        if not sockets:
            raise fail("the configuration has no local socket (server.socket): name the daemon with --url", USAGE)
        for socket in sockets:
            if _is_there(socket):
                return socket
        hint = "start the daemon with `tminus run`, or name another with --url or --socket"
        raise fail(f"there is no daemon at {' or '.join(map(str, sockets))}: {hint}", UNAVAILABLE)

    def _configured_sockets(self) -> list[Path]:
        settings = config.load(config.find(self.config, os.environ), os.environ).settings
        return config.local_sockets(settings, self.config, os.environ)


def _is_there(socket: Path) -> bool:
    try:
        return socket.exists()
    except PermissionError:
        return False  # the service's state directory, which only root may look into


def fail(message: str, code: int) -> typer.Exit:
    """Prints what went wrong to standard error; the caller raises what this returns."""
    print(f"tminus: {message}", file=sys.stderr)
    return typer.Exit(code)


@contextmanager
def telling_errors() -> Iterator[None]:
    """Turns what can go wrong in a command into a clear line and an exit code."""
    try:
        yield
    except client.ScreenMeetError as error:
        raise fail(_explained(error), _exit_code(error)) from None
    except ConfigError as error:
        for fault in error.faults:
            print(f"tminus: {fault}", file=sys.stderr)
        raise typer.Exit(REFUSED) from None
    except TminusError as error:
        raise fail(error.description, REFUSED) from None


def _exit_code(error: client.ScreenMeetError) -> int:
    # By its refcode: a path that there is not, or a proxy's 404, says nothing about a session.
    if error.refcode in (UnknownSession.refcode, UnknownParticipant.refcode, UnknownWebhook.refcode):
        return NOT_FOUND
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), REFUSED)


def _explained(error: client.ScreenMeetError) -> str:
    advice = ""
    if isinstance(error, client.NotAuthenticated):
        advice = "; set $TMINUS_TOKEN or --token-file (`tminus token new` makes one)"
    return f"{error.description}{f' (refcode {error.refcode})' if error.refcode else ''}{advice}"
