"""Parse the values of `[mail]`. A parser raises `ValueError` with a message that follows the key's name: "must …"."""

from dataclasses import dataclass

from tminus.domain.hosts import ascii_host
from tminus.domain.invitees import check_address

MAIL_ENDPOINT = "mail"
"""The name of the endpoint that sends mail, next to those of the webhooks."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mail address and the name of its owner."""

    email: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>" if self.name else self.email

    def __bool__(self) -> bool:
        return bool(self.email)


NOBODY = Mailbox("")


def parse_mailbox(value: object) -> Mailbox:
    """Parse `support@example.com` or `Support <support@example.com>`; "" for nobody."""
    if isinstance(value, Mailbox):
        return value
    if not isinstance(value, str):
        raise ValueError('must be text such as "Support <support@example.com>"')  # noqa: TRY004 - for pydantic
    if not value.strip():
        return NOBODY
    name, bracket, email = value.strip().rpartition("<")
    if bracket and not email.endswith(">"):
        raise ValueError("must end with > after the address")
    email = email[:-1] if bracket else email
    name = name.strip().strip('"')
    if not name.isprintable() or len(name) > 255:
        raise ValueError("must have a name without control characters, of at most 255 characters")
    local = check_address(email).rpartition("@")[0]
    if not local.isascii():
        raise ValueError("must have only ASCII characters before the @: not every mail server accepts others")
    return Mailbox(email, name)


def parse_host(value: object) -> str:
    """Parse the name or IP address of the mail server; "" for none."""
    if not isinstance(value, str):
        raise ValueError('must be a host such as "smtp.example.com"')  # noqa: TRY004 - for pydantic
    if not value:
        return ""
    if ":" in value and value.count(":") == 1:
        raise ValueError('must be a host without port, such as "smtp.example.com": the port is mail.port')
    return ascii_host(value.removeprefix("[").removesuffix("]"))


def parse_timezone(value: object) -> str:
    """Parse the name of a time zone, such as `Europe/Berlin`."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - needed only if the key is set

    try:
        if isinstance(value, str) and value:
            return ZoneInfo(value).key
    except (ValueError, OSError, KeyError):  # not the form of a name, a directory of zones, an unknown zone
        pass
    raise ValueError('must be the name of a time zone of the time zone database, such as "Europe/Berlin" or "UTC"')
