"""Read sessions from a file: a spreadsheet saved as CSV, or NDJSON. Errors name the line of the file."""

import codecs
import csv
import io
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tminus.domain import strict_json, timestamps
from tminus.domain.types import MAX_SESSIONS

MAX_FILE = 64 * 1024 * 1024
"""Maximum size of a file in bytes: the maximum of `server.max_batch_body`."""

MAX_CELL = 100_000
"""Maximum characters of a cell."""

COLUMNS = {
    "type": "type", "label": "label", "title": "label", "subject": "label", "start": "start", "starttime": "start",
    "description": "description", "userdescription": "description", "parenttable": "parent_table",
    "parentid": "parent_id", "parentname": "parent_name", "invite": "invite", "invitees": "invite",
}  # fmt: skip
"""Names of columns, in lower case and without blanks, `-` and `_` -> what the column contains."""

MEMBERS = frozenset({
    "type", "label", "userDescription", "agentPrefs", "externalMapping", "parentObject", "metaData", "startTime",
    "invitees", "reminders",
})  # fmt: skip
"""The fields of a new session in the API."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_LOCAL = re.compile(
    r"(?:(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})|(?P<day2>\d{1,2})\.(?P<month2>\d{1,2})\.(?P<year2>\d{4}))"
    r"[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
)
_NUMBER = re.compile(r"\d{4,6}([.,]\d+)?")


class SheetError(Exception):
    """The file has errors. `errors` has a message for each."""

    def __init__(self, errors: Iterable[str]) -> None:
        super().__init__("the file has errors")
        self.errors = list(errors)


class Sheet(NamedTuple):
    """The sessions of a file, as the API takes them."""

    sessions: list[dict[str, Any]]
    lines: list[int]
    """The line of each session in the file."""
    ignored: list[str]
    """The names of unknown columns or fields."""


def read(content: bytes, *, ndjson: bool, encoding: str, zone: ZoneInfo | None, session_type: str | None) -> Sheet:
    """Return the sessions of a file. `zone`: the time zone of times without an offset. Raises `SheetError`."""
    if len(content) > MAX_FILE:
        raise SheetError([f"it is larger than {MAX_FILE} bytes"])
    text = _decoded(content, encoding)
    sheet = _from_ndjson(text) if ndjson else _from_csv(text, zone)
    if not sheet.sessions:
        raise SheetError(["there are no sessions in this file"])
    if len(sheet.sessions) > MAX_SESSIONS:
        raise SheetError([f"there are {len(sheet.sessions)} sessions in this file, and the maximum is {MAX_SESSIONS}"])
    if session_type is not None:
        for session in sheet.sessions:
            session.setdefault("type", session_type)
    return sheet


def _decoded(content: bytes, encoding: str) -> str:
    for mark, name in _BOMS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], name
            break
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        hint = "save the file as CSV UTF-8, or name its encoding: --encoding cp1252"
        raise SheetError([f"line {line} is not in {encoding}: {hint}"]) from None
    except UnicodeError as error:  # codecs such as punycode do not say where
        raise SheetError([f"it is not in {encoding}: {error}"]) from None


def _from_ndjson(text: str) -> Sheet:
    sessions: list[dict[str, Any]] = []
    lines, errors = list[int](), list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            session = strict_json.loads(line)
        except ValueError as error:
            errors.append(f"line {number} {error}")
            continue
        if not isinstance(session, dict):
            errors.append(f"line {number} is not an object: each line has one session")
            continue
        if session.get("startTime") is None:
            errors.append(f"line {number} has no startTime")
        sessions.append(session)
        lines.append(number)
    ignored = sorted(set[str]().union(*sessions) - MEMBERS)
    if errors:
        raise SheetError([*errors, *_unknown(ignored)])
    return Sheet(sessions, lines, ignored)


def _unknown(names: list[str]) -> list[str]:
    """Return an error that names unknown columns or fields: one of them may be the misspelt name of a missing one."""
    return [f"these names are not known: {', '.join(names)}"] if names else []


def _from_csv(text: str, zone: ZoneInfo | None) -> Sheet:
    first, _, rest = text.partition("\n")
    skipped = 0
    delimiter = ""
    if (named := re.fullmatch(r'"?sep=(.)"?', first.strip())) is not None:  # Excel writes and reads this line
        delimiter, text, skipped = named[1], rest, 1
        first = text.partition("\n")[0]
    csv.field_size_limit(MAX_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter or _delimiter(first), strict=True)
    errors: list[str] = []
    sheet: Sheet | None = None
    names: list[str | None] = []
    while True:
        line = rows.line_num + 1 + skipped
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            errors.append(f"line {line}: {error}")
            break
        if not any(cell.strip() for cell in row):
            continue
        if sheet is None:
            names, ignored = _header(row)
            sheet = Sheet([], [], ignored)
            continue
        try:
            sheet.sessions.append(_session(names, row, zone))
            sheet.lines.append(line)
        except ValueError as error:
            errors.append(f"line {line}: {error}")
    if errors:
        raise SheetError(errors)
    return sheet or Sheet([], [], [])


def _delimiter(header: str) -> str:
    """Return the delimiter with which the heading has the most known columns."""
    return max(",;\t|", key=lambda one: sum(_normalized(cell) in COLUMNS for cell in header.split(one)))


def _normalized(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.strip().strip('"')).lower()


def _header(row: list[str]) -> tuple[list[str | None], list[str]]:
    """Return what each column contains (None: unknown), and the names of unknown columns. Raises `SheetError`."""
    names = [COLUMNS.get(_normalized(cell)) for cell in row]
    known = [name for name in names if name is not None]
    twice = sorted({name for name in known if known.count(name) > 1})
    if twice:
        raise SheetError([f"the heading has two columns for {', '.join(twice)}"])
    if "label" not in known:
        raise SheetError(["the heading must have the names of the columns, such as: type,label,start"])
    ignored = [cell.strip() for cell, name in zip(row, names, strict=True) if name is None and cell.strip()]
    if "start" not in known:
        raise SheetError(["the heading has no column start", *_unknown(ignored)])
    return names, ignored


def _session(names: list[str | None], row: list[str], zone: ZoneInfo | None) -> dict[str, Any]:
    if any(cell.strip() for cell in row[len(names) :]):
        raise ValueError(f"has {len(row)} cells, and the heading has {len(names)}: put text with a delimiter in quotes")
    cells = {name: cell.strip() for name, cell in zip(names, row, strict=False) if name and cell.strip()}
    if "start" not in cells:
        raise ValueError("has no start")
    session: dict[str, Any] = {"label": cells.get("label", ""), "startTime": start_time(cells["start"], zone)}
    if "type" in cells:
        session["type"] = cells["type"].lower()
    if "description" in cells:
        session["userDescription"] = cells["description"]
    if "invite" in cells:
        session["invitees"] = [_invitee(one) for one in re.split(r"[;,\n]", cells["invite"]) if one.strip()]
    table, record = cells.get("parent_table"), cells.get("parent_id")
    if (table is None) != (record is None):
        raise ValueError("parent_table and parent_id go together")
    if table is not None:
        session["externalMapping"] = f"{table}.{record}"
        name = cells.get("parent_name")
        session["parentObject"] = {
            "id": record, "type": table, "name": name, "sync": False, "provider": "tminus"
        }  # fmt: skip
    return session


def _invitee(text: str) -> dict[str, str]:
    name, bracket, email = text.strip().rpartition("<")
    return {"email": email.removesuffix(">").strip() if bracket else email, "name": name.strip(), "role": "guest"}


def start_time(text: str, zone: ZoneInfo | None) -> str:
    """Return a start as the API takes it. Raises `ValueError`.

    A time may be RFC 3339, or without an offset in `zone`: `2026-12-01 09:30`, `01.12.2026 09:30`.
    """
    local = _LOCAL.fullmatch(text)
    if local is None:
        try:
            timestamps.parse(text)
        except ValueError as error:
            if _NUMBER.fullmatch(text):
                hint = "a number, as a spreadsheet stores a date: format the column as text, 2026-12-01 09:30"
                raise ValueError(f"start {text!r} is {hint}") from None
            if "/" in text:
                raise ValueError(f"start {text!r} may mean different dates: write 2026-12-01 09:30") from None
            raise ValueError(f"start {text!r} {error}") from None
        return text
    if zone is None:
        raise ValueError(
            f"start {text!r} has no offset: add Z or +01:00, or name the time zone: --timezone Europe/Berlin"
        )
    part = {name.rstrip("2"): int(value) for name, value in local.groupdict().items() if value}
    try:
        wall = datetime(**part)  # type: ignore[arg-type]  # noqa: DTZ001 - the zone follows
    except ValueError as error:
        raise ValueError(f"start {text!r}: {error}") from None
    early, late = wall.replace(tzinfo=zone), wall.replace(tzinfo=zone, fold=1)
    if early.utcoffset() != late.utcoffset():
        exists = early.astimezone(ZoneInfo("UTC")).astimezone(zone).replace(tzinfo=None) == wall
        why = "comes twice" if exists else "does not exist"
        raise ValueError(f"start {text!r} {why} in {zone.key}, since the clocks change: write it with an offset")
    offset = early.utcoffset() or timedelta()
    return f"{wall.isoformat()}{_offset(offset)}"


def _offset(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
