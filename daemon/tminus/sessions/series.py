"""Series of sessions: create, change and end them, and make their occurrences ahead of time.

An occurrence is an ordinary session, which `commands.create` creates. The row `Occurrence` has its local start in the
series. By it, a session that was moved or cancelled alone is recognized, and stays so when the series changes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple

import orjson

from tminus import config
from tminus.config import Settings
from tminus.domain import ids, recurrence, timestamps
from tminus.domain.durations import duration_text, parse_duration
from tminus.domain.errors import (
    AgentShutOut,
    FieldError,
    InvalidRequest,
    KeyReused,
    Overlap,
    RequestError,
    SeriesConfigured,
    SeriesEnded,
    StaleSeries,
    TooManySeries,
    UnknownSeries,
)
from tminus.domain.model import Occurrence, Series
from tminus.domain.recurrence import MAX_AHEAD, CreateSeries, Recurrence, local_text
from tminus.domain.types import (
    FIRST_UNCONFIGURED_ID,
    LOCAL_AGENT_ID,
    Caller,
    CreateSession,
    Role,
    SessionType,
    Status,
    Timeouts,
)
from tminus.logs.event_fields import session_fields
from tminus.logs.output import error_fields, log
from tminus.sessions import commands
from tminus.sessions.authorization import require
from tminus.sessions.idempotency import KeyedRequest
from tminus.storage import Transaction, View, agents
from tminus.storage import series as stored
from tminus.storage.deadlines import DueBatch
from tminus.storage.due import Recomputed
from tminus.storage.failures import is_of_database

MAX_SERIES = 1000
"""Maximum number of series of an agent that have not ended."""

AT_ONCE = 64
"""Maximum number of sessions that one transaction makes. Each takes about a tenth of a millisecond."""

RETRY = timedelta(minutes=5)
"""Time until occurrences that could not be made are tried again."""

LOOK_AHEAD = timedelta(days=400)
"""How far a search for the next occurrence looks. If it finds none, it is repeated after `LOOK_AGAIN`."""

LOOK_AGAIN = timedelta(days=30)

UNKNOWN_ZONE = (KeyError, ValueError, OSError)
"""What `zoneinfo` raises for a zone that it does not have, or whose file it cannot read."""

OLDEST = timedelta(days=3653)
"""How long ago the first start of a series may be."""


class ChangeResult(NamedTuple):
    """The result of a command: the series that is in force from now on, or from the time that the caller has given."""

    series: Series
    replayed: bool = False


class SeriesDefect(Exception):
    """A series, or an entry of the configuration, has raised an unexpected error, which is the cause of this one.

    Its transaction is rolled back, since a part may have been written. The other series must not wait for it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"series {name} has failed")
        self.name = name
        """Id of the series, or name of the entry."""

    def fields(self) -> dict[str, str]:
        """Return the log fields of the error."""
        return error_fields(self.__cause__ or self)


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Raise `SeriesDefect` instead of an unexpected error. Refusals and errors of the database stay as they are."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        if is_of_database(error):
            raise
        raise SeriesDefect(name) from error


# --- the stored form --------------------------------------------------------------------------------------------------


def _definition(request: CreateSeries, ends: str | None = None, begins: str | None = None) -> str:
    """Return a series as it is stored.

    `ends`: the local time from which on it has no occurrence. `begins`: the one from which on it continues another
    series; None: it continues none.
    """
    when = request.recurrence
    definition = {
        "rrule": when.rule.text if when.rule else None,
        "dtstart": local_text(when.start),
        "timezone": when.zone,
        "exdates": sorted(when.excluded),
        "rdates": recurrence.texts(when.added),
        "horizon": duration_text(request.horizon),
        "session": dict(request.sent),
        "ends": ends,
    }
    return orjson.dumps(definition if begins is None else definition | {"begins": begins}).decode()


def _template(request: CreateSession) -> str:
    fields = {
        "type": request.type,
        "label": request.label,
        "user_description": request.user_description,
        "preferences": dict(request.preferences),
        "external_mapping": request.external_mapping,
        "parent_object": request.parent_object,
        "meta_data": request.meta_data,
        "invitees": request.invitees,
        "reminders": None if request.reminders is None else [duration_text(span) for span in request.reminders],
    }
    return orjson.dumps(fields).decode()


