"""Random commands and time spans, compared with a small model. On both databases."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)  # fmt: skip
from tests.support.clocks import NOW
from tests.support.factories import settings as tminus_settings
from tests.support.worlds import World

from tminus.domain import ids
from tminus.domain.errors import BadStartTime, NoKnocking, WrongStatus
from tminus.domain.model import Session
from tminus.domain.types import SessionType

MINUTE = timedelta(minutes=1)
LEAD, NEW, EMPTY, MAX_ACTIVE = 10 * MINUTE, 60 * MINUTE, 15 * MINUTE, 90 * MINUTE

TYPES = st.sampled_from(SessionType)
AHEAD = st.integers(-3, 120).map(lambda minutes: minutes * MINUTE)
SPANS = st.sampled_from([0, 1, 5, 10, 15, 30, 60, 90, 300]).map(lambda minutes: minutes * MINUTE)


@dataclass
class Model:
    """The expected state of a session."""

    stored: Session
    status: str
    expires: datetime
    start: datetime | None = None
    activated: datetime | None = None
    empty_since: datetime | None = None
    inside: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    event_types: list[str] = field(default_factory=list)

    def due(self) -> datetime | None:
        if self.status == "scheduled":
            assert self.start is not None
            return self.start - LEAD
        if self.status == "new":
            return self.expires
        if self.status == "active":
            assert self.activated is not None
            limits = [self.activated + MAX_ACTIVE]
            return min(limits + ([self.empty_since + EMPTY] if self.empty_since else []))
        return None

    def advance(self, now: datetime) -> None:
        while (due := self.due()) is not None and due <= now:
            if self.status == "scheduled":
                self.status = "new"
                self.event_types.append("session.ready")
            else:
                self.close()

    def close(self) -> None:
        self.status, self.inside, self.waiting = "closed", set(), set()
        self.event_types.append("session.closed")

    def enter(self, person: str, now: datetime, *how: str) -> None:
        if self.status == "new":
            self.event_types.append("session.active")
            self.status, self.activated = "active", now
        self.event_types += [*how, "participant.joined"]
        self.empty_since = None
        self.inside.add(person)

    def open_if_due(self, now: datetime) -> None:
        if self.status == "scheduled" and self.start is not None and self.start - LEAD <= now:
            self.status = "new"
            self.event_types.append("session.ready")


class AnyTime(RuleBasedStateMachine):
    """Commands and time spans in any order. Sweeps run at random times, so commands also apply to overdue sessions."""

    world: World
    sessions = Bundle("sessions")
    people = Bundle("people")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.world.clear(NOW)
        self.world.settings = tminus_settings(lead=LEAD, new_timeout=NEW, empty_timeout=EMPTY, max_active=MAX_ACTIVE)

    @property
    def now(self) -> datetime:
        return self.world.now

    # --- rules --------------------------------------------------------------------------------------------------------

    @rule(target=sessions, session_type=TYPES)
    def create(self, session_type: SessionType) -> str:
        made = self.world.create(session_type, preferences={"knock": True})
        self.models[made.id] = Model(made, "new", self.now + NEW, event_types=["session.created"])
        return made.id

    @rule(target=sessions, session_type=TYPES, ahead=AHEAD)
    def schedule(self, session_type: SessionType, ahead: timedelta) -> object:
        start = self.now + ahead
        if ahead < -MINUTE:
            with pytest.raises(BadStartTime):
                self.world.create(session_type, start_time=start)
            return multiple()
        made = self.world.create(session_type, start_time=start)
        model = Model(made, "scheduled", start + NEW, start, event_types=["session.scheduled"])
        model.open_if_due(self.now)
        self.models[made.id] = model
        return made.id

    @rule(session_id=sessions, ahead=AHEAD)
    def reschedule(self, session_id: str, ahead: timedelta) -> None:
        model, start = self.models[session_id], self.now + ahead
        if model.status != "scheduled":
            with pytest.raises(WrongStatus):
                self.world.reschedule(model.stored, start)
        elif start != model.start and ahead < -MINUTE:
            with pytest.raises(BadStartTime):
                self.world.reschedule(model.stored, start)
        else:
            self.world.reschedule(model.stored, start)
            if start != model.start:
                model.start, model.expires = start, start + NEW
                model.event_types.append("session.rescheduled")
                model.open_if_due(self.now)

    @rule(target=people, session_id=sessions)
    def join(self, session_id: str) -> object:
        model = self.models[session_id]
        if model.status not in {"new", "active"}:
            with pytest.raises(WrongStatus):
                self.world.join(model.stored)
            return multiple()
        person = self.world.join(model.stored)
        model.enter(person, self.now)
        return (session_id, person)

    @rule(target=people, session_id=sessions)
    def knock(self, session_id: str) -> object:
        model = self.models[session_id]
        if model.status not in {"new", "active"} or not orjson.loads(model.stored.settings)["knock"]:
            with pytest.raises((WrongStatus, NoKnocking)):
                self.world.knock(model.stored)
            return multiple()
        person = self.world.knock(model.stored)
        model.event_types.append("participant.knocked")
        model.waiting.add(person)
        return (session_id, person)

    @rule(who=people, admitted=st.booleans())
    def answer(self, who: tuple[str, str], admitted: bool) -> None:
        session_id, person = who
        model = self.models[session_id]
        command = self.world.admit if admitted else self.world.deny
        if person not in model.waiting:
            with suppress(NoKnocking, WrongStatus):
                command(model.stored, person)
            return
        command(model.stored, person)
        model.waiting.remove(person)
        if admitted:
            model.enter(person, self.now, "participant.admitted")
        else:
            model.event_types.append("participant.denied")

    @rule(who=st.one_of(people, consumes(people)))
    def leave(self, who: tuple[str, str]) -> None:
        session_id, person = who
        model = self.models[session_id]
        self.world.leave(model.stored, person)
        if person in model.waiting:
            model.waiting.remove(person)
            model.event_types.append("participant.denied")
        if person in model.inside:
            model.inside.remove(person)
            model.event_types.append("participant.left")
            model.empty_since = None if model.inside else self.now

    @rule(session_id=sessions)
    def close(self, session_id: str) -> None:
        model = self.models[session_id]
        self.world.close(model.stored)
        if model.status != "closed":
            model.close()

    @rule(span=SPANS)
    def time_passes(self, span: timedelta) -> None:
        self.world.clock.passes(span)

    @rule(span=SPANS)
    def the_scheduler_runs(self, span: timedelta) -> None:
        self.world.passes(span)
        for model in self.models.values():
            model.advance(self.now)

    @rule(span=SPANS)
    def the_clock_is_set_back_and_the_scheduler_runs(self, span: timedelta) -> None:
        self.the_scheduler_runs(-span)

    # --- invariants ---------------------------------------------------------------------------------------------------

    @invariant()
    def every_session_equals_the_model(self) -> None:
        stored = self.world.all_sessions()
        assert stored.keys() == self.models.keys()
        for session_id, model in self.models.items():
            found = stored[session_id]
            assert (found.status, found.participants) == (model.status, len(model.inside))
            assert (found.due_at, found.expires_at, found.start_time) == (model.due(), model.expires, model.start)
            assert (found.due_at is None) == (found.due_trigger is None)
            assert (found.pin in ids.PINS) is (found.type.has_pin and model.status in {"new", "active"})
            assert (found.closed_at is not None) == (found.close_reason is not None) == (model.status == "closed")
            assert found.user_url == model.stored.user_url
        pins = [session.pin for session in stored.values() if session.pin]
        assert len(pins) == len(set(pins))

    @invariant()
    def every_transition_is_recorded_once_in_order(self) -> None:
        events = [entry.event for entry in self.world.events()]
        for session_id, model in self.models.items():
            recorded = [event for event in events if event.session_id == session_id]
            assert [event.type for event in recorded] == model.event_types
            assert not recorded or recorded[-1].status == model.status
        assert len(events) == sum(len(model.event_types) for model in self.models.values())


@pytest.fixture
def machine(world: World) -> Iterator[type[AnyTime]]:
    AnyTime.world = world
    yield AnyTime
    del AnyTime.world


@pytest.mark.slow
def test_after_any_sequence_of_commands_and_time_every_session_equals_the_model(machine: type[AnyTime]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
