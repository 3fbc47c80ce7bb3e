"""The transition table, and the `transitions` machine that is built from it. No I/O.

A row of the table describes a transition completely: who may cause it, what it writes, and which events it records.
`storage.transitions` executes it. The machine decides which transitions are legal; the README shows its diagram.
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
"""The machine's state for a session that does not exist yet. It is never stored."""


class Change(Enum):
    """What a transition writes to a column. `storage.transitions` has the SQL for each."""

    NOW = auto()
    """The time of the transition."""
    NOW_IF_UNSET = auto()
    """The time of the transition, unless the column already has a value."""
    NOW_IF_EMPTY = auto()
    """The time of the transition if the last participant leaves; otherwise NULL."""
    NULL = auto()
    ZERO = auto()
    INCREMENT = auto()
    DECREMENT = auto()
    REASON = auto()
    """The transition's close reason."""
    PIN = auto()
    """A free PIN, if the session's type has PINs."""
    GIVEN = auto()
    """A value that the command passes."""
    REMINDER = auto()
    """The time of the next reminder, computed from the start that the command passes."""


Changes = Mapping[str, Change]
"""Column -> what is written to it. Every transition also writes status, version, deadline and `updated_at`."""


@dataclass(frozen=True, eq=False, slots=True)
class Effects:
    """What a transition writes, in addition to what every transition writes."""

    session: Changes = field(default_factory=dict)
    participant: Changes = field(default_factory=dict)
    """Changes to the row of the participant whom the transition is about."""
    adds_participant: bool = False
    """Whether the transition inserts that row."""
    all_participants: Changes = field(default_factory=dict)
    """Changes to the rows of all participants who have joined or knocked and have not left."""


NO_EFFECTS = Effects()
OPENED = Effects({"opened_at": Change.NOW, "pin": Change.PIN})
RESCHEDULED = Effects({"start_time": Change.GIVEN, "expires_at": Change.GIVEN, "remind_at": Change.REMINDER})
_ENTERED = {"activated_at": Change.NOW_IF_UNSET, "empty_since": Change.NULL, "participants": Change.INCREMENT}
JOINED = Effects(_ENTERED, {"joined_at": Change.NOW}, adds_participant=True)
KNOCKED = Effects(participant={"joined_at": Change.NOW, "waiting_since": Change.NOW}, adds_participant=True)
ADMITTED = Effects(_ENTERED, {"joined_at": Change.NOW, "waiting_since": Change.NULL})
DENIED = Effects(participant={"left_at": Change.NOW})
LEFT = Effects({"participants": Change.DECREMENT, "empty_since": Change.NOW_IF_EMPTY}, {"left_at": Change.NOW})
CANCELLED = Effects({"closed_at": Change.NOW, "close_reason": Change.REASON, "remind_at": Change.NULL})
CLOSED = Effects(
    {**CANCELLED.session, "pin": Change.ZERO, "participants": Change.ZERO}, all_participants={"left_at": Change.NOW}
)


class Transition(NamedTuple):
    """One row of the table: `trigger` moves a session from status `source` to status `dest`."""

    trigger: Trigger
    source: Status | None
    """None: the session does not exist yet."""
    dest: Status
    actor: str
    """Who may cause it: `agent`, `clock` or `room`."""
    events: tuple[EventType, ...]
    """The events that it records, in order."""
    effects: Effects = NO_EFFECTS
    reason: CloseReason | None = None
    """The close reason that it stores; None if it does not close the session."""


_E, _T, _R = EventType, Trigger, CloseReason
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
    Transition(_T.EXPIRE, _NEW, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _R.EXPIRED),
    Transition(_T.IDLE, _ACTIVE, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _R.EMPTY),
    Transition(_T.TIME_LIMIT, _ACTIVE, _CLOSED, "clock", (_E.CLOSED,), CLOSED, _R.TIME_LIMIT),
    Transition(_T.CLOSE, _SCHEDULED, _CLOSED, "agent", (_E.CLOSED,), CANCELLED, _R.CANCELLED),
    Transition(_T.CLOSE, _NEW, _CLOSED, "agent", (_E.CLOSED,), CLOSED, _R.CLOSED),
    Transition(_T.CLOSE, _ACTIVE, _CLOSED, "agent", (_E.CLOSED,), CLOSED, _R.CLOSED),
)


