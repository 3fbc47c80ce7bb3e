"""Conditional requests (RFC 9110, section 13): which versions an `If-Match` or an `If-None-Match` names."""

import re

from tminus.domain.errors import FieldError, InvalidRequest
from tminus.sessions.commands import IfMatch

# A number without its quotes is let pass: shells take them away, and it can mean nothing else.
_TAG = r'(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"|([0-9]+))'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")


def _tags(header: str) -> list[tuple[bool, str]] | None:
    """The entity tags of a list, each with whether it is weak; None for what is no such list."""
    if not _TAGS.fullmatch(header):
        return None
    return [(bool(weak), quoted or bare) for weak, quoted, bare in re.findall(_TAG, header)]


def versions(if_match: str | None) -> IfMatch:
    """The versions that an `If-Match` header names; None where any will do. A weak tag matches none.

    Raises `InvalidRequest` for what is neither `*` nor a list of entity tags.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    tags = _tags(if_match)
    if tags is None:
        raise InvalidRequest([FieldError("If-Match", 'must be * or a list of versions such as "3"')])
    return frozenset(int(tag) for weak, tag in tags if not weak and re.fullmatch("[1-9][0-9]{0,8}", tag))


def unchanged(if_none_match: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` header names what has this tag (with its quotes), be it as a weak one."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag.strip('"') in (named for _, named in _tags(if_none_match) or ())
