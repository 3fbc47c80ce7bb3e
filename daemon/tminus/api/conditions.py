"""Parse the headers of conditional requests, `If-Match` and `If-None-Match` (RFC 9110, section 13)."""

import re

from tminus.domain.errors import FieldError, InvalidRequest
from tminus.sessions.commands import IfMatch

# A number without quotes is accepted: shells remove them, and the number is still unambiguous.
_TAG = r'(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"|([0-9]+))'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


def _tags(header: str) -> list[tuple[bool, str]] | None:
    """Return the entity tags of a list, each with whether it is weak; None if the header is malformed."""
    if not _TAGS.fullmatch(header):
        return None
    return [(bool(weak), quoted or bare) for weak, quoted, bare in re.findall(_TAG, header)]


def versions(if_match: str | None) -> IfMatch:
    """Return the versions that `If-Match` lists; None if any version matches. A weak tag matches none.

    Raises `InvalidRequest` if the header is neither `*` nor a list of entity tags.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    tags = _tags(if_match)
    if tags is None:
        raise InvalidRequest([FieldError("If-Match", 'must be * or a list of versions such as "3"')])
    return frozenset(int(tag) for weak, tag in tags if not weak and re.fullmatch("[1-9][0-9]{0,8}", tag))


def unchanged(if_none_match: str | None, tag: str) -> bool:
    """Return whether `If-None-Match` lists this tag, which has its quotes. Weak tags match too (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag.strip('"') in (named for _, named in _tags(if_none_match) or ())
