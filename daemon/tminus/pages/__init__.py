"""The pages for people in a browser: templates, texts in every language, scripts and styles, all from memory.

This package makes bytes; `api.routes_pages` serves them.
"""

from tminus.pages.assets import ASSETS, VERSION, Asset
from tminus.pages.languages import LANGUAGES, best_language, read_texts
from tminus.pages.shell import Start, render, render_agent_page

__all__ = [
    "ASSETS",
    "LANGUAGES",
    "VERSION",
    "Asset",
    "Start",
    "best_language",
    "read_texts",
    "render",
    "render_agent_page",
]
