"""Sign-in codes: lifetime, maximum number and exchange. On both databases."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
from tests.support.clocks import SettableClock
from tests.support.databases import Database
from tests.support.trials import _context
from tests.support.worlds import World

from tminus.api import agent_sessions, authentication
from tminus.api.agent_sessions import CODE_LIFETIME
from tminus.api.authentication import SignedIn
from tminus.api.request_context import RequestContext
from tminus.domain.errors import WrongCode
from tminus.domain.model import SignInCode
from tminus.scheduler import sweeps
from tminus.storage import Store
from tminus.storage.transaction import CODES_KEPT

PAGE = "https://desk.example.com/cb"
MS = timedelta(milliseconds=1)


def _issue(context: RequestContext) -> str:
    [(digest, agent)] = context.services.agent_of_token.items()
    secret = asyncio.run(agent_sessions.start_in_browser(context, SignedIn(agent, digest), ""))
    token = authentication.page_token(secret)
    code = asyncio.run(agent_sessions.add_code(context, SignedIn(agent, digest), token, PAGE, "azure", "*"))
    assert code is not None
    return code


def _exchange(context: RequestContext, code: str) -> int:
    return asyncio.run(agent_sessions.exchange_code(context, code, "azure", "*"))[0].sid


def test_a_code_may_be_exchanged_for_a_minute_and_no_longer(database: Database, clock: SettableClock) -> None:
    context = _context(database.open(clock), "a test")
    in_time, late = _issue(context), _issue(context)

    clock.passes(CODE_LIFETIME - MS)
    assert _exchange(context, in_time) > 0
    clock.passes(MS)
    with pytest.raises(WrongCode):
        _exchange(context, late)
    assert context.services.metrics.scrape().count(b'kind="code",outcome="wrong"} 1.0') == 1


def _code(world: World, name: str, agent_id: int = 7) -> SignInCode:
    return SignInCode(
        code_sha256=name, provider="azure", instance_url="*", receiver=PAGE, agent_id=agent_id, token_sha256="t",
        expires_at=world.now + CODE_LIFETIME,
    )  # fmt: skip


def _stored(world: World, *names: str) -> list[str]:
    return world.store.read(lambda view: [name for name in names if view.has_signin_code(name)])


def test_an_agents_oldest_code_ends_when_there_are_too_many(world: World) -> None:
    def add(code: SignInCode) -> None:
        world.run(lambda tx: tx.add_signin_code(code))
        world.clock.passes(MS)

    add(_code(world, "of another", 8))
    for number in range(CODES_KEPT + 1):
        add(_code(world, f"{number}"))

    assert _stored(world, "of another", "0", "1", f"{CODES_KEPT}") == ["of another", "1", f"{CODES_KEPT}"]


def test_expired_codes_are_removed(world: World) -> None:
    world.run(lambda tx: tx.add_signin_code(_code(world, "old")))
    world.clock.passes(CODE_LIFETIME)
    world.run(lambda tx: tx.add_signin_code(_code(world, "new")))

    world.clock.passes(MS)
    sweeps.remove_old(world.store.submit, None)

    assert _stored(world, "old", "new") == ["new"]


def test_only_digests_of_codes_are_stored(database: Database, clock: SettableClock) -> None:
    store: Store = database.open(clock)
    code = _issue(_context(store, "a test"))

    assert store.read(lambda view: view.has_signin_code(hashlib.sha256(code.encode()).hexdigest()))
    assert not store.read(lambda view: view.has_signin_code(code))
