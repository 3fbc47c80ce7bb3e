"""Where requests begin and end: a table of requests that a proxy could parse differently."""

from contextlib import suppress

import pytest

from tminus.service import http_parser
from tminus.service.http_parser import Head, HeadTooLarge, Malformed, Parser


class Requests:
    """Stores the requests that a parser finds."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.bodies: list[bytes] = []
        self.ended = 0
        self.upgraded = b""

    def on_head(self, head: Head) -> None:
        self.heads.append(head)
        self.bodies.append(b"")

    def on_body(self, data: bytes) -> None:
        self.bodies[-1] += data

    def on_end(self) -> None:
        self.ended += 1

    def on_upgraded(self, data: bytes) -> None:
        self.upgraded += data

    def found(self) -> list[str]:
        whole = zip(self.heads[: self.ended], self.bodies, strict=False)
        return [f"{head.method} {head.path.decode()} {body.decode()}".strip() for head, body in whole]


def parsed(data: bytes, size: int) -> tuple[list[str], bool]:
    """Return the requests found in the data, fed in pieces of a size, and whether the parser refused the rest."""
    requests = Requests()
    parser = Parser(requests)
    try:
        for at in range(0, len(data), size):
            parser.feed(data[at : at + size])
    except Malformed:
        return requests.found(), True
    return requests.found(), False


POST = "POST /a HTTP/1.1\r\nHost: a\r\n"
NEXT = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n"

READ = {
    "no body": (POST + "\r\n" + NEXT, ["POST /a", "GET /next"]),
    "a body": (POST + "Content-Length: 5\r\n\r\nhello" + NEXT, ["POST /a hello", "GET /next"]),
    "a body that looks like a request": (
        POST + f"Content-Length: {len(NEXT)}\r\n\r\n{NEXT}",
        [f"POST /a {NEXT}".strip()],
    ),
    "an upgrade, a body": (POST + UPGRADE + "Content-Length: 5\r\n\r\nhello" + NEXT, ["POST /a hello", "GET /next"]),
    "an upgrade, chunks": (CHUNKED + UPGRADE + "\r\n5\r\nhello\r\n0\r\n\r\n" + NEXT, ["POST /a hello", "GET /next"]),
    "an upgrade without a body": (POST + UPGRADE + "\r\n" + NEXT, ["POST /a", "GET /next"]),
    "an upgrade to a web socket": (
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + NEXT,
        ["GET /ws"],
    ),
    "chunks": (CHUNKED + "\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n" + NEXT, ["POST /a hello world", "GET /next"]),
    "chunk sizes in any case, with zeros": (CHUNKED + "\r\n00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n" + NEXT,
                                            ["POST /a 01234567890123456789", "GET /next"]),
    "chunk extensions": (CHUNKED + '\r\n5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n' + NEXT, ["POST /a hello", "GET /next"]),
    "trailers": (CHUNKED + "\r\n5\r\nhello\r\n0\r\nX-Forwarded-For: 203.0.113.1\r\nContent-Length: 9\r\n\r\n" + NEXT,
                 ["POST /a hello", "GET /next"]),
    "the coding in capitals": (POST + "transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n" + NEXT, ["POST /a", "GET /next"]),
    "blanks around values": (POST + "Content-Length: \t5 \r\n\r\nhello" + NEXT, ["POST /a hello", "GET /next"]),
    "empty lines before a request": ("\r\n\r\n" + NEXT + "\r\n" + NEXT, ["GET /next", "GET /next"]),
    "an absolute target": ("GET http://other/b?c HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /b"]),
    "an absolute target without a path": ("GET http://other?c HTTP/1.1\r\nHost: a\r\n\r\n", ["GET /"]),
    "HTTP/1.0": ("GET /a HTTP/1.0\r\n\r\n" + NEXT, ["GET /a"]),
    "HTTP/1.0 with a body": ("POST /a HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi" + NEXT, ["POST /a hi"]),
    "a last request": (POST + "Connection: close\r\n\r\n" + NEXT, ["POST /a"]),
    "a last request, among options": (POST + "Connection: x, Close\r\nConnection: y\r\n\r\n" + NEXT, ["POST /a"]),
    "a name with an underscore is another name": (POST + "Content_Length: 5\r\n\r\n" + NEXT, ["POST /a", "GET /next"]),
    "a field without a value": (POST + "X:\r\n\r\n" + NEXT, ["POST /a", "GET /next"]),
    "an address of IPv6": ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8710\r\n\r\n", ["GET /"]),
    "a head that has not ended": (NEXT + "GET / HTTP/1.1\r\nHo", ["GET /next"]),
}  # fmt: skip

NOT_READ = {
    "both lengths": CHUNKED + "Content-Length: 5\r\n\r\n0\r\n\r\n",
    "both lengths, the other way round": POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "one length twice": POST + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + "Content-Length: 5, 5\r\n\r\nhello",
    "a length with a sign": POST + "Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + "Content-Length: -5\r\n\r\nhello",
    "a length with an underscore": POST + "Content-Length: 1_0\r\n\r\n0123456789",
    "a length in hex": POST + "Content-Length: 0x5\r\n\r\nhello",
    "a length with a blank": POST + "Content-Length: 1 0\r\n\r\n0123456789",
    "a length with a point": POST + "Content-Length: 5.0\r\n\r\nhello",
    "a length beyond 64 bits": POST + "Content-Length: 18446744073709551621\r\n\r\nhello",
    "an empty length": POST + "Content-Length:\r\n\r\nhello",
    "a length in other digits": POST + "Content-Length: \xb2\r\n\r\nhi",
    "another coding": POST + "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    "two codings": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two fields": CHUNKED + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then identity": CHUNKED + "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity": POST + "Transfer-Encoding: identity\r\n\r\n",
    "a coding in quotes": POST + 'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a coding with a parameter": POST + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "a coding behind a vertical tab": POST + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
    "almost chunked": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an empty coding": POST + "Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": "POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + "Content-Length : 5\r\n\r\nhello",
    "a tab before the colon": POST + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a folded field": POST + "X: y\r\n Content-Length: 5\r\n\r\nhello",
    "a folded coding": POST + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a blank before the first field": "POST /a HTTP/1.1\r\n Host: a\r\n\r\n",
    "no colon": POST + "Content-Length\r\n\r\n",
    "no name": POST + ": 5\r\n\r\n",
    "a control character in a name": POST + "Content-\x01Length: 5\r\n\r\n",
    "a letter beyond ASCII in a name": POST + "Content-L\xe9ngth: 5\r\n\r\n",
    "NUL in a value": POST + "X: a\0b\r\n\r\n",
    "a bare CR in a value": POST + "X: a\rContent-Length: 5\r\n\r\n",
    "lines that end in LF": "POST /a HTTP/1.1\nHost: a\n\n",
    "one line that ends in LF": "POST /a HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "an empty line that ends in LF": POST + "\n" + NEXT,
    "LF, CR, LF at the end of a head": POST + "X: y\n\r\n" + NEXT,
    "a chunk's line that ends in LF": CHUNKED + "\r\n5\nhello\r\n0\r\n\r\n",
    "a chunk's line that ends in CR": CHUNKED + "\r\n5\rhello\r\n0\r\n\r\n",
    "a chunk that ends in LF": CHUNKED + "\r\n5\r\nhello\n0\r\n\r\n",
    "a chunk that has no end": CHUNKED + "\r\n5\r\nhello0\r\n\r\n",
    "a chunk that ends in two other bytes": CHUNKED + "\r\n5\r\nhelloXX0\r\n\r\n",
    "a chunk's extension that ends in LF": CHUNKED + "\r\n5;\nhello\r\n0\r\n\r\n",
    "CR in a chunk's extension": CHUNKED + "\r\n5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with 0x": CHUNKED + "\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with a sign": CHUNKED + "\r\n+5\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + "\r\n-1\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with an underscore": CHUNKED + "\r\n1_0\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with a blank before": CHUNKED + "\r\n 5\r\nhello\r\n0\r\n\r\n",
    "a chunk's size with a blank behind": CHUNKED + "\r\n5 \r\nhello\r\n0\r\n\r\n",
    "a blank before a chunk's extension": CHUNKED + "\r\n5 ;a\r\nhello\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": CHUNKED + "\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "an empty chunk line": CHUNKED + "\r\n\r\nhello\r\n0\r\n\r\n",
    "a last chunk that ends in LF": CHUNKED + "\r\n0\n\n",
    "trailers that end in LF": CHUNKED + "\r\n0\r\nX: y\n\n",
    "a trailer without a colon": CHUNKED + "\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
    "a folded trailer": CHUNKED + "\r\n0\r\nX: y\r\n z\r\n\r\n",
    "a trailer with a blank before the colon": CHUNKED + "\r\n0\r\nX : y\r\n\r\n",
    "no Host": "GET / HTTP/1.1\r\n\r\n",
    "two Hosts": POST + "Host: b\r\n\r\n",
    "a Host with a path": "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host with a blank": "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "HTTP/0.9": "GET /\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/1.10": "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "HTTP/01.1": "GET / HTTP/01.1\r\nHost: a\r\n\r\n",
    "another protocol": "GET / RTSP/1.1\r\nHost: a\r\n\r\n",
    "two blanks": "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab in the request line": "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a blank behind the version": "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "a blank before the method": " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a blank in the target": "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a letter beyond ASCII in the target": "GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target without a slash": "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "an unknown method": "GEET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in small letters": "get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00",
    "garbage": "}}\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_request_ends_where_rfc_9112_defines_its_end(name: str) -> None:
    text, expected = READ[name]
    data = text.encode("latin-1")
    for size in (len(data), 1, 2, 3, 7):
        assert parsed(data, size) == (expected, False), size


@pytest.mark.parametrize("name", NOT_READ)
def test_a_request_that_a_proxy_could_end_elsewhere_is_refused_and_nothing_after_it_is_read(name: str) -> None:
    data = (NEXT + NOT_READ[name] + NEXT).encode("latin-1")
    for size in (len(data), 1, 2, 3, 7):
        assert parsed(data, size) == (["GET /next"], True), size


def test_a_trailer_is_not_a_header() -> None:
    requests = Requests()
    text = READ["trailers"][0]
    Parser(requests).feed(text.encode())
    assert [name for name, _ in requests.heads[0].headers] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("head", "expects"),
    [
        (POST + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", True),
        (POST + "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (POST + "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n", False),
        (POST + "Expect: 100-continue\r\n\r\n", False),
        (POST + "Expect: something\r\nContent-Length: 5\r\n\r\n", False),
        ("POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", False),
    ],
)
def test_expects_continue_is_true_only_for_a_request_with_a_body(head: str, expects: bool) -> None:
    requests = Requests()
    Parser(requests).feed(head.encode())
    assert requests.heads[0].expects_continue is expects


ENDLESS = {
    "a field": (POST + "X: ", "y"),
    "a head of many fields": (POST, "X: y\r\n"),
    "a request line": ("GET /", "a"),
    "empty lines": ("", "\r\n"),
    "a chunk's line": (CHUNKED + "\r\n1;", "x"),
    "chunk extensions": (CHUNKED + "\r\n", f"1;{'x' * 200}\r\ny\r\n"),
    "a trailer": (CHUNKED + "\r\n0\r\nX: ", "y"),
    "trailers": (CHUNKED + "\r\n0\r\n", "X: y\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_only_a_body_may_have_any_length(name: str) -> None:
    begun, more = ENDLESS[name]
    requests = Requests()
    parser = Parser(requests)
    parser.feed(begun.encode())
    piece = (more * (1000 // len(more) + 1)).encode()
    taken = 0
    with suppress(Malformed):
        while taken < 10 * http_parser.HEAD_BYTES:
            parser.feed(piece)
            taken += len(piece)
    assert taken <= http_parser.HEAD_BYTES + len(piece)


def test_the_trailers_of_a_body_have_a_limit_of_their_own() -> None:
    line = f"X: {'y' * 95}\r\n"
    most = http_parser.TRAILER_BYTES // len(line)
    begun = CHUNKED + f"\r\n1;{'x' * 200}\r\ny\r\n0\r\n"
    assert parsed((begun + line * most + "\r\n" + NEXT).encode(), 7) == (["POST /a y", "GET /next"], False)
    assert parsed((begun + line * (most + 1) + "\r\n" + NEXT).encode(), 7) == ([], True)


def test_the_number_of_fields_in_a_head_is_limited() -> None:
    fields = "".join(f"X-{number}: y\r\n" for number in range(http_parser.FIELDS - 1))
    requests = Requests()
    Parser(requests).feed((POST + fields + "\r\n").encode())
    assert len(requests.heads[0].headers) == http_parser.FIELDS
    with pytest.raises(HeadTooLarge):
        Parser(Requests()).feed((POST + fields + "Y: z\r\n\r\n").encode())
