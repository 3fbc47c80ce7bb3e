"""Find what is due to an endpoint: the next page of new events, or of a replay, or how long to wait."""

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from tminus import clock
from tminus.delivery.sender import Subscription
from tminus.domain.model import Endpoint, Replay
from tminus.storage import Page, View, outbox

POLL_INTERVAL = 5.0
"""Maximum seconds between two reads of the database. An operator may have resumed the endpoint or queued a replay on
another daemon, and the notification of that may be lost."""


class Due(NamedTuple):
    """What one read of the database has found for an endpoint."""

    state: Endpoint
    replay: Replay | None
    """The replay that `page` belongs to; None: `page` has new events."""
    page: Page
    wait: float
    """Seconds until something may be due, if `page` is empty."""
    blocked: bool = False
    """Whether new events make no difference: the endpoint is paused, or waits to retry."""
    skipped_through: int = 0
    """No new event up to this number matches."""
    batch_is_gone: bool = False
    """Whether the batch that failed no longer exists: retention has removed it, or the filter has changed."""


def find_due(view: View, subscription: Subscription, *, skipped_through: int, was_replay: bool) -> Due | None:
    """Return what is due now; None if the endpoint is not registered.

    Pages of new events and of a replay alternate, since a replay may be as long as the whole history. `was_replay`:
    whether the previous page was one of a replay. `skipped_through`: no new event up to this number matches, so those
    are not read again.
    """
    state = outbox.endpoint(view, subscription.name)
    if state is None:
        return None
    now = clock.now()
    replay = outbox.next_replay(view, subscription.name, in_order=subscription.replays_in_order)
    waits = [POLL_INTERVAL]
    replay_is_due = False
    if replay is not None:
        delay = _seconds_until(replay.retry_at, now)
        replay_is_due = delay == 0
        if replay_is_due and not was_replay:
            return _due_replay(view, subscription, state, replay)
        if not replay_is_due:
            waits.append(delay)
    new = _due_events(view, subscription, state, now, waits, skipped_through)
    if replay is None or not replay_is_due or new.page.events or new.batch_is_gone:
        return new
    return _due_replay(view, subscription, state, replay, new.page.through)


def _due_replay(
    view: View, subscription: Subscription, state: Endpoint, replay: Replay, skipped_through: int = 0
) -> Due:
    matching = replace(subscription.events, session_id=replay.session_id, until=replay.until)
    page = view.page(replay.cursor, subscription.batch, matching)
    return Due(state, replay, page, 0, skipped_through=skipped_through)


def _due_events(
    view: View, subscription: Subscription, state: Endpoint, now: datetime, waits: list[float], skipped_through: int
) -> Due:
    if state.paused_at is None:
        delay = _seconds_until(state.retry_at, now)
        if delay == 0 or state.batch_until is not None:
            matching = replace(subscription.events, until=state.batch_until)
            page = view.page(max(state.cursor, skipped_through), 1 if delay else subscription.batch, matching)
            if state.batch_until is not None and not (page.events or page.more):
                return Due(state, None, Page([], state.cursor), 0, batch_is_gone=True)
            if delay == 0:
                return Due(state, None, page, min(waits))
        waits.append(delay)
    return Due(state, None, Page([], state.cursor), min(waits), blocked=True)


def _seconds_until(instant: datetime | None, now: datetime) -> float:
    """Return the seconds until `instant`; 0 if it is in the past or None."""
    return max(0.0, (instant - now).total_seconds()) if instant is not None else 0.0
