"""Check settings that are valid alone but not together."""

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from tminus.config.addresses import is_loopback
from tminus.config.errors import ConfigProblem
from tminus.config.keys import LISTS, display_key
from tminus.config.lines import KeyPath
from tminus.config.mail import MAIL_ENDPOINT
from tminus.config.merge import Tree
from tminus.config.settings import Lifecycle, Settings
from tminus.domain.durations import duration_text
from tminus.domain.types import Role


def contradictions(tree: Tree) -> Iterator[ConfigProblem]:
    """Yield values that are valid alone but not together. Reads the raw values, which may be wrong in any way."""
    for (section,), (_, id_key) in LISTS.items():
        yield from _duplicates(tree, section, id_key)
    yield from _duplicate_tokens(tree)
    yield from _missing_secrets(tree)
    yield from _series_without_agent(tree)
    yield from _incomplete_issuer(tree)
    yield from _incomplete_mail(tree)
    yield from _lead_beyond_horizon(tree)
    yield from _no_access(tree)

    storage = tree.values.get("storage")
    storage = storage if isinstance(storage, dict) else {}
    given = [("storage", key) for key in ("password_file", "password_credential") if storage.get(key)]
    if len(given) == 2:
        problem = "cannot be set together with storage.password_file: keep one of them"
        yield ConfigProblem(tree.origin(given[1]), "storage.password_credential", problem)
    if str(storage.get("url", "sqlite:")).startswith("sqlite:"):
        for path in given:
            problem = "is for PostgreSQL only, and storage.url names an SQLite file"
            yield ConfigProblem(tree.origin(path), ".".join(path), problem)


def notes(settings: Settings) -> Iterator[str]:
    """Yield warnings about a valid configuration, which `tminus check` prints as notes."""
    server = settings.server
    page = server.urls().user_page
    if (server.public_url or server.user_url) and page.startswith("http:"):
        key = "user_url" if server.user_url else "public_url"
        yield (
            f"server.{key} begins with http:, but the original's SDK always builds links to cobrowse sessions with "
            f"https:, so those lead nowhere. The links that tminus builds work"
        )


