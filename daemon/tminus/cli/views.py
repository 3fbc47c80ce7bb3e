"""Print sessions, events, series, agents, endpoints and delivery attempts as tables."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from tminus import clock
from tminus.cli import output, tables
from tminus.cli.output import Line, Span
from tminus.cli.tables import Column
from tminus.cli.times import TimeFormat
from tminus.domain import text
from tminus.domain.durations import duration_text
from tminus.domain.types import Status

if TYPE_CHECKING:
    from tminus import schemas

STYLES = {
    **{status.value: "green" for status in Status},
    Status.SCHEDULED.value: "cyan",
    Status.ACTIVE.value: "bold green",
    Status.CLOSED.value: "dim",
}
"""The style of each status: green while the session is open. A newer daemon may send a status that is not here."""

WEBHOOK_STYLES = {"idle": "green", "behind": "cyan", "failing": "yellow", "paused": "bold red"}

SESSION_COLUMNS = (
    Column("ID"),
    Column("STATUS"),
    Column("START"),
    Column("PIN"),
    Column("RECORD", least=6),
    Column("LABEL", least=8),
    Column("TYPE", wide=True),
    Column("NEXT", wide=True),
    Column("IN", wide=True),
    Column("OWNER", wide=True),
)

EVENT_COLUMNS = (
    Column("SEQ"),
    Column("WHEN"),
    Column("EVENT", wide=True),
    Column("BY"),
    Column("WHAT", least=20, folds=True),
)


def time_format(*, utc: bool, now: datetime | None = None) -> TimeFormat:
    """Return the time format for standard output: short on a terminal, full in a pipe.

    `now`: the daemon's time, from which times until a deadline count; None: this machine's time.
    """
    return TimeFormat(now or clock.now(), utc=utc, full=not output.is_terminal())


def sessions(rows: "Sequence[schemas.Session]", when: TimeFormat, *, wide: bool) -> None:
    """Print sessions, one per row."""
    tables.show(SESSION_COLUMNS, [_session_row(row, when) for row in rows], wide=wide)


def session_lines(rows: "Sequence[schemas.Session]", when: TimeFormat, width: int) -> list[Line]:
    """Return a table of sessions as lines for a terminal, the heading first."""
    columns = [column for column in SESSION_COLUMNS if not column.wide]
    cells = [
        [cell if isinstance(cell, Span) else Span(cell) for cell in _session_row(row, when)[: len(columns)]]
        for row in rows
    ]
    return tables.lines(columns, cells, width)


def _session_row(row: "schemas.Session", when: TimeFormat) -> list[Span | str]:
    return [
        row["id"],
        Span(row["status"], STYLES.get(row["status"], "")),
        when.text(row.get("startTime", row["createdAt"])),
        str(row["pin"] or ""),
        record(row),
        row["label"],
        row["type"],
        _next(row, when),
        str(row["participants"] or ""),
        row["userDescription"],
    ]


def record(row: "schemas.Session") -> str:
    """Return the name of the record that a session belongs to, or else its table and id."""
    name = (row["parentObject"] or {}).get("name")
    return name if isinstance(name, str) and name else row["externalMapping"] or ""


class End(NamedTuple):
    """How a session ended, from its events."""

    closed_by: str
    names: Sequence[str]
    """The names of the participants."""
    left_out: int
    """The number of participants that are not named."""


def session(row: "schemas.Session", when: TimeFormat, end: End | None = None) -> None:
    """Print one session, one field per line."""
    reason = f" ({row['closeReason']})" if row["closeReason"] else ""
    known: list[tuple[str, Span | str]] = [
        ("session", row["id"]),
        ("label", row["label"]),
        ("type", row["type"]),
        ("status", Span(f"{row['status']}{reason}", STYLES.get(row["status"], ""))),
    ]
    known += _times(row, when)
    if end is None:
        known.append(("expires", row["expiresAt"]))
    else:
        known += _ended(row, end)
    if row["pin"]:
        known.append(("PIN", str(row["pin"])))
    known.append(("settings", ", ".join(name for name, on in row["settings"].items() if on) or "none"))
    known.append(("users", row["urls"]["user"]))
    if "host" in row["urls"]:
        known.append(("host", row["urls"]["host"]))
    known += [("invited", _invitee(one)) for one in row.get("invitees", ())]
    if record(row):
        mapping = f" ({row['externalMapping']})" if row["externalMapping"] not in (None, record(row)) else ""
        known.append(("record", record(row) + mapping))
    if row["status"] == "active" or row["activatedAt"]:
        span = timedelta(seconds=row["durationSeconds"])
        known.append(("active", duration_text(span) if span else "0s"))
    if row["status"] == "active":
        known.append(("participants", str(row["participants"])))
    known.append(("version", str(row["version"])))
    tables.fields(known)


def _invitee(invitee: "Mapping[str, Any]") -> str:
    """Return an invitee as text. In a series, name and role are as they were sent, so they may be absent."""
    name = f"{invitee['name']} <{invitee['email']}>" if invitee.get("name") else invitee["email"]
    return f"{name} (host)" if invitee.get("role") == "host" else name


def _times(row: "schemas.Session", when: TimeFormat) -> list[tuple[str, Span | str]]:
    """Return the fields that show a session's next transition, opening, start, reminders and series, if it has them."""
    known: list[tuple[str, Span | str]] = []
    if _next(row, when):
        known.append(("next", _next(row, when)))
    if "opensAt" in row:
        known.append(("opens", row["opensAt"]))
    if "startTime" in row:
        known.append(("start", row["startTime"]))
    if row.get("reminders"):  # a daemon of an earlier release sends none
        known.append(("reminders", ", ".join(row["reminders"]) + " before the start"))
    if row.get("seriesId"):
        known.append(("series", f"{row['seriesId']}, by which it starts at {row['seriesStart']}"))
    return known


