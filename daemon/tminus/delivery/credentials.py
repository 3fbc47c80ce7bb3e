"""The secrets of endpoints and the certificate authorities that they trust, read from files and systemd credentials."""

from collections.abc import Mapping
from pathlib import Path

from tminus import config
from tminus.config import ConfigError, ConfigProblem, Settings, Webhook
from tminus.delivery.tls import Trust

Secrets = Mapping[str, tuple[str, ...]]
"""The secrets of each endpoint, by its name."""


def read_secrets(settings: Settings, state_directory: Path, environ: Mapping[str, str]) -> Secrets:
    """Read the secrets of all endpoints, and check their files of certificate authorities.

    Raises `ConfigError` with all problems at once.
    """
    found: dict[str, tuple[str, ...]] = {}
    problems: list[ConfigProblem] = []
    for webhook in settings.webhooks:
        try:
            found[webhook.name] = config.secrets(webhook, state_directory, environ)
        except ConfigError as error:
            problems += error.problems
        try:
            trust_of(webhook, state_directory)
        except OSError as error:
            key = f"webhooks[{webhook.name}].ca_file"
            problems.append(ConfigProblem("", key, f"does not name a file of certificates: {error.strerror or error}"))
    if problems:
        raise ConfigError(tuple(problems))
    return found


def trust_of(webhook: Webhook, state_directory: Path) -> Trust | None:
    """Return the authorities that an endpoint trusts, or None without TLS. Raises `OSError` if `ca_file` is wrong."""
    trust = Trust.of(state_directory / webhook.ca_file) if webhook.ca_file else None
    return trust or (Trust.of(None) if webhook.url.startswith("https:") else None)
