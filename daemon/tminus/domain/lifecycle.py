"""The transition table, and the one `transitions` machine built from it. Pure.

The table is the only judge of what is legal. The verbs ask `fire`; bulk moves take guard and destination from
`CLOCK_MOVES`; the README's diagram and the exhaustive test are checked against `TABLE`.
"""

from functools import cache
from typing import NamedTuple

from transitions import Machine, MachineError

from tminus.domain.errors import WrongStatus
from tminus.domain.types import CloseReason, Status, Trigger

INITIAL = "initial"
"""The machine's state before a session exists; never stored."""


class Transition(NamedTuple):
    """One row: who fires `trigger` moves a session from `source` to `dest`."""

    trigger: Trigger
    source: Status | None
    """None: the session does not exist yet."""
    dest: Status
    actor: str
    """agent, clock or room."""
    reason: CloseReason | None = None
    """Why it is closed by this."""


TABLE = (
    Transition(Trigger.CREATE, None, Status.NEW, "agent"),
    Transition(Trigger.SCHEDULE, None, Status.SCHEDULED, "agent"),
    Transition(Trigger.RESCHEDULE, Status.SCHEDULED, Status.SCHEDULED, "agent"),
    Transition(Trigger.OPEN, Status.SCHEDULED, Status.NEW, "clock"),
    Transition(Trigger.KNOCK, Status.NEW, Status.NEW, "room"),
    Transition(Trigger.KNOCK, Status.ACTIVE, Status.ACTIVE, "room"),
    Transition(Trigger.ADMIT, Status.NEW, Status.ACTIVE, "room"),
    Transition(Trigger.ADMIT, Status.ACTIVE, Status.ACTIVE, "room"),
    Transition(Trigger.DENY, Status.NEW, Status.NEW, "room"),
    Transition(Trigger.DENY, Status.ACTIVE, Status.ACTIVE, "room"),
    Transition(Trigger.JOIN, Status.NEW, Status.ACTIVE, "room"),
    Transition(Trigger.JOIN, Status.ACTIVE, Status.ACTIVE, "room"),
    Transition(Trigger.LEAVE, Status.ACTIVE, Status.ACTIVE, "room"),
    Transition(Trigger.EXPIRE, Status.NEW, Status.CLOSED, "clock", CloseReason.EXPIRED),
    Transition(Trigger.IDLE, Status.ACTIVE, Status.CLOSED, "clock", CloseReason.EMPTY),
    Transition(Trigger.TIME_LIMIT, Status.ACTIVE, Status.CLOSED, "clock", CloseReason.TIME_LIMIT),
    Transition(Trigger.CLOSE, Status.SCHEDULED, Status.CLOSED, "agent", CloseReason.CANCELLED),
    Transition(Trigger.CLOSE, Status.NEW, Status.CLOSED, "agent", CloseReason.CLOSED),
    Transition(Trigger.CLOSE, Status.ACTIVE, Status.CLOSED, "agent", CloseReason.CLOSED),
)

CLOCK_MOVES = tuple(row for row in TABLE if row.actor == "clock" and row.source is not None)
"""The moves that time makes; each trigger has one source, so a bulk move needs no more than these rows."""

_ROWS = {(row.trigger, row.source or INITIAL): row for row in TABLE}

# One machine for all sessions: `add_model` would keep every session alive, and automatic `to_<state>` transitions
# would reopen a closed one.
MACHINE = Machine(
    model=None,
    states=[INITIAL, *(str(status) for status in Status)],
    transitions=[[str(row.trigger), str(row.source or INITIAL), str(row.dest)] for row in TABLE],
    initial=INITIAL,
    auto_transitions=False,
    model_attribute="status",
)


class _Subject:
    """What the machine moves in a session's place: it sets plain text where a session holds a `Status`."""

    __slots__ = ("status",)

    def __init__(self, status: str) -> None:
        self.status = status


@cache
def fire(trigger: Trigger, status: Status | None) -> Transition:
    """The row by which `trigger` moves a session that is in `status` (None: not yet made).

    Raises `WrongStatus` where the table has no such row.
    """
    # The machine has no memory and no conditions, so what it said once about a pair holds: it is asked once a pair.
    source = status.value if status else INITIAL
    subject = _Subject(source)
    try:
        MACHINE.events[trigger].trigger(subject)
    except MachineError:
        raise WrongStatus(trigger=trigger.value, status=source) from None
    return _ROWS[trigger, source]
