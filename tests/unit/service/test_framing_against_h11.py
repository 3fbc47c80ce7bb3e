"""Our HTTP/1.1 parser and h11: h11 accepts every request that our parser accepts, and parses it alike.

`LAXER` has the two exceptions: requests that h11 refuses, although RFC 9112 allows them.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tminus.service.http_parser import Head, Malformed, Parser

LAXER = {
    "empty lines before a request (2.2)": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a trailer that would be a framing header in a head (7.1.2)": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: x\r\n\r\n"
    ),
}


@dataclass
class Request:
    """A parsed request; its body may be incomplete."""

    method: bytes
    target: tuple[bytes, bytes]
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    is_whole: bool = False
    has_odd_trailer: bool = False
    """Whether h11 refuses it for a trailer that has no effect on its framing."""


class Ours:
    """Stores the requests that `tminus.service.http_parser` finds."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.is_refused = False

    def on_head(self, head: Head) -> None:
        self.requests.append(Request(head.method.encode(), (head.path, head.query), head.headers))

    def on_body(self, data: bytes) -> None:
        self.requests[-1].body += data

    def on_end(self) -> None:
        self.requests[-1].is_whole = True

    def on_upgraded(self, data: bytes) -> None:
        pass


def ours(pieces: list[bytes]) -> Ours:
    found = Ours()
    parser = Parser(found)
    try:
        for piece in pieces:
            parser.feed(piece)
    except Malformed:
        found.is_refused = True
    return found


def theirs(data: bytes) -> tuple[list[Request], bool]:
    """Return the requests that h11 finds, and whether it refuses the rest."""
    requests: list[Request] = []
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    headers = list(event.headers)
                    requests.append(Request(event.method, split(event.target), headers))
                elif isinstance(event, h11.Data):
                    requests[-1].body += event.data
                else:
                    return requests, False
        except h11.RemoteProtocolError as error:
            if requests and not requests[-1].is_whole and re.search("Content-Length|Transfer-Encoding", str(error)):
                requests[-1].has_odd_trailer = True
                return requests, False
            return requests, True
        requests[-1].is_whole = True
        options = b",".join(value for name, value in headers if name == b"connection").lower()
        if connection.their_http_version != b"1.1" or b"close" in re.split(rb"[ \t]*,[ \t]*", options):
            return requests, False
        data = connection.trailing_data[0]


