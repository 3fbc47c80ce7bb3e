"""Alembic's entry: `storage.migrate` hands over an open connection, inside its transaction."""

from alembic import context
from sqlmodel import SQLModel

from tminus.storage import tables  # noqa: F401  # declares the tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