def _session_request(template: str, start: datetime) -> CreateSession:
    fields = orjson.loads(template)
    reminders = fields.pop("reminders")
    return CreateSession(
        **fields | {"type": SessionType(fields["type"])},
        start_time=start,
        reminders=None if reminders is None else tuple(map(parse_duration, reminders)),
    )


class _Plan:
    """When the sessions of a stored series start."""

    def __init__(self, series: Series) -> None:
        self.definition = orjson.loads(series.definition)
        text = self.definition["rrule"]
        self.recurrence = Recurrence(
            start=recurrence.parse_local(self.definition["dtstart"]),
            zone=self.definition["timezone"],
            rule=None if text is None else recurrence.parse_stored_rule(text),
            excluded=frozenset(self.definition["exdates"] + self.definition.get("kept", [])),
            added=tuple(map(recurrence.parse_local, self.definition["rdates"])),
        )
        self.horizon = parse_duration(self.definition["horizon"])
        ends = self.definition["ends"]
        self._ends = None if ends is None else recurrence.parse_local(ends)

    def local(self, instant: datetime) -> datetime:
        """Return the local time of the series at a time, in whole seconds."""
        return instant.astimezone(recurrence.zone(self.recurrence.zone)).replace(tzinfo=None, microsecond=0)

    def instant(self, local: datetime) -> datetime:
        return recurrence.instant(local, self.recurrence.zone)

    def horizon_of(self, settings: Settings) -> timedelta:
        return min(self.horizon, settings.lifecycle.horizon)

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Return the first `most` local starts after `after`, up to `until`."""
        found = self.recurrence.between(after, until, most)
        return found if self._ends is None else [one for one in found if one < self._ends]


def local_now(series: Series, now: datetime) -> str:
    """Return the current local time of a series, as text; in UTC if this machine no longer has its time zone.

    No start that is to come is before it. After clocks were set ahead, one that follows may be past.
    """
    return local_text(_local_now(series, now))


def _local_now(series: Series, now: datetime) -> datetime:
    try:  # without `_Plan`: a series whose rule cannot be computed can be shown, changed and ended
        return recurrence.earliest_local(now, orjson.loads(series.definition)["timezone"])
    except UNKNOWN_ZONE:
        return now.replace(tzinfo=None, microsecond=0)


# --- queries ----------------------------------------------------------------------------------------------------------


def load(view: View, caller: Caller, series_id: str, *, changes: bool = False) -> Series:
    """Return a series that the caller may see or, with `changes`, change. Raises `UnknownSeries`, `Forbidden`."""
    other = Role.GROUP_ADMIN if changes else Role.SUPERVISOR
    needs = f"the series' own agent, or the role {other}"
    require(caller.has(Role.AGENT, other), needs)
    series = stored.find(view, series_id)
    if series is None:
        raise UnknownSeries(series_id)
    owns = caller.agent_id == series.agent_id and caller.has(Role.AGENT)
    require(owns or caller.has(other), needs)
    return series


# --- commands ---------------------------------------------------------------------------------------------------------


def create(
    tx: Transaction, settings: Settings, caller: Caller, request: CreateSeries, keyed: KeyedRequest | None = None
) -> ChangeResult:
    """Create a series and its first occurrences. The scheduler makes the others.

    Raises `Forbidden`, `KeyReused`, `TooManySeries`, and what `commands.create` raises.
    """
    require(caller.has(Role.AGENT), "the role agent")
    _check_start(request, tx.now)
    if keyed is not None and (earlier := stored.find_by_key(tx, caller.agent_id, keyed.key)) is not None:
        if earlier.body_sha256 != keyed.body_sha256:
            raise KeyReused(earlier.id, series=True)
        return ChangeResult(earlier, replayed=True)
    _check_number(tx, caller.agent_id)
    series = _new(tx, caller.agent_id, _stored_caller(caller), request)
    if keyed is not None:
        series.idempotency_key, series.body_sha256 = keyed.key, keyed.body_sha256
    series.made_through = local_text(_local_now(series, tx.now))
    stored.add(tx, series)
    _make(tx, settings, caller, series, AT_ONCE)
    stored.change(tx, series)
    return ChangeResult(series)


def _check_number(view: View, agent_id: int) -> None:
    """Raise `TooManySeries` if an agent may not have another series."""
    if stored.count(view, agent_id, MAX_SERIES) >= MAX_SERIES:
        raise TooManySeries(MAX_SERIES)


def _check_start(request: CreateSeries, now: datetime) -> None:
    """Raise `InvalidRequest` if a series begins so long ago that each computation would take long."""
    when = request.recurrence
    if recurrence.instant(when.start, when.zone) < now - OLDEST:
        raise InvalidRequest([FieldError("dtstart", "must not be more than ten years ago")])


def _stored_caller(caller: Caller) -> str:
    """Return an agent in the form of `Series.caller`."""
    acts = {"name": caller.name, "external_id": caller.external_id, "roles": sorted(caller.roles)}
    return orjson.dumps(acts).decode()


def _new(tx: Transaction, agent_id: int, acts: str, request: CreateSeries) -> Series:
    """Return a new series of an agent. `acts`: the agent in the form of `Series.caller`."""
    return Series(
        id=ids.base62(12),
        agent_id=agent_id,
        caller=acts,
        definition=_definition(request),
        template=_template(request.session),
        made_through="",
        next_at=tx.now,
        created_at=tx.now,
        updated_at=tx.now,
    )


def change(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    series_id: str,
    request: CreateSeries,
    from_here: datetime | None = None,
    if_match: commands.IfMatch = None,
) -> ChangeResult:
    """Change a series from now on, or from a local time on: then the series ends there, and a new one continues it to
    the end that the series had.

    A session that is still as the series made it moves to the new time of its day, and keeps its id and its links. One
    whose day has no occurrence any more is cancelled. A session that was moved or cancelled alone stays so.

    Whoever changes a series, it and its sessions belong to its agent. If that one may not act any more, the scheduler
    makes the sessions that are missing, as soon as it can.

    Raises `UnknownSeries`, `Forbidden`, `SeriesEnded`, `SeriesConfigured`, `StaleSeries`, `TooManySeries`, and what
    `commands.create` raises.
    """
    series = load(tx, caller, series_id, changes=True)
    if series.ended_at is not None:
        raise SeriesEnded
    if series.entry is not None:
        raise SeriesConfigured(series.entry)
    owner = caller if caller.agent_id == series.agent_id else acting_agent(tx, settings, series)
    if owner is not None and not owner.has(Role.AGENT):
        owner = None
    return _change(tx, settings, _Acting(caller, owner), series, request, from_here, if_match)


def _change(
    tx: Transaction,
    settings: Settings,
    acting: "_Acting",
    series: Series,
    request: CreateSeries,
    from_here: datetime | None = None,
    if_match: commands.IfMatch = None,
) -> ChangeResult:
    _check_start(request, tx.now)
    then = orjson.loads(series.definition)
    ends, begins = then["ends"], then.get("begins")
    if from_here is not None:
        begins = max(begins or "", local_text(from_here))
    since = _local_now(series, tx.now)
    if begins is not None:
        since = max(since, recurrence.parse_local(begins))
    if from_here is not None and ends is not None and local_text(since) >= ends:
        # The caller may repeat a request whose answer was lost. It gets the series that the first one created.
        return ChangeResult(_follower(tx, series, _definition(request, begins=begins)), replayed=True)
    _check_version(series, if_match)
    made = stored.made(tx, series.id, local_text(since), 2 * MAX_AHEAD)
    rows = [row for row in made if row.given > tx.now]  # when clocks change, a later local time may be past
    if from_here is None:
        is_same = series.template == _template(request.session)
        series.definition, series.template = _definition(request, ends, begins), _template(request.session)
        changed = series
    else:
        _check_number(tx, series.agent_id)
        stored.remove_occurrences(tx, series.id, local_text(since))
        _end_at(tx, series, since)
        acts = series.caller if acting.owner is None else _stored_caller(acting.owner)
        changed = _new(tx, series.agent_id, acts, request)
        changed.follows, changed.definition = series.id, _definition(request, ends, begins)
        is_same = changed.template == series.template
        stored.add(tx, changed)
    _replace(tx, settings, acting, changed, since, rows, is_same=is_same, is_new=changed is not series)
    changed.updated_at, changed.version = tx.now, changed.version + (changed is series)
    stored.change(tx, changed)
    return ChangeResult(changed)


def _follower(view: View, series: Series, definition: str) -> Series:
    """Return the series that an equal request created to continue another one. Raises `SeriesEnded` if there is none.

    `definition`: that of the request, without an end. The end of the series may have been set since.
    """
    asked = orjson.loads(definition)
    for one in stored.followers(view, series.agent_id, series.id):
        then = orjson.loads(one.definition)
        then.pop("kept", None)
        then.setdefault("begins", asked["begins"])  # those of earlier versions have none
        if then | {"ends": None} == asked:
            return one
    raise SeriesEnded


def _check_version(series: Series, if_match: commands.IfMatch) -> None:
    """Raise `StaleSeries` if the caller expects other versions of a series."""
    if if_match is not None and series.version not in if_match:
        raise StaleSeries(series.version)


def end(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    series_id: str,
    from_here: datetime | None = None,
    if_match: commands.IfMatch = None,
) -> Series:
    """End a series now, or at a local time, and cancel its sessions from then on. For an ended one nothing changes, and
    `if_match` is not compared: the caller may repeat a request whose response was lost.

    Raises `UnknownSeries`, `Forbidden`, `SeriesConfigured`, `StaleSeries`.
    """
    series = load(tx, caller, series_id)
    if series.ended_at is not None:
        return series
    if series.entry is not None:
        raise SeriesConfigured(series.entry)
    _check_version(series, if_match)
    return _end(tx, settings, caller, series, from_here)


def _end(
    tx: Transaction, settings: Settings, caller: Caller, series: Series, from_here: datetime | None = None
) -> Series:
    now = _local_now(series, tx.now)
    since = now if from_here is None else max(from_here, now)
    for row in stored.made(tx, series.id, local_text(since), 2 * MAX_AHEAD):
        if row.status is Status.SCHEDULED:
            commands.close(tx, settings, caller, row.session_id)
    _end_at(tx, series, since)
    if from_here is None:
        series.ended_at, series.next_at = tx.now, None
        stored.change(tx, series)
    return series


def _end_at(tx: Transaction, series: Series, ends: datetime) -> None:
    """Store the local time from which on a series has no occurrence."""
    definition = orjson.loads(series.definition)
    before = definition["ends"]
    definition["ends"] = local_text(ends) if before is None else min(before, local_text(ends))
    series.definition = orjson.dumps(definition).decode()
    series.updated_at, series.version = tx.now, series.version + 1
    stored.change(tx, series)


class _Acting(NamedTuple):
    """Who changes a series, and the agent whose sessions they are; None if that one may have no new sessions now."""

    caller: Caller
    owner: Caller | None


def _replace(
    tx: Transaction,
    settings: Settings,
    acting: _Acting,
    series: Series,
    since: datetime,
    rows: Sequence[stored.MadeOccurrence],
    *,
    is_same: bool,
    is_new: bool,
) -> None:
    """Give the occurrences from a local time on their new starts; make those that are missing, cancel the others.

    `is_same`: whether the contents of sessions are unchanged; otherwise the sessions are made again. `is_new`: whether
    `series` is a new one that continues the series to which `rows` belong.
    """
    plan = _Plan(series)
    until = plan.local(tx.now + plan.horizon_of(settings))
    if rows:  # a session that was made moves to its new time also if that is beyond the horizon
        until = max(until, recurrence.parse_local(f"{rows[-1].local_start[:10]}T23:59:59"))
    wanted = plan.between(since - timedelta(seconds=1), until, MAX_AHEAD)
    if len(wanted) == MAX_AHEAD:
        until = wanted[-1]
    pairs = _pairs(rows, [one for one in wanted if plan.instant(one) > tx.now])
    new: list[datetime] = []
    moves: list[tuple[str, datetime, datetime]] = []
    kept: list[Occurrence] = []
    for row, local in pairs:
        if row is None:
            assert local is not None
            new.append(local)
            continue
        is_untouched = row.status is Status.SCHEDULED and row.start_time == row.given
        if is_untouched and (local is None or not is_same):
            commands.close(tx, settings, acting.caller, row.session_id)
            new += [] if local is None else [local]
        elif local is None:  # it was moved or cancelled alone, and stays where it is
            kept.append(_occurrence(series, row.local_start, row.session_id, row.given))
        else:
            start = plan.instant(local)
            if is_untouched and start != row.start_time:
                moves.append((row.session_id, row.start_time, start))
            was_moved = row.start_time != row.given
            given = start if is_untouched or was_moved else row.given
            kept.append(_occurrence(series, local_text(local), row.session_id, given))
    for session_id, start in _in_free_order(moves):
        commands.reschedule(tx, settings, acting.caller, session_id, start)
    owner = acting.owner
    kept += [] if owner is None else [_make_one(tx, settings, owner, series, one, plan.instant(one)) for one in new]
    stored.remove_occurrences(tx, series.id, local_text(since))
    stored.add_occurrences(tx, list({one.local_start: one for one in reversed(kept)}.values()))
    before = {row.session_id: row.local_start for row in rows}
    renamed = (one for one in kept if one.session_id in before)
    stored.name_in_sessions(tx, [one for one in renamed if is_new or before[one.session_id] != one.local_start])
    series.made_through = local_text(max(until, since - timedelta(seconds=1)))
    _set_next(tx, settings, series)
    if owner is None and new:
        _leave_to_scheduler(tx, series, new, kept)


def _leave_to_scheduler(tx: Transaction, series: Series, new: Iterable[datetime], kept: Iterable[Occurrence]) -> None:
    """Let the scheduler make the first missing occurrences and all following ones, as soon as the agent may act again.

    It makes them in order, so the series stores which of the following ones have sessions already.
    """
    series.made_through = local_text(min(new) - timedelta(seconds=1))
    series.next_at = tx.now
    present = sorted(one.local_start for one in kept if one.local_start > series.made_through)
    if present:
        series.definition = orjson.dumps(orjson.loads(series.definition) | {"kept": present}).decode()


def _in_free_order(moves: Iterable[tuple[str, datetime, datetime]]) -> list[tuple[str, datetime]]:
    """Return sessions with their new starts, in an order in which none moves to a time that another has not left yet.

    `moves`: session, old and new start. If sessions may not overlap, such a move would be refused.
    """
    earlier = sorted((new, session_id) for session_id, old, new in moves if new < old)
    later = sorted(((new, session_id) for session_id, old, new in moves if new > old), reverse=True)
    return [(session_id, new) for new, session_id in (*earlier, *later)]


def _occurrence(series: Series, local_start: str, session_id: str, start: datetime) -> Occurrence:
    return Occurrence(series_id=series.id, local_start=local_start, session_id=session_id, start_time=start)


def _pairs(
    rows: Sequence[stored.MadeOccurrence], wanted: Iterable[datetime]
) -> list[tuple[stored.MadeOccurrence | None, datetime | None]]:
    """Return the occurrences that exist, each with its new start: at the same time, or else on the same day.

    An occurrence that gets no new start has None instead, and so has a start for which no occurrence exists.
    """
    new = {local_text(one): one for one in wanted}
    pairs: list[tuple[stored.MadeOccurrence | None, datetime | None]] = []
    left: dict[str, list[stored.MadeOccurrence]] = {}
    for row in rows:
        if row.local_start in new:
            pairs.append((row, new.pop(row.local_start)))
        else:
            left.setdefault(row.local_start[:10], []).append(row)
    for text, local in new.items():
        of_day = left.get(text[:10])
        pairs.append((of_day.pop(0) if of_day else None, local))
    pairs += [(row, None) for row in chain.from_iterable(left.values())]
    return pairs


# --- the configuration ------------------------------------------------------------------------------------------------


def is_current(series: Series | None, entry: config.Series) -> bool:
    """Return whether a series (None: there is none) equals its entry in the configuration."""
    if series is None or series.agent_id != entry.agent:
        return False
    then = orjson.loads(series.definition)
    return bool(then == orjson.loads(_definition(entry.create_series())))


def configure(tx: Transaction, settings: Settings, entry: config.Series) -> str | None:
    """Create the series of an entry of the configuration, or change it; return its id, None if nothing changed.

    The scheduler makes its first occurrences. If the entry names another agent than before, the series of the previous
    one ends. Raises `AgentShutOut`, `InvalidRequest`, and what `commands.create` raises.
    """
    series = stored.find_by_entry(tx, entry.name)
    if series is not None and is_current(series, entry):
        return None
    request = entry.create_series()
    _check_start(request, tx.now)
    agent = next(one for one in settings.agents if one.id == entry.agent)  # the check of the configuration found it
    known = agents.find(tx, agent.id)
    if known is not None and known.shut_out_at is not None:
        raise AgentShutOut(agent.id)
    owner = Caller(agent.id, agent.name, agent.external_id, agent.roles, provider=settings.organization.provider)
    if series is not None and series.agent_id == entry.agent:
        _change(tx, settings, _Acting(owner, owner), series, request)
        return series.id
    if series is not None:
        remove_entry(tx, settings, entry.name)
    series = _new(tx, owner.agent_id, _stored_caller(owner), request)
    series.entry = entry.name
    series.made_through = local_text(_local_now(series, tx.now))
    stored.add(tx, series)
    return series.id


def remove_entry(tx: Transaction, settings: Settings, name: str) -> str | None:
    """End the series of an entry that was removed from the configuration; return its id, None if it had ended."""
    series = stored.find_by_entry(tx, name)
    if series is None:
        return None
    then = orjson.loads(series.caller)
    # Its agent may be gone from the configuration too, and still owns the sessions.
    owner = Caller(series.agent_id, then["name"], then["external_id"], frozenset({Role.AGENT}))
    _end(tx, settings, owner, series)
    return series.id


# --- making occurrences -----------------------------------------------------------------------------------------------


def _make(
    tx: Transaction, settings: Settings, owner: Caller, series: Series, limit: int, *, skips: bool = False
) -> int:
    """Make the next occurrences, at most `limit`, and set when the next ones are to be made; return their number.

    `skips`: whether an occurrence that the policy on overlaps refuses is left out, with a log line; otherwise `Overlap`
    is raised.
    """
    plan = _Plan(series)
    after = recurrence.parse_local(series.made_through)
    until = plan.local(tx.now + plan.horizon_of(settings))
    found = plan.between(after, until, limit)
    made: list[Occurrence] = []
    try:
        for local in found:
            start = plan.instant(local)
            if start > tx.now:  # one that should have started while no daemon ran is not made
                try:
                    made.append(_make_one(tx, settings, owner, series, local, start))
                except Overlap as error:
                    if not skips:
                        raise
                    _log_skipped(series, start, error)
            series.made_through = local_text(local)
    except RequestError:  # the occurrences that were made before one was refused stay
        stored.add_occurrences(tx, made)
        raise
    stored.add_occurrences(tx, made)
    if len(found) == limit:
        series.next_at = tx.now
    else:
        series.made_through = local_text(max(after, until))
        _set_next(tx, settings, series)
    return len(made)


def _log_skipped(series: Series, start: datetime, error: Overlap) -> None:
    log("series.skipped", **_log_fields(series), start=timestamps.text(start), session_id=error.other_id)


def _log_fields(series: Series) -> dict[str, Any]:
    """Return the fields by which operators look for a series."""
    named = _session_request(series.template, series.created_at)  # the start does not matter here
    return {"series": series.id, "owner": f"agent:{series.agent_id}", **session_fields(named)}


def postpone(tx: Transaction, defect: SeriesDefect) -> None:
    """Log that no occurrences of a series could be made, and try again later.

    This follows in a transaction of its own, so another daemon may have dealt with the series meanwhile.
    """
    series = stored.find(tx, defect.name)
    if series is None or series.next_at is None or series.next_at > tx.now:
        return
    named: dict[str, Any] = {"series": series.id, "owner": f"agent:{series.agent_id}"}
    with suppress(Exception):  # perhaps the template is what is wrong
        named = _log_fields(series)
    log("series.failed", **named, **defect.fields())
    series.next_at = tx.now + RETRY
    stored.change(tx, series)


def _make_one(
    tx: Transaction, settings: Settings, owner: Caller, series: Series, local: datetime, start: datetime
) -> Occurrence:
    request = replace(_session_request(series.template, start), series_id=series.id, series_start=local_text(local))
    made = commands.create(tx, settings, owner, request, opens=False).session
    return _occurrence(series, local_text(local), made.id, start)


def _set_next(tx: Transaction, settings: Settings, series: Series) -> None:
    """Set when the next occurrences are to be made: as soon as the first of them is within the horizon."""
    plan = _Plan(series)
    after = recurrence.parse_local(series.made_through)
    following = plan.between(after, after + LOOK_AHEAD, 1)
    if following:
        series.next_at = max(plan.instant(following[0]) - plan.horizon_of(settings), tx.now + timedelta(seconds=1))
    else:
        series.next_at = tx.now + LOOK_AGAIN if _may_go_on(plan, after) else None


def _may_go_on(plan: _Plan, after: datetime) -> bool:
    """Return whether there may be occurrences more than `LOOK_AHEAD` after a local time."""
    definition = plan.definition
    if definition["ends"] is not None and definition["ends"] <= local_text(after):
        return False
    rule = plan.recurrence.rule
    is_over = rule is None or recurrence.is_over(rule, after, plan.recurrence.zone)
    return not is_over or any(one > after for one in plan.recurrence.added)


def _zone_problem(series: Series) -> str | None:
    """Return what is wrong with the time zone of a series on this machine; None if nothing is."""
    name = orjson.loads(series.definition)["timezone"]
    try:
        recurrence.zone(name)
    except UNKNOWN_ZONE:
        return f"this machine has no time zone {name}"
    return None


def acting_agent(view: View, settings: Settings, series: Series) -> Caller | None:
    """Return the agent of a series as a caller, with the present roles; None if the agent may not act any more."""
    known = agents.find(view, series.agent_id)
    if known is not None and known.shut_out_at is not None:
        return None
    then = orjson.loads(series.caller)
    found = next((one for one in settings.agents if one.id == series.agent_id), None)
    if found is not None:
        name, external_id, roles = found.name, found.external_id, found.roles
    elif series.agent_id == LOCAL_AGENT_ID or (series.agent_id >= FIRST_UNCONFIGURED_ID and known is not None):
        name, external_id, roles = then["name"], then["external_id"], frozenset(map(Role, then["roles"]))
    else:
        return None
    return Caller(series.agent_id, name, external_id, roles, provider=settings.organization.provider)


class SeriesSource:
    """The source of the deadlines of series: the times at which occurrences are to be made."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def next_due(self, view: View) -> datetime | None:
        """Return when the next occurrences are to be made; None if there are no more."""
        return stored.next_due(view)

    def do_due(self, tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:  # noqa: ARG002
        """Make the next occurrences of the series with the earliest deadline, at most `AT_ONCE` sessions.

        Raises `SeriesDefect` if that fails unexpectedly. Then the caller rolls this transaction back, and calls
        `postpone` in another one.
        """
        due = stored.due(tx, min(tx.now, until or tx.now), 1)
        if not due:
            return DueBatch()
        [series] = due
        with contained(series.id):
            return self._do(tx, series, limit)

    def _do(self, tx: Transaction, series: Series, limit: int) -> DueBatch:
        batch = DueBatch(more=True)
        problem = _zone_problem(series)  # such a series must not hold up all other deadlines
        owner = acting_agent(tx, self._settings, series)
        if owner is None:
            problem = "its agent may not act any more"
        elif problem is None:
            try:
                batch.done["occurrence"] += _make(tx, self._settings, owner, series, min(limit, AT_ONCE), skips=True)
            except RequestError as error:
                problem = error.description
        if problem is not None:
            log("series.failed", **_log_fields(series), error=problem)
            series.next_at = tx.now + RETRY
        stored.change(tx, series)
        batch.done["series"] += 1
        batch.waited = tx.waited
        return batch

    def recompute_deadlines(self, tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:  # noqa: ARG002
        """Change nothing: these deadlines do not depend on the time-outs of sessions."""
        return Recomputed(None, 0)

    def warm_up(self, tx: Transaction, timeouts: Timeouts) -> None:  # noqa: ARG002
        """Compile the query of `do_due`."""
        stored.due(tx, datetime(1970, 1, 1, tzinfo=UTC), 0)