def _entries(tree: Tree, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Yield the tables of a list, each with its path."""
    entries = tree.values.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield (section, index), entry


def _duplicates(tree: Tree, section: str, id_key: str) -> Iterator[ConfigProblem]:
    """Yield entries of a list that have the id or name of an earlier entry."""
    seen: dict[int | str, KeyPath] = {}
    for entry_path, entry in _entries(tree, section):
        path, entry_id = (*entry_path, id_key), entry.get(id_key)
        if isinstance(entry_id, int | str) and (first := seen.setdefault(entry_id, path)) != path:
            kind = section if section == "series" else section[:-1]
            problem = f"is also the {id_key} of another {kind} ({tree.origin(first)}): each needs its own"
            yield ConfigProblem(tree.origin(path), display_key(path, tree.values), problem)


def _duplicate_tokens(tree: Tree) -> Iterator[ConfigProblem]:
    hashes: dict[str, KeyPath] = {}
    for entry_path, agent in _entries(tree, "agents"):
        tokens = agent.get("token_sha256")
        for position, token in enumerate(tokens if isinstance(tokens, list) else []):
            path = (*entry_path, "token_sha256", position)
            if isinstance(token, str) and (first := hashes.setdefault(token, path)) != path:
                other = f"{display_key(first, tree.values)} ({tree.origin(first)})"
                problem = f"repeats a hash of {other}: a token belongs to one agent"
                yield ConfigProblem(tree.origin(path), display_key(path, tree.values), problem)


def _missing_secrets(tree: Tree) -> Iterator[ConfigProblem]:
    for entry_path, webhook in _entries(tree, "webhooks"):
        if not (webhook.get("secret_file") or webhook.get("secret_credential")):
            path = (*entry_path, "secret_file")
            problem = "is missing: every request is signed. `tminus webhooks secret` makes a secret for a file"
            yield ConfigProblem(tree.origin(path), display_key(path, tree.values), problem)


def _series_without_agent(tree: Tree) -> Iterator[ConfigProblem]:
    """Yield series of an agent who is not in the configuration, or who may not create sessions."""
    roles = {
        agent.get("id"): agent.get("roles") for _, agent in _entries(tree, "agents") if _is_number(agent.get("id"))
    }
    for entry_path, entry in _entries(tree, "series"):
        number, path = entry.get("agent"), (*entry_path, "agent")
        if not _is_number(number):
            continue  # reported as a problem of its own
        problem = ""
        if number not in roles:
            problem = f"must be the id of an agent in [[agents]]; there is no agent {number}"
        elif isinstance(found := roles[number], list) and not {Role.AGENT, Role.GROUP_ADMIN} & set(map(str, found)):
            problem = f"must be an agent who may create sessions; agent {number} lacks the role {Role.AGENT}"
        if problem:
            yield ConfigProblem(tree.origin(path), display_key(path, tree.values), problem)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _incomplete_issuer(tree: Tree) -> Iterator[ConfigProblem]:
    """Yield what `[signin.oidc]` lacks, or has twice."""
    signin = tree.values.get("signin")
    oidc = signin.get("oidc") if isinstance(signin, dict) else None
    if not isinstance(oidc, dict):
        return

    def problem(name: str, text: str) -> ConfigProblem:
        path = ("signin", "oidc", name)
        return ConfigProblem(tree.origin(path), ".".join(path), text)

    if oidc.get("client_secret_file") and oidc.get("client_secret_credential"):
        yield problem(
            "client_secret_credential", "cannot be set together with signin.oidc.client_secret_file: keep one of them"
        )
    if not oidc.get("issuer"):
        return
    if not oidc.get("client_id"):
        yield problem("client_id", "is missing: the issuer assigns it when tminus is registered there")
    if not (oidc.get("client_secret_file") or oidc.get("client_secret_credential")):
        yield problem("client_secret_file", "is missing: it names the file with the secret that the issuer assigned")


def _incomplete_mail(tree: Tree) -> Iterator[ConfigProblem]:
    """Yield what `[mail]` lacks, or has twice."""
    mail = tree.values.get("mail")
    if not isinstance(mail, dict):
        return

    def problem(name: str, text: str) -> ConfigProblem:
        return ConfigProblem(tree.origin(("mail", name)), f"mail.{name}", text)

    files = [name for name in ("password_file", "password_credential") if mail.get(name)]
    if len(files) == 2:
        yield problem("password_credential", "cannot be set together with mail.password_file: keep one of them")
    if not mail.get("host"):
        return
    if not mail.get("from"):
        yield problem("from", 'is missing: the sender of all mails, such as "Support <support@example.com>"')
    if bool(mail.get("username")) is not bool(files):
        yield problem(
            "username" if files else "password_file", "is missing: mail.username and its password belong together"
        )
    if mail.get("username") and mail.get("security") == "none" and not is_loopback(str(mail["host"])):
        yield problem("security", 'must not be "none" with a password: the network would carry it unencrypted')
    yield from _second_mail_endpoint(tree)


def _second_mail_endpoint(tree: Tree) -> Iterator[ConfigProblem]:
    for path, webhook in _entries(tree, "webhooks"):
        if webhook.get("name") == MAIL_ENDPOINT:
            text = f'must not be "{MAIL_ENDPOINT}" while mail.host is set: the endpoint that sends mail has this name'
            yield ConfigProblem(tree.origin((*path, "name")), display_key((*path, "name"), tree.values), text)


def _lead_beyond_horizon(tree: Tree) -> Iterator[ConfigProblem]:
    lifecycle = tree.values.get("lifecycle")
    lifecycle = lifecycle if isinstance(lifecycle, dict) else {}
    given = {key: lifecycle[key] for key in ("lead", "horizon") if key in lifecycle}
    try:
        spans = Lifecycle.model_validate(given)
    except ValidationError:
        return  # reported as a problem of its own
    if spans.lead >= spans.horizon:
        path = ("lifecycle", "lead" if "lead" in given else "horizon")
        lead, horizon = duration_text(spans.lead), duration_text(spans.horizon)
        problem = f'makes scheduling impossible: lead ("{lead}") must be shorter than horizon ("{horizon}")'
        yield ConfigProblem(tree.origin(path), ".".join(path), problem)


def _no_access(tree: Tree) -> Iterator[ConfigProblem]:
    # Expired tokens count, too: a configuration that was valid yesterday must not prevent a start today.
    server = tree.values.get("server")
    tokens = any(agent.get("token_sha256") for _, agent in _entries(tree, "agents"))
    signin = tree.values.get("signin")
    people = isinstance(signin, dict) and bool(signin.get("oidc"))
    if isinstance(server, dict) and server.get("socket") == "" and not tokens and not people:
        problem = "must not be empty: no agent has a token, and nobody can sign in"
        yield ConfigProblem(tree.origin(("server", "socket")), "server.socket", problem)
