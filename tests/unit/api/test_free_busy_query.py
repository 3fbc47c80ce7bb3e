"""The body of a CalDAV free-busy-query."""

import pytest
from tests.support.clocks import NOW
from tests.support.factories import HOUR

from tminus.api.free_busy_query import MAX_BYTES, time_range
from tminus.domain.errors import InvalidRequest

QUERY = (
    b'<?xml version="1.0" encoding="utf-8" ?>\r\n<C:free-busy-query xmlns:C="urn:ietf:params:xml:ns:caldav">'
    b'<C:time-range start="20300107T090000Z" end="20300107T100000Z"/></C:free-busy-query>'
)


def test_a_query_has_a_range() -> None:
    assert time_range(QUERY) == (NOW, NOW + HOUR)
    assert time_range(QUERY.replace(b"C:", b"").replace(b"xmlns:C", b"xmlns")) == (NOW, NOW + HOUR)


BILLION_LAUGHS = b'<!DOCTYPE lolz [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<a>",
        QUERY[:-1],
        QUERY.replace(b"free-busy-query", b"calendar-query"),
        QUERY.replace(b"ns:caldav", b"ns:other"),
        QUERY.replace(b"end=", b"until="),
        QUERY.replace(b"20300107T090000Z", b"20300107T090000"),
        QUERY.replace(b"20300107T090000Z", b"soon"),
        QUERY.replace(b"?>", b"?>" + BILLION_LAUGHS),
        QUERY.replace(b"utf-8", b"utf-99"),
        QUERY.replace(b"<C:time", b"\x00<C:time"),
        QUERY + b" " * MAX_BYTES,
    ],
)
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        time_range(body)
