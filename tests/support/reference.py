"""Make the tables of docs/events.md and the mapping for Elasticsearch from the catalogue. `make docs` writes them."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sqlalchemy import create_engine, text

from tminus.domain.diagram import mermaid
from tminus.domain.events import CATALOGUE, COMMON_FIELDS, EXTRA_FIELDS
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS
from tminus.logs.fields import FIELDS, HEAD, Kind
from tminus.rooms import asyncapi
from tminus.storage import migrate

MAPPING = Path(__file__).parents[2] / "config" / "elasticsearch" / "tminus.json"
ASYNCAPI = Path(__file__).parents[2] / "docs" / "asyncapi.json"
README = Path(__file__).parents[2] / "README.md"
SCHEMA = Path(migrate.__file__).with_name("migrations") / "schema.sql"
PAGE = Path(__file__).parents[2] / "docs" / "events.md"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def events() -> str:
    """Return the table of events: when each is recorded, and its fields."""
    rows = (f"| `{kind}` | {entry.when} | {code(entry.fields)} |" for kind, entry in CATALOGUE.items())
    return "\n".join(("| type | recorded when | fields besides the common ones |", "|---|---|---|", *rows))


def log_lines() -> str:
    """Return the table of log lines that are not events."""
    rows = (
        f"| `{name}` | {line.level} | {_sentence(line.template)} | {code(line.fields)} |".replace("|  |", "| |")
        for name, line in LOG_LINES.items()
    )
    return "\n".join(("| name | level | message | fields |", "|---|---|---|---|", *rows))


def _sentence(template: str) -> str:
    """Return a message template as the page shows it: `{faults:error}` becomes `{faults} errors`."""
    return re.sub(r"\{(\w+):([\w ]+)\}", r"{\1} \2s", template)


def fields(described: Mapping[str, str]) -> str:
    """Return the table of these fields and their meanings."""
    return "\n".join(
        ("| field | meaning |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in described.items()))
    )


def log_fields() -> str:
    """Return the table of all log fields: type, meaning, and the lines that have it."""
    rows = (f"| `{name}` | {field.kind} | {field.means} | {_where(name)} |" for name, field in FIELDS.items())
    return "\n".join(("| field | type | meaning | in these lines |", "|---|---|---|---|", *rows))


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
    """Return the page with new tables. Each table follows a line `<!-- made by make docs: NAME -->`."""
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
"""How Elasticsearch indexes a field, by its type. Names within an object come from the configuration and may contain
dots. The type `flattened` creates no field for each of them.
"""


def mapping() -> str:
    """Return the index template. Elasticsearch stores fields that are not in it, and does not index them."""
    properties = {name: ELASTICSEARCH[field.kind] for name, field in FIELDS.items()}
    template = {"mappings": {"dynamic": False, "properties": properties}}
    return json.dumps({"index_patterns": ["tminus-*"], "priority": 200, "template": template}, indent=2) + "\n"


def rooms() -> str:
    """Return the AsyncAPI description of the rooms' protocol."""
    return json.dumps(asyncapi.document(), indent=2, ensure_ascii=False) + "\n"


def schema() -> str:
    """Return the statements that create the schema to which all migrations lead, in an SQLite database."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrate.upgrade_to(connection, "head")
        head = migrate.revision_of(connection)
        query = (
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT IN ('sqlite_sequence', 'alembic_version')"
        )
        statements = [
            re.sub(r"[ \t]+\n", "\n", sql) for sql in connection.execute(text(f"{query} ORDER BY rowid")).scalars()
        ]
    # Existing databases have Alembic's own table as it is here, even if another version of Alembic defines another.
    version_table = SCHEMA.read_text().partition(";\n")[0]
    revision = f"INSERT INTO alembic_version VALUES ('{head}')"
    return "".join(f"{statement};\n" for statement in (version_table, *statements, revision))


def pictured(readme: str) -> str:
    """Return the README with the current diagram of the state machine."""
    page, found = re.subn(
        r"```mermaid\n.*?```", lambda _match: f"```mermaid\n{mermaid()}\n```", readme, flags=re.DOTALL
    )
    if found != 1:
        raise LookupError(f"{README.name} has {found} diagrams")
    return page


if __name__ == "__main__":
    README.write_text(pictured(README.read_text()))
    PAGE.write_text(written(PAGE.read_text()))
    MAPPING.write_text(mapping())
    ASYNCAPI.write_text(rooms())
    SCHEMA.write_text(schema())
