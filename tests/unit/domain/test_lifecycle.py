"""The legal transitions: every state with every trigger, compared with a second table in this file."""

import pytest

from tminus.domain.errors import WrongStatus
from tminus.domain.lifecycle import CLOCK_TRANSITIONS, INITIAL, MACHINE, TABLE, transition_for
from tminus.domain.types import CloseReason, Status, Trigger

# (state, trigger): (new state, actor, close reason)
LEGAL: dict[tuple[str, str], tuple[str, str, str | None]] = {
    ("initial", "create"): ("new", "agent", None),
    ("initial", "schedule"): ("scheduled", "agent", None),
    ("scheduled", "reschedule"): ("scheduled", "agent", None),
    ("scheduled", "open"): ("new", "clock", None),
    ("scheduled", "close"): ("closed", "agent", "cancelled"),
    ("new", "knock"): ("new", "room", None),
    ("new", "admit"): ("active", "room", None),
    ("new", "deny"): ("new", "room", None),
    ("new", "join"): ("active", "room", None),
    ("new", "expire"): ("closed", "clock", "expired"),
    ("new", "close"): ("closed", "agent", "closed"),
    ("active", "knock"): ("active", "room", None),
    ("active", "admit"): ("active", "room", None),
    ("active", "deny"): ("active", "room", None),
    ("active", "join"): ("active", "room", None),
    ("active", "leave"): ("active", "room", None),
    ("active", "idle"): ("closed", "clock", "empty"),
    ("active", "time_limit"): ("closed", "clock", "time_limit"),
    ("active", "close"): ("closed", "agent", "closed"),
}

STATES = ("initial", "scheduled", "new", "active", "closed")
TRIGGERS = ("create", "schedule", "reschedule", "open", "knock", "admit", "deny", "join", "leave", "expire", "idle",
            "time_limit", "close")  # fmt: skip


def test_these_are_all_states_and_all_triggers() -> None:
    assert (INITIAL, *(status.value for status in Status)) == STATES, "add the status to STATES"
    assert tuple(trigger.value for trigger in Trigger) == TRIGGERS, "add the trigger to TRIGGERS"


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("state", STATES)
def test_a_trigger_moves_a_session_as_the_table_defines_or_is_refused(state: str, trigger: str) -> None:
    status = None if state == "initial" else Status(state)
    if (state, trigger) not in LEGAL:
        with pytest.raises(WrongStatus) as refused:
            transition_for(Trigger(trigger), status)
        assert (refused.value.trigger, refused.value.status) == (trigger, state)
        return
    dest, actor, reason = LEGAL[state, trigger]
    row = transition_for(Trigger(trigger), status)
    assert (row.trigger, row.source, row.dest, row.actor, row.reason) == (trigger, status, dest, actor, reason)
    assert (type(row.dest), type(row.reason)) == (Status, CloseReason if reason else type(None))


def test_the_table_has_no_row_but_these() -> None:
    assert {(row.source or "initial", row.trigger) for row in TABLE} == set(LEGAL), "add the rows to LEGAL"
    assert len(TABLE) == len(LEGAL)


def test_the_machine_has_no_trigger_that_is_not_in_the_table() -> None:
    assert set(MACHINE.events) == set(TRIGGERS), "automatic to_<state> transitions would reopen a closed session"


def test_the_machine_keeps_no_session_in_memory() -> None:
    transition_for(Trigger.OPEN, Status.SCHEDULED)
    assert MACHINE.models == []


def test_no_transition_leaves_the_status_closed() -> None:
    assert not [row for row in TABLE if row.source is Status.CLOSED]


def test_each_transition_of_the_scheduler_has_one_source() -> None:
    assert [(row.trigger, row.source) for row in CLOCK_TRANSITIONS] == [
        (Trigger.OPEN, Status.SCHEDULED),
        (Trigger.EXPIRE, Status.NEW),
        (Trigger.IDLE, Status.ACTIVE),
        (Trigger.TIME_LIMIT, Status.ACTIVE),
    ]


def test_exactly_the_transitions_to_closed_have_a_close_reason() -> None:
    for row in TABLE:
        assert (row.reason is not None) == (row.dest is Status.CLOSED), row
