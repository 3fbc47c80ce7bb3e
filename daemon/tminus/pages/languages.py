"""The languages of the pages, their texts, and the choice of one by `Accept-Language`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "texts"

_RANGE = re.compile(r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q\s*=\s*([0-9.]{1,5})\s*)?")

_MAX_RANGES = 20
"""Maximum number of language ranges of a header that are read; browsers send up to about ten."""

Texts = Mapping[str, Mapping[str, str]]
"""The texts of one language, by section and name."""


def read_texts(folder: Path) -> dict[str, Any]:
    """Return the texts in a folder, which has one TOML file for each language, by the code of the language."""
    return {one.stem: tomllib.loads(one.read_text("utf-8")) for one in sorted(folder.glob("*.toml"))}


_TEXTS: Mapping[str, Texts] = read_texts(_FOLDER)

DEFAULT = "en"

LANGUAGES = tuple(_TEXTS)
"""The codes of all languages. A new language is one more file in `texts/`."""


def texts(language: str) -> Texts:
    """Return the texts of a language of `LANGUAGES`."""
    return _TEXTS[language]


def best_language(accept_language: str) -> str:
    """Return the language of `LANGUAGES` that the header prefers, or English. Malformed parts are ignored."""
    best, quality = DEFAULT, 0.0
    for part in accept_language.split(",")[:_MAX_RANGES]:
        found = _RANGE.fullmatch(part)
        if found is None:
            continue
        language = DEFAULT if found[1] == "*" else found[1].lower()
        weight = _weight(found[2])
        if language in _TEXTS and weight > quality:
            best, quality = language, weight
    return best


def _weight(text: str | None) -> float:
    try:
        return 1.0 if text is None else min(float(text), 1.0)
    except ValueError:
        return 0.0
