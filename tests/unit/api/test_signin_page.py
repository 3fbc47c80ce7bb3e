"""The sign-in page: its texts in every language, and the pages to which a browser may return."""

import re
import tomllib
from pathlib import Path
from string import Formatter
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tminus.api import receivers, routes_oidc, signin_page
from tminus.oidc.errors import REFUSALS
from tminus.pages import LANGUAGES

FOLDER = Path(signin_page.__file__).parent / "signin"
TEXTS = {name: tomllib.loads((FOLDER / f"{name}.toml").read_text()) for name in LANGUAGES}
LISTED = ("https://desk.example.com/cb", "http://[::1]:7001/a/b", "https://desk.example.com/")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("name", LANGUAGES)
def test_each_language_has_every_text_with_the_same_values(name: str) -> None:
    assert list(TEXTS[name]) == list(TEXTS["en"])
    assert {key: placeholders(text) for key, text in TEXTS[name].items()} == {
        key: placeholders(text) for key, text in TEXTS["en"].items()
    }
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(LANGUAGES)


def test_the_page_uses_every_text() -> None:
    used = set(re.findall(r"text\.(\w+)", (FOLDER / "page.html").read_text()))
    used |= set(re.findall(r'"(\w+)"', Path(signin_page.__file__).read_text()))
    routes = Path(signin_page.__file__).with_name("routes_signin.py").read_text()
    used |= set(re.findall(r'problem="(\w+)"', routes))
    used |= {routes_oidc.problem_of(refusal) for refusal in REFUSALS}

    assert set(TEXTS["en"]) <= used


SENT = st.one_of(st.text(), st.sampled_from(LISTED).flatmap(lambda url: st.text().map(lambda rest: url + rest)))


@given(st.one_of(SENT, st.sampled_from(LISTED).flatmap(lambda url: st.text("?&=#/\\@%;: ab\n").map(url.__add__))))
def test_a_browser_returns_only_to_a_listed_page(sent: str) -> None:
    found = receivers.find_receiver(sent, LISTED)
    if found is None:
        return

    for url, fragment in ((found.accepted("x"), "code=x"), (found.cancelled(), "")):
        assert url.startswith(tuple(f"{listed}{mark}" for listed in LISTED for mark in "?#"))
        assert url.isascii()
        assert url.isprintable()
        assert urlsplit(url).netloc in ("desk.example.com", "[::1]:7001")
        assert urlsplit(url).fragment.startswith(fragment)
        assert url.count("#") == 1


def test_a_query_in_the_url_of_the_page_is_kept() -> None:
    found = receivers.find_receiver("https://desk.example.com/cb?tenant=5?&login_intent_token=a%2Fb&x=", LISTED)

    assert found is not None
    assert found.accepted("c0de") == (
        "https://desk.example.com/cb?tenant=5?&login_intent_token=a%2Fb&x=#code=c0de&login_intent_token=a%2Fb&success=true"
    )
