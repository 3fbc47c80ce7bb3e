"""Loads all that the command may need, once, before others are forked from here."""

import tminus.app
import tminus.cli
import tminus.cli.tables
import tminus.storage.backup
import tminus.storage.check  # noqa: F401
