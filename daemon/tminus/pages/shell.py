"""Render the pages from their templates. Jinja2 escapes every value."""

from enum import StrEnum
from pathlib import Path

import orjson
from jinja2 import DictLoader, Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from tminus.pages.assets import VERSION
from tminus.pages.languages import texts

# Read when the daemon starts, as the texts are. An upgrade may replace the files while the old release still runs.
_TEMPLATES = {file.name: file.read_text("utf-8") for file in Path(__file__).with_name("templates").glob("*.html")}

_ENVIRONMENT = Environment(
    loader=DictLoader(_TEMPLATES),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_IN_SCRIPT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
"""Characters of JSON that could end the element which contains it."""


class Start(StrEnum):
    """The state in which the page begins."""

    LINK = "link"
    """The script reads the state from the page's address."""
    MISSING = "missing"
    """The address leads to nothing."""


def render(language: str, organization: str, start: Start, name_length: int) -> bytes:
    """Return the page in a language.

    `organization` is the name of who runs the daemon, or "" for none; `name_length` is the maximum number of characters
    of a visitor's name.
    """
    return _render("room.html", language, organization, "say", start=start.value, name_length=str(name_length))


def render_agent_page(language: str, organization: str, key: str) -> bytes:
    """Return the page for an agent who is signed in. `key`: the CSRF key that the page's script sends with requests."""
    return _render("agent.html", language, organization, "desk", start="desk", key=key)


def _render(template: str, language: str, organization: str, script_section: str, **values: str) -> bytes:
    """Return a page. `script_section` is the section with the texts that its scripts show."""
    catalogue = texts(language)

    def text(key: str) -> str:
        section, _, name = key.partition(".")
        return catalogue[section][name]

    page = _ENVIRONMENT.get_template(template).render(
        t=text,
        language=language,
        organization=organization,
        assets=f"assets/{VERSION}",
        say=_json(catalogue[script_section]),
        **values,
    )
    return page.encode()


def _json(value: object) -> Markup:
    """Return JSON that can stand in a `<script type="application/json">`."""
    return Markup(orjson.dumps(value).decode().translate(_IN_SCRIPT))  # noqa: S704 - it has none of <, > and &
