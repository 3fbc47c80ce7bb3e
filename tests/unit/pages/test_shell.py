"""The rendered pages."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tminus import pages

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


class Elements(HTMLParser):
    """Collects the elements of a page and their attributes."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("language", pages.LANGUAGES)
@pytest.mark.parametrize("start", pages.Start)
def test_the_name_of_the_organization_is_only_text(language: str, start: pages.Start) -> None:
    plain, hostile = (pages.render(language, name, start, 80) for name in ("Acme", HOSTILE))

    assert Elements(hostile).found == Elements(plain).found
    assert b"{{ 7 * 7 }}" in hostile


def both(language: str, organization: str = "") -> list[bytes]:
    """Return the page for people who were invited, and the one for agents."""
    return [
        pages.render(language, organization, pages.Start.LINK, 80),
        pages.render_agent_page(language, organization, "0" * 64),
    ]


@pytest.mark.parametrize("language", pages.LANGUAGES)
@pytest.mark.parametrize("which", [0, 1])
def test_nothing_on_the_page_is_inline_or_from_elsewhere(language: str, which: int) -> None:
    page = both(language, "Acme")[which]

    for tag, attributes in Elements(page).found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action"):
            assert re.match(rf"#[a-z]+$|assets/{pages.VERSION}/[a-z-]+\.(js|css|svg)$", attributes.get(name) or "") or (
                name not in attributes
            )
        assert tag != "script" or "src" in attributes or attributes["type"] == "application/json"
        assert tag != "style"


def test_every_loaded_file_exists() -> None:
    page = b"".join(both("en")).decode()
    files = set(re.findall(rf"assets/{pages.VERSION}/([^\"]+)", page))
    scripts = [one.content.decode() for name, one in pages.ASSETS.items() if name.endswith(".js")]
    imported = {name for script in scripts for name in re.findall(r'from "\./([^"]+)"', script)}

    assert files | imported == set(pages.ASSETS)


def test_scripts_never_set_markup() -> None:
    """Labels and names are untrusted: the page sets them as text."""
    for name, one in pages.ASSETS.items():
        assert not re.search(
            rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", one.content
        ), name


@pytest.mark.parametrize("which", [0, 1])
def test_labels_of_inputs_and_ids_are_complete(which: int) -> None:
    found = Elements(both("en")[which]).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    labelled = {attributes.get("for") for tag, attributes in found if tag == "label"}

    assert len(ids) == len(set(ids))
    inputs = [attributes for tag, attributes in found if tag == "input"]
    # Radio buttons and check boxes are inside their labels.
    typed = [one for one in inputs if one.get("type") not in ("radio", "checkbox") and "aria-label" not in one]
    assert {one["id"] for one in typed} <= labelled
    for _, attributes in found:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)


WITHOUT_FILES = """
import builtins
from tminus import pages

def fails(*given, **named):
    raise FileNotFoundError

builtins.open = fails
for language in pages.LANGUAGES:
    pages.render(language, "Acme", pages.Start.LINK, 80)
    pages.render_agent_page(language, "Acme", "0" * 64)
"""


def test_pages_are_rendered_although_an_upgrade_has_replaced_their_files() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_FILES], check=True)
