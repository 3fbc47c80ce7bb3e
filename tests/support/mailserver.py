"""A mail server (aiosmtpd) on loopback: a test chooses whether it accepts, defers, refuses, hangs or disconnects."""

import asyncio
import email
import email.policy
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

Answer = str | Callable[[SMTP], Any]
"""A response, or a function of the server that returns one. The function may use the connection, and may be async."""

OK = "250 OK"


def drop(server: SMTP) -> str:
    """Drop the connection without a response."""
    assert isinstance(server.transport, asyncio.WriteTransport)
    server.transport.abort()
    return "250 never sent"


async def hang(_server: SMTP) -> str:
    await asyncio.sleep(600)
    return OK


@dataclass
class Mail:
    """A mail that the server has read to its end, whether or not it accepted the mail."""

    sender: str
    recipient: str
    content: bytes
    accepted: bool
    options: Sequence[str] = field(default=())

    @property
    def message(self) -> EmailMessage:
        parsed = email.message_from_bytes(self.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    def part(self, media_type: str) -> EmailMessage:
        return next(part for part in self.message.walk() if part.get_content_type() == media_type)

    def text(self, media_type: str = "text/plain") -> str:
        content = self.part(media_type).get_payload(decode=True)
        assert isinstance(content, bytes)
        return content.decode()


class MailServer:
    """A context manager. `mails` has all mails that arrived, `accepted` those that the server accepted.

    `recipients` has the responses to `RCPT`, and `data` those to the command `DATA`, by address. `senders` and `texts`
    are the responses to `MAIL` and to the texts of mails, in order; the last one is repeated.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        smtps: bool = False,
        user: tuple[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.mails: list[Mail] = []
        self.recipients: dict[str, Answer] = {}
        self.data: dict[str, Answer] = {}
        self.senders: list[Answer] = [OK]
        self.texts: list[Answer] = [OK]
        self.connections = 0
        self.users: list[str] = []
        self._lock = threading.Lock()
        self.transports: list[Any] = []
        """All connections, also those on which nothing has been sent yet."""

        def check(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
            given = (data.login.decode(), data.password.decode())
            self.users.append(given[0])
            return AuthResult(success=given == user, handled=False)

        options: dict[str, Any] = {"hostname": "127.0.0.1", "port": 0, "enable_SMTPUTF8": True, **more}
        if user is not None:
            options |= {
                "authenticator": check,
                "auth_required": True,
                "auth_require_tls": tls is not None and not smtps,
            }
        if tls is not None:
            options |= {"ssl_context": tls} if smtps else {"tls_context": tls, "require_starttls": True}
        self._controller = _Controller(self, **options)

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_error: object) -> None:
        server, loop = self._controller.server, self._controller.loop
        assert server is not None

        async def end() -> None:
            for listening in server.sockets:  # type: ignore[attr-defined]
                # Accept nothing more. `close` would leave the sockets open that have no transport yet.
                loop.remove_reader(listening.fileno())
            await asyncio.sleep(0.01)  # accepted connections get their transports in the next iterations of the loop
            for transport in self.transports:
                transport.abort()
            await asyncio.sleep(0.01)  # and it closes their sockets in those that follow

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        self._controller.stop(no_assert=True)

    @property
    def port(self) -> int:
        server = self._controller.server
        assert server is not None
        return int(server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]

    @property
    def accepted(self) -> list[Mail]:
        return [mail for mail in self.mails if mail.accepted]

    def to(self, recipient: str) -> list[Mail]:
        return [mail for mail in self.accepted if mail.recipient == recipient]

    # --- aiosmtpd calls these -----------------------------------------------------------------------------------------

    async def handle_EHLO(
        self, server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        return responses

    async def handle_MAIL(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.senders.pop(0) if len(self.senders) > 1 else self.senders[0]
        text = await _answer(answer, server)
        if text.startswith("250"):
            envelope.mail_from, envelope.mail_options = address, options
        return text

    async def handle_RCPT(
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        text = await _answer(self.recipients.get(address, OK), server)
        if text.startswith("250"):
            envelope.rcpt_tos.append(address)
        return text

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        with self._lock:
            answer = self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]
            content = envelope.original_content
            assert content is not None
            mail = Mail(
                envelope.mail_from or "", envelope.rcpt_tos[0], content, answer == OK, tuple(envelope.mail_options)
            )
            self.mails.append(mail)
        return await _answer(answer, server)


class _Server(SMTP):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.event_handler.transports.append(transport)
        super().connection_made(transport)

    async def smtp_DATA(self, arg: str) -> None:
        assert self.envelope is not None
        answer = self.event_handler.data.get(self.envelope.rcpt_tos[0])
        if answer is None:
            await super().smtp_DATA(arg)
        else:
            await self.push(await _answer(answer, self))


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Server(self.handler, **self.SMTP_kwargs)

    def _trigger_server(self) -> None:
        """Connect to the port that the kernel chose."""
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()  # type: ignore[no-untyped-call]


async def _answer(answer: Answer, server: SMTP) -> str:
    if isinstance(answer, str):
        return answer
    found = answer(server)
    return str(await found if asyncio.iscoroutine(found) else found)
