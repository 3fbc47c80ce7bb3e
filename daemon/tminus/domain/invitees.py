"""People who are invited to a session: their mail addresses, checked once, and the JSON in which they are stored.

Mail addresses are personal data. They appear in answers to those who may host the session and in mails, nowhere else.
"""

import json
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

from tminus.domain.hosts import ascii_host
from tminus.domain.types import ParticipantRole

MAX_INVITEES = 100
"""Maximum number of invitees of a session: each gets a mail for each change."""

MAX_ADDRESS = 254
"""Maximum bytes of an address in SMTP (RFC 5321, with erratum 1690)."""

MAX_LOCAL_PART = 64
"""Maximum bytes of the part before the @ (RFC 5321)."""

_SPECIAL = frozenset('()<>[]:;,\\"@')
"""Characters that only a quoted local part may contain. tminus refuses such parts: programs read them differently."""


class Invitee(NamedTuple):
    """Somebody who is invited: a guest, or a host, who gets the host's link."""

    email: str
    name: str = ""
    role: ParticipantRole = ParticipantRole.GUEST


def check_address(text: str) -> str:
    """Return a mail address unchanged. Raises `ValueError` with a message that follows the field's name: "must …"."""
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise ValueError('must be a mail address such as "joe@example.com"')
    if len(text.encode(errors="replace")) > MAX_ADDRESS or len(local.encode(errors="replace")) > MAX_LOCAL_PART:
        raise ValueError(f"must have at most {MAX_ADDRESS} bytes, and {MAX_LOCAL_PART} before the @")
    if any(char in _SPECIAL or char.isspace() or not char.isprintable() for char in local):
        raise ValueError("must have no blanks, quotes, brackets or invisible characters before the @")
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise ValueError("must not have a dot at the beginning, at the end, or beside another dot before the @")
    if ":" in domain or domain.endswith(".") or ascii_host(domain).rpartition(".")[2].isdecimal():
        raise ValueError("must have the name of a mail domain after the @, such as example.com")
    return text


def mailbox_key(email: str) -> str:
    """Return a text that is equal for all spellings of one address: in practice no server distinguishes case."""
    local, _, domain = email.rpartition("@")
    return f"{unicodedata.normalize('NFC', local).casefold()}@{ascii_host(domain)}"


def as_json(invitees: Iterable[Invitee]) -> str | None:
    """Return invitees as the JSON that is stored and shown; None if there are none."""
    listed = [{"email": one.email, "name": one.name, "role": one.role.value} for one in invitees]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")) if listed else None


def from_json(text: str | None) -> tuple[Invitee, ...]:
    """Return the invitees that `as_json` has stored."""
    stored: list[dict[str, Any]] = json.loads(text) if text else []
    return tuple(Invitee(one["email"], one["name"], ParticipantRole(one["role"])) for one in stored)