def _ended(row: "schemas.Session", end: End) -> list[tuple[str, Span | str]]:
    """Return the fields of a closed session: when it was open, who closed it, and who took part."""
    known: list[tuple[str, Span | str]] = [
        (name, at)
        for name, at in (("opened", row["openedAt"]), ("activated", row["activatedAt"]), ("closed", row["closedAt"]))
        if at is not None
    ]
    known.append(("closed by", end.closed_by))
    names = ", ".join(end.names) + (f" and {end.left_out} more" if end.left_out else "")
    known.append(("participants", names or "none"))
    return known


def actor(event: "schemas.Event") -> str:
    """Return the actor of an event: `Ben Agent (agent 8)`, or `agent 8` if the name is not known."""
    number = "local operator" if event["actor"] == "local" else event["actor"].replace(":", " ")
    return f"{event['actorName']} ({number})" if "actorName" in event else number


class Events:
    """Prints events as they arrive, under one heading."""

    def __init__(self, when: TimeFormat, *, wide: bool) -> None:
        self._when = when
        self._wide = wide
        self._headed = False

    def show(self, rows: "Iterable[schemas.Event]") -> None:
        """Print more events below those that were printed before."""
        cells = [[Span(cell) for cell in self._row(row)] for row in rows]
        columns = [column for column in EVENT_COLUMNS if self._wide or not column.wide or not output.is_terminal()]
        chosen = [EVENT_COLUMNS.index(column) for column in columns]
        cells = [[row[at] for at in chosen] for row in cells]
        if not output.is_terminal():
            if not self._headed:
                output.put_fields([column.title for column in columns])
            for row in cells:
                output.put_fields([span.text for span in row])
        elif cells or not self._headed:
            width = output.size()[0]
            if self._wide:  # nothing is cut: the message is folded, and the table may be wider than the terminal
                width = max(width, tables.least_width(columns, cells))
            drawn = tables.lines(columns, cells, width)
            output.put(drawn[1:] if self._headed else drawn)
        self._headed = True
        sys.stdout.flush()

    def _row(self, row: "schemas.Event") -> list[str]:
        late = f" ({row['lagMs']} ms late)" if "lagMs" in row else ""
        when = self._when.text(row["ts"], seconds=True)
        return [f"{row['seq']:>6}" if output.is_terminal() else str(row["seq"]), when, row["type"], row["actor"],
                row["message"] + late]  # fmt: skip


def webhooks(rows: "Sequence[schemas.Webhook]", when: TimeFormat, *, wide: bool) -> None:
    """Print endpoints, one per row."""
    columns = (
        Column("NAME", least=10),
        Column("STATE", least=9),
        Column("BEHIND"),
        Column("SINCE"),
        Column("NEXT TRY"),
        Column("LAST ERROR", least=16, folds=True),
        Column("URL", wide=True),
    )
    cells: list[list[Span | str]] = []
    for row in rows:
        state = row["state"] + (f" ({row['pauseReason']})" if row["pauseReason"] else "")
        cells.append(
            [
                row["name"],
                Span(state, WEBHOOK_STYLES.get(row["state"], "")),
                str(row["backlog"]),
                when.text(row["oldestUndelivered"]),
                when.text(row["retryAt"] if row["state"] == "failing" else None),
                row["lastError"] or "",
                row["url"],
            ]
        )
    tables.show(columns, cells, wide=wide)