def split(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a path or URL."""
    if not target.startswith((b"/", b"*")):
        target = re.sub(rb"(?i)^https?://[^/?#]*", b"", target)
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


def compare(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = ours([data[a:b] for a, b in pairwise(edges)])
    whole = ours([data])
    assert (found.requests, found.is_refused) == (whole.requests, whole.is_refused), "pieces make no difference"

    other, other_refuses = theirs(data)
    differs = bool(other) and other[-1].has_odd_trailer
    if not found.is_refused and not differs:
        assert not other_refuses
        assert len(found.requests) == len(other)
    assert len(found.requests) <= len(other) or differs
    for mine, its in zip(found.requests, other, strict=False):
        assert (mine.method, mine.target, mine.headers) == (its.method, its.target, its.headers)
        assert its.body.startswith(mine.body)
        if (mine.is_whole or not found.is_refused) and not its.has_odd_trailer:
            assert (mine.body, mine.is_whole) == (its.body, its.is_whole)


# --- almost valid requests --------------------------------------------------------------------------------------------


def mostly(right: bytes, *wrong: bytes) -> st.SearchStrategy[bytes]:
    """Generate the valid value, but a wrong one once in 60: so many requests with 20 such parts are valid."""
    return st.integers(0, 59).flatmap(lambda n: st.just(right) if n else st.sampled_from(wrong))


LINE_END = mostly(b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n ", b"\x00\r\n", b"\x85\r\n")
BLANK = mostly(b" ", b"", b"\t", b"  ", b"\x0b", b"\x0c", b"\xa0", b"\r\n ", b"\n ")
TARGET = st.sampled_from([
    b"/", b"/a?b=c", b"/%00", b"*", b"http://x/y?z", b"HTTP://x?q", b"/a?", b"/a??b", b"//a", b"/?/", b"/a;b", b"/\\",
]) | mostly(b"/", b"/#", b"a:1", b"", b"/ b", b"/\xff", b"/\x7f", b"http://", b"ftp://a/", b"http:///a")  # fmt: skip
VALUE = st.sampled_from(
    [b"1", b"a, b", b"", b"\xff", b"a\tb", b"a:b", b" x ", b"close", b"x, Close", b"a;b", b"\r", b"\0"]
)
NAME = st.sampled_from(
    [b"X", b"x-forwarded-for", b"Connection", b"Upgrade", b"Expect", b"Content_Length", b"TE"]
) | mostly(b"X", b"Host", b"Content-Length", b"Transfer-Encoding", b"X ", b" X", b"", b"X\x00", b"\xc3\x84", b"X\x0b")
FIELD = st.tuples(NAME, mostly(b":", b" :", b"", b"::", b": \t"), VALUE, LINE_END).map(b"".join)
SIZES = mostly(b"", b"0", b"00", b"0x", b"+", b"-", b" ", b"_", b"1_", b"\t", b"fffffffffffff")
EXTENSIONS = mostly(b"", b";a", b' ;a="b"', b"\t;\xff", b" ", b";\x00", b";\x0b", b";a\n", b";a\r")
BODY = st.one_of(
    st.just(b""), st.binary(max_size=40), st.just(b"GET /in HTTP/1.1\r\nHost: a\r\n\r\n"), st.just(b"0\r\n\r\n")
)


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    parts = []
    for body in draw(st.lists(BODY.filter(bool), max_size=3)):
        parts += [draw(SIZES), b"%x" % (len(body) + draw(st.sampled_from([0] * 40 + [1, -1]))), draw(EXTENSIONS)]
        parts += [draw(LINE_END), body, draw(LINE_END)]
    parts += [draw(mostly(b"0", b"000", b"", b"0x0", b"-0")), draw(EXTENSIONS), draw(LINE_END)]
    parts += draw(st.lists(FIELD, max_size=1))
    return b"".join([*parts, draw(LINE_END)])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method = draw(mostly(b"POST", b"GET", b"HEAD", b"OPTIONS", b"get", b"CONNECT", b"PO ST", b"", b"\xc3", b"P\x00"))
    version = draw(
        mostly(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"")
    )
    parts = [draw(mostly(b"", b"\r\n", b"\n", b" ", b"\r"))]
    parts += [method, draw(BLANK), draw(TARGET), draw(BLANK), version, draw(LINE_END)]
    parts.append(draw(mostly(b"Host: a\r\n", b"", b"Host: a\r\nHost: b\r\n", b"Host: a b\r\n", b"hOST:\r\n")))
    parts += draw(st.lists(FIELD, max_size=2))
    framed = draw(st.sampled_from(["none", "length", "chunks", "chunks", "both"]))
    body = draw(BODY) if framed in {"length", "both"} else b""
    if framed in {"length", "both"}:
        length = draw(mostly(b"%d" % len(body), b"%d" % (len(body) + 1), b"+1", b"1_0", b"0x1", b" 1", b"1,1", b"-1"))
        parts += [b"Content-Length", draw(mostly(b": ", b":", b" : ", b":\t", b":\x0b")), length, draw(LINE_END)]
    if framed in {"chunks", "both"}:
        coding = draw(mostly(b"chunked", b"Chunked", b"gzip, chunked", b"identity", b"chunked,", b"\x0bchunked", b""))
        parts += [b"Transfer-Encoding", draw(mostly(b": ", b":", b" : ", b":\t")), coding, draw(LINE_END)]
    return b"".join([*parts, draw(LINE_END), body, draw(chunks()) if framed in {"chunks", "both"} else b""])


CUTS = st.lists(st.integers(0, 2000), max_size=12)


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join), CUTS)
def test_almost_valid_requests_are_parsed_like_h11_or_refused(data: bytes, cuts: list[int]) -> None:
    compare(data, cuts)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=200), CUTS)
@example(b"", [])
def test_any_bytes_are_parsed_like_h11_or_refused(data: bytes, cuts: list[int]) -> None:
    compare(data, cuts)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 300), st.binary(min_size=1, max_size=3), st.integers(0, 3), CUTS)
def test_a_damaged_request_is_parsed_like_h11_or_refused(at: int, put: bytes, drop: int, cuts: list[int]) -> None:
    right = (
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n5;x\r\nhello\r\n0\r\nT: u\r\n\r\n"
        b"PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /c HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    at %= len(right)
    compare(right[:at] + put + right[at + drop :], cuts)


@pytest.mark.parametrize("data", LAXER.values(), ids=LAXER)
def test_requests_that_only_our_parser_accepts_are_valid_by_the_rfc(data: bytes) -> None:
    found = ours([data])
    assert [request.is_whole for request in found.requests] == [True]
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    with pytest.raises(h11.RemoteProtocolError):
        list(iter(connection.next_event, h11.NEED_DATA))
