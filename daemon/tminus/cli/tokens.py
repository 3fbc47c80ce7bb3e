"""The commands for tokens. They change the agents in a configuration file, and print what to do next."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from tminus import clock, config
from tminus.cli import output, tables
from tminus.cli.connection import NOT_FOUND, REFUSED, USAGE, Connection, fail, how_to_reload, reporting_errors
from tminus.cli.options import FILE, Command, as_json, wide
from tminus.cli.tables import Column
from tminus.config import Agent, ConfigError, Configuration, fingerprint
from tminus.config.effective import toml
from tminus.config.text import NotText
from tminus.domain import ids, timestamps
from tminus.domain.types import Role

MIN_FINGERPRINT = 8
"""Minimum number of hexadecimal digits by which a token may be named; fewer might match another token."""


@click.command(cls=Command)
@click.option("--id", "agent_id", type=click.IntRange(1), default=1, metavar="NUMBER", help="The agent's number.")
@click.option("--name", help="The name of a new agent, as users see it.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    multiple=True,
    help="A role of a new agent; may be repeated.",
)
@click.option(
    "--append",
    type=FILE,
    metavar="FILE",
    help="Write the token's hash to this configuration file, and print only the token.",
)
@as_json
@click.pass_obj
def new(
    connection: Connection, agent_id: int, name: str | None, role: tuple[str, ...], append: Path | None, as_json: bool
) -> None:
    """Create a token for a new or a configured agent. The configuration file contains only the token's hash."""
    with reporting_errors():
        read = _configuration(connection)
        known = next((agent for agent in read.settings.agents if agent.id == agent_id), None)
        if known is not None:
            _check_same(known, name, role, _origin(read, agent_id))
        token = ids.base62(43)
        digest = hashlib.sha256(token.encode()).hexdigest()
        roles = list(role) or [Role.AGENT.value, Role.API.value]
        agent = {"id": agent_id, "name": "An agent" if name is None else name, "roles": roles, "token_sha256": [digest]}
        if known is not None:
            agent |= {"name": known.name, "roles": sorted(one.value for one in known.roles)}
        if append is not None:
            _add(connection, read, append, agent, is_known=known is not None)
    if as_json:
        output.put_json({"token": token, **agent, "token_sha256": digest}, indent=None)
    elif append is not None:
        output.put(token)
    else:
        output.put_text(f"The token, which is shown only once; give it to the caller:\n\n  {token}\n\n")
        if known is None:
            lines = "".join(f"{key} = {toml(value)}\n" for key, value in agent.items())
            output.put_text(f"Paste this into the configuration, then {how_to_reload()}:\n\n[[agents]]\n{lines}")
        else:
            where = _origin(read, agent_id)
            output.put_text(f"Add this to token_sha256 of agent {agent_id} ({where}), then {how_to_reload()}:\n\n")
            output.put_text(f'"{digest}"\n')
    if append is not None:
        added = f"token {fingerprint(digest)} of agent {agent_id}"
        if known is None:  # print this clearly, since a mistyped number also creates an agent
            added = f"new agent {agent_id}, {agent['name']} ({', '.join(roles)}), with token {fingerprint(digest)},"
        output.print_error(f"added {added} to {append}; next, {how_to_reload()}")
    if known is not None and known.expires is not None and known.expires <= clock.now():
        output.print_error(
            f"tokens of agent {agent_id} expired at {timestamps.text(known.expires)}: change its `expires`"
        )


def _check_same(known: Agent, name: str | None, role: tuple[str, ...], where: str) -> None:
    """Fail if the given name or roles differ from those of the configured agent."""
    if name is not None and name != known.name:
        problem = f"agent {known.id} is {known.name!r} ({where})"
        raise fail(f"{problem}: name another agent with --id, or leave --name out", REFUSED)
    if role and set(role) != {one.value for one in known.roles}:
        roles = ", ".join(sorted(one.value for one in known.roles))
        problem = f"agent {known.id} has the roles {roles} ({where})"
        raise fail(f"{problem}: name another agent with --id, or leave --role out", REFUSED)


def _add(connection: Connection, read: Configuration, file: Path, agent: dict[str, Any], *, is_known: bool) -> None:
    from tminus.config import editing  # noqa: PLC0415 - tomlkit is slow to load

    agent_id, [digest] = agent["id"], agent["token_sha256"]
    if is_known:
        present = _file_of(read, agent_id)
        if not _is_same(present, file):
            raise fail(f"agent {agent_id} is in {present}: name that file, or choose another --id", REFUSED)
        _change(connection, file, lambda text: editing.with_token(text, agent_id, digest), agent_id)
    else:
        _change(connection, file, lambda text: editing.with_agent(text, agent), agent_id)


@click.command("list", cls=Command)
@wide
@as_json
@click.pass_obj
def list_(connection: Connection, wide: bool, as_json: bool) -> None:
    """Show the configured agents, the fingerprints of their tokens, and when the tokens expire."""
    with reporting_errors():
        read = _configuration(connection)
    now = clock.now()
    if as_json:
        output.put_json(
            [
                {
                    "id": agent.id,
                    "name": agent.name,
                    "roles": sorted(role.value for role in agent.roles),
                    "tokens": [fingerprint(digest) for digest in agent.token_sha256],
                    "expires": timestamps.text(agent.expires) if agent.expires else None,
                    "expired": agent.expires is not None and agent.expires <= now,
                    "where": _origin(read, agent.id),
                }
                for agent in read.settings.agents
            ]
        )
        return
    if not read.settings.agents:
        output.put("no agents: `tminus token new` creates one")
        return
    columns = [
        Column("ID"), Column("NAME", least=8), Column("ROLES", least=8, folds=True), Column("TOKENS"),
        Column("FINGERPRINTS", least=12, folds=True), Column("EXPIRES"), Column("WHERE", wide=True),
    ]  # fmt: skip
    tables.show(
        columns,
        [_row(read, agent, agent.expires is not None and agent.expires <= now) for agent in read.settings.agents],
        wide=wide,
    )


