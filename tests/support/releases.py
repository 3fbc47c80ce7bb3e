"""Releases of tminus with other migrations than this one."""

from pathlib import Path

from tminus.storage import migrate


def add_migration(migrations: Path, name: str, content: str) -> None:
    """Add a migration to a copy of the folder of migrations. `name`: its revision, `_` and a word."""
    (migrations / "versions" / f"{name}.py").write_text(content)
    schema = migrations / "schema.sql"
    before, mark, after = schema.read_text().partition(f"VALUES ('{migrate.head()}')")
    assert mark
    schema.write_text(f"{before}VALUES ('{name.partition('_')[0]}'){after}")
