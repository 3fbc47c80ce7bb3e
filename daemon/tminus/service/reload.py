"""Reload: apply a changed configuration to a running daemon."""

from collections.abc import Mapping
from pathlib import Path

from tminus import config, delivery
from tminus.api import Services
from tminus.config import ConfigError
from tminus.domain.errors import printable
from tminus.logs import output
from tminus.logs.output import log
from tminus.oidc import settings as oidc
from tminus.scheduler.scheduler import Scheduler
from tminus.service.sockets import Listeners


class Reloader:
    """Reads the configuration again and applies it.

    Parameters
    ----------
    path
        The file that `--config` names; None: the usual places.
    state, environ
        The state directory, and the environment of the process.
    listeners
        The sockets, whose addresses a reload does not change.
    services, scheduler
        Where the settings are applied.
    """

    def __init__(
        self,
        path: Path | None,
        state: Path,
        environ: Mapping[str, str],
        listeners: Listeners,
        services: Services,
        scheduler: Scheduler,
    ) -> None:
        self._path = path
        self._state = state
        self._environ = environ
        self._listeners = listeners
        self._services = services
        self._scheduler = scheduler
        self._applied = services.settings
        """The settings that are in force everywhere."""

    def reload(self) -> None:
        """Apply the whole configuration, or nothing of it and log why.

        After any other exception, the next call applies everything again.
        """
        old = self._applied
        try:
            loaded = config.load(config.find(self._path, self._environ), self._environ)
            secrets, access = config.read_all(
                loaded.origins,
                lambda: delivery.read_secrets(loaded.settings, self._state, self._environ),
                lambda: oidc.read(loaded.settings, self._state, self._environ),
            )
        except ConfigError as error:
            self._reject(error)
            return
        read = loaded.settings.model_copy(
            update={"server": self._listeners.with_bound_addresses(loaded.settings.server)}
        )
        changes = config.changes(old, read)
        new = config.apply_live(old, read)
        issuer = oidc.issuer_for(access)
        self._services.webhooks.apply(new, secrets)
        self._services.apply(new)
        self._services.issuer = issuer
        output.configure(new.log.level, new.log.format)
        for change in changes:
            name = "config.needs_restart" if change.needs_restart else "config.changed"
            values = {"agent_name": change.agent_name, "old": change.old, "new": change.new}
            log(name, key=change.key, **{field: value or None for field, value in values.items()})
        self._services.metrics.set_config(loaded.fingerprint)
        self._services.metrics.config_rejected.set(0)
        log(
            "config.reloaded",
            changes=len(changes),
            config=printable(loaded.path or "built-in defaults"),
            config_files=[printable(file) for file in loaded.files],
            config_fingerprint=loaded.fingerprint,
        )
        self._scheduler.apply_settings(old, new)
        self._applied = new

    def _reject(self, error: ConfigError) -> None:
        self._services.metrics.config_rejected.set(1)
        log("config.rejected", faults=len(error.problems))
        log_config_problems(error)


def log_config_problems(error: ConfigError) -> None:
    """Log a line for each problem of a configuration."""
    for problem in error.problems:
        log("config.fault", where=problem.where, key=problem.key, error=problem.message)
