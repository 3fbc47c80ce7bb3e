"""The texts of the pages in every language, and the choice of a language."""

import re
import string
from pathlib import Path

import pytest

from tminus import pages
from tminus.pages import languages

FOLDER = Path(pages.__file__).parent
CODE = "".join(one.read_text() for kind in ("templates/*.html", "assets/*.js") for one in FOLDER.glob(kind))


def keys(language: str) -> dict[str, str]:
    return {
        f"{section}.{name}": text
        for section, texts in languages.texts(language).items()
        for name, text in texts.items()
    }


def test_every_language_has_every_text() -> None:
    assert set(pages.LANGUAGES) >= {"en", "de"}
    for language in pages.LANGUAGES:
        assert list(keys(language)) == list(keys("en")), language
        assert all(text.strip() for text in keys(language).values())


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_a_translation_has_the_same_values_in_it(language: str) -> None:
    def names(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, text in keys(language).items():
        assert names(text) == names(keys("en")[key]), key


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_a_refused_name_is_explained_with_the_limit_in_force(language: str) -> None:
    assert "{length}" in keys(language)["say.name_refused"], "`limits.participant_name` sets the limit"
    assert 'text("name_refused", { length: nameInput.maxLength })' in CODE


@pytest.mark.parametrize("key", keys("en"))
def test_every_text_is_used(key: str) -> None:
    section, _, name = key.partition(".")
    # The macro `simple` takes the name of a section, and uses its heading and its lead.
    in_macro = f'simple("{section}"' in CODE and name in ("heading", "lead")
    in_script = section in ("say", "desk") and f'"{name}"' in CODE
    # The macro `group` of the agents' page names its three lists.
    in_group = section == "agent" and name.removesuffix("_empty") in ("open", "coming", "past")
    # Preferences are listed by their names in the API.
    in_loop = key.startswith("desk.pref_") and f'"{name.removeprefix("pref_")}"' in CODE
    assert in_loop or f'"{key}"' in CODE or in_macro or in_script or in_group or f'copy("{name}")' in CODE


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR,fr;q=0.9,en;q=0.5,de;q=0.6", "de"),
        ("en-GB,de;q=0.9", "en"),
        ("DE-CH", "de"),
        ("fr", "en"),
        ("*", "en"),
        ("de;q=0", "en"),
        ("de;q=x,;;,, en;q=0.1", "en"),
        ("de;q=1e9", "en"),
        (",".join(["fr"] * 5000 + ["de"]), "en"),
    ],
)
def test_the_page_has_the_language_that_the_browser_prefers(header: str, language: str) -> None:
    assert pages.best_language(header) == language


def test_scripts_name_only_texts_that_exist() -> None:
    for one in FOLDER.glob("assets/*.js"):
        named = set(re.findall(r'\btext\("(\w+)"', one.read_text()))

        assert named <= set(languages.texts("en")["desk" if one.name.startswith("agent") else "say"]), one.name
