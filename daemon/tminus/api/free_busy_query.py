"""Read the body of a CalDAV `free-busy-query` (RFC 4791, section 7.10): the range that a client asks for."""

from datetime import datetime
from typing import NoReturn
from xml.parsers import expat

from tminus.domain import timestamps
from tminus.domain.errors import FieldError, InvalidRequest

_QUERY = "urn:ietf:params:xml:ns:caldav free-busy-query"
_RANGE = "urn:ietf:params:xml:ns:caldav time-range"

MAX_BYTES = 4096
"""Maximum size of a query. Those of common clients have about 200 bytes."""


class _NotAllowed(Exception):
    """The body has a document type, which no such query needs. Its entities could make a short body large."""


def time_range(body: bytes) -> tuple[datetime, datetime]:
    """Return the range of a query: its beginning and its end. Raises `InvalidRequest`."""
    if len(body) > MAX_BYTES:
        raise InvalidRequest([FieldError("body", f"must have at most {MAX_BYTES} bytes")])
    names: list[str] = []
    found: dict[str, str] = {}

    def element(name: str, attributes: dict[str, str]) -> None:
        names.append(name)
        if name == _RANGE:
            found.update(attributes)

    def refuse(*_: object) -> NoReturn:
        raise _NotAllowed

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = element
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _NotAllowed, ValueError, LookupError):
        raise InvalidRequest([FieldError("body", "must be well-formed XML without a document type")]) from None
    if names[:1] != [_QUERY] or not {"start", "end"} <= found.keys():
        problem = "must be a CalDAV free-busy-query with a time-range that has start and end"
        raise InvalidRequest([FieldError("body", problem)])
    try:
        return timestamps.parse(found["start"]), timestamps.parse(found["end"])
    except ValueError as error:
        raise InvalidRequest([FieldError("time-range", f"{error}")]) from None