def agents(rows: "Sequence[schemas.Agent]", when: TimeFormat, *, wide: bool) -> None:
    """Print agents, one per row."""
    columns = (
        Column("ID"),
        Column("NAME", least=8),
        Column("ROLES", least=8, folds=True),
        Column("SOURCE"),
        Column("LAST SIGN-IN"),
        Column("SHUT OUT"),
        Column("EMAIL", wide=True),
        Column("SUBJECT", wide=True),
    )
    cells: list[list[Span | str]] = [
        [
            str(row["id"]),
            row["name"],
            ", ".join(row["roles"]),
            row["source"],
            when.text(row["signedInAt"]) if row["signedInAt"] else "never",
            Span(f"since {when.text(row['shutOutAt'])}", "red") if row["shutOutAt"] else "",
            row["email"],
            row["subject"] or "",
        ]
        for row in rows
    ]
    tables.show(columns, cells, wide=wide)


def deliveries(rows: "Sequence[schemas.Delivery]", when: TimeFormat, *, wide: bool) -> None:
    """Print delivery attempts, one per row."""
    columns = (
        Column("WHEN"),
        Column("KIND"),
        Column("EVENTS"),
        Column("ANSWER", least=16, folds=True),
        Column("MS"),
        Column("BODY", least=12),
    )
    cells: list[list[Span | str]] = []
    for row in rows:
        seqs = f"{row['firstSeq']}-{row['lastSeq']}" if row["events"] else ""
        answer = str(row["status"]) if row["status"] else row["error"] or ""
        cells.append(
            [
                when.text(row["at"], seconds=True),
                row["kind"],
                seqs,
                Span(answer, "green" if row["ok"] else "red"),
                str(row["ms"]),
                row["answer"] or "",
            ]
        )
    tables.show(columns, cells, wide=wide)


def _next(row: "schemas.Session", when: TimeFormat) -> str:
    """Return the time until a session opens and starts, or expires; `""` if it is in another status."""
    if row["status"] == "scheduled" and "startTime" in row:
        opens = f"opens in {when.until(row['opensAt'])}, " if "opensAt" in row else ""
        return f"{opens}starts in {when.until(row['startTime'])}"
    if row["status"] == "new":
        return f"expires in {when.until(row['expiresAt'])}"
    return ""


def cut_to(line: str, width: int) -> str:
    """Return a line escaped and cut to a width."""
    return text.cut(text.escape(line), width)


def series_list(rows: "Sequence[schemas.Series]", *, wide: bool) -> None:
    """Print series, one per row."""
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("FIRST"),
        Column("ZONE", least=8),
        Column("RULE", least=10),
        Column("LABEL", least=8),
        Column("ENTRY", wide=True),
        Column("TYPE", wide=True),
        Column("AGENT", wide=True),
    )
    cells: list[list[Span | str]] = [
        [
            row["id"],
            Span("ended", "dim") if row["endedAt"] else Span("ends" if row["ends"] else "open", "green"),
            row["dtstart"][:16],
            row["timezone"],
            row["rrule"] or f"{1 + len(row['rdates'])} times",
            row["session"]["label"],
            row.get("entry") or "",
            row["session"]["type"],
            str(row["ExternalUserId"]),
        ]
        for row in rows
    ]
    tables.show(columns, cells, wide=wide)


def series(row: "schemas.Series") -> None:
    """Print one series with its next sessions, one field per line.

    Times are local times of the series' zone. Only the time when it was ended and the starts of moved sessions are UTC.
    """
    session = row["session"]
    known: list[tuple[str, Span | str]] = [
        ("series", row["id"]),
        ("label", session["label"]),
        ("type", session["type"]),
    ]
    if row.get("entry"):
        known.append(("entry", f"{row['entry']} (in the configuration)"))
    known += [("rule", row["rrule"] or "none"), ("first", row["dtstart"]), ("zone", row["timezone"])]
    known += [("without", one) for one in row["exdates"]]
    known += [("also", one) for one in row["rdates"]]
    known.append(("ahead", row["horizon"]))
    if session.get("reminders"):
        known.append(("reminders", ", ".join(session["reminders"]) + " before the start"))
    known += [("invited", _invitee(one)) for one in session.get("invitees", ())]
    if row["ends"] is not None:
        known.append(("ends", row["ends"]))
    if row["endedAt"] is not None:
        known.append(("ended", row["endedAt"]))
    if row["follows"] is not None:
        known.append(("follows", row["follows"]))
    for one in row.get("occurrences", ()):
        moved = f", moved to {one['startTime']}" if one["moved"] else ""
        known.append(("session", f"{one['localStart']}  {one['session']}  {one['status']}{moved}"))
    known.append(("version", str(row["version"])))
    tables.fields(known)