def has_pin_after(row: Transition, pin_statuses: Container[Status | None]) -> bool:
    """Return whether a session of a type with PINs has one after this transition.

    `pin_statuses`: the statuses in which it has one before.
    """
    change = row.effects.session.get("pin")
    return row.source in pin_statuses if change is None else change is Change.PIN


def _pin_statuses() -> frozenset[Status]:
    found: set[Status] = set()
    while more := {row.dest for row in TABLE if has_pin_after(row, found)} - found:
        found |= more
    return frozenset(found)


PIN_STATUSES = _pin_statuses()
"""The statuses in which a session has a PIN, if its type has PINs: after the transition that assigns it, until the one
that frees it.
"""

CLOCK_TRANSITIONS = tuple(row for row in TABLE if row.actor == "clock")
"""The transitions that the scheduler executes. Each has a trigger of its own, so the trigger identifies the row."""


class Deadline(NamedTuple):
    """A deadline of the sessions in `status`: the time in the column `since`, plus `span`.

    A session is due at the earliest deadline of its status. If two are at the same time, the first in `DEADLINES`
    applies.
    """

    status: Status
    since: str
    """A column of `session`. If it is NULL, the session does not have this deadline."""
    span: Callable[[Timeouts], timedelta | None]
    """Returns the time span for these time-outs; None: sessions do not have this deadline."""
    trigger: Trigger
    """The transition that is due then."""


def _before_start(timeouts: Timeouts) -> timedelta:
    return -timeouts.lead


DEADLINES = (
    Deadline(Status.SCHEDULED, "start_time", _before_start, Trigger.OPEN),
    Deadline(Status.NEW, "expires_at", lambda _timeouts: timedelta(0), Trigger.EXPIRE),
    Deadline(Status.ACTIVE, "empty_since", lambda timeouts: timeouts.empty, Trigger.IDLE),
    Deadline(Status.ACTIVE, "activated_at", lambda timeouts: timeouts.max_active, Trigger.TIME_LIMIT),
)
"""All deadlines that sessions can have. `storage.deadlines` turns them into SQL."""


def opens_at(start: datetime, timeouts: Timeouts) -> datetime:
    """Return when a session with this start time is due to open."""
    return start + _before_start(timeouts)


_ROWS = {(row.trigger, row.source or INITIAL): row for row in TABLE}


def definition() -> dict[str, Any]:
    """Return the table as the arguments of a `transitions` machine: for `MACHINE`, and for the diagram."""
    return {
        "states": [INITIAL, *(str(status) for status in Status)],
        "transitions": [[str(row.trigger), str(row.source or INITIAL), str(row.dest)] for row in TABLE],
        "initial": INITIAL,
        "auto_transitions": False,  # `to_<state>` would reopen a closed session
        "model_attribute": "status",
    }


# One machine for all sessions: `add_model` would keep every session in memory.
MACHINE = Machine(model=None, **definition())


class _Subject:
    """The object that the machine moves in place of a session: it sets `status` to plain text, not to a `Status`."""

    __slots__ = ("status",)

    def __init__(self, status: str) -> None:
        self.status = status


@cache
def transition_for(trigger: Trigger, status: Status | None) -> Transition:
    """Return the row by which `trigger` moves a session in `status` (None: it does not exist yet).

    Raises `WrongStatus` if the table has no such row.
    """
    # The machine has no state of its own and no conditions, so its answer for a pair never changes and can be cached.
    source = status.value if status else INITIAL
    subject = _Subject(source)
    try:
        MACHINE.events[trigger].trigger(subject)
    except MachineError:
        raise WrongStatus(trigger=trigger.value, status=source) from None
    return _ROWS[trigger, source]
