"""Read the configuration from files and environment into frozen `Settings`, or raise all of its problems at once."""

from tminus.config.addresses import Address
from tminus.config.consistency import notes
from tminus.config.effective import effective
from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.load import Configuration, load, read_all
from tminus.config.locking import create_private_database, create_state_directory, lock
from tminus.config.paths import (
    Database,
    check_ownership,
    client_secret,
    command_state_directory,
    database,
    database_file,
    exists,
    find,
    mail_password,
    secrets,
    state_directory,
)
from tminus.config.reload import Change, apply_live, changes
from tminus.config.settings import Agent, Limits, Series, Settings, Urls, Webhook, actor_names, fingerprint
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
    "Series",
    "Settings",
    "Urls",
    "Webhook",
    "actor_names",
    "apply_live",
    "changes",
    "check_ownership",
    "client_secret",
    "command_state_directory",
    "create_private_database",
    "create_state_directory",
    "database",
    "database_file",
    "effective",
    "exists",
    "find",
    "fingerprint",
    "load",
    "lock",
    "mail_password",
    "notes",
    "read_all",
    "secrets",
    "state_directory",
]