def _row(read: Configuration, agent: Agent, expired: bool) -> list[str]:
    expires = timestamps.text(agent.expires) if agent.expires else "never"
    return [
        str(agent.id),
        agent.name,
        ", ".join(sorted(role.value for role in agent.roles)),
        str(len(agent.token_sha256)),
        ", ".join(map(fingerprint, agent.token_sha256)) or "none",
        f"{expires} (expired)" if expired else expires,
        _origin(read, agent.id),
    ]


@click.command(cls=Command)
@click.argument("fingerprint_", metavar="[FINGERPRINT]", required=False)
@click.option("--id", "agent_id", type=click.IntRange(1), metavar="NUMBER", help="All tokens of this agent.")
@click.pass_obj
def revoke(connection: Connection, fingerprint_: str | None, agent_id: int | None) -> None:
    """Remove a token from the configuration, by its fingerprint from `tminus token list`, or all tokens of an agent."""
    if (fingerprint_ is None) is (agent_id is None):
        raise fail("name a FINGERPRINT (`tminus token list` shows them), or an agent with --id", USAGE)
    with reporting_errors():
        read = _configuration(connection)
        agent, digests = _named_tokens(read, fingerprint_, agent_id)
        file = _file_of(read, agent.id)

        from tminus.config import editing  # noqa: PLC0415 - tomlkit is slow to load

        _change(connection, file, lambda text: editing.without_tokens(text, agent.id, digests), agent.id)
    named = f"token{'s' * (len(digests) > 1)} {', '.join(sorted(map(fingerprint, digests)))}"
    output.put(f"removed {named} of agent {agent.id} from {file}; for this to take effect, {how_to_reload()}")


def _named_tokens(read: Configuration, mark: str | None, agent_id: int | None) -> tuple[Agent, frozenset[str]]:
    """Return an agent and those of its token hashes that the command line names."""
    if mark is None:
        agent = next((one for one in read.settings.agents if one.id == agent_id), None)
        if agent is None or not agent.token_sha256:
            raise fail(f"agent {agent_id} has no token in the configuration", NOT_FOUND)
        return agent, frozenset(agent.token_sha256)
    mark = mark.rstrip("…").lower()
    if len(mark) < MIN_FINGERPRINT or set(mark) - set("0123456789abcdef"):
        problem = f"a FINGERPRINT is the first {MIN_FINGERPRINT} or more hexadecimal digits of a token's SHA-256"
        raise fail(f"{problem}; `tminus token list` shows them", USAGE)
    found = [(one, digest) for one in read.settings.agents for digest in one.token_sha256 if digest.startswith(mark)]
    if not found:
        raise fail(f"no token in the configuration has the fingerprint {mark}", NOT_FOUND)
    if len(found) > 1:
        raise fail(f"{len(found)} tokens have the fingerprint {mark}: name more digits", USAGE)
    [(agent, digest)] = found
    return agent, frozenset({digest})


# --- the configuration ------------------------------------------------------------------------------------------------


def _configuration(connection: Connection) -> Configuration:
    return config.load(config.find(connection.config, os.environ), os.environ)


def _origin(read: Configuration, agent_id: int) -> str:
    """Return where an agent is configured: a file and its line, or a variable."""
    return read.origins[f"agents[{agent_id}].id"]


def _file_of(read: Configuration, agent_id: int) -> Path:
    where = _origin(read, agent_id)
    if where.startswith("environment "):
        raise fail(f"agent {agent_id} is configured in the {where}: change it there", REFUSED)
    return Path(where.rpartition(":")[0])


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False


def _change(connection: Connection, file: Path, edit: Callable[[str], str], agent_id: int) -> None:
    """Edit a file if the configuration is valid with the new text; otherwise fail with a message."""
    from tminus.config import editing  # noqa: PLC0415 - tomlkit is slow to load

    main = config.find(connection.config, os.environ)
    path = _as_read(main, file)

    def check(content: bytes) -> None:
        # A file that this configuration does not read is checked as a configuration of its own.
        changed = config.load(main if path else file, os.environ, {path or file: content})
        if path is not None and agent_id not in {one.id for one in changed.settings.agents}:
            raise fail("$TMINUS_AGENTS is set, and replaces the agents of all files", REFUSED)

    try:
        editing.replace(file, edit, check, main if main and config.exists(main) else None)
    except ConfigError:
        output.print_error(f"{file} was not changed, since the configuration would be wrong:")
        raise
    except OSError as error:
        raise fail(f"cannot write {file}: {error.strerror}", REFUSED) from None
    except (editing.CannotEdit, NotText) as error:
        raise fail(f"{file}: {error}; change it in an editor", REFUSED) from None
    if path is None:
        output.print_error(
            f"the configuration {main or 'of built-in defaults'} does not read {file}: move its lines to a file that "
            "it reads"
        )


def _as_read(main: Path | None, file: Path) -> Path | None:
    """Return the path by which the configuration reads a file; None if it does not read that file."""
    if main is None:
        return None
    if _is_same(main, file):
        return main
    beside = main.parent / "conf.d"
    is_read = file.suffix == ".toml" and not file.name.startswith(".") and _is_same(beside, file.parent)
    return beside / file.name if is_read else None
