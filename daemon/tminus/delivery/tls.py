"""The certificate authorities that an endpoint's TLS trusts.

Creating a TLS context takes a tenth of a second, so endpoints with the same authorities share one.
"""

import ssl
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tminus.system.authorities import modification_times

_context_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Trust:
    """The system's certificate authorities and those in `ca_file`. Two are equal if the files have not changed."""

    ca_file: Path | None
    content: bytes = field(repr=False)
    system: tuple[int, ...]
    """The modification times of the system's certificate authorities."""

    @classmethod
    def of(cls, ca_file: Path | None) -> "Trust":
        """Read the files. Raises `OSError`, of which `ssl.SSLError` is a subclass, if `ca_file` cannot be used."""
        content = b""
        if ca_file is not None:
            content = ca_file.read_bytes()
            _check(ca_file, content)
        system = ssl.get_default_verify_paths()
        return cls(ca_file, content, modification_times(system.openssl_cafile, system.openssl_capath))

    def context(self) -> ssl.SSLContext:
        """Return the TLS context, which the first call creates. Any thread may call it. Raises `OSError`."""
        with _context_lock:
            return _context(self)


@lru_cache(maxsize=1024)
def _check(ca_file: Path, _content: bytes) -> None:  # with the content, so that a changed file is checked again
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)


@lru_cache(maxsize=64)
def _context(trust: Trust) -> ssl.SSLContext:
    # Not `create_default_context`, which reads SSL_CERT_FILE, SSL_CERT_DIR and SSLKEYLOGFILE: only the configuration
    # decides which authorities the daemon trusts.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    system = ssl.get_default_verify_paths()
    file, folder = Path(system.openssl_cafile), Path(system.openssl_capath)
    if file.is_file() or folder.is_dir():
        context.load_verify_locations(file if file.is_file() else None, folder if folder.is_dir() else None)
    if trust.ca_file is not None:
        context.load_verify_locations(trust.ca_file)
    return context
