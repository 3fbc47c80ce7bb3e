"""The series of the configuration: each is created, changed and ended once, as its entry requires."""

from datetime import timedelta
from typing import Any

import pytest
from tests.support.factories import AGENT, OTHER_AGENT
from tests.support.worlds import World

from tminus import config
from tminus.config import Agent
from tminus.config.settings import Mail
from tminus.domain import ids, timestamps
from tminus.domain.errors import SeriesConfigured
from tminus.domain.model import Series, Session
from tminus.domain.types import OverlapPolicy, Role, SessionType, Status
from tminus.scheduler import configured_series
from tminus.scheduler.configured_series import PART, RETRY, ConfiguredSeries
from tminus.sessions import series
from tminus.storage import agents
from tminus.storage import series as stored

DAY = timedelta(days=1)

Lines = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The log lines of series, as pairs of a name and its fields."""
    found: Lines = []
    for module in (configured_series, series):
        monkeypatch.setattr(module, "log", lambda name, **fields: found.append((name, fields)))
    return found


def entry(name: str = "daily", hour: int = 9, **more: Any) -> dict[str, Any]:
    what = {"type": "live", "label": name, **more.pop("session", {})}
    return {
        "name": name, "agent": AGENT.agent_id, "rrule": "FREQ=DAILY", "dtstart": f"2030-01-08T{hour:02}:00",
        "timezone": "Europe/Berlin", "horizon": "3d", "session": what, **more,
    }  # fmt: skip


class Configured:
    """A world whose configuration has series, and the `ConfiguredSeries` that applies them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.job = ConfiguredSeries(world.store, world.store.submit)

    def apply(self, *entries: dict[str, Any], policy: dict[str, Any] | None = None) -> None:
        """Apply entries as a reload does, then create the sessions that are due."""
        several = [{"id": one, "name": "Ada", "roles": ["agent"]} for one in (AGENT.agent_id, OTHER_AGENT.agent_id)]
        found = config.Settings.model_validate({"agents": several, "series": entries, "policy": policy or {}})
        self.world.settings = found
        self.job.set_changed()
        self.tick()

    def tick(self) -> None:
        self.job.apply(self.world.settings, self.world.now)
        self.world.advance()

    def all(self) -> list[Series]:
        return self.world.store.read(lambda view: stored.listed(view, None, "", 100))[0]

    def sessions(self, name: str = "daily") -> list[Session]:
        found = [one for one in self.world.all_sessions().values() if one.label == name]
        return sorted(found, key=lambda one: one.start_time or self.world.now)

    def starts(self, name: str = "daily") -> list[str]:
        scheduled = [one for one in self.sessions(name) if one.status is Status.SCHEDULED]
        return [f"{one.start_time:%d %H:%M}" for one in scheduled]


@pytest.fixture
def configured(world: World) -> Configured:
    return Configured(world)


def test_an_entry_makes_its_series_once(configured: Configured, lines: Lines) -> None:
    configured.apply(entry())
    configured.apply(entry())
    other = ConfiguredSeries(configured.world.store, configured.world.store.submit)
    other.apply(configured.world.settings, configured.world.now)

    [made] = configured.all()
    assert (made.entry, made.agent_id, made.version) == ("daily", AGENT.agent_id, 1)
    assert configured.starts() == ["08 08:00", "09 08:00", "10 08:00"]
    assert [(name, fields["outcome"]) for name, fields in lines] == [("series.configured", "created")]
    configured.world.passes(DAY)
    assert configured.starts()[-1] == "11 08:00"


def test_a_changed_entry_moves_its_sessions_but_not_those_that_were_moved_or_cancelled_alone(
    configured: Configured,
) -> None:
    configured.apply(entry(), entry("other"))
    moved, cancelled, third = configured.sessions()
    configured.world.reschedule(moved, moved.start_time + timedelta(hours=3))  # type: ignore[operator,arg-type]
    configured.world.close(cancelled)

    configured.apply(entry("other"), entry(hour=10))

    assert configured.starts() == ["08 11:00", "10 09:00"]
    assert {one.id for one in configured.sessions()} == {moved.id, cancelled.id, third.id}
    assert configured.starts("other") == ["08 08:00", "09 08:00", "10 08:00"], "the order of entries does not matter"


