"""How a command reaches the daemon, and what it says of what goes wrong."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from click.exceptions import Exit

from tminus import client
from tminus.cli import discovery
from tminus.cli.discovery import Candidate
from tminus.cli.output import LOST, OutputLost, complain
from tminus.system import checkout

REFUSED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNAVAILABLE = 1, 2, 3, 4, 5, 6

EXIT_CODES = (0, REFUSED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNAVAILABLE, LOST)

NOT_FOUND_REFCODES = frozenset({101404, 102404, 109404})
"""Of an unknown session, participant or webhook. By refcode: the 404 of a proxy says nothing about a session."""

_EXIT_CODES: tuple[tuple[type[client.ScreenMeetError], int], ...] = (
    (client.Conflict, CONFLICT),
    (client.NotAuthenticated, NOT_ALLOWED),
    (client.Forbidden, NOT_ALLOWED),
    (client.Unavailable, UNAVAILABLE),
)


@dataclass
class Connection:
    """Which daemon is meant, as the command line says."""

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
        found = self._local_socket()
        return client.ScreenMeet(socket=found.socket, socket_owners=found.owners)

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get("TMINUS_TOKEN")
        try:
            return self.token_file.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise fail(f"cannot read the token file {self.token_file}: {_words(error)}", USAGE) from None
        except ValueError:
            raise fail(f"cannot read the token file {self.token_file}: it is not UTF-8 text", USAGE) from None

    def _local_socket(self) -> Candidate:
        """The first socket that is there. Whether somebody listens, and who, is seen when it is connected to."""
        if self.socket is not None:
            sockets = [discovery.named(self.socket)]
        else:
            sockets = discovery.candidates(self.config, os.environ)
        if not sockets:
            raise fail("the configuration has no local socket (server.socket): name the daemon with --url", USAGE)
        closed: list[str] = []
        for one in sockets:
            try:
                if stat.S_ISSOCK(one.socket.stat().st_mode):
                    return one
            except PermissionError:
                closed.append(f"{one.socket.parent}")
            except (OSError, ValueError):
                continue
        if closed:
            raise fail(f"you are not permitted to look into {' or '.join(closed)}: {_PERMIT}", NOT_ALLOWED)
        where = " or ".join(str(one.socket) for one in sockets)
        start = "tminus run" if checkout.configuration_file() is None else "make run"
        hint = f"start the daemon with `{start}`, or name another with --url or --socket"
        raise fail(f"there is no daemon at {where}: {hint}", UNAVAILABLE)


_PERMIT = "use sudo, join the group of the daemon's socket, or name the daemon with --url and a token"


def fail(message: str, code: int) -> Exit:
    """Print what went wrong to standard error; the caller raises what this returns."""
    complain(message)
    return Exit(code)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn what can go wrong in a command into a clear line and an exit code."""
    try:
        yield
    except client.ScreenMeetError as error:
        raise fail(_explained(error), exit_code(error)) from None
    except (Exit, OutputLost):
        raise
    except Exception as error:
        from tminus.domain.errors import TminusError  # noqa: PLC0415 - half a hundred classes, needed where one was raised

        if not isinstance(error, TminusError):
            raise
        for line in error.description.split("\n"):
            complain(line)
        raise Exit(REFUSED) from None


def exit_code(error: client.ScreenMeetError) -> int:
    if error.refcode in NOT_FOUND_REFCODES:
        return NOT_FOUND
    if error.permanent:
        return NOT_ALLOWED
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), REFUSED)


def _explained(error: client.ScreenMeetError) -> str:
    advice = ""
    if isinstance(error, client.NotAuthenticated):
        advice = f"; {_about_token()}"
    elif error.permanent:
        advice = f"; {_PERMIT}" if "permitted" in str(error) else ""
    return f"{error.description}{f' (refcode {error.refcode})' if error.refcode else ''}{advice}"


def _about_token() -> str:
    """What to do about the token, by where it came from."""
    context = click.get_current_context(silent=True)
    connection = context.find_object(Connection) if context else None
    file = connection.token_file if connection else None
    if file is None and not os.environ.get("TMINUS_TOKEN"):
        return "set $TMINUS_TOKEN or --token-file (`tminus token new` makes one)"
    return f"it comes from {file or '$TMINUS_TOKEN'}; a new one is known after a reload"


def how_to_reload() -> str:
    """How the daemon of this directory, else the one that runs as a service, reads its configuration again."""
    if "STATE_DIRECTORY" not in os.environ and Path("var/tminus.lock").is_file():
        return "reload the daemon (kill -HUP $(cat var/tminus.lock))"
    return "reload the daemon (systemctl reload tminus, or SIGHUP)"


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
