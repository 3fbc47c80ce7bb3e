"""Routes of batches: create, reschedule and close many sessions, all or none."""

from tminus import clock, schemas
from tminus.api import batch_answers, batch_bodies
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
from tminus.sessions import batches as commands

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
    async with batch_bodies.receive_new(context, caller, dry_run=dryRun) as sent:
        settings, now, keyed = services.settings, clock.now(), sent.keyed(idempotency_key)
        if sent.errors:
            earlier = None
            if keyed is not None and not sent.dry_run:
                # A repeated request may be refused because the starts have passed since the first one.
                earlier = await services.query(lambda view: commands.find_decided(view, caller, keyed, now))
            if earlier is None:
                raise BatchRefused(sent.errors, sent.found)
            return await _answer(context, caller, earlier)
        if sent.dry_run:
            requests = sent.requests
            planned = await services.query(lambda view: commands.plan_creation(view, settings, caller, requests, now))
            return await batch_answers.answer_planned(context, planned)
        decided = await context.write(lambda tx: commands.create(tx, settings, caller, sent.new, keyed))
        return await _answer(context, caller, decided)


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
    async with batch_bodies.receive(context, caller, "sessions") as sent:
        dry_run = sent.dry_run(dryRun)
        moved = await services.prepare(lambda: batch_bodies.validated_body(sent, MovedSessions))
        targets = _targets(moved, caller)
        settings, now = services.settings, clock.now()
        if dry_run:
            planned = await services.query(lambda view: commands.plan_reschedule(view, settings, caller, targets, now))
            return await batch_answers.answer_planned(context, planned)
        keyed = sent.keyed(idempotency_key)
        decided = await batch_answers.decide(
            context,
            caller,
            keyed,
            lambda view: commands.find_moves(view, settings, caller, targets, clock.now()),
            lambda tx, moves: commands.reschedule(tx, settings, caller, moves, keyed),
        )
        return await _answer(context, caller, decided)


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
    async with batch_bodies.receive(context, caller, "ids") as sent:
        dry_run = sent.dry_run(dryRun)
        closed = await services.prepare(lambda: batch_bodies.validated_body(sent, ClosedSessions))
        targets = _targets(closed, caller)
        if dry_run:
            planned = await services.query(lambda view: commands.plan_close(view, caller, targets))
            return await batch_answers.answer_planned(context, planned)
        keyed = sent.keyed(idempotency_key)
        decided = await batch_answers.decide(
            context,
            caller,
            keyed,
            lambda view: commands.find_open(view, caller, targets),
            lambda tx, sessions: commands.close(tx, services.settings, caller, sessions, keyed),
        )
        return await _answer(context, caller, decided)


def _targets(sent: MovedSessions | ClosedSessions, caller: Caller) -> commands.Targets:
    """Return the sessions that a request names."""
    by = sent.by if isinstance(sent, MovedSessions) else None
    if sent.filter is not None:
        return commands.Targets("filter", matching=sent.filter.sessions(caller), by=by)
    if isinstance(sent, MovedSessions) and sent.sessions is not None:
        listed = [commands.Target(one.id, one.startTime, one.version) for one in sent.sessions]
        return commands.Targets("sessions", listed)
    return commands.Targets("ids", [commands.Target(one) for one in sent.ids or ()], by=by)


async def _answer(context: RequestContext, caller: Caller, decided: commands.Decided) -> Answer:
    context.replayed = decided.replayed
    with context.services.throttle_log():
        return await batch_answers.answer(context, caller, decided, [_REPLAYED] if decided.replayed else None)
