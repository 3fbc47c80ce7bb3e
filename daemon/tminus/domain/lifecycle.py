"""The transition table, and the one `transitions` machine built from it. Pure.

The table holds everything that a transition means: who may cause it, what it writes, which events it records.
`storage.transitions` executes it; the machine is asked what is legal; its diagram is the README's.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import cache
from typing import Any, NamedTuple

from transitions import Machine, MachineError

from tminus.domain.errors import WrongStatus
from tminus.domain.types import CloseReason, EventType, Status, Timeouts, Trigger

INITIAL = "initial"
"""The machine's state before a session exists; never stored."""


class Change(Enum):
    """What a transition writes to a column. `storage.transitions` has the SQL of each."""

    NOW = auto()
    """The instant of the transition."""
    NOW_IF_UNSET = auto()
    """That instant, unless the column has a value already."""
    NOW_IF_EMPTY = auto()
    """That instant if the last participant leaves; otherwise NULL."""
    NULL = auto()
    ZERO = auto()
    ONE_MORE = auto()
    ONE_LESS = auto()
    REASON = auto()
    """The transition's close reason."""
    PIN = auto()
    """A free PIN, where the session's type has one."""
    GIVEN = auto()
    """What the command gives."""


Changes = Mapping[str, Change]
"""Column -> what is written to it. Status, version, deadline and time of change are written by every transition."""


@dataclass(frozen=True, eq=False, slots=True)
class Effects:
    """What a transition writes besides what every transition writes."""

    session: Changes = field(default_factory=dict)
    participant: Changes = field(default_factory=dict)
    """To the row of the participant whom the transition is about."""
    arrives: bool = False
    """Whether that row is new."""
    everybody: Changes = field(default_factory=dict)
    """To the rows of all who are in the session, or wait at its door."""


NOTHING = Effects()
OPENED = Effects({"opened_at": Change.NOW, "pin": Change.PIN})
RESCHEDULED = Effects({"start_time": Change.GIVEN, "expires_at": Change.GIVEN})
_ONE_MORE = {"activated_at": Change.NOW_IF_UNSET, "empty_since": Change.NULL, "participants": Change.ONE_MORE}
JOINED = Effects(_ONE_MORE, {"joined_at": Change.NOW}, arrives=True)
KNOCKED = Effects(participant={"joined_at": Change.NOW, "waiting_since": Change.NOW}, arrives=True)
ADMITTED = Effects(_ONE_MORE, {"joined_at": Change.NOW, "waiting_since": Change.NULL})
DENIED = Effects(participant={"left_at": Change.NOW})
LEFT = Effects({"participants": Change.ONE_LESS, "empty_since": Change.NOW_IF_EMPTY}, {"left_at": Change.NOW})
CANCELLED = Effects({"closed_at": Change.NOW, "close_reason": Change.REASON})
CLOSED = Effects(
    {**CANCELLED.session, "pin": Change.ZERO, "participants": Change.ZERO}, everybody={"left_at": Change.NOW}
)


class Transition(NamedTuple):
    """One row of the table: `trigger` takes a session from `source` to `dest`."""

    trigger: Trigger
    source: Status | None
    """None: the session does not exist yet."""
    dest: Status
    actor: str
    """Who may cause it: agent, clock or room."""
    events: tuple[EventType, ...]
    """What it records, in order."""
    effects: Effects = NOTHING
    reason: CloseReason | None = None
    """Why the session is closed by it."""


_E, _T, _W = EventType, Trigger, CloseReason
_SCHEDULED, _NEW, _ACTIVE, _CLOSED = Status.SCHEDULED, Status.NEW, Status.ACTIVE, Status.CLOSED

