"""Alembic's entry point. `storage.migrate` passes an open connection, inside a transaction."""

from alembic import context
from sqlmodel import SQLModel

from tminus.storage import tables  # noqa: F401  # declares the tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
