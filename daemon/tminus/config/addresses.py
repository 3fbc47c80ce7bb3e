"""Parse addresses, networks, URLs and origins in settings.

The parsers raise `ValueError` with a message that follows the key: "must be …". The message never repeats a wrong URL,
which may contain a password.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

from tminus.domain.durations import quoted
from tminus.domain.hosts import ascii_host, ascii_url

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
# A file is recognized by its extension, not by any dot: `/v1.2` and `/acme.com` are directories.
_FILE = re.compile(r"/(?:.*/)?[^/]+\.(?:html?|xhtml|shtml|php|aspx?|jsp|cgi)", re.IGNORECASE)
_PORT = re.compile(r"[0-9]{1,5}")
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%-]*")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#@\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on. `host` has no brackets, also for IPv6; port 0 selects any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """Parse an address such as `127.0.0.1:8710`, `[::1]:8710` or `name:0`."""
    if isinstance(value, Address):
        return value
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not (_is_host(host) and _PORT.fullmatch(port) and int(port) <= 65535):
        raise ValueError(f'must be host:port, such as "127.0.0.1:8710" or "[::1]:8710", not {quoted(value)}')
    return Address(host.strip("[]"), int(port))


def _is_host(text: str) -> bool:
    if not (text.startswith("[") and text.endswith("]")):
        return _NAME.fullmatch(text) is not None
    try:
        return ip_address(text[1:-1]).version == 6
    except ValueError:
        return False


def parse_base_url(value: object) -> str | None:
    """Parse an http or https URL to which paths are appended; drop its last slash. `""` is None."""
    if value is None or value == "":
        return None
    url = split_url(value)
    # The message does not repeat the URL: the usual error is a password in it.
    if not isinstance(value, str) or url is None or not _is_web_site(url):
        raise ValueError('must be a URL such as "https://meet.example.com/support", without a user or password')
    if "?" in value or "#" in value:
        raise ValueError('must be a URL without "?" and "#": paths are appended to it')
    return ascii_url(value).rstrip("/")


def page(base: str) -> str:
    """Return a base URL in the form that `?` and an id can follow: with a last slash, unless it names a file."""
    return base if _FILE.fullmatch(urlsplit(base).path) else f"{base}/"


def parse_endpoint(value: object) -> str:
    """Parse the http or https URL of a webhook endpoint, which may have a query."""
    url = split_url(value)
    if not isinstance(value, str) or url is None or not _is_web_site(url) or url.fragment:
        raise ValueError('must be a URL such as "https://desk.example.com/hooks/tminus", without a user or password')
    return ascii_url(value)


def endpoint_text(url: str) -> str:
    """Return an endpoint's URL for display, without its query, which often contains a key."""
    head, mark, _ = url.partition("?")
    return f"{head}?…" if mark else url


def _is_web_site(url: SplitResult) -> bool:
    return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc


def parse_database_url(value: object) -> str:
    """Parse the URL of an SQLite file, or of a PostgreSQL database without a password."""
    if isinstance(value, str) and value.startswith("sqlite:"):
        # The rest is a path, in which no escapes are decoded. A `?` or `#` is refused: it is meant as the start of a
        # query or fragment, which this URL cannot have.
        if not re.fullmatch(r"sqlite:///(?!:)(?:[^\0]*/)?[^\0/?#]+", value):
            raise ValueError(
                'must name a file: "sqlite:///tminus.db" in the state directory, or "sqlite:////path/to/it"'
            )
        return value
    if not (isinstance(value, str) and value.startswith("postgresql+psycopg://")):
        raise ValueError('must begin with "sqlite:///" or "postgresql+psycopg://"')
    url = split_url(value)
    if url is None:
        raise ValueError('must be a URL such as "postgresql+psycopg://tminus@db.example/tminus", without a password')
    # An @ in the path: a password that contains a slash ended the host part too early.
    if ":" in url.netloc.rpartition("@")[0] or "@" in url.path or re.search("(^|&)(ssl)?password=", url.query):
        raise ValueError(
            "must not contain a password: put it into a file and name that in storage.password_file, "
            "or use storage.password_credential"
        )
    return value


