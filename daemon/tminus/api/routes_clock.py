"""Routes of the clock: its time, and moves of the test clock."""

import asyncio
from datetime import datetime, timedelta

import orjson

from tminus import clock, schemas
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import ClockOrder
from tminus.api.response import Json
from tminus.api.routes_events import read_page
from tminus.api.routing import Answer, Router
from tminus.domain import timestamps
from tminus.domain.errors import BadClockMove, Forbidden, NoTestClock, UnsupportedMediaType
from tminus.domain.types import Role
from tminus.sessions.authorization import require
from tminus.storage import EventFilter

router = Router("/v3", "clock")

FARTHEST = timedelta(days=3653)
"""The longest move: ten years. A longer one is a mistake, such as a wrong century, and nobody can move the clock back.
"""

EVENTS = 1000
"""Maximum number of events in an answer; `next` is the cursor of the rest."""


@router.get("/clock", summary="Return the clock's time, and whether it is a test clock", answers=schemas.Clock)
async def get_clock(context: RequestContext, caller: CurrentCaller) -> Answer:
    services = context.services
    due = await services.query(services.clock.next_due)
    shown: schemas.Clock = {
        "now": timestamps.text(clock.now()),
        "test": services.clock.test_clock is not None,
        "nextDeadline": None if due is None else timestamps.text(due),
    }
    return Json(shown)


@router.post(
    "/clock",
    summary="Move the test clock, and return what happened meanwhile",
    answers=schemas.ClockMove,
    refusals=refusals(Forbidden, NoTestClock, BadClockMove, UnsupportedMediaType),
)
async def move_clock(context: RequestContext, caller: CurrentCaller, body: ClockOrder) -> Answer:
    services, test_clock = context.services, context.services.clock.test_clock
    require(caller.has(Role.GROUP_ADMIN), "the role group_admin")
    if test_clock is None:
        raise NoTestClock
    async with services.clock.moves:
        move = await asyncio.to_thread(test_clock.move, lambda now, due: _target(body, now, due))
        await services.rooms.clock_moved()
        services.webhooks.wake(also_blocked=True)
        events, following = await read_page(services, caller, move.after, EVENTS, EventFilter())
        await asyncio.to_thread(test_clock.remove_old)
        due = await services.query(services.clock.next_due)
    shown = {
        "from": timestamps.text(move.begun),
        "now": timestamps.text(move.now),
        "target": timestamps.text(move.target),
        "reached": move.now == move.target,
        "nextDeadline": None if due is None else timestamps.text(due),
        "events": [orjson.Fragment(event.json) for event in events],
        "next": following,
    }
    return Json(shown)


def _target(order: ClockOrder, now: datetime, due: datetime | None) -> datetime:
    """Return where the clock goes. Raises `BadClockMove`."""
    if order.to == "next":
        return now if due is None else max(due, now)
    field = "to" if order.advance is None else "advance"
    if order.advance is not None:
        if order.advance > FARTHEST:
            raise BadClockMove(field, f"must be at most {FARTHEST.days} days")
        target = now + order.advance
    else:
        assert isinstance(order.to, datetime)
        target = order.to
    if target < now:
        raise BadClockMove(field, f"must not be before {timestamps.text(now)}, where the clock stands")
    if target > min(now + FARTHEST, clock.LATEST):
        raise BadClockMove(field, f"must not be after {timestamps.text(min(now + FARTHEST, clock.LATEST))}")
    return target
