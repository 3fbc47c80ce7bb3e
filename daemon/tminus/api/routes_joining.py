"""Routes for people who join: sessions by their PIN, challenges, and the calls of the original's mobile clients.

The mobile clients use the paths below `/v3` and below `/api/v3`.
"""

from typing import Annotated

from pydantic import Field

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.parameters import Header
from tminus.api.pin_lookups import MAX_ANSWER, Answered, session_of_pin
from tminus.api.refusals import PUBLIC_REFUSALS, refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import LiveConnect, SupportConnect
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.domain import timestamps
from tminus.domain.errors import (
    ChallengeNeeded,
    TooManyAttempts,
    TooManyGuesses,
    UnknownSession,
    UnsupportedMediaType,
    WrongStatus,
)
from tminus.domain.model import Session
from tminus.domain.types import Status, Trigger
from tminus.logs.repeated import REPEATED
from tminus.storage import View

public = Router("/v3", "public")
below_api = Router("/api/v3", "public")

ChallengeId = Annotated[str, Field(max_length=MAX_ANSWER, description="`uuid` of a challenge")]
ChallengeAnswer = Annotated[str, Field(max_length=MAX_ANSWER, description="The digits in its picture")]
MobileApiKey = Annotated[
    str | None, Header("mobile-api-key"), Field(max_length=255, description="Accepted and not checked")
]

_PIN_REFUSALS = refusals(UnknownSession, ChallengeNeeded, TooManyGuesses, of=PUBLIC_REFUSALS)


@below_api.get("/support/{pin}/metadata", described=False)
@below_api.get("/support/{pin}/meta", described=False)
@public.get(
    "/support/{pin}/metadata",
    summary="The same as `meta`, for the original's mobile clients",
    answers=schemas.PinMeta,
    refusals=_PIN_REFUSALS,
)
@public.get(
    "/support/{pin}/meta",
    summary="Show the public data of a session by its PIN",
    answers=schemas.PinMeta,
    refusals=_PIN_REFUSALS,
)
async def pin_meta(
    context: RequestContext, pin: str, challenge: ChallengeId = "", answer: ChallengeAnswer = ""
) -> Answer:
    return Json(answers.pin_meta(await session_of_pin(context, pin, Answered(challenge, answer))))


@below_api.get("/support/challenge", described=False)
@public.get(
    "/support/challenge",
    summary="Make a challenge, whose answer allows one look-up of a PIN after too many wrong ones",
    answers=schemas.Challenge,
    refusals=refusals(of=PUBLIC_REFUSALS),
)
async def challenge(context: RequestContext) -> Answer:
    services, address = context.services, context.remote_ip
    if services.challenges_made.retry_after(address) is None:
        services.challenges_made.count(address)
    else:
        # Not refused: a neighbour could use up the challenges of an address.
        async with services.challenge_queue.turn(address):
            pass
    now = clock.now()
    uuid, picture = await services.challenges.make(now)
    services.metrics.challenges["made"].inc()
    made: schemas.Challenge = {"uuid": uuid, "challengeDisplay": picture, "createdAt": timestamps.text(now)}
    return Json(made)


@below_api.post("/support/connect", described=False)
@public.post(
    "/support/connect",
    summary="Show a mobile client of the original the session of a PIN, and its server",
    answers=schemas.SupportConnection,
    refusals=refusals(UnknownSession, ChallengeNeeded, TooManyGuesses, UnsupportedMediaType, of=PUBLIC_REFUSALS),
)
async def support_connect(
    context: RequestContext,
    body: SupportConnect,
    key: MobileApiKey = None,
    challenge: ChallengeId = "",
    answer: ChallengeAnswer = "",
) -> Answer:
    session = await session_of_pin(context, body.code, Answered(challenge, answer))
    context.session_id = session.id
    services = context.services
    return Json(answers.support_connection(session, services.settings, services.instance))


@below_api.post("/live/connect", described=False)
@public.post(
    "/live/connect",
    summary="Show a mobile client of the original an open session, and its server",
    answers=schemas.LiveConnection,
    refusals=refusals(UnknownSession, WrongStatus, TooManyAttempts, UnsupportedMediaType, of=PUBLIC_REFUSALS),
)
async def live_connect(context: RequestContext, body: LiveConnect, key: MobileApiKey = None) -> Answer:
    session = await _session_of_id(context, body.code)
    if session.status in (Status.SCHEDULED, Status.CLOSED):
        raise WrongStatus(Trigger.JOIN, session.status)
    context.session_id = session.id
    services = context.services
    return Json(answers.live_connection(session, services.settings, services.instance))


async def _session_of_id(context: RequestContext, session_id: str) -> Session:
    """Return the session with this id. Wrong ids are limited together with those of rooms.

    Raises `UnknownSession`, `TooManyAttempts`.
    """
    services, address = context.services, context.remote_ip
    guesses = services.id_guesses
    await guesses.turn(address)

    def look(view: View) -> Session | None:
        return view.session(session_id)

    session = await services.query(look)
    if session is None:
        context.logged = True
        wait = guesses.retry_after(address)
        if wait is not None:
            services.metrics.guessed("room", "limited")
            REPEATED.log("room.limited", address, remote_ip=address, request_id=context.request_id)
            raise TooManyAttempts("wrong session ids or keys", wait)
        guesses.count(address)
        services.metrics.guessed("room", "wrong")
        REPEATED.log("room.unknown", address, remote_ip=address, request_id=context.request_id)
        raise UnknownSession(session_id)
    return session
