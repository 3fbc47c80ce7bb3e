"""A mail server with changing behaviour, which records every mail that it has read to its end."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.mailserver import OK, MailServer, drop

NOBODY = "nobody@example.com"
"""The address that the server always refuses."""

_MESSAGE_ID = re.compile(rb"^Message-ID: <(\w+)\.(\d+)\.(\d+)@", re.MULTILINE)
_METHOD = re.compile(rb"^Content-Type: text/calendar; charset=utf-8; method=(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Posted:
    """A mail that the server has read to its end."""

    session: str
    """The session's `externalSessionObjectId`."""
    seq: int
    invitee: int
    recipient: str
    method: str
    """`REQUEST` or `CANCEL`; "" for a reminder."""
    fate: str
    """`accepted`, `deferred`, or `unanswered`: the connection ended without an answer."""
    at: float
    """When it was read, on the monotonic clock."""

    @property
    def may_be_delivered(self) -> bool:
        return self.fate != "deferred"


class Mailbox(MailServer):
    """A mail server. `mood` determines how it answers; `posted` are the mails that it has read."""

    MOODS: ClassVar[Sequence[str]] = ("well", "slow", "deferring", "refusing", "dropping", "hanging", "busy")

    def __init__(self, randomness: Random) -> None:
        self.mood = "well"
        self.posted: list[Posted] = []
        self.problems: list[str] = []
        self._random = randomness
        super().__init__()
        self.__enter__()

    def close(self) -> None:
        self.mood = "well"
        self.__exit__()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.mood == "busy":
            return "421 too many mails, try later"
        return await super().handle_MAIL(server, session, envelope, address, options)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == NOBODY:
            return "550 no such mailbox"
        if self.mood == "refusing" and self._random.random() < 0.4:
            return "550 not wanted"
        if self.mood == "deferring" and self._random.random() < 0.4:
            return "451 greylisted"
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        mood = self.mood
        deferred = mood == "deferring" and self._random.random() < 0.3
        lost = mood in ("dropping", "hanging")
        self._record(envelope, "deferred" if deferred else "unanswered" if lost else "accepted")
        if deferred:
            return "451 the disk is full"
        while self.mood == mood == "hanging":  # noqa: ASYNC110 - another thread changes the mood
            await asyncio.sleep(0.1)
        if lost:
            return drop(server)
        if mood == "slow":
            await asyncio.sleep(self._random.uniform(0.1, 1))
        return OK

    def _record(self, envelope: Envelope, fate: str) -> None:
        content = envelope.original_content or b""
        found, method = _MESSAGE_ID.search(content), _METHOD.search(content)
        if found is None:
            self.problems.append(f"a mail has no Message-ID of a session: {content[:300]!r}")
            return
        self.posted.append(
            Posted(
                session=found[1].decode(), seq=int(found[2]), invitee=int(found[3]), recipient=envelope.rcpt_tos[0],
                method=method[1].decode() if method else "", fate=fate, at=time.monotonic(),
            )
        )  # fmt: skip
