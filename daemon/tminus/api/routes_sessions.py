"""Routes of sessions: create, list, show, reschedule and close; and the reports of rooms."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from tminus import clock, schemas
from tminus.api import answers
from tminus.api.authentication import CurrentCaller
from tminus.api.conditions import versions
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import (  # fmt: skip
    Admission,
    After,
    IdempotencyKey,
    IfMatchHeader,
    Limit,
    NewParticipant,
    NewStart,
    Offset,
    Search,
    Statuses,
)
from tminus.api.response import Json
from tminus.api.routing import Answer, Router
from tminus.domain.errors import (  # fmt: skip
    BadStartTime,
    Forbidden,
    KeyReused,
    NoKnocking,
    NoPinFree,
    OtherPresence,
    Overlap,
    StaleVersion,
    TooManyMails,
    TooManyParticipants,
    TooManySessions,
    UnknownParticipant,
    UnknownSession,
    UnsupportedMediaType,
    WrongStatus,
)
from tminus.domain.model import Session
from tminus.domain.types import OPEN_STATUSES, Caller, OverlapPolicy, SessionType, Status, Trigger
from tminus.logs.repeated import REPEATED
from tminus.new_sessions import Instant, NewSession
from tminus.sessions import commands, participants, queries
from tminus.sessions.idempotency import keyed_request
from tminus.sessions.overlaps import overlaps
from tminus.sessions.transitions import CreateResult
from tminus.storage import SessionFilter, Transaction, View

router = Router("/v3", "sessions")

ORDERS = {"createdAt": "created_at", "updatedAt": "updated_at", "startTime": "start_time", "expiresAt": "expires_at"}

_REPLAYED = (b"idempotency-replayed", b"true")


async def _change(
    context: RequestContext,
    caller: Caller,
    job: Callable[[Transaction], Session | CreateResult],
    session_id: str | None = None,
) -> Answer:
    """Schedule or move a session, and return the response, with a warning if others overlap.

    If it has no warning, the writer's thread makes it.
    """
    services = context.services

    def changed(done: Session | CreateResult) -> Session:
        if isinstance(done, CreateResult):
            context.session_id, context.replayed, done = done.session.id, done.replayed, done.session
        return done

    def respond(session: Session, others: Sequence[str] = ()) -> Answer:
        return _answer(session, caller, replayed=context.replayed, others=others)

    if services.settings.policy.overlap is not OverlapPolicy.WARN:
        return await context.write_then(job, lambda done: respond(changed(done)), session_id)
    session = await context.write_then(job, changed, session_id)
    if session.start_time is None:
        return respond(session)
    return await services.query(lambda view: respond(session, overlaps(view, services.settings, caller, session)))


def _answer(session: Session, caller: Caller, *, replayed: bool = False, others: Sequence[str] = ()) -> Json:
    headers = [(b"etag", b'"%d"' % session.version)]
    if replayed:
        headers.append(_REPLAYED)
    shown = answers.session(session, caller, clock.now())
    if others:
        shown["overlaps"] = [*others]
    return Json(shown, headers=headers)


@router.post(
    "/supportsessions",
    summary="Create a session, or schedule one with startTime",
    answers=schemas.Session,
    refusals=refusals(
        Forbidden, BadStartTime, Overlap, KeyReused, TooManySessions, TooManyMails, NoPinFree, UnsupportedMediaType
    ),
)
async def create_session(
    context: RequestContext, caller: CurrentCaller, body: NewSession, idempotency_key: IdempotencyKey = None
) -> Answer:
    services, create = context.services, body.create_session()
    keyed = None
    if idempotency_key is not None:
        keyed = keyed_request(idempotency_key, body.model_dump(mode="json", exclude_unset=True))
    del body  # free the body, which may be large: many requests may wait for the writer
    context.named = create
    return await _change(context, caller, lambda tx: commands.create(tx, services.settings, caller, create, keyed))


@router.get(
    "/supportsessions",
    summary="List sessions",
    answers=schemas.SessionList,
    refusals=refusals(Forbidden),
)
async def list_sessions(
    context: RequestContext,
    caller: CurrentCaller,
    limit: Limit = 20,
    offset: Offset = 0,
    orderby: Literal["createdAt", "updatedAt", "startTime", "expiresAt"] = "createdAt",
    orderdir: Literal["ASC", "DESC"] = "DESC",
    status: Statuses = list(OPEN_STATUSES),  # noqa: B006 - the list is never changed
    type: SessionType | None = None,
    scope: Literal["mine", "all"] = "mine",
    startFrom: Instant | None = None,
    startTo: Instant | None = None,
    search: Search = None,
) -> Answer:
    wanted = SessionFilter(
        agent_id=caller.agent_id if scope == "mine" else None,
        statuses=status,
        type=type,
        start_from=startFrom,
        start_to=startTo,
        order_by=ORDERS[orderby],
        descending=orderdir == "DESC",
        limit=limit,
        offset=offset,
    )
    now = clock.now()

    def look(view: View) -> bytes:
        if search is not None:
            matching, following = queries.search_sessions(view, caller, wanted, search)
            return answers.search_page(matching, following, caller, now)
        count, found = queries.list_sessions(view, caller, wanted)
        return answers.session_page(count, found, caller, now)

    return Json(await context.services.search(caller.agent_id, look))


@router.get(
    "/supportsession/{session_id}",
    summary="Show a session",
    answers=schemas.Session,
    refusals=refusals(Forbidden, UnknownSession),
)
async def get_session(context: RequestContext, caller: CurrentCaller, session_id: str) -> Answer:
    services, key = context.services, (session_id, caller.agent_id, caller.roles)
    version = services.kept.version()
    if (kept := services.kept.get(key)) is not None:
        return kept

    def look(view: View) -> tuple[Json, bool]:
        session = queries.get_session(view, caller, session_id)
        return _answer(session, caller), session.status is Status.ACTIVE

    answer, changes_with_time = await services.query(look, session_id)
    if not changes_with_time:  # the duration of an active session does
        services.kept.put(key, version, answer)
    return answer


@router.put(
    "/supportsession/{session_id}",
    summary="Reschedule a scheduled session",
    answers=schemas.Session,
    refusals=refusals(
        Forbidden,
        UnknownSession,
        WrongStatus,
        StaleVersion,
        BadStartTime,
        Overlap,
        TooManyMails,
        NoPinFree,
        UnsupportedMediaType,
    ),
)
async def reschedule_session(
    context: RequestContext, caller: CurrentCaller, session_id: str, body: NewStart, if_match: IfMatchHeader = None
) -> Answer:
    services, seen = context.services, versions(if_match)
    return await _change(
        context,
        caller,
        lambda tx: commands.reschedule(tx, services.settings, caller, session_id, body.startTime, seen),
        session_id,
    )


@router.delete(
    "/supportsession/{session_id}",
    summary="Close a session",
    answers=schemas.Success,
    refusals=refusals(Forbidden, UnknownSession, StaleVersion),
)
async def close_session(
    context: RequestContext, caller: CurrentCaller, session_id: str, if_match: IfMatchHeader = None
) -> Answer:
    seen = versions(if_match)
    await context.write(lambda tx: commands.close(tx, context.services.settings, caller, session_id, seen), session_id)
    return Json({"success": True})


@router.get(
    "/supportsession/{session_id}/events",
    summary="List the events of a session, oldest first",
    answers=schemas.History,
    refusals=refusals(Forbidden, UnknownSession),
)
async def session_events(
    context: RequestContext, caller: CurrentCaller, session_id: str, after: After = 0, limit: Limit = 100
) -> Answer:
    services = context.services
    name, names = services.store.database_id, services.actor_names

    def look(view: View) -> bytes:
        page = queries.session_events(view, caller, session_id, after, limit)
        return answers.history((one.json(name, names) for one in page.events), page.through)

    return Json(await services.query(look))


@router.post(
    "/supportsession/{session_id}/participants",
    summary="Report that a participant joined or knocked",
    answers=schemas.Joined,
    refusals=refusals(
        Forbidden,
        UnknownSession,
        WrongStatus,
        KeyReused,
        NoKnocking,
        OtherPresence,
        TooManyParticipants,
        UnsupportedMediaType,
    ),
)
async def join_session(
    context: RequestContext,
    caller: CurrentCaller,
    session_id: str,
    body: NewParticipant,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    services = context.services
    keyed = keyed_request(idempotency_key, [session_id, body.model_dump(mode="json", exclude_unset=True)])
    arrive = partial(
        participants.join_or_knock,
        settings=services.settings,
        caller=caller,
        session_id=session_id,
        trigger=Trigger.KNOCK if body.knock else Trigger.JOIN,
        role=body.role,
        name=body.name,
        keyed=keyed,
    )
    try:
        result = await context.write(arrive, session_id)
    except OtherPresence:
        REPEATED.log(
            "room.other_source", session_id, "room", session_id=session_id, source="room", participant_name=body.name
        )
        raise
    context.replayed = result.replayed
    return Json({"participantId": result.participant_id}, headers=[_REPLAYED] if result.replayed else [])


@router.put(
    "/supportsession/{session_id}/participants/{participant_id}",
    summary="Report that a participant who knocked was admitted or denied",
    answers=schemas.Success,
    refusals=refusals(
        Forbidden,
        UnknownSession,
        UnknownParticipant,
        WrongStatus,
        NoKnocking,
        TooManyParticipants,
        UnsupportedMediaType,
    ),
)
async def answer_knock(
    context: RequestContext, caller: CurrentCaller, session_id: str, participant_id: str, body: Admission
) -> Answer:
    services, command = context.services, participants.admit if body.admitted else participants.deny
    await context.write(lambda tx: command(tx, services.settings, caller, session_id, participant_id), session_id)
    return Json({"success": True})


@router.delete(
    "/supportsession/{session_id}/participants/{participant_id}",
    summary="Report that a participant left",
    answers=schemas.Success,
    refusals=refusals(Forbidden, UnknownSession, UnknownParticipant),
)
async def leave_session(context: RequestContext, caller: CurrentCaller, session_id: str, participant_id: str) -> Answer:
    services = context.services
    await context.write(
        lambda tx: participants.leave(tx, services.settings, caller, session_id, participant_id), session_id
    )
    return Json({"success": True})
