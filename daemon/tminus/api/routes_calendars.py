"""Routes of calendars: the entry of a session as a file."""

from typing import Annotated, Literal

from pydantic import Field

from tminus.api import answers
from tminus.api.authentication import CurrentCaller
from tminus.api.fixed import Fixed
from tminus.api.refusals import refusals
from tminus.api.request_context import RequestContext
from tminus.api.routing import Answer, Router
from tminus.config import Settings
from tminus.domain.errors import Forbidden, UnknownSession
from tminus.domain.model import Session
from tminus.domain.types import Caller
from tminus.sessions import queries
from tminus.sessions.authorization import may_see_secrets, require
from tminus.storage import View

router = Router("/v3", "calendars")

CALENDAR = "text/calendar"
_REVALIDATED = (b"cache-control", b"private, no-cache")

InviteRole = Annotated[
    Literal["guest", "host"],
    Field(description="Whose link the entry has; the link of the host admits everybody who has it as host"),
]


@router.get(
    "/supportsession/{session_id}/invite.ics",
    summary="Show a session as an entry for calendars (iCalendar, RFC 5545)",
    media_type=CALENDAR,
    refusals=refusals(Forbidden, UnknownSession),
)
async def invite(context: RequestContext, caller: CurrentCaller, session_id: str, role: InviteRole = "guest") -> Answer:
    services = context.services

    def look(view: View) -> bytes:
        session = queries.get_session(view, caller, session_id)
        return _file(session, services.settings, _link(session, caller, role))

    content = await services.query(look, session_id)
    headers = [_REVALIDATED, (b"content-disposition", b'attachment; filename="%s.ics"' % session_id.encode())]
    return Fixed(content, f"{CALENDAR}; charset=utf-8", headers).answer(context)


def _link(session: Session, caller: Caller, role: str) -> str:
    """Return the link of the host, or of guests as far as the caller may see it. Raises `Forbidden`."""
    if role == "guest":
        return answers.user_link(session, caller)
    require(may_see_secrets(caller, session), "the session's own agent, or the role supervisor")
    return answers.host_link(session)


def _file(session: Session, settings: Settings, link: str) -> bytes:
    from tminus.calendars import entries  # noqa: PLC0415 - needs nine megabytes, and only for calendars

    plan = entries.Plan(duration=settings.lifecycle.duration, lead=settings.lifecycle.lead)
    return entries.calendar([entries.entry(session, plan, link)])
