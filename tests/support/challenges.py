"""Solve the challenges of a daemon with the key in its database, which no caller has."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import create_engine, make_url, text

from tminus.api import challenges


def key_of(database: str) -> bytes:
    """Return the challenge key in the database with this URL. The daemon stores it with the first challenge."""
    url = make_url(database)
    if url.drivername.startswith("postgres"):
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT value FROM meta WHERE key = 'challenge_key'")).scalar_one()
            return bytes.fromhex(str(found))
    finally:
        engine.dispose()


def solve(database: str, uuid: str) -> str:
    """Return the digits in a challenge's picture."""
    return challenges.text_of(key_of(database), UUID(uuid))


def make(database: str, at: datetime) -> str:
    """Return the id of a challenge that was created at this time."""
    return str(challenges.new_id(key_of(database), at))
