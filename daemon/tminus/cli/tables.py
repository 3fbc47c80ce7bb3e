"""Sessions and events for people: tables and a few words."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from tminus import instants
from tminus.config.values import duration_text

if TYPE_CHECKING:
    from tminus import wire

STYLES = {"scheduled": "cyan", "new": "green", "active": "bold green", "closed": "dim"}


WEBHOOK_STYLES = {"idle": "green", "behind": "cyan", "failing": "yellow", "paused": "bold red"}


def console() -> Console:
    """Standard output; where that is no terminal, wide enough that nothing is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def show(answer: Any, as_json: bool, table: Callable[[], Any]) -> None:
    """Prints an answer: as it is for programs, as a table or in a few words for people."""
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        console().print(table())


def sessions(rows: "Sequence[wire.Session]", now: datetime, title: str | None = None) -> Table:
    """Sessions, one a row, with what comes next for each."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column, width in (
        ("ID", 12),
        ("TYPE", 8),
        ("STATUS", 9),
        ("START", 10),
        ("NEXT", 8),
        ("PIN", 6),
        ("IN", 2),
        ("LABEL", 8),
    ):
        table.add_column(column, min_width=width, overflow="fold")
    for row in rows:
        status = row["status"]
        table.add_row(
            row["id"],
            row["type"],
            f"[{STYLES[status]}]{status}[/]",
            row.get("startTime", row["createdAt"])[:16].replace("T", " ") + "Z",
            _next(row, now),
            str(row["pin"] or ""),
            str(row["participants"] or ""),
            _plain(row["label"]),
        )
    return table


def session(row: "wire.Session", now: datetime) -> Table:
    """One session, one field a row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    status = row["status"]
    table.add_row("session", row["id"])
    table.add_row("label", _plain(row["label"]))
    table.add_row("type", row["type"])
    reason = f" ({row['closeReason']})" if row["closeReason"] else ""
    table.add_row("status", f"[{STYLES[status]}]{status}[/]{reason}")
    if _next(row, now):
        table.add_row("next", _next(row, now))
    if "startTime" in row:
        table.add_row("start", row["startTime"])
    table.add_row("expires", row["expiresAt"])
    if row["pin"]:
        table.add_row("PIN", str(row["pin"]))
    table.add_row("settings", ", ".join(name for name, on in row["settings"].items() if on) or "none")
    table.add_row("users", row["urls"]["user"])
    if "host" in row["urls"]:
        table.add_row("host", row["urls"]["host"])
    if row["externalMapping"]:
        table.add_row("of", _plain(row["externalMapping"]))
    if row["status"] == "active" or row["durationSeconds"]:
        table.add_row("active", duration_text(timedelta(seconds=row["durationSeconds"])))
        table.add_row("in it", str(row["participants"]))
    table.add_row("version", str(row["version"]))
    return table


def events(rows: "Sequence[wire.Event]") -> Table:
    """Events, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("SEQ", "WHEN", "EVENT", "BY", "WHAT"):
        table.add_column(column, no_wrap=column != "WHAT")
    for row in rows:
        late = f" [dim]({row['lagMs']} ms late)[/]" if "lagMs" in row else ""
        table.add_row(
            str(row["seq"]),
            row["ts"][:19].replace("T", " ") + "Z",
            row["type"],
            row["actor"],
            _plain(row["message"]) + late,
        )
    return table


def event(row: "wire.Event") -> str:
    """One event as a line."""
    late = f" [dim]({row['lagMs']} ms late)[/]" if "lagMs" in row else ""
    return f"[dim]{row['seq']:>6}[/] {row['ts'][:19].replace('T', ' ')}Z {row['actor']}: {_plain(row['message'])}{late}"


def webhooks(rows: "Sequence[wire.Webhook]") -> Table:
    """Endpoints, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("NAME", "STATE", "BEHIND", "SINCE", "NEXT TRY", "LAST ERROR", "URL"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = row["state"] + (f" ({row['pauseReason']})" if row["pauseReason"] else "")
        table.add_row(
            row["name"],
            f"[{WEBHOOK_STYLES[row['state']]}]{state}[/]",
            str(row["backlog"]),
            _minute(row["oldestUndelivered"]),
            _minute(row["retryAt"] if row["state"] == "failing" else None),
            _plain(row["lastError"] or ""),
            _plain(row["url"]),
        )
    return table


def deliveries(rows: "Sequence[wire.Delivery]") -> Table:
    """Tries to tell an endpoint something, one a row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("WHEN", "KIND", "EVENTS", "ANSWER", "MS", "WHAT IT SAID"):
        table.add_column(column, overflow="fold")
    for row in rows:
        seqs = f"{row['firstSeq']}-{row['lastSeq']}" if row["events"] else ""
        told = str(row["status"]) if row["status"] else row["error"] or ""
        table.add_row(
            row["at"][:19].replace("T", " ") + "Z",
            row["kind"],
            seqs,
            f"[{'green' if row['ok'] else 'red'}]{_plain(told)}[/]",
            str(row["ms"]),
            _plain((row["answer"] or "")[:80]),
        )
    return table


def _minute(instant: str | None) -> str:
    return instant[:16].replace("T", " ") + "Z" if instant else ""


def _next(row: "wire.Session", now: datetime) -> str:
    """What time will do to a session, as far as its answer tells."""
    if row["status"] == "scheduled":
        return f"starts in {_until(row['startTime'], now)}"
    if row["status"] == "new":
        return f"expires in {_until(row['expiresAt'], now)}"
    return ""


def _until(instant: str, now: datetime) -> str:
    seconds = max(0, int((instants.parse(instant) - now).total_seconds()))
    return duration_text(timedelta(seconds=seconds)) if seconds else "0s"


def _plain(text: str) -> str:
    """Somebody's text, kept from being read as markup or as control codes."""
    return "".join(char if char.isprintable() else "�" for char in text).replace("[", r"\[")