def test_a_removed_entry_ends_its_series_and_comes_back_as_another(configured: Configured) -> None:
    configured.apply(entry())
    configured.apply()
    [ended] = configured.all()
    assert (ended.ended_at, configured.starts()) == (configured.world.now, [])
    configured.apply(entry())
    assert len(configured.all()) == 2
    assert len(configured.starts()) == 3


def test_another_agent_gets_a_series_of_its_own(configured: Configured, lines: Lines) -> None:
    configured.apply(entry())
    configured.apply(entry(agent=OTHER_AGENT.agent_id))
    assert [fields["outcome"] for _, fields in lines] == ["created", "created"]
    open_series = [one.agent_id for one in configured.all() if one.ended_at is None]
    assert open_series == [OTHER_AGENT.agent_id]
    assert {one.agent_id for one in configured.sessions() if one.status is Status.SCHEDULED} == {OTHER_AGENT.agent_id}


def test_only_the_configuration_changes_its_series(configured: Configured) -> None:
    configured.apply(entry())
    [one] = configured.all()
    world, order = configured.world, configured.world.settings.series[0].create_series()
    with pytest.raises(SeriesConfigured):
        world.run(lambda tx: series.change(tx, world.settings, AGENT, one.id, order))
    with pytest.raises(SeriesConfigured):
        world.run(lambda tx: series.end(tx, world.settings, AGENT, one.id))
    assert len(configured.starts()) == 3


def test_what_cannot_be_applied_is_reported_once_and_tried_again(configured: Configured, lines: Lines) -> None:
    world = configured.world
    world.run(lambda tx: agents.shut_out(tx, AGENT.agent_id))
    configured.apply(entry(), entry("other", agent=OTHER_AGENT.agent_id), entry("old", dtstart="2010-01-01T09:00"))
    world.clock.passes(RETRY)
    configured.tick()

    refused = [(fields["key"], fields["error"]) for name, fields in lines if name == "series.refused"]
    assert refused == [
        ("series[daily]", "Agent 7 is shut out: contact your administrator"),
        ("series[old]", "dtstart must not be more than ten years ago"),
    ]
    assert len(configured.starts("other")) == 3
    world.run(lambda tx: agents.readmit(tx, AGENT.agent_id))
    configured.tick()
    assert not configured.starts(), "the next attempt is later"
    world.clock.passes(RETRY)
    configured.tick()
    assert len(configured.starts()) == 3


