"""Routes of batches: create, reschedule and close many sessions, all or none."""

from tminus import clock, schemas
from tminus.api import answers, batches
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import ClosedSessions, DryRun, IdempotencyKey, MovedSessions, NewSessions
from tminus.api.routing import Answer, Router
from tminus.domain.errors import (  # fmt: skip
    BatchConflict,
    BatchRefused,
    Forbidden,
    KeyReused,
    NoPinFree,
    TooManyMails,
    TooManySessions,
    UnsupportedMediaType,
)
from tminus.domain.types import Caller
from tminus.new_sessions import NewSession
from tminus.sessions import batches as commands
from tminus.sessions.idempotency import KeyedRequest

router = Router("/v3/supportsessions", "sessions")

_REPLAYED = (b"idempotency-replayed", b"true")


_MOVING = refusals(Forbidden, BatchRefused, BatchConflict, KeyReused, TooManyMails, NoPinFree, UnsupportedMediaType)
_CLOSING = refusals(Forbidden, BatchRefused, BatchConflict, KeyReused, UnsupportedMediaType)


@router.post(
    "/batch",
    summary="Create or schedule many sessions, all or none",
    reads=NewSessions,
    answers=schemas.SessionBatch,
    refusals=refusals(
        Forbidden,
        BatchRefused,
        BatchConflict,
        KeyReused,
        TooManySessions,
        TooManyMails,
        NoPinFree,
        UnsupportedMediaType,
    ),
)
async def create_sessions(
    context: RequestContext, caller: CurrentCaller, idempotency_key: IdempotencyKey = None, dryRun: DryRun = False
) -> Answer:
    services = context.services
    commands.require_agent(caller)
    async with batches.receive(context, caller, "sessions") as sent:
        dry_run = sent.dry_run(dryRun)
        found, errors = await services.prepare(
            lambda: batches.validated(sent, "sessions", NewSession, NewSession.create_session)
        )
        now, settings = clock.now(), services.settings
        if errors:
            raise BatchRefused([*errors, *commands.start_errors(settings, found, now)])
        requests = [request for request in found if request is not None]
        if dry_run:
            planned = await services.query(lambda view: commands.plan_creation(view, settings, caller, requests, now))
            return await batches.answer(context, "planned", planned, answers.planned, dry_run=True)
        keyed = None if idempotency_key is None else KeyedRequest(idempotency_key, sent.sha256)
        result = await context.write(lambda tx: commands.create(tx, settings, caller, requests, keyed))
    return await _answer(context, caller, result)


@router.post(
    "/batch/reschedule",
    summary="Reschedule many sessions, all or none",
    reads=MovedSessions,
    answers=schemas.SessionBatch,
    refusals=_MOVING,
)
async def reschedule_sessions(
    context: RequestContext, caller: CurrentCaller, idempotency_key: IdempotencyKey = None, dryRun: DryRun = False
) -> Answer:
    services = context.services
    async with batches.receive(context, caller, "sessions") as sent:
        dry_run = sent.dry_run(dryRun)
        moved = await services.prepare(lambda: batches.chosen(sent, MovedSessions))
        targets = _targets(moved, caller)
        settings, now = services.settings, clock.now()
        if dry_run:
            planned = await services.query(lambda view: commands.plan_reschedule(view, settings, caller, targets, now))
            return await batches.answer(context, "planned", planned, answers.planned, dry_run=True)
        keyed = None if idempotency_key is None else KeyedRequest(idempotency_key, sent.sha256)
        result = await context.write(lambda tx: commands.reschedule(tx, settings, caller, targets, keyed))
    return await _answer(context, caller, result)


@router.post(
    "/batch/close",
    summary="Close many sessions, all or none",
    reads=ClosedSessions,
    answers=schemas.SessionBatch,
    refusals=_CLOSING,
)
async def close_sessions(
    context: RequestContext, caller: CurrentCaller, idempotency_key: IdempotencyKey = None, dryRun: DryRun = False
) -> Answer:
    services = context.services
    async with batches.receive(context, caller, "ids") as sent:
        dry_run = sent.dry_run(dryRun)
        closed = await services.prepare(lambda: batches.chosen(sent, ClosedSessions))
        targets = _targets(closed, caller)
        if dry_run:
            planned = await services.query(lambda view: commands.plan_close(view, caller, targets))
            return await batches.answer(context, "planned", planned, answers.planned, dry_run=True)
        keyed = None if idempotency_key is None else KeyedRequest(idempotency_key, sent.sha256)
        result = await context.write(lambda tx: commands.close(tx, services.settings, caller, targets, keyed))
    return await _answer(context, caller, result)


def _targets(sent: MovedSessions | ClosedSessions, caller: Caller) -> commands.Targets:
    """Return the sessions that a request names."""
    by = sent.by if isinstance(sent, MovedSessions) else None
    if sent.filter is not None:
        return commands.Targets("filter", matching=sent.filter.sessions(caller), by=by)
    if isinstance(sent, MovedSessions) and sent.sessions is not None:
        listed = [commands.Target(one.id, one.startTime, one.version) for one in sent.sessions]
        return commands.Targets("sessions", listed)
    return commands.Targets("ids", [commands.Target(one) for one in sent.ids or ()], by=by)


async def _answer(context: RequestContext, caller: Caller, result: commands.BatchResult) -> Answer:
    context.replayed = result.replayed
    now = clock.now()
    return await batches.answer(
        context,
        "sessions",
        result.sessions,
        lambda session: answers.session(session, caller, now),
        headers=[_REPLAYED] if result.replayed else [],
    )
