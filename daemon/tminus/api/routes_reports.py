"""The route of reports: what happened in a period."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from tminus import clock, schemas
from tminus.api.authentication import CurrentCaller
from tminus.api.media_types import listed
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.response import Json, Response
from tminus.api.routing import Answer, Router
from tminus.api.services import Services
from tminus.domain import recurrence, timestamps
from tminus.domain.distribution import Summary
from tminus.domain.errors import FieldError, Forbidden, InvalidRequest
from tminus.domain.report_csv import as_table
from tminus.domain.types import CloseReason, SessionType
from tminus.new_sessions import Instant
from tminus.sessions import queries
from tminus.sessions.queries import Report
from tminus.storage.reports import Group, Period

router = Router("/v3", "sessions")

DEFAULT = timedelta(days=30)
"""The length of a period without a beginning."""

LONGEST = timedelta(days=366)
"""The longest period of a report, which limits its cost."""

AGENTS = 1000
"""Maximum number of agents that a report lists."""

Zone = Annotated[
    str,
    Field(max_length=64),
    AfterValidator(recurrence.parse_zone),
    WithJsonSchema({"type": "string", "maxLength": 64}),
    Field(description="Time zone of `byHour`, such as `Europe/Berlin`"),
]
Since = Annotated[Instant | None, Field(description="Beginning of the period; by default 30 days before its end")]
Until = Annotated[Instant | None, Field(description="End of the period, exclusive; by default now")]


CSV = "text/csv"

_AS_FILE = (b"content-disposition", b'attachment; filename="report.csv"')

ReportFormat = Annotated[
    Literal["application/json", "text/csv"] | None,
    Field(description="Media type of the answer; by default that of the header `Accept`, or JSON"),
]


@router.get(
    "/report",
    summary="Report on the sessions that closed in a period",
    answers=schemas.Report,
    refusals=refusals(Forbidden),
)
async def get_report(
    context: RequestContext,
    caller: CurrentCaller,
    since: Since = None,
    until: Until = None,
    zone: Zone = "UTC",
    scope: Literal["mine", "all"] = "mine",
    format: ReportFormat = None,
) -> Answer:
    services = context.services
    end = until or clock.now()
    try:
        begin = since or end - DEFAULT
    except OverflowError:
        begin = end
    if not timedelta(0) <= end - begin <= LONGEST:
        raise InvalidRequest([FieldError("since", f"must be before until, and at most {LONGEST.days} days before it")])
    # A session that closes now belongs to a period that ends now, also on a test clock, which stands still.
    before = end if until is not None else end + timestamps.MILLISECOND
    period = Period(begin, before, caller.agent_id if scope == "mine" else None)
    counting = queries.ReportInParts(caller, period)
    while await services.search(caller.agent_id, counting.count):
        pass
    found = counting.report(recurrence.zone(zone))
    shown = _shown(found, (begin, end), zone, services)
    if format == CSV or (format is None and CSV in listed(context.header(b"accept"))):
        table = as_table(shown, "\r\n").encode()
        return Response(table, f"{CSV}; charset=utf-8", headers=[(b"vary", b"accept"), _AS_FILE])
    return Json(shown, headers=[(b"vary", b"accept")])


def _shown(found: Report, period: tuple[datetime, datetime], zone: str, services: Services) -> schemas.Report:
    agents: Counter[int] = Counter()
    reasons: Counter[str] = Counter()
    for group in found.groups:
        agents[group.agent_id] += group.sessions
        reasons[group.reason.value if group.reason else "unknown"] += group.sessions
    by_agent: dict[int, list[Group]] = {number: [] for number, _ in agents.most_common(AGENTS)}
    for group in found.groups:
        if group.agent_id in by_agent:
            by_agent[group.agent_id].append(group)
    shown: Any = {
        "since": timestamps.text(period[0]),
        "until": timestamps.text(period[1]),
        "zone": zone,
        **_counts(found.groups),
        "byType": [
            {"type": kind.value, **_counts(group for group in found.groups if group.type is kind)}
            for kind in SessionType
        ],
        "byAgent": [
            {"agent": number, "name": _name(services, number), **_counts(some)} for number, some in by_agent.items()
        ],
        "moreAgents": len(agents) - len(by_agent),
        "byReason": [{"reason": reason, "sessions": number} for reason, number in sorted(reasons.items())],
        "byHour": found.by_hour,
        "waitingSeconds": _numbers(found.waiting_seconds),
        "lengthSeconds": _numbers(found.length_seconds),
        "lagMs": _numbers(found.lag_ms),
    }
    result: schemas.Report = shown
    return result


def _counts(groups: Iterable[Group]) -> dict[str, int]:
    sessions = attended = cancelled = 0
    for group in groups:
        sessions += group.sessions
        if group.came:
            attended += group.sessions
        elif group.reason is CloseReason.CANCELLED:
            cancelled += group.sessions
    no_shows = sessions - attended - cancelled
    return {"sessions": sessions, "attended": attended, "noShows": no_shows, "cancelled": cancelled}


def _numbers(summary: Summary) -> schemas.ReportNumbers:
    mean = None if summary.mean is None else round(summary.mean, 3)
    return {"count": summary.count, "mean": mean, "p50": summary.p50, "p99": summary.p99, "max": summary.max}


def _name(services: Services, number: int) -> str | None:
    agent = services.agent(number)
    return None if agent is None else agent.name
