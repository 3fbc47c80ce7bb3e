"""Connect a command to the daemon, and report errors with an exit code."""

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
from tminus.cli.output import LOST, OutputLost, print_error
from tminus.system import checkout

REFUSED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNAVAILABLE = 1, 2, 3, 4, 5, 6

EXIT_CODES = (0, REFUSED, USAGE, NOT_FOUND, CONFLICT, NOT_ALLOWED, UNAVAILABLE, LOST)

NOT_FOUND_REFCODES = frozenset({101404, 102404, 109404, 113404, 119404})
"""The refcodes for an unknown session, participant, webhook, agent or series. The status 404 is not enough, since a
proxy may answer with it.
"""

_EXIT_CODES: tuple[tuple[type[client.ScreenMeetError], int], ...] = (
    (client.Conflict, CONFLICT),
    (client.NotAuthenticated, NOT_ALLOWED),
    (client.Forbidden, NOT_ALLOWED),
    (client.Unavailable, UNAVAILABLE),
)


@dataclass
class Connection:
    """The daemon that the command line selects."""

    config: Path | None = None
    url: str | None = None
    token_file: Path | None = None
    socket: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether the command uses the local socket."""
        return self.url is None

    def open(self) -> client.ScreenMeet:
        """Return a client: for `--url` or `$TMINUS_URL` with a token, or else for the local socket."""
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
            raise fail(f"cannot read the token file {self.token_file}: {_reason(error)}", USAGE) from None
        except ValueError:
            raise fail(f"cannot read the token file {self.token_file}: it is not UTF-8 text", USAGE) from None

    def _local_socket(self) -> Candidate:
        """Return the first candidate whose socket exists, even if no daemon listens there."""
        if self.socket is not None:
            sockets = [discovery.named(self.socket)]
        else:
            sockets = discovery.candidates(self.config, os.environ)
        if not sockets:
            raise fail("the configuration has no local socket (server.socket): name the daemon with --url", USAGE)
        forbidden: list[str] = []
        for candidate in sockets:
            try:
                if stat.S_ISSOCK(candidate.socket.stat().st_mode):
                    return candidate
            except PermissionError:
                forbidden.append(f"{candidate.socket.parent}")
            except (OSError, ValueError):
                continue
        if forbidden:
            raise fail(f"you are not permitted to look into {' or '.join(forbidden)}: {_PERMIT}", NOT_ALLOWED)
        where = " or ".join(str(candidate.socket) for candidate in sockets)
        start = "tminus run" if checkout.configuration_file() is None else "make run"
        hint = f"start the daemon with `{start}`, or name another with --url or --socket"
        raise fail(f"there is no daemon at {where}: {hint}", UNAVAILABLE)


_PERMIT = "use sudo, join the group of the daemon's socket, or name the daemon with --url and a token"


def fail(message: str, code: int) -> Exit:
    """Print an error to standard error, and return the exception for the caller to raise."""
    print_error(message)
    return Exit(code)


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Print the errors that a command raises, each on one line, and end the command with an exit code."""
    try:
        yield
    except client.ScreenMeetError as error:
        raise fail(_explained(error), exit_code(error)) from None
    except (Exit, OutputLost):
        raise
    except Exception as error:
        from tminus.domain.errors import TminusError  # noqa: PLC0415 - needed only after an error

        if not isinstance(error, TminusError):
            raise
        for line in error.description.split("\n"):
            print_error(line)
        raise Exit(REFUSED) from None


def exit_code(error: client.ScreenMeetError) -> int:
    if error.refcode in NOT_FOUND_REFCODES:
        return NOT_FOUND
    if error.permanent:
        return NOT_ALLOWED
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), REFUSED)


def _explained(error: client.ScreenMeetError) -> str:
    description, advice = error.description, ""
    if isinstance(error, client.NotAuthenticated):
        source = _token_source()
        if source is None:
            advice = "; set $TMINUS_TOKEN or --token-file (`tminus token new` creates a token)"
            # The daemon's description names HTTP headers, which do not help on the command line.
            description = "No token" if error.refcode else description
        else:
            advice = f"; the token comes from {source}; the daemon accepts a new token after a reload"
    elif error.permanent and "permitted" in str(error):
        advice = f"; {_PERMIT}"
    return f"{description}{f' (refcode {error.refcode})' if error.refcode else ''}{advice}"


def _token_source() -> str | None:
    """Return the file or variable that the token came from; None if there was no token."""
    context = click.get_current_context(silent=True)
    connection = context.find_object(Connection) if context else None
    file = connection.token_file if connection else None
    if file is None and not os.environ.get("TMINUS_TOKEN"):
        return None
    return str(file or "$TMINUS_TOKEN")


def how_to_reload() -> str:
    """Return how to reload the daemon of the working directory, or else the one that runs as a service."""
    if "STATE_DIRECTORY" not in os.environ and Path("var/tminus.lock").is_file():
        return "reload the daemon (kill -HUP $(cat var/tminus.lock))"
    return "reload the daemon (systemctl reload tminus, or SIGHUP)"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
