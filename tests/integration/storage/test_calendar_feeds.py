"""The sessions that an agent's calendar feed shows, and the addresses of feeds. On both databases."""

from datetime import timedelta
from functools import partial

from tests.support.factories import HOUR, session
from tests.support.worlds import World

from tminus.domain.model import CalendarFeed
from tminus.domain.types import CloseReason, Status
from tminus.storage import calendar_feeds

DAY = timedelta(days=1)


def shown(world: World, limit: int = 1000) -> list[str]:
    since = world.now - 30 * DAY
    return [one.id for one in world.store.read(lambda view: calendar_feeds.planned(view, 7, since, limit))]


def test_open_sessions_with_the_earliest_starts_have_precedence_over_ended_ones(world: World) -> None:
    now, closed = world.now, {"status": Status.CLOSED, "close_reason": CloseReason.EMPTY}
    world.put(
        *(session(id=f"open{days}", start_time=now + days * DAY) for days in range(4)),
        *(session(id=f"past{days}", start_time=now - days * DAY, closed_at=now, **closed) for days in (1, 2, 40)),
        session(id="another's", agent_id=8),
        session(id="at once", start_time=None, status=Status.NEW),
    )

    assert shown(world) == ["past2", "past1", "open0", "open1", "open2", "open3"]
    assert shown(world, 3) == ["open0", "open1", "open2"]
    assert len(shown(world, 5)) == 5


def test_a_cancelled_session_disappears_thirty_days_after_the_cancellation(world: World) -> None:
    cancelled = {"status": Status.CLOSED, "close_reason": CloseReason.CANCELLED, "start_time": world.now + 90 * DAY}
    world.put(
        session(id="lately", closed_at=world.now - 29 * DAY, **cancelled),
        session(id="long ago", closed_at=world.now - 31 * DAY, **cancelled),
    )

    assert shown(world) == ["lately"]


def test_an_agent_has_one_address(world: World) -> None:
    for secret in ("a", "b"):
        feed = CalendarFeed(agent_id=7, secret_sha256=secret, created_at=world.now)
        world.run(partial(calendar_feeds.replace, feed=feed))

    found = [world.store.read(partial(calendar_feeds.by_secret, secret_sha256=secret)) for secret in ("a", "b")]
    assert [one and one.agent_id for one in found] == [None, 7]
    assert world.run(lambda tx: calendar_feeds.remove(tx, 7))
    assert not world.run(lambda tx: calendar_feeds.remove(tx, 7))


def test_a_feed_has_all_sessions_although_one_statement_reads_fewer(world: World) -> None:
    world.put(*(session(id=f"s{number:03}", start_time=world.now + number * HOUR) for number in range(250)))

    assert shown(world) == [f"s{number:03}" for number in range(250)]