def split_url(value: object) -> SplitResult | None:
    """Return the parts of a URL, or None if it is not a valid URL, including its port."""
    # Checked first: urlsplit silently removes line ends and tabs.
    if not isinstance(value, str) or re.search(r"[\s\x00-\x1f\x7f]", value):
        return None
    try:
        url = urlsplit(value)
        _ = url.port  # raises ValueError if it is not a port
        return url
    except ValueError:
        return None


def parse_receiver(value: object) -> str:
    """Parse the URL of a page that receives sign-in codes, into the form in which browsers send it.

    It is compared character by character with what a page sends, so it has no query, no fragment, no default port, and
    no path that a browser would change.
    """
    url = split_url(value)
    if not isinstance(value, str) or url is None or not _is_web_site(url) or "?" in value or "#" in value:
        raise ValueError(
            'must contain URLs such as "https://desk.example.com/signed-in.html", without user, password, "?" and "#"'
        )
    path = url.path or "/"
    if not _is_plain_path(path):
        raise ValueError('must contain URLs whose path has only ASCII characters, and no "\\", "//", "." or ".." in it')
    host, port = ascii_host(url.hostname or ""), url.port
    if url.scheme == "http" and not is_loopback(host):
        raise ValueError("must contain URLs with https; http is only for localhost and loopback addresses")
    if port == 0:
        raise ValueError("must have a port from 1 to 65535")
    shown = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{shown}{'' if port in (None, _DEFAULT_PORTS[url.scheme]) else f':{port}'}{path}"


def parse_issuer(value: object) -> str:
    """Parse the URL of an OpenID Connect issuer, which is compared with what the issuer sends, so nothing is changed.

    `""` is allowed: there is no issuer.
    """
    url = split_url(value)
    if value == "" and isinstance(value, str):
        return value
    if not isinstance(value, str) or url is None or not _is_web_site(url) or "?" in value or "#" in value:
        raise ValueError('must be a URL such as "https://login.example.com/realms/desk", without user, "?" and "#"')
    if not value.isascii() or len(value) > 500:
        raise ValueError("must have at most 500 ASCII characters")
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        raise ValueError("must begin with https; http is only for localhost and loopback addresses")
    return value


def parse_issuer_host(value: object) -> str:
    """Parse the host of an issuer's endpoints: `host` or `host:port`."""
    url = split_url(f"https://{value}") if isinstance(value, str) else None
    if not isinstance(value, str) or url is None or url.netloc != value or not url.hostname or "@" in value:
        raise ValueError('must contain hosts such as "oauth2.example.com", with a port if it is not 443')
    return value.lower()


def _is_plain_path(path: str) -> bool:
    """Return whether browsers send a path unchanged."""
    *folders, name = path.split("/")[1:]
    segments = [*folders, name]
    return all(folders) and all(_SEGMENT.fullmatch(one) and unquote(one) not in (".", "..") for one in segments)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_origin(value: object) -> str:
    """Parse `*` or `https://host:port` into lower-case ASCII, as browsers send it."""
    if isinstance(value, str):
        match = _ORIGIN.fullmatch(value)
        if value == "*":
            return value
        if match and not match[2].isascii():
            name, colon, port = match[2].partition(":")
            return parse_origin(f"{match[1]}{ascii_host(name)}{colon}{port}")
        if match and (_is_host(match[2]) or _is_address(match[2])):
            return value.lower()
    raise ValueError('must contain "*" or origins such as "https://desk.example.com", without a path or last slash')


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """Parse an IP address or a CIDR block."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        if isinstance(value, str):
            return ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError('has bits set beyond its mask: for "10.0.0.7/8" write "10.0.0.0/8"') from None
    raise ValueError(f'must contain addresses or networks such as "10.0.0.7" or "10.0.0.0/8", not {quoted(value)}')


def network_text(network: IPv4Network | IPv6Network) -> str:
    """Return a network as text; a single address has no `/32` or `/128`."""
    return str(network.network_address if network.num_addresses == 1 else network)
