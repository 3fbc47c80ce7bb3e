"""The words of the mails: templates of Jinja2 in English and German, any of which a site may replace.

For each language there are two files: `en.txt`, whose first line is `Subject: …`, and `en.html`. They run in a sandbox,
because a template is text and not a program, and every kind of mail is rendered once when they are loaded. So a wrong
template is a fault of the configuration and not of the first mail.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, TemplateError
from jinja2.loaders import DictLoader
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tminus.calendars.entries import plain
from tminus.delivery.mail.plan import Kind

LANGUAGES = ("en", "de")
NAMES = tuple(f"{language}.{ending}" for language in LANGUAGES for ending in ("txt", "html"))

TEMPLATE_BYTES = 64 * 1024
"""Maximum size of a template."""

TEXT_CHARACTERS = 256 * 1024
"""Maximum size of a rendered text: mail servers refuse large mails."""

# Read when the daemon starts. An upgrade may replace the files while the old release still runs.
_BUILT_IN = {name: Path(__file__).with_name("templates").joinpath(name).read_text() for name in NAMES}

_MONTHS = {
    "en": "January,February,March,April,May,June,July,August,September,October,November,December",
    "de": "Januar,Februar,März,April,Mai,Juni,Juli,August,September,Oktober,November,Dezember",
}
_DAYS = {
    "en": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday",
    "de": "Montag,Dienstag,Mittwoch,Donnerstag,Freitag,Samstag,Sonntag",
}


class BadTemplate(Exception):
    """A template of the site cannot be used. The message follows the key's name: "has en.txt, which …"."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of one mail."""

    subject: str
    text: str
    html: str


def read(folder: Path | None) -> Mapping[str, str]:
    """Return all templates by name: those in `folder`, and the built-in ones for the rest. Raises `BadTemplate`."""
    found = dict(_BUILT_IN)
    if folder is None:
        return found
    try:
        own = {file.name: file for file in folder.iterdir() if not file.name.startswith(".")}
    except OSError as error:
        raise BadTemplate(f"cannot be read: {error.strerror}") from None
    if unknown := sorted(own.keys() - found.keys()):
        raise BadTemplate(f"has a file {plain(unknown[0])[:100]}, but the templates are {', '.join(NAMES)}")
    for name, file in own.items():
        try:
            with file.open("rb") as opened:
                content = opened.read(TEMPLATE_BYTES + 1)
            if len(content) > TEMPLATE_BYTES:
                raise BadTemplate(f"has {name}, which has more than {TEMPLATE_BYTES // 1024} KiB")
            found[name] = content.decode()
        except OSError as error:
            raise BadTemplate(f"has {name}, which cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadTemplate(f"has {name}, which is not UTF-8") from None
    return found


def digest(templates: Mapping[str, str]) -> str:
    """Return a text that is equal for equal templates."""
    return hashlib.sha256(repr(sorted(templates.items())).encode()).hexdigest()


class Templates:
    """Renders the mails of one language. Raises `BadTemplate` if a template cannot render one kind of mail."""

    def __init__(self, templates: Mapping[str, str], language: str, timezone: str) -> None:
        # Templates whose names end with `.html` escape the values that they insert.
        self._environment = ImmutableSandboxedEnvironment(
            loader=DictLoader(dict(templates)),
            autoescape=lambda name: bool(name and name.endswith(".html")),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )
        self._language = language
        self._timezone = ZoneInfo(timezone)
        for values in _samples():
            self.render(**values)

    def render(self, *, start: datetime | None, previous: datetime | None, **values: Any) -> Words:
        """Return the words of a mail.

        `start`: the session's start; None if it is open already. `previous`: the start before an update. The rest:
        `kind`, `label`, `host`, `name`, `role`, `link`, `organization`.
        """
        shown = {name: plain(value) if isinstance(value, str) else value for name, value in values.items()}
        shown |= {"start": self._when(start), "previous": self._when(previous), "language": self._language}
        text = self._render("txt", shown)
        first, _, rest = text.partition("\n")
        if not first.startswith("Subject: ") or not first.removeprefix("Subject: ").strip():
            raise BadTemplate(f"has {self._language}.txt, whose first line is not “Subject: …”")
        return Words(
            plain(first.removeprefix("Subject: ")).strip(), rest.strip("\n") + "\n", self._render("html", shown)
        )

    def _render(self, ending: str, values: Mapping[str, Any]) -> str:
        name = f"{self._language}.{ending}"
        try:
            text = self._environment.get_template(name).render(values)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            raise BadTemplate(f"has {name}{where}: {plain(str(error))[:300]}") from None
        except Exception as error:  # a template can cause any exception
            raise BadTemplate(f"has {name}: {type(error).__name__}: {plain(str(error))[:300]}") from None
        if len(text) > TEXT_CHARACTERS:
            raise BadTemplate(f"has {name}, which makes more than {TEXT_CHARACTERS // 1024} KiB of text")
        return text

    def _when(self, instant: datetime | None) -> str | None:
        """Return a time for people, with its zone."""
        if instant is None:
            return None
        local = instant.astimezone(self._timezone)
        day = _DAYS[self._language].split(",")[local.weekday()]
        month = _MONTHS[self._language].split(",")[local.month - 1]
        zone = local.strftime("%Z")
        if self._language == "de":
            return f"{day}, {local.day}. {month} {local.year}, {local:%H:%M} Uhr ({zone})"
        return f"{day}, {local.day} {month} {local.year}, {local:%H:%M} ({zone})"


def _samples() -> list[dict[str, Any]]:
    """Return values for every kind of mail."""
    start, previous = datetime(2030, 3, 4, 9, 30, tzinfo=UTC), datetime(2030, 3, 1, 9, 30, tzinfo=UTC)
    common = {"label": "Printer", "host": "Anna Agent", "link": "https://example.com/?x", "organization": "Example"}
    return [
        {**common, "kind": kind.value, "name": name, "role": role, "start": begins, "previous": earlier}
        for kind in Kind
        for name, role in (("", "guest"), ("Joe", "host"))
        for begins, earlier in ((start, None), (start, previous), (None, None))
    ]
