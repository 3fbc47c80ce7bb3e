"""An issuer that does not answer."""

import asyncio
import traceback

import pytest
from tests.support.oidc import free_port

from tminus import clock
from tminus.config.settings import Oidc
from tminus.oidc import attempt
from tminus.oidc.errors import SignInRefused
from tminus.oidc.issuer import Issuer
from tminus.oidc.settings import Access


def test_refusals_that_share_a_failure_do_not_keep_each_others_frames() -> None:
    """Raising one exception again adds frames to its traceback: it held 100 MB after a few thousand sign-ins."""
    address = f"http://127.0.0.1:{free_port()}"
    issuer = Issuer(Access(Oidc(issuer=address, client_id="desk"), "secret", None))
    frames = []

    async def try_often() -> None:
        for _ in range(20):
            with pytest.raises(SignInRefused) as refused:
                await issuer.authorization_url(attempt.begin(clock.now(), address, "p", "", "", ""), "http://desk/cb")
            frames.append(len(traceback.extract_tb(refused.value.__traceback__)))

    asyncio.run(try_often())
    assert len(set(frames[1:])) == 1, frames
