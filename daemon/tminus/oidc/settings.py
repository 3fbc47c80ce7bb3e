"""Read the client secret and the certificates that belong to `[signin.oidc]`."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tminus import config
from tminus.config import ConfigError, ConfigProblem, Settings
from tminus.config.settings import Oidc
from tminus.system.authorities import modification_times

if TYPE_CHECKING:
    from tminus.oidc.issuer import Issuer


@dataclass(frozen=True)
class Access:
    """What a daemon needs to talk to the issuer."""

    settings: Oidc
    client_secret: str = field(repr=False)
    trust: ssl.SSLContext | None = field(repr=False, compare=False)
    """None for an issuer without TLS, on this machine."""


def read(settings: Settings, state: Path, environ: Mapping[str, str]) -> Access | None:
    """Return the access to the issuer; None if none is configured. Raises `ConfigError`."""
    oidc = settings.signin.oidc
    if not oidc.issuer:
        return None
    secret = config.client_secret(oidc, state, environ)
    trust = None
    if oidc.issuer.startswith("https:"):
        try:
            trust = _trust(state / oidc.ca_file if oidc.ca_file else None)
        except OSError as error:  # also ssl.SSLError
            problem = f"does not name a file of certificates: {error.strerror or error}"
            raise ConfigError((ConfigProblem("", "signin.oidc.ca_file", problem),)) from None
    return Access(oidc, secret, trust)


def issuer_for(access: Access | None) -> "Issuer | None":
    """Return the issuer to which this is the access; None if none is configured."""
    if access is None:
        return None
    from tminus.oidc.issuer import Issuer  # noqa: PLC0415 - takes ten megabytes

    return Issuer(access)


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return a TLS context, which is the previous one if no certificate has changed. Raises `OSError`."""
    system = ssl.get_default_verify_paths()
    content = ca_file.read_bytes() if ca_file is not None else b""
    return _context(ca_file, content, modification_times(system.cafile, system.capath))


@lru_cache(maxsize=1)
def _context(ca_file: Path | None, _content: bytes, _system: tuple[int, ...]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)
