"""The tables of docs/events.md and the mapping for Elasticsearch, as they follow from the catalogue; `make docs` writes
them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tminus.domain.events import CATALOGUE, COMMON_FIELDS, EXTRA_FIELDS
from tminus.logs.catalogue import EVENT_FIELDS, LOG_LINES
from tminus.logs.fields import FIELDS, HEAD, Kind

MAPPING = Path(__file__).parents[2] / "config" / "elasticsearch" / "tminus.json"
PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def events() -> str:
    """Every event: when, and what it carries."""
    rows = (f"| `{kind}` | {entry.when} | {code(entry.carries)} |" for kind, entry in CATALOGUE.items())
    return "\n".join(("| type | when | carries, besides the common fields |", "|---|---|---|", *rows))


def log_lines() -> str:
    """Every line of the log that is no event."""
    rows = (
        f"| `{name}` | {line.level} | {_sentence(line.says)} | {code(line.fields)} |".replace("|  |", "| |")
        for name, line in LOG_LINES.items()
    )
    return "\n".join(("| name | level | says | fields |", "|---|---|---|---|", *rows))


def _sentence(says: str) -> str:
    """A sentence of the catalogue as the page has it: `{faults:error}` is so many errors."""
    return re.sub(r"\{(\w+):([a-z ]+)\}", r"{\1} \2s", says)


def fields(described: Mapping[str, str]) -> str:
    """What each field is."""
    return "\n".join(
        ("| field | what it is |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in described.items()))
    )


def log_fields() -> str:
    """Every field of the log: its type, what it means, and in which lines it is."""
    rows = (f"| `{name}` | {field.kind} | {field.means} | {_where(name)} |" for name, field in FIELDS.items())
    return "\n".join(("| field | type | meaning | in |", "|---|---|---|---|", *rows))


def _where(name: str) -> str:
    if name in HEAD:
        return "every line"
    lines = code(line for line, entry in LOG_LINES.items() if name in entry.fields)
    return ", ".join(filter(None, ("session events" * (name in EVENT_FIELDS), lines)))


TABLES = {
    "events": events(),
    "event fields": fields(COMMON_FIELDS),
    "extra fields": fields(EXTRA_FIELDS),
    "log lines": log_lines(),
    "log fields": log_fields(),
}


def written(page: str) -> str:
    """The page with its tables as they should be. Each stands below a line `<!-- made by make docs: NAME -->`."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- made by make docs: {name} -->\n)(?:\|.*\n)*"
        page, found = re.subn(pattern, lambda match, table=table: f"{match[1]}{table}\n", page)  # type: ignore[misc]
        if not found:
            raise LookupError(f"{PAGE.name} has no place for the table of {name}")
    return page


ELASTICSEARCH = {
    Kind.KEYWORD: {"type": "keyword", "ignore_above": 1024},
    Kind.TEXT: {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
    Kind.INTEGER: {"type": "long"},
    Kind.TIME: {"type": "date", "format": "strict_date_optional_time"},
    Kind.KEYWORDS: {"type": "keyword", "ignore_above": 1024},
    Kind.OBJECT: {"type": "flattened"},
}
"""By the type of a field, how Elasticsearch indexes it. Names within an object are the configuration's, and may have
dots: flattened, they make no fields of their own.
"""


def mapping() -> str:
    """The index template for Elasticsearch: a field that is not in it stays in the document and is not indexed."""
    properties = {name: ELASTICSEARCH[field.kind] for name, field in FIELDS.items()}
    template = {"mappings": {"dynamic": False, "properties": properties}}
    return json.dumps({"index_patterns": ["tminus-*"], "priority": 200, "template": template}, indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
    MAPPING.write_text(mapping())
