"""The limit of mails that one agent may cause. On both databases."""

from datetime import timedelta

import pytest
from tests.support.factories import AGENT, GROUP_ADMIN, HOUR, MINUTE, OTHER_AGENT, order
from tests.support.worlds import World, new_batch

from tminus.config.settings import Limits, Mail
from tminus.config.values import Rate
from tminus.domain.errors import RequestError, TooManyMails
from tminus.domain.invitees import Invitee, as_json
from tminus.domain.model import Session
from tminus.domain.types import Caller, SessionType
from tminus.sessions import batches
from tminus.sessions.batches import Target, Targets

LIMIT = 10


def people(number: int) -> str | None:
    return as_json([Invitee(f"guest{one}@example.com") for one in range(number)])


@pytest.fixture
def limited(world: World) -> World:
    """A world with a mail server and a limit of mails for each agent."""
    world.settings = world.settings.model_copy(
        update={
            "mail": Mail(host="localhost", **{"from": "desk@example.com"}),
            "limits": Limits(mails_per_agent=Rate(LIMIT, 3600)),
        }
    )
    return world


def invite(limited: World, number: int, by: Caller = AGENT, reminders: tuple[timedelta, ...] = ()) -> Session:
    return limited.schedule(5 * HOUR, by=by, invitees=people(number), reminders=reminders)


def test_what_exceeds_the_limit_is_refused_as_a_whole_until_the_period_is_over(limited: World) -> None:
    invite(limited, 7)
    limited.clock.passes(20 * MINUTE)
    with pytest.raises(TooManyMails, match="4 mails, with 3 left of 10/hour") as refused:
        invite(limited, 4)

    assert (refused.value.refcode, refused.value.retry_after) == (116429, 40 * 60)
    assert len(limited.all_sessions()) == 1
    one = invite(limited, 3)
    with pytest.raises(TooManyMails, match="with 0 left"):
        limited.reschedule(one, limited.now + 9 * HOUR)
    limited.schedule(HOUR)  # without invitees
    invite(limited, LIMIT, by=OTHER_AGENT)

    limited.close(one)  # a cancellation is always sent
    limited.clock.passes(40 * MINUTE)
    invite(limited, LIMIT)


def test_a_request_that_exceeds_the_whole_limit_has_no_retry_after(limited: World) -> None:
    with pytest.raises(TooManyMails, match="11 mails, and the limit for one agent is 10/hour") as refused:
        invite(limited, LIMIT + 1)
    assert refused.value.retry_after is None


def test_reminders_count_and_a_move_counts_again(limited: World) -> None:
    one = invite(limited, 2, reminders=(HOUR, MINUTE))  # six mails

    with pytest.raises(TooManyMails, match="6 mails, with 4 left"):
        limited.reschedule(one, limited.now + 9 * HOUR, by=GROUP_ADMIN)
    assert limited.reschedule(one, limited.now + 5 * HOUR).version == 1, "nothing changes, so no mail is sent"
    invite(limited, 4)


def test_a_batch_counts_as_a_whole_also_in_a_dry_run(limited: World) -> None:
    wanted = [order(SessionType.LIVE, start_time=limited.now + 5 * HOUR, invitees=people(4)) for _ in range(3)]

    def refused(requests: int) -> list[str]:
        """Run a batch and its dry run; return the errors with which they are refused."""
        errors = []
        for attempt in (
            lambda: limited.store.read(
                lambda view: batches.plan_creation(view, limited.settings, AGENT, wanted[:requests], limited.now)
            ),
            lambda: limited.run(
                lambda tx: batches.create(tx, limited.settings, AGENT, new_batch(limited, wanted[:requests]))
            ),
        ):
            try:
                attempt()
            except RequestError as error:
                errors.append(error.description)
        return errors

    assert len(refused(3)) == 2
    assert len(limited.all_sessions()) == 0
    assert refused(2) == []
    moves = Targets("sessions", [Target(one, limited.now + 7 * HOUR) for one in limited.all_sessions()])
    with pytest.raises(TooManyMails, match="8 mails, with 2 left"):
        limited.run(
            lambda tx: batches.reschedule(
                tx, limited.settings, AGENT, batches.find_moves(tx, limited.settings, AGENT, moves, limited.now)
            )
        )
    with pytest.raises(TooManyMails, match="8 mails, with 2 left"):
        limited.store.read(lambda view: batches.plan_reschedule(view, limited.settings, AGENT, moves, limited.now))
    assert {one.version for one in limited.all_sessions().values()} == {1}


def test_a_clock_that_is_set_back_begins_a_new_period(limited: World) -> None:
    invite(limited, LIMIT)
    limited.clock.passes(-2 * HOUR)

    invite(limited, LIMIT)


def test_nothing_is_counted_without_a_mail_server_or_a_limit(limited: World) -> None:
    with_mail = limited.settings
    limited.settings = with_mail.model_copy(update={"mail": Mail()})
    invite(limited, LIMIT + 1)
    limited.settings = with_mail.model_copy(update={"limits": Limits(mails_per_agent=None)})
    invite(limited, LIMIT + 1)

    limited.settings = with_mail
    invite(limited, LIMIT)
