"""Fields of a request's head that occur several times, media types of `Accept`, and the fields of each response."""

from typing import Any
from unittest.mock import Mock

import pytest

from tminus.api.media_types import listed
from tminus.api.middleware import HEADERS, _missing_fields, fields_by_name


def test_the_lines_of_a_list_are_joined_and_of_other_fields_the_first_counts() -> None:
    fields = [
        (b"cookie", b"a=b"), (b"session-id", b"first"), (b"if-none-match", b'"1"'), (b"session-id", b"second"),
        (b"cookie", b"tminus=c"), (b"if-none-match", b'"2"'), (b"accept", b"text/csv"), (b"host", b"h"),
    ]  # fmt: skip
    assert fields_by_name(fields) == {
        b"cookie": b"a=b; tminus=c",
        b"session-id": b"first",
        b"if-none-match": b'"1","2"',
        b"accept": b"text/csv",
        b"host": b"h",
    }


@pytest.mark.parametrize(
    ("accept", "types"),
    [
        ("", {""}),
        ("Text/Event-Stream", {"text/event-stream"}),
        ("application/json, text/event-stream;q=0", {"application/json"}),
        ("text/csv ; Q=0.000 , text/html;level=1;q=0.5", {"text/html"}),
        ("text/csv;q=0.001", {"text/csv"}),
        (",".join(["a/b"] * 20 + ["text/csv"]), {"a/b"}),
    ],
)
def test_a_media_type_is_accepted_unless_its_quality_is_zero(accept: str, types: set[str]) -> None:
    assert listed(accept) == types


@pytest.mark.parametrize(
    ("own", "absent"),
    [([], set()), ([(b"etag", b'"1"')], set()), ([(b"cache-control", b"no-cache"), (b"x-request-id", b"b")], {0, 4})],
)
def test_a_response_gets_every_header_that_it_does_not_set_itself(
    own: list[tuple[bytes, bytes]], absent: set[int]
) -> None:
    context: Any = Mock(scope={"path": "/v3/x"}, code=200, request_id="a")
    every = [(b"x-request-id", b"a"), *HEADERS]

    expected = b"".join(b"%b: %b\r\n" % one for place, one in enumerate(every) if place not in absent)
    assert _missing_fields(context, own) == expected