TABLE = (
    Transition(_T.CREATE, None, _NEW, "agent", (_E.CREATED,), OPENED),
    Transition(_T.SCHEDULE, None, _SCHEDULED, "agent", (_E.SCHEDULED,)),
    Transition(_T.RESCHEDULE, _SCHEDULED, _SCHEDULED, "agent", (_E.RESCHEDULED,), RESCHEDULED),
    Transition(_T.OPEN, _SCHEDULED, _NEW, "clock", (_E.READY,), OPENED),
    Transition(_T.KNOCK, _NEW, _NEW, "room", (_E.KNOCKED,), KNOCKED),
    Transition(_T.KNOCK, _ACTIVE, _ACTIVE, "room", (_E.KNOCKED,), KNOCKED),
    Transition(_T.ADMIT, _NEW, _ACTIVE, "room", (_E.ACTIVE, _E.ADMITTED, _E.JOINED), ADMITTED),
    Transition(_T.ADMIT, _ACTIVE, _ACTIVE, "room", (_E.ADMITTED, _E.JOINED), ADMITTED),
    Transition(_T.DENY, _NEW, _NEW, "room", (_E.DENIED,), DENIED),
    Transition(_T.DENY, _ACTIVE, _ACTIVE, "room", (_E.DENIED,), DENIED),
    Transition(_T.JOIN, _NEW, _ACTIVE, "room", (_E.ACTIVE, _E.JOINED), JOINED),
    Transition(_T.JOIN, _ACTIVE, _ACTIVE, "room", (_E.JOINED,), JOINED),
    Transition(_T.LEAVE, _ACTIVE, _ACTIVE, "room", (_E.LEFT,), LEFT),
    Transition(_T.EXPIRE, _NEW, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _W.EXPIRED),
    Transition(_T.IDLE, _ACTIVE, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _W.EMPTY),
    Transition(_T.TIME_LIMIT, _ACTIVE, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _W.TIME_LIMIT),
    Transition(_T.CLOSE, _SCHEDULED, _CLOSED, "agent", (_E.CLOSED,), CANCELLED, _W.CANCELLED),
    Transition(_T.CLOSE, _NEW, _CLOSED, "agent", (_E.CLOSED,), CLOSED, _W.CLOSED),
    Transition(_T.CLOSE, _ACTIVE, _CLOSED, "agent", (_E.CLOSED,), CLOSED, _W.CLOSED),
)


def has_pin_after(row: Transition, before: Container[Status | None]) -> bool:
    """Return whether a session of a type with PINs has one after this transition. `before`: the statuses with a PIN."""
    change = row.effects.session.get("pin")
    return row.source in before if change is None else change is Change.PIN


def _pin_statuses() -> frozenset[Status]:
    found: set[Status] = set()
    while more := {row.dest for row in TABLE if has_pin_after(row, found)} - found:
        found |= more
    return frozenset(found)


PIN_STATUSES = _pin_statuses()
"""The statuses in which a session has a PIN, if its type has one: from the transition that gives it to the one that
frees it.
"""

CLOCK_TRANSITIONS = tuple(row for row in TABLE if row.actor == "clock")
"""Those that time causes. Each has a trigger of its own, so the trigger alone names the row."""


class Deadline(NamedTuple):
    """One reason for which time moves a session: in `status`, `span` after the instant in the column `since`.

    A session is due at the earliest of its status's deadlines; of two at the same instant, at the first in `DEADLINES`.
    """

    status: Status
    since: str
    """A column; where it is NULL, there is no such deadline."""
    span: Callable[[Timeouts], timedelta | None]
    """None: there is no such deadline by these time-outs."""
    trigger: Trigger


def _opening(timeouts: Timeouts) -> timedelta:
    return -timeouts.lead


DEADLINES = (
    Deadline(Status.SCHEDULED, "start_time", _opening, Trigger.OPEN),
    Deadline(Status.NEW, "expires_at", lambda _timeouts: timedelta(0), Trigger.EXPIRE),
    Deadline(Status.ACTIVE, "empty_since", lambda timeouts: timeouts.empty, Trigger.IDLE),
    Deadline(Status.ACTIVE, "activated_at", lambda timeouts: timeouts.max_active, Trigger.TIME_LIMIT),
)
"""Every deadline that a session can have. `storage.deadlines` turns them into SQL."""


def opens_at(start: datetime, timeouts: Timeouts) -> datetime:
    """Return when a session with this start time is due to open."""
    return start + _opening(timeouts)


_ROWS = {(row.trigger, row.source or INITIAL): row for row in TABLE}


def definition() -> dict[str, Any]:
    """Return the table as `transitions` takes it: for the machine that is asked, and for the one that is drawn."""
    return {
        "states": [INITIAL, *(str(status) for status in Status)],
        "transitions": [[str(row.trigger), str(row.source or INITIAL), str(row.dest)] for row in TABLE],
        "initial": INITIAL,
        "auto_transitions": False,  # `to_<state>` would reopen a closed session
        "model_attribute": "status",
    }


# One machine for all sessions: `add_model` would keep every session alive.
MACHINE = Machine(model=None, **definition())


class _Subject:
    """What the machine moves in a session's place: it sets plain text where a session holds a `Status`."""

    __slots__ = ("status",)

    def __init__(self, status: str) -> None:
        self.status = status


@cache
def fire(trigger: Trigger, status: Status | None) -> Transition:
    """Return the row by which `trigger` moves a session that is in `status` (None: it does not exist yet).

    Raises `WrongStatus` where the table has no such row.
    """
    # The machine has no memory and no conditions, so its answer for a pair holds: it is asked once for each pair.
    source = status.value if status else INITIAL
    subject = _Subject(source)
    try:
        MACHINE.events[trigger].trigger(subject)
    except MachineError:
        raise WrongStatus(trigger=trigger.value, status=source) from None
    return _ROWS[trigger, source]
