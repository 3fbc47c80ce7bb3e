"""The statements that list and count sessions: each reads only the index entries of sessions that match.

An index contains the sessions of one status and one type in order, so a list is merged from branches: one for each
status and type, and in a list by start another one for those without a start. If no index has the required order, the
matching entries of one index are sorted. For a million sessions that takes a quarter of a second; reading their rows
takes ten times as long. Only the rows of the page are read.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, bindparam, func, select, union_all

from tminus.domain.types import OPEN_STATUSES, SessionType, Status
from tminus.storage.tables import SESSIONS

_S = SESSIONS.c

STATEMENTS = 512
"""Maximum number of cached statements. There are more kinds of lists than this, and a client could request them all."""


class SessionFilter(NamedTuple):
    """The conditions, the order and the page of a list of sessions. If a condition is None, it does not apply."""

    agent_id: int | None = None
    statuses: Sequence[Status] = OPEN_STATUSES
    type: SessionType | None = None
    start_from: datetime | None = None
    start_to: datetime | None = None
    external_mapping: str | None = None
    order_by: str = "created_at"
    descending: bool = True
    limit: int = 20
    offset: int = 0


class _Kind(NamedTuple):
    """The part of a filter that determines the statement. The other values are the statement's parameters."""

    statuses: tuple[Status, ...]
    type: SessionType | None
    conditions: tuple[str, ...]
    order_by: str
    descending: bool


class Listing(NamedTuple):
    """The statements of a filter, and their parameters."""

    page: Select[Any]
    """The ids of one page, in order."""
    number: Select[Any]
    """The number of all matching sessions."""
    values: dict[str, Any]


_CONDITIONS = {
    "agent_id": _S.agent_id == bindparam("agent_id"),
    "start_from": _S.start_time >= bindparam("start_from", type_=_S.start_time.type),
    "start_to": _S.start_time < bindparam("start_to", type_=_S.start_time.type),
    "external_mapping": _S.external_mapping == bindparam("external_mapping"),
}


def listing(wanted: SessionFilter) -> Listing:
    """Return the statements for a filter."""
    values = {name: value for name in _CONDITIONS if (value := getattr(wanted, name)) is not None}
    statuses = tuple(status for status in Status if status in wanted.statuses)
    kind = _Kind(statuses, wanted.type, tuple(values), wanted.order_by, wanted.descending)
    page, count = _statements(kind)
    values |= {"limit": wanted.limit, "offset": wanted.offset, "top": wanted.offset + wanted.limit}
    return Listing(page, count, values)


@lru_cache(STATEMENTS)
def _statements(kind: _Kind) -> tuple[Select[Any], Select[Any]]:
    conditions = [_CONDITIONS[name] for name in kind.conditions]
    everything = [_S.status.in_(kind.statuses), *conditions]
    if kind.type is not None:
        everything.append(_S.type == kind.type)
    elif _has_range(kind):
        # Without a condition on the type no index serves the range, because the type precedes the range's column.
        everything.append(_S.type.in_(SessionType))
    count = select(func.count()).select_from(SESSIONS).where(*everything)
    branches = _branches(kind)
    if branches is None:
        page = select(_S.id).where(*everything).order_by(*_order(kind, *_sorted_by(kind), _S.id))
    else:
        parts = []
        for number, branch in enumerate(branches):
            some = select(_S.id, *_sorted_by(kind)).where(*branch, *conditions)
            some = some.order_by(*_order(kind, *_sorted_by(kind), _S.id, nulls=False)).limit(bindparam("top"))
            parts.append(select(some.subquery(f"branch_{number}")))
        found = union_all(*parts).subquery("found")
        columns = [found.c[column.name] for column in _sorted_by(kind)]
        page = select(found.c.id).order_by(*_order(kind, *columns, found.c.id))
    return page.limit(bindparam("limit")).offset(bindparam("offset")), count


def _has_range(kind: _Kind) -> bool:
    return "start_from" in kind.conditions or "start_to" in kind.conditions


def _branches(kind: _Kind) -> list[list[ColumnElement[bool]]] | None:
    """Return the conditions of each index range whose entries have the order of the list; None if no index has it."""
    types = (kind.type,) if kind.type is not None else tuple(SessionType)
    each = [[_S.status == status, _S.type == type_] for status in kind.statuses for type_ in types]
    if "external_mapping" in kind.conditions:
        return None
    if kind.order_by == "start_time":
        # Sessions without a start come last in both directions, so they are a range of their own.
        without = [] if _has_range(kind) else [[*one, _S.start_time.is_(None)] for one in each]
        return [[*one, _S.start_time.is_not(None)] for one in each] + without
    if kind.order_by == "created_at" and "agent_id" in kind.conditions and not _has_range(kind):
        return each
    return None


def _sorted_by(kind: _Kind) -> list[ColumnElement[Any]]:
    """Return the columns by which a list is sorted, without the id, which comes last."""
    return [_S.start_time, _S.created_at] if kind.order_by == "start_time" else [_S[kind.order_by]]


def _order(kind: _Kind, *columns: ColumnElement[Any], nulls: bool = True) -> list[ColumnElement[Any]]:
    """Return the order of a list. `nulls`: the first of the columns may contain NULL, which comes last."""
    order: list[ColumnElement[Any]] = [column.desc() if kind.descending else column.asc() for column in columns]
    if nulls and kind.order_by == "start_time":
        order[0] = order[0].nulls_last()
    return order
