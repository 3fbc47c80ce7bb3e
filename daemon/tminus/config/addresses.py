"""Addresses, networks, URLs and origins: how each is written.

A reader raises `ValueError` with words that follow the key: "must be …". A URL that is wrong is not repeated in them:
there may be a password in it.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from tminus.domain.durations import quoted
from tminus.domain.hosts import ascii_host, ascii_url

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
# By their endings, not by any dot: `/v1.2` and `/acme.com` are directories.
_FILE = re.compile(r"/(?:.*/)?[^/]+\.(?:html?|xhtml|shtml|php|aspx?|jsp|cgi)", re.IGNORECASE)
_PORT = re.compile(r"[0-9]{1,5}")
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*://)([^/?#@\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `host` is without the brackets of an IPv6 address; port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> Address:
    """Reads `127.0.0.1:8710`, `[::1]:8710`, `name:0`."""
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
    """Reads an http or https URL to which paths are appended, without the slash at its end; `""` is None."""
    if value is None or value == "":
        return None
    url = split_url(value)
    # What was given is not repeated: the usual thing wrong with such a URL is a password in it.
    if not isinstance(value, str) or url is None or not _is_web_site(url):
        raise ValueError('must be a URL such as "https://meet.example.com/support", without a user or password')
    if "?" in value or "#" in value:
        raise ValueError('must be a URL without "?" and "#": paths are appended to it')
    return ascii_url(value).rstrip("/")


def page(base: str) -> str:
    """The page at a base URL, to which `?` and an id are appended: the file that it names, else its directory."""
    return base if _FILE.fullmatch(urlsplit(base).path) else f"{base}/"


def parse_endpoint(value: object) -> str:
    """Reads the http or https URL of an endpoint, query and all."""
    url = split_url(value)
    if not isinstance(value, str) or url is None or not _is_web_site(url) or url.fragment:
        raise ValueError('must be a URL such as "https://desk.example.com/hooks/tminus", without a user or password')
    return ascii_url(value)


def endpoint_text(url: str) -> str:
    """An endpoint's URL as it is shown: a query often holds a key."""
    head, mark, _ = url.partition("?")
    return f"{head}?…" if mark else url


def _is_web_site(url: SplitResult) -> bool:
    return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc


def parse_database_url(value: object) -> str:
    """Reads the URL of an SQLite file, or of a PostgreSQL database without its password."""
    if isinstance(value, str) and value.startswith("sqlite:"):
        # What follows is a path, in which nothing is decoded. A file's name with ? or # is a URL by mistake.
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
    # An @ further on: a password with a slash in it has cut the URL short.
    if ":" in url.netloc.rpartition("@")[0] or "@" in url.path or re.search("(^|&)(ssl)?password=", url.query):
        raise ValueError(
            "has a password in it. Secrets never stand in the file: "
            "name storage.password_file or storage.password_credential instead"
        )
    return value


def split_url(value: object) -> SplitResult | None:
    """The parts of a URL; None for what is none, be it only for its port."""
    # urlsplit drops line ends and tabs without a word.
    if not isinstance(value, str) or re.search(r"[\s\x00-\x1f\x7f]", value):
        return None
    try:
        url = urlsplit(value)
        _ = url.port  # read to be checked
        return url
    except ValueError:
        return None


def parse_origin(value: object) -> str:
    """Reads `*` or `https://host:port`, in lower case and ASCII as browsers send it."""
    if isinstance(value, str):
        match = _ORIGIN.fullmatch(value)
        if value == "*":
            return value
        if match and not match[2].isascii():
            name, colon, port = match[2].partition(":")
            return parse_origin(f"{match[1]}{ascii_host(name)}{colon}{port}")
        if match and (_is_host(match[2]) or _is_address(match[2])):
            return value.lower()
    raise ValueError('must hold "*" or origins such as "https://desk.example.com", without a path or last slash')


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """Reads an IP address or a CIDR block."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        if isinstance(value, str):
            return ip_network(value)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError('has bits set beyond its mask: for "10.0.0.7/8" write "10.0.0.0/8"') from None
    raise ValueError(f'must hold addresses or networks such as "10.0.0.7" or "10.0.0.0/8", not {quoted(value)}')


def network_text(network: IPv4Network | IPv6Network) -> str:
    """A single address without its `/32` or `/128`."""
    return str(network.network_address if network.num_addresses == 1 else network)
