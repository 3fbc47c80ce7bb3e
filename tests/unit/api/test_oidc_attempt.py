"""The cookie that holds a sign-in attempt while the browser is at the issuer."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tminus.oidc import attempt
from tminus.oidc.errors import SignInRefused

ISSUER = "https://login.example.com"
NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)


def begun(receiver: str = "https://desk/cb?&x=1") -> attempt.Attempt:
    return attempt.begin(NOW, ISSUER, "azure", "*", receiver, "agent")


def test_the_cookie_brings_the_attempt_back() -> None:
    one = begun()
    again = attempt.parse(one.cookie(), NOW, ISSUER)
    assert again == one
    assert again.is_state(one.state)
    assert (again.nonce, again.verifier) == (one.nonce, one.verifier)
    assert 43 <= len(one.verifier) <= 128
    assert len({one.state, one.nonce, one.verifier, one.secret}) == 4
    assert one.secret not in repr(one)


def test_an_attempt_at_one_issuer_is_not_valid_at_another() -> None:
    one = begun()
    other = attempt.parse(one.cookie(), NOW, "https://other.example.com")
    assert other is not None
    assert not other.is_state(one.state)


def test_an_attempt_ends_after_ten_minutes() -> None:
    cookie = begun().cookie()
    assert attempt.parse(cookie, NOW + timedelta(minutes=9, seconds=59), ISSUER)
    assert attempt.parse(cookie, NOW + timedelta(minutes=10), ISSUER) is None


def test_each_attempt_has_values_of_its_own() -> None:
    one, other = begun(), begun()
    assert not one.is_state(other.state)
    assert one.nonce != other.nonce


@given(st.text(max_size=200), st.text(max_size=200))
def test_a_changed_attempt_has_another_state(receiver: str, provider: str) -> None:
    one = begun()
    changed = attempt.Attempt(provider, one.instance, receiver, one.back, one.expires, one.secret, issuer=ISSUER)
    same = (changed.provider, changed.receiver_url) == (one.provider, one.receiver_url)
    try:
        assert changed.is_state(one.state) is same
    except TypeError:  # a lone surrogate, which no URL and no cookie contains
        assert not (receiver + provider).isprintable()


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_an_odd_cookie_is_no_attempt(cookie: str) -> None:
    assert attempt.parse(cookie, NOW, ISSUER) is None


def test_a_cookie_that_a_browser_would_drop_is_refused() -> None:
    assert len(begun("https://desk/cb?" + "x" * 2030).cookie()) <= attempt.MAX_COOKIE
    with pytest.raises(SignInRefused):
        begun("x" * 3000)
