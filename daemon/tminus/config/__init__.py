"""The configuration: files and environment in, frozen `Settings` out, or all that is wrong with them."""

from tminus.config.addresses import Address
from tminus.config.effective import effective
from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.load import Configuration, collected, load
from tminus.config.locking import lock, make_directory, make_private
from tminus.config.paths import (
    Database,
    check_ownership,
    database,
    database_file,
    find,
    is_there,
    operated_state,
    secrets,
    state_directory,
)
from tminus.config.reload import Change, apply_live, changes
from tminus.config.settings import Agent, Limits, Settings, Urls, Webhook, actor_names, fingerprint
from tminus.config.values import Rate

__all__ = [
    "Address",
    "Agent",
    "Change",
    "ConfigError",
    "ConfigProblem",
    "Configuration",
    "Database",
    "Limits",
    "Rate",
    "Settings",
    "Urls",
    "Webhook",
    "actor_names",
    "apply_live",
    "changes",
    "check_ownership",
    "collected",
    "database",
    "database_file",
    "effective",
    "find",
    "fingerprint",
    "is_there",
    "load",
    "lock",
    "make_directory",
    "make_private",
    "operated_state",
    "secrets",
    "state_directory",
]
