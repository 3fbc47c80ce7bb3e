"""One connection to the mail server, and what its answers mean for a mail.

`aiosmtplib` speaks the protocol. It limits the length of answers and of lines, and refuses control characters in
commands. The text of a mail is sent here, because the library does not report whether the server may have accepted it.
"""

import asyncio
import base64
import os
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

from aiosmtplib import SMTP, SMTPException, SMTPResponseException, SMTPServerDisconnected, SMTPTimeoutError

from tminus.config.settings import Mail
from tminus.delivery.happy_eyeballs import connect, in_order
from tminus.delivery.mail.message import Message, ascii_domain
from tminus.delivery.resolver import Resolver, Target, allowed
from tminus.delivery.tls import Trust

ANSWER_TIMEOUT = 600.0
"""Seconds that the server has to answer after the text of a mail. RFC 5321 demands ten minutes: a slow server may have
accepted the mail, and would get it again."""

KEEP_OPEN = 4.0
"""Seconds for which an idle connection is kept."""

QUIT_TIMEOUT = 1.0
"""Seconds that the server has to confirm the end of a connection."""

SERVICE_CLOSING = 421

MIN_SECRET = 6
"""Minimum length of a password that is taken out of answers."""

_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"]+@[^\s<>()\[\],;:\"]+")
"""Anything in an answer of a server that may be an address."""

_CODES = re.compile(r"^\[SSL[^\]]*\] | \(_ssl\.c:\d+\)$")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server, or the reason why there is none."""

    code: int | None
    text: str
    """Without addresses and the password, on one line."""


class Unavailable(Exception):
    """The server cannot be used now; no mail was sent. The argument is an `Answer`."""


class _Ended(Unavailable):
    """The server took the sender, and then ended the connection or answered 421: because of this mail, or by chance."""


class Refused(Exception):
    """The server refuses this mail for good. The argument is an `Answer`."""


class Deferred(Exception):
    """The server does not accept this mail now. The argument is an `Answer`."""


class Unanswered(Exception):
    """The text of the mail was sent, and there is no answer. The argument is an `Answer`."""


@dataclass(frozen=True, slots=True)
class Access:
    """What is needed to use the mail server."""

    settings: Mail
    password: str = field(repr=False)
    trust: Trust | None


class _Client(SMTP):
    """The library's client, except that it closes a connection at once and does not wait for the server to end TLS."""

    def close(self) -> None:
        transport = self.transport
        super().close()
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