def test_an_unexpected_error_stops_only_its_entry(
    configured: Configured, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.apply(entry(), entry("other"))
    original = series._change

    def fail(*arguments: Any, **more: Any) -> Any:
        original(*arguments, **more)
        if arguments[3].entry == "daily":
            raise IndexError("list index out of range")

    monkeypatch.setattr(series, "_change", fail)
    configured.apply(entry(hour=10), entry("other", hour=10))
    configured.world.clock.passes(RETRY)
    configured.tick()
    assert configured.starts() == ["08 08:00", "09 08:00", "10 08:00"], "nothing of the change is stored"
    assert configured.starts("other") == ["08 09:00", "09 09:00", "10 09:00"]
    [refused] = [fields for name, fields in lines if name == "series.refused"]
    assert (refused["key"], refused["error"]) == ("series[daily]", "IndexError: list index out of range")
    assert refused["traceback"].startswith("fail (")
    monkeypatch.setattr(series, "_change", original)
    configured.world.clock.passes(RETRY)
    configured.tick()
    assert configured.starts() == ["08 09:00", "09 09:00", "10 09:00"]


def test_an_unreadable_series_of_an_entry_stops_only_that_entry(configured: Configured, lines: Lines) -> None:
    configured.apply(entry(), entry("other"))
    broken = next(one for one in configured.all() if one.entry == "daily")
    configured.world.run(lambda tx: stored.change(tx, broken.model_copy(update={"definition": "{"})))
    configured.apply(entry(), entry("other", hour=10), entry("third"))
    assert (len(configured.starts("other")), len(configured.starts("third"))) == (3, 3)
    assert [fields["key"] for name, fields in lines if name == "series.refused"] == ["series[daily]"]


def test_an_entry_that_causes_too_many_mails_is_reported_once(configured: Configured, lines: Lines) -> None:
    people = {"invitees": [{"email": "joe@example.com"}]}
    configured.apply(entry(session=people))
    configured.apply(entry(hour=10, session=people))
    world = configured.world
    mail = Mail(host="localhost", **{"from": "desk@example.com"})
    world.settings = config.Settings.model_validate(
        {
            "agents": [{"id": AGENT.agent_id, "name": "Ada", "roles": ["agent"]}],
            "series": [entry(hour=11, session=people)],
            "limits": {"mails_per_agent": "2/hour"},
        }
    ).model_copy(update={"mail": mail})
    configured.job.set_changed()
    configured.tick()
    world.clock.passes(RETRY)
    configured.tick()
    [refused] = [fields for name, fields in lines if name == "series.refused"]
    assert "2/hour" in refused["error"]
    assert refused["retry_at"] == timestamps.text(world.now), "that was the second attempt"


def test_another_attempt_leaves_the_series_of_newer_entries_of_another_daemon(configured: Configured) -> None:
    configured.world.run(lambda tx: agents.shut_out(tx, AGENT.agent_id))
    configured.apply(entry(), entry("other", agent=OTHER_AGENT.agent_id))
    newer = Configured(configured.world)
    older = configured.world.settings
    newer.apply(entry("other", hour=10, agent=OTHER_AGENT.agent_id), entry("more", agent=OTHER_AGENT.agent_id))

    configured.world.settings = older
    configured.world.clock.passes(RETRY)
    configured.tick()

    assert configured.starts("other")[0] == "08 09:00"
    assert len(configured.starts("more")) == 3


def test_other_things_are_done_between_many_entries_and_a_stop_leaves_the_rest_for_later(
    configured: Configured,
) -> None:
    goes_on = [True, False]
    world = configured.world
    configured.job = ConfiguredSeries(world.store, world.store.submit, lambda _: goes_on.pop(0))
    configured.apply(*(entry(f"daily-{one}") for one in range(2 * PART + 5)))
    assert goes_on == []
    assert len(configured.all()) == 2 * PART - 1

    goes_on.append(True)
    configured.tick()
    assert len(configured.all()) == 2 * PART + 5


def test_an_occurrence_that_would_overlap_is_left_out_and_reported_once(configured: Configured, lines: Lines) -> None:
    taken = configured.world.schedule(timedelta(hours=47), label="taken")  # 2030-01-09 08:00 UTC
    assert f"{taken.start_time:%d %H:%M}" == "09 08:00"
    configured.apply(entry(), policy={"overlap": "refuse"})
    assert configured.world.settings.policy.overlap is OverlapPolicy.REFUSE
    assert configured.starts() == ["08 08:00", "10 08:00"]
    for _ in range(3):
        configured.world.passes(timedelta(minutes=6))
    skipped = [fields for name, fields in lines if name == "series.skipped"]
    assert [(one["start"], one["session_id"]) for one in skipped] == [("2030-01-09T08:00:00.000Z", taken.id)]
    assert skipped[0]["label"] == "daily"


def test_without_a_free_pin_an_occurrence_is_made_once_and_opens_later(
    configured: Configured, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "PINS", range(100_000, 100_001))
    world = configured.world
    holder = world.create(SessionType.SUPPORT)
    soon = f"{world.now + timedelta(hours=1, minutes=5):%Y-%m-%dT%H:%M}"  # in Berlin, within the lead time
    configured.apply(entry(dtstart=soon, rrule="FREQ=DAILY;COUNT=1", session={"type": "support"}))
    for _ in range(3):
        world.passes(timedelta(seconds=1))
    assert [one.status for one in configured.sessions()] == [Status.SCHEDULED]
    world.close(holder)
    world.passes(timedelta(minutes=1))
    assert [(one.status, one.pin) for one in configured.sessions()] == [(Status.NEW, 100_000)]
    assert not [name for name, _ in lines if name == "series.failed"]


def test_the_agent_of_a_removed_entry_may_be_gone_too(configured: Configured) -> None:
    configured.apply(entry())
    configured.world.settings = config.Settings(
        agents=(Agent(id=OTHER_AGENT.agent_id, name="Eve", roles=frozenset({Role.AGENT})),)
    )
    configured.job.set_changed()
    configured.tick()
    assert not configured.starts()
