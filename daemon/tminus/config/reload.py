"""Compare two configurations, and find the changes that can be applied while the daemon runs."""

from collections.abc import Iterator
from keyword import iskeyword
from operator import attrgetter
from typing import Any, NamedTuple

from tminus.config.effective import toml
from tminus.config.keys import KEYS, LISTS
from tminus.config.settings import Agent, Series, SeriesSession, Settings, Webhook

NEEDS_RESTART = (
    "server.listen",
    "server.socket",
    "storage.url",
    "storage.password_file",
    "storage.password_credential",
    "log.format",
    "limits.connections",
)
"""Settings that the daemon reads only at its start."""

_PRIVATE = ("invitees", "parentObject", "metaData")
"""Keys of a series' `session` whose values are not logged: they are personal data, or up to 20 KiB of JSON."""


class Change(NamedTuple):
    """One changed key. The values are as written in the file, with secrets masked; `""` if there is none."""

    key: str
    old: str
    new: str
    needs_restart: bool = False
    agent_name: str = ""
    """The name of the agent to whom the key belongs; "" for other keys, and if a value is the name."""


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """Return the changed keys in the order of the settings. Agents are matched by id, webhooks and series by name."""
    return tuple(_changes(old, new))


def apply_live(old: Settings, new: Settings) -> Settings:
    """Return the new settings, with the old values of the keys that need a restart."""
    for key in NEEDS_RESTART:
        section, name = key.split(".")
        kept = getattr(new, section).model_copy(update={name: getattr(getattr(old, section), name)})
        new = new.model_copy(update={section: kept})
    return new


def _changes(old: Settings, new: Settings) -> Iterator[Change]:
    written_old, written_new = (one.model_dump(mode="json", by_alias=True) for one in (old, new))
    for path in KEYS:
        key = ".".join(path)
        if path in LISTS:
            yield from _entry_changes(path[0], LISTS[path][1], old, new)
        elif _value(old, path) != _value(new, path):
            yield Change(key, _text(_at(written_old, path)), _text(_at(written_new, path)), key in NEEDS_RESTART)


def _value(settings: Settings, path: tuple[str, ...]) -> Any:
    """Return the value of a key. `from` is a keyword of Python, so its attribute is `from_`."""
    return attrgetter(".".join(f"{part}_" if iskeyword(part) else part for part in path))(settings)


def _entry_changes(section: str, id_key: str, old: Settings, new: Settings) -> Iterator[Change]:
    """Yield the changes of a list of tables. Entries are matched by the key `id_key`, at any position."""
    before = {getattr(entry, id_key): entry for entry in getattr(old, section)}
    after = {getattr(entry, id_key): entry for entry in getattr(new, section)}
    for entry_id in sorted(before.keys() | after.keys()):
        key = f"{section}[{entry_id}]"
        if entry_id not in after:
            yield Change(key, before[entry_id].name, "")
            yield from _named(before[entry_id], _tokens(key, before[entry_id], None))
        elif entry_id not in before:
            yield Change(key, "", after[entry_id].name)
            yield from _named(after[entry_id], _tokens(key, None, after[entry_id]))
        else:
            yield from _named(before[entry_id], _within(key, before[entry_id], after[entry_id]))


def _named(entry: Agent | Webhook | Series, changed: Iterator[Change]) -> Iterator[Change]:
    """Yield changes of an entry, with the agent's name if it is an agent."""
    for change in changed:
        yield change._replace(agent_name=entry.name) if isinstance(entry, Agent) else change


def _tokens(
    key: str, before: Agent | Webhook | Series | None, after: Agent | Webhook | Series | None
) -> Iterator[Change]:
    """Yield the tokens of an agent that was added or removed, as the fingerprints that `auth.failed` also logs."""
    old, new = (
        _text(entry.model_dump(mode="json")["token_sha256"]) if isinstance(entry, Agent) and entry.token_sha256 else ""
        for entry in (before, after)
    )
    if old or new:
        yield Change(f"{key}.token_sha256", old, new)


def _within(
    key: str, before: Agent | Webhook | Series | SeriesSession, after: Agent | Webhook | Series | SeriesSession
) -> Iterator[Change]:
    written_before, written_after = before.model_dump(mode="json"), after.model_dump(mode="json")
    for name in type(before).model_fields:
        # Compared unmasked: two token hashes may look the same when they are masked.
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, SeriesSession) and isinstance(new, SeriesSession):
            yield from _within(f"{key}.{name}", old, new)
        elif old != new and name in _PRIVATE:
            yield Change(f"{key}.{name}", "…" if old else "", "…" if new else "")
        elif old != new:
            yield Change(f"{key}.{name.rstrip('_')}", _text(written_before[name]), _text(written_after[name]))


def _at(table: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        table = table[part]
    return table


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else toml(value)
