"""Routes of batches: create, reschedule and close many sessions, all or none."""

from tminus import clock, schemas
from tminus.api import answers, batches
from tminus.api.authentication import CurrentCaller
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.requests import DryRun, IdempotencyKey, NewSession, NewSessions
from tminus.api.routing import Answer, Router
from tminus.domain.errors import (  # fmt: skip
    BatchConflict,
    BatchRefused,
    Forbidden,
    KeyReused,
    NoPinFree,
    TooManySessions,
    UnsupportedMediaType,
)
from tminus.sessions import batches as commands
from tminus.sessions.idempotency import KeyedRequest

router = Router("/v3/supportsessions", "sessions")

_REPLAYED = (b"idempotency-replayed", b"true")


@router.post(
    "/batch",
    summary="Create or schedule many sessions, all or none",
    reads=NewSessions,
    answers=schemas.SessionBatch,
    refusals=refusals(
        Forbidden, BatchRefused, BatchConflict, KeyReused, TooManySessions, NoPinFree, UnsupportedMediaType
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
            return batches.answer(context, "planned", planned, answers.planned, dry_run=True)
        keyed = None if idempotency_key is None else KeyedRequest(idempotency_key, sent.sha256)
        result = await context.write(lambda tx: commands.create(tx, settings, caller, requests, keyed))
    context.replayed = result.replayed
    now = clock.now()
    return batches.answer(
        context,
        "sessions",
        result.sessions,
        lambda session: answers.session(session, caller, now),
        headers=[_REPLAYED] if result.replayed else [],
    )
