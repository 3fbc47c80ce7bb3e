"""The secrets of endpoints and the certificate authorities that they trust, read from files and systemd credentials."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tminus import config
from tminus.config import ConfigError, ConfigProblem, Settings, Webhook
from tminus.config.mail import MAIL_ENDPOINT
from tminus.config.settings import Mail
from tminus.delivery.tls import Trust

Secrets = Mapping[str, tuple[str, ...]]
"""The secrets of each endpoint, by its name; for mail, the password (`""`: none)."""


def read_secrets(settings: Settings, state_directory: Path, environ: Mapping[str, str]) -> Secrets:
    """Read the secrets of all endpoints, and check their files of certificate authorities and the templates of mails.

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
    if settings.mail.host:
        try:
            found[MAIL_ENDPOINT] = (config.mail_password(settings.mail, state_directory, environ),)
        except ConfigError as error:
            problems += error.problems
        problems += _mail_problems(settings.mail, state_directory)
    if problems:
        raise ConfigError(tuple(problems))
    return found


def _mail_problems(mail: Mail, state_directory: Path) -> Iterator[ConfigProblem]:
    """Yield what is wrong with the files that `[mail]` names."""
    from tminus.delivery.mail import templates  # noqa: PLC0415 - needed only with mail

    try:
        mail_trust(mail, state_directory)
    except OSError as error:
        problem = f"does not name a file of certificates: {error.strerror or error}"
        yield ConfigProblem("", "mail.ca_file", problem)
    try:
        read = templates.read(state_directory / mail.templates if mail.templates else None)
        templates.Templates(read, mail.language, mail.timezone)
    except templates.BadTemplate as error:
        yield ConfigProblem("", "mail.templates", str(error))


def mail_trust(mail: Mail, state_directory: Path) -> Trust | None:
    """Return the authorities that the mail server's TLS trusts, or None without TLS. Raises `OSError`."""
    if mail.security == "none":
        return None
    return Trust.of(state_directory / mail.ca_file if mail.ca_file else None)


def trust_of(webhook: Webhook, state_directory: Path) -> Trust | None:
    """Return the authorities that an endpoint trusts, or None without TLS. Raises `OSError` if `ca_file` is wrong."""
    trust = Trust.of(state_directory / webhook.ca_file) if webhook.ca_file else None
    return trust or (Trust.of(None) if webhook.url.startswith("https:") else None)