class Connection:
    """A connection to the mail server, which is opened when it is needed."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._resolver = Resolver()
        self._client: _Client | None = None
        self._last: Target | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._secrets = _forms(access.settings.username, access.password)

    async def begin(self, message: Message) -> None:
        """Send the envelope of a mail. Raises `Unavailable`, `Refused`, `Deferred`."""
        was_open = self._client is not None
        try:
            await self._envelope(message)
        except Unavailable as failure:
            if not (was_open or isinstance(failure, _Ended)):
                raise
            # The server may close an open connection at any time, or after a number of mails. So try a new one.
            await self._begin_again(message)

    async def finish(self, message: Message) -> Answer:
        """Send the text of the mail, whose envelope was accepted; return the server's answer.

        Raises `Unavailable`, `Refused` and `Deferred`: it was not accepted; `Unanswered`: it may have been.
        """
        try:
            return await self._content(message)
        except _Ended:
            await self._begin_again(message)
        try:
            return await self._content(message)
        except _Ended as failure:
            raise Deferred(*failure.args) from None

    async def _begin_again(self, message: Message) -> None:
        """Send the envelope on a new connection.

        If the server ends that as well, and only after it took the sender, other mails may still pass: `Deferred`.
        """
        self.close()
        try:
            await self._envelope(message)
        except _Ended as failure:
            raise Deferred(*failure.args) from None

    async def _content(self, message: Message) -> Answer:
        """Send the text of a mail, and return the answer. Raises as `finish` does, and `_Ended`."""
        client = self._client
        assert client is not None  # `begin` has opened it
        answer = await self._command(b"DATA", ended=_Ended)
        if answer.code != 354:
            self._raise(answer)
        protocol = client.protocol
        if protocol is None:
            raise _Ended(Answer(None, "the server closed the connection"))
        content = re.sub(rb"(?m)^\.", b"..", message.content)
        try:
            protocol.write(content + b".\r\n")
        except SMTPException as failure:  # the connection has ended, so nothing was sent
            self.close()
            raise _Ended(self._reason(failure)) from None
        try:
            response = await protocol.read_response(timeout=max(ANSWER_TIMEOUT, self._seconds))
        except BaseException as failure:
            self.close()
            if isinstance(failure, Exception):
                raise Unanswered(self._reason(failure)) from None
            raise
        answer = Answer(response.code, self._text(response.message))
        if not 200 <= response.code <= 599 or 300 <= response.code <= 399:
            self.close()
            raise Unanswered(answer)
        if response.code >= 400:
            self._raise(answer)
        return answer

    def release(self) -> None:
        """Keep the connection open for the next mail, but not for long."""
        if self._client is not None and self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(KEEP_OPEN, self.close)

    def close(self) -> None:
        """Close the connection at once."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """End the connection as the protocol demands, if it is open."""
        client = self._client
        if client is not None and client.is_connected:
            with suppress(SMTPException, OSError):
                await client.quit(timeout=QUIT_TIMEOUT)
        self.close()
        await asyncio.sleep(0)  # the event loop, which may end now, closes sockets in its next round

    @property
    def _seconds(self) -> float:
        return self._access.settings.timeout.total_seconds()

    async def _envelope(self, message: Message) -> None:
        settings = self._access.settings
        client = await self._ready()
        options = []
        if client.supports_extension("size"):
            options.append(b"SIZE=%d" % len(message.content))
        if message.needs_utf8:
            if not client.supports_extension("smtputf8"):
                raise Refused(Answer(None, "the mail server does not support addresses with other than ASCII letters"))
            options += [b"SMTPUTF8", b"BODY=8BITMIME"]
        if client.supports_extension("dsn"):
            # So that a report to `bounces_to` identifies the mail even if it quotes none of it.
            options += [b"RET=HDRS", b"ENVID=" + message.id.partition("@")[0].encode()]
        sender = ascii_domain((settings.bounces_to or settings.from_).email).encode()
        answer = await self._command(b"MAIL", b"FROM:<%s>" % sender, *options)
        if answer.code != 250:
            # 552: this mail is too long for the server. Everything else concerns the sender, and so all mails.
            if answer.code == 552:
                self._raise(answer)
            raise Unavailable(answer)
        answer = await self._command(b"RCPT", b"TO:<%s>" % message.recipient.encode(), ended=_Ended)
        if answer.code not in (250, 251, 252):
            self._raise(answer)

    def _raise(self, answer: Answer) -> None:
        """Raise what an answer other than success means for a mail."""
        if answer.code is None or answer.code == SERVICE_CLOSING or not 400 <= answer.code <= 599:
            self.close()
            raise (_Ended if answer.code == SERVICE_CLOSING else Unavailable)(answer)
        if answer.code in (530, 535, 538):  # authentication is needed or wrong
            raise Unavailable(answer)
        raise (Deferred if answer.code < 500 else Refused)(answer)

    async def _ready(self) -> _Client:
        """Return a client that is ready for a mail."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if self._client is not None:
            answer = await self._command(b"RSET")
            if answer.code != 250:
                self.close()
                raise Unavailable(answer)
            return self._client
        self._client = await self._open()
        return self._client

    async def _open(self) -> _Client:
        """Return a client that is connected and signed in. Raises `Unavailable`."""
        settings, trust = self._access.settings, self._access.trust
        try:
            async with asyncio.timeout(2 * self._seconds):
                context = None if trust is None else await asyncio.to_thread(trust.context)
                targets = await allowed(self._resolver, settings.host, settings.server_port, link_local=True)
                sock, self._last = await connect(in_order(targets, self._last))
                client = self._client_on(sock, context)
                try:
                    await client.connect()
                    if client.is_ehlo_or_helo_needed:
                        await client.ehlo()
                except BaseException:
                    client.close()
                    raise
                return client
        except TimeoutError:
            raise Unavailable(Answer(None, f"no answer within {2 * self._seconds:g} s")) from None
        except Exception as failure:  # a server can cause any exception
            raise Unavailable(self._reason(failure)) from None

    def _client_on(self, sock: socket.socket, context: ssl.SSLContext | None) -> _Client:
        settings = self._access.settings
        try:
            return _Client(
                hostname=settings.host,
                sock=sock,
                local_hostname=_own_name(),
                use_tls=settings.security == "tls",
                start_tls=settings.security == "starttls",
                username=settings.username or None,
                password=self._access.password if settings.username else None,
                tls_context=context,
                timeout=self._seconds,
            )
        except BaseException:
            sock.close()
            raise

    async def _command(self, *words: bytes, ended: type[Unavailable] = Unavailable) -> Answer:
        """Send a command; return the answer. Raises `Unavailable` if there is none, `ended` if the connection ended."""
        client = self._client
        if client is None:
            raise Unavailable(Answer(None, "the server closed the connection"))
        try:
            response = await client.execute_command(*words, timeout=self._seconds)
        except BaseException as failure:
            self.close()
            if isinstance(failure, Exception):
                error = ended if isinstance(failure, SMTPServerDisconnected) else Unavailable
                raise error(self._reason(failure)) from None
            raise
        return Answer(response.code, self._text(response.message))

    def _text(self, text: str) -> str:
        """Return an answer's text on one line, without addresses and the password: it is logged."""
        for secret in self._secrets:  # some servers repeat a command that they refuse
            text = text.replace(secret, "…")
        words = " ".join(text.encode(errors="replace").decode().split())
        printable = "".join(char if char.isprintable() else "\ufffd" for char in words)
        return _ADDRESS.sub("…@…", printable)[:500]

    def _reason(self, failure: BaseException) -> Answer:
        """Return why there is no answer, or a wrong one, in words for an operator."""
        if isinstance(failure, SMTPResponseException) and failure.code > 0:
            return Answer(failure.code, self._text(failure.message))
        cause = failure
        while not isinstance(cause, OSError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, ssl.SSLError):
            return Answer(None, f"TLS failed: {_CODES.sub('', str(cause))}"[:500])
        if isinstance(cause, socket.gaierror):
            return Answer(None, f"name not found: {cause.strerror}"[:500])
        if isinstance(cause, OSError) and cause.errno:
            return Answer(None, os.strerror(cause.errno).lower())
        if isinstance(failure, SMTPTimeoutError | SMTPServerDisconnected):
            has_ended = isinstance(failure, SMTPServerDisconnected)
            return Answer(None, "the server closed the connection" if has_ended else "no answer in time")
        return Answer(None, self._text(f"{type(failure).__name__}: {failure}"))


def _own_name() -> str:
    """Return the name of this machine, for the command EHLO."""
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]{1,255}", name) else "localhost"


def _forms(username: str, password: str) -> list[str]:
    """Return the password as it is sent with AUTH, and as it is.

    A short one is not looked for: it may be in any text, and a text without it would tell it.
    """
    if len(password) < MIN_SECRET:
        return []
    sent = (f"\0{username}\0{password}", password)
    return [*(base64.b64encode(one.encode()).decode() for one in sent), password]
