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
def office(world: World) -> World:
    world.settings = world.settings.model_copy(
        update={
            "mail": Mail(host="localhost", **{"from": "desk@example.com"}),
            "limits": Limits(mails_per_agent=Rate(LIMIT, 3600)),
        }
    )
    return world


def invite(office: World, number: int, by: Caller = AGENT, reminders: tuple[timedelta, ...] = ()) -> Session:
    return office.schedule(5 * HOUR, by=by, invitees=people(number), reminders=reminders)


def test_what_exceeds_the_limit_is_refused_as_a_whole_until_the_period_is_over(office: World) -> None:
    invite(office, 7)
    office.clock.passes(20 * MINUTE)
    with pytest.raises(TooManyMails, match="4 mails, with 3 left of 10/hour") as refused:
        invite(office, 4)

    assert (refused.value.refcode, refused.value.retry_after) == (116429, 40 * 60)
    assert len(office.all_sessions()) == 1
    one = invite(office, 3)
    with pytest.raises(TooManyMails, match="with 0 left"):
        office.reschedule(one, office.now + 9 * HOUR)
    office.schedule(HOUR)  # nobody is invited
    invite(office, LIMIT, by=OTHER_AGENT)

    office.close(one)  # people who were invited must learn of it
    office.clock.passes(40 * MINUTE)
    invite(office, LIMIT)


def test_a_request_that_exceeds_the_whole_limit_is_not_to_be_repeated(office: World) -> None:
    with pytest.raises(TooManyMails, match="11 mails, and the limit for one agent is 10/hour") as refused:
        invite(office, LIMIT + 1)
    assert refused.value.retry_after is None


def test_reminders_count_and_a_move_counts_again(office: World) -> None:
    one = invite(office, 2, reminders=(HOUR, MINUTE))  # six mails

    with pytest.raises(TooManyMails, match="6 mails, with 4 left"):
        office.reschedule(one, office.now + 9 * HOUR, by=GROUP_ADMIN)
    assert office.reschedule(one, office.now + 5 * HOUR).version == 1, "nothing changes, and nobody gets a mail"
    invite(office, 4)


def test_a_batch_counts_as_a_whole_also_in_a_dry_run(office: World) -> None:
    wanted = [order(SessionType.LIVE, start_time=office.now + 5 * HOUR, invitees=people(4)) for _ in range(3)]

    def refused(requests: int) -> list[str]:
        """Return what a batch and its dry run are refused with."""
        found = []
        for attempt in (
            lambda: office.store.read(
                lambda view: batches.plan_creation(view, office.settings, AGENT, wanted[:requests], office.now)
            ),
            lambda: office.run(
                lambda tx: batches.create(tx, office.settings, AGENT, new_batch(office, wanted[:requests]))
            ),
        ):
            try:
                attempt()
            except RequestError as error:
                found.append(error.description)
        return found

    assert len(refused(3)) == 2
    assert len(office.all_sessions()) == 0
    assert refused(2) == []
    moves = Targets("sessions", [Target(one, office.now + 7 * HOUR) for one in office.all_sessions()])
    with pytest.raises(TooManyMails, match="8 mails, with 2 left"):
        office.run(
            lambda tx: batches.reschedule(
                tx, office.settings, AGENT, batches.find_moves(tx, office.settings, AGENT, moves, office.now)
            )
        )
    with pytest.raises(TooManyMails, match="8 mails, with 2 left"):
        office.store.read(lambda view: batches.plan_reschedule(view, office.settings, AGENT, moves, office.now))
    assert {one.version for one in office.all_sessions().values()} == {1}


def test_a_clock_that_is_set_back_begins_a_new_period(office: World) -> None:
    invite(office, LIMIT)
    office.clock.passes(-2 * HOUR)

    invite(office, LIMIT)


def test_nothing_is_counted_without_a_mail_server_or_a_limit(office: World) -> None:
    with_mail = office.settings
    office.settings = with_mail.model_copy(update={"mail": Mail()})
    invite(office, LIMIT + 1)
    office.settings = with_mail.model_copy(update={"limits": Limits(mails_per_agent=None)})
    invite(office, LIMIT + 1)

    office.settings = with_mail
    invite(office, LIMIT)
