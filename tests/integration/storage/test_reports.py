"""Reports agree with a model in plain Python. On both databases."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from tests.support.clocks import NOW
from tests.support.databases import KINDS
from tests.support.factories import caller, put, session

from tminus.domain.distribution import Summary
from tminus.domain.errors import Forbidden, InvalidRequest
from tminus.domain.events import LogEvent
from tminus.domain.model import Event, Session
from tminus.domain.types import Caller, CloseReason, EventType, Role, SessionType, Status
from tminus.sessions import queries
from tminus.storage import Store, Transaction
from tminus.storage.reports import Period
from tminus.storage.tables import EVENTS, SESSIONS

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kathmandu", "Asia/Kolkata",
    "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia", "Africa/Cairo", "America/Sao_Paulo", "Asia/Tehran",
)  # fmt: skip

CHANGE = datetime(2029, 10, 28, 1, tzinfo=UTC)
"""The end of summer time in Europe; most sessions of the property test lie around it."""

SECONDS = st.integers(0, 4 * 86400)
LAGS = st.one_of(st.none(), st.integers(0, 12_000), st.integers(0, 10**8))


@st.composite
def closed_sessions(draw: st.DrawFn) -> tuple[Session, int | None]:
    """Draw a closed session, and its lag if the scheduler closed it."""
    opened = CHANGE + timedelta(seconds=draw(SECONDS) - 2 * 86400, milliseconds=draw(st.integers(0, 999)))
    came = draw(st.booleans())
    activated = opened + timedelta(milliseconds=draw(st.integers(0, 10**7)))
    closed = (activated if came else opened) + timedelta(milliseconds=draw(st.integers(0, 10**8)))
    reason = draw(st.sampled_from([CloseReason.CLOSED, CloseReason.EMPTY] if came else list(CloseReason)))
    number = draw(st.integers(0, 2**48))
    stored = session(
        id=f"{number:012x}", status=Status.CLOSED, type=draw(st.sampled_from(SessionType)),
        agent_id=draw(st.integers(7, 9)), opened_at=None if reason is CloseReason.CANCELLED else opened,
        activated_at=activated if came else None, closed_at=closed, close_reason=reason,
    )  # fmt: skip
    return stored, draw(LAGS)


Drawn = list[tuple[Session, int | None]]


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    server: Any = request.getfixturevalue("sqlite_server" if request.param == "sqlite" else "pg_server")
    with server.database() as database:
        opened: Store = database.open()
        yield opened
        opened.close()


def _fill(tx: Transaction, drawn: Drawn) -> None:
    tx.execute(delete(EVENTS))
    tx.execute(delete(SESSIONS))
    if drawn:
        put(tx, *(one for one, _ in drawn))
    for one, lag in drawn:
        assert one.closed_at is not None
        due = None if lag is None else one.closed_at - timedelta(milliseconds=lag)
        event = Event(
            session_id=one.id, type=EventType.CLOSED, ts=one.closed_at, actor="clock", status=Status.CLOSED,
            expires_at=NOW, due_at=due, reason=one.close_reason,
        )  # fmt: skip
        tx.record(LogEvent(event, one))


def _summary(numbers: list[int]) -> Summary:
    if not numbers:
        return Summary(0)
    ordered = sorted(numbers)
    p50, p99 = (ordered[ceil(len(ordered) * share / 100) - 1] for share in (50, 99))
    return Summary(len(ordered), sum(ordered) / len(ordered), p50, p99, ordered[-1])


def report(store: Store, by: Caller, period: Period, zone: str = "UTC") -> queries.Report:
    """Count a report in parts, and return it."""
    counting = queries.ReportInParts(by, period)
    while store.read(counting.count):
        pass
    return counting.report(ZoneInfo(zone))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    drawn=st.lists(closed_sessions(), max_size=25, unique_by=lambda one: one[0].id), part=st.integers(1, 30),
    since=SECONDS, span=SECONDS, zone=st.sampled_from(ZONES), agent=st.sampled_from([None, 7]),
)  # fmt: skip
def test_a_report_agrees_with_a_plain_model(
    store: Store, drawn: Drawn, part: int, since: int, span: int, zone: str, agent: int | None
) -> None:
    store.submit(lambda tx: _fill(tx, drawn)).result()
    begin = CHANGE + timedelta(seconds=since - 2 * 86400)
    end = begin + timedelta(seconds=span)
    by = caller(Role.SUPERVISOR) if agent is None else caller(Role.AGENT, agent_id=agent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "PART", part)
        found = report(store, by, Period(begin, end, agent), zone)

    some = [
        (one, lag)
        for one, lag in drawn
        if one.closed_at is not None and begin <= one.closed_at < end and agent in (None, one.agent_id)
    ]
    counted: Counter[Any] = Counter()
    for group in found.groups:
        counted[group.type, group.agent_id, group.reason, group.came] += group.sessions
    assert counted == Counter(
        (one.type, one.agent_id, one.close_reason, one.activated_at is not None) for one, _ in some
    )
    came = [(one.opened_at, one.activated_at, one.closed_at) for one, _ in some if one.activated_at is not None]
    second = timedelta(seconds=1)
    assert found.waiting_seconds == _summary([(to - at) // second for at, to, _ in came if at is not None])
    assert found.length_seconds == _summary([(to - at) // second for _, at, to in came if to is not None])
    lags = [lag if lag < 10_000 else lag // 1000 * 1000 for _, lag in some if lag is not None]
    assert found.lag_ms == _summary(lags)
    hours = Counter(at.astimezone(ZoneInfo(zone)).hour for _, at, _ in came)
    assert found.by_hour == [hours[hour] for hour in range(24)]


@pytest.mark.parametrize("role", [Role.AGENT, Role.ROOM, Role.API])
def test_only_those_who_see_all_sessions_may_report_on_all(store: Store, role: Role) -> None:
    period = Period(NOW, NOW, None)

    with pytest.raises(Forbidden):
        report(store, caller(role), period)


def test_a_period_with_too_many_sessions_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MOST_REPORTED", 2)
    alike = {"status": Status.CLOSED, "close_reason": CloseReason.CLOSED, "closed_at": NOW}
    store.submit(lambda tx: _fill(tx, [(session(id=f"s{number}", **alike), None) for number in range(3)])).result()
    by = caller(Role.SUPERVISOR)

    with pytest.raises(InvalidRequest, match="choose a shorter one"):
        report(store, by, Period(NOW, NOW + timedelta(1), None))
    assert report(store, by, Period(NOW - timedelta(1), NOW, None)).groups == []


def test_parts_end_also_if_more_sessions_closed_in_one_millisecond(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PART", 2)
    alike = {"status": Status.CLOSED, "close_reason": CloseReason.CLOSED}
    times = [NOW] * 5 + [NOW + timedelta(milliseconds=1)] + [NOW + timedelta(milliseconds=2)] * 3
    made: Drawn = [(session(id=f"s{number}", closed_at=at, **alike), None) for number, at in enumerate(times)]
    store.submit(lambda tx: _fill(tx, made)).result()

    found = report(store, caller(Role.SUPERVISOR), Period(NOW, NOW + timedelta(milliseconds=2), None))

    assert sum(group.sessions for group in found.groups) == 6
