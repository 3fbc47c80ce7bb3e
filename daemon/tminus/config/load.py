"""From files and environment to `Settings`, or to everything that is wrong with them."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.keys import ENTRY_KEYS, ENVIRONMENT, KEYS, LISTS, variable_suggestion
from tminus.config.lines import KeyPath, key_lines, line_of
from tminus.config.merge import Tree
from tminus.config.messages import message
from tminus.config.settings import Lifecycle, Settings
from tminus.config.text import NotText, decode
from tminus.domain.durations import duration_text

LONGEST_TEXT = 4096
"""Characters of any text: as long as a path may be. Names and addresses have bounds of their own."""

MOST_ENTRIES = {"agents": 20_000, "webhooks": 1_000}
"""Entries of the long lists: reading them, and what is kept for each, stays within seconds and a few hundred MB."""

OTHER_ENTRIES = 1_000
"""Entries of any other list."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is in force, and why."""

    settings: Settings
    origins: Mapping[str, str]
    """By key (`server.listen`, `agents[7].roles`): "default", `path:line`, or `environment NAME`."""
    path: Path | None
    """The main file; None: there is none, and no `conf.d`."""
    files: tuple[Path, ...]
    """All that were read, in order."""
    fingerprint: str
    """Of all values that files and environment give: the same for the same values, however they are written."""


def load(
    path: Path | None, environ: Mapping[str, str], changed: Mapping[Path, bytes] = MappingProxyType({})
) -> Configuration:
    """Reads the file, the `conf.d/*.toml` beside it, and the environment, each over the one before.

    `changed` has the content of files that are about to be written, by the path at which they are read.

    Raises `ConfigError` with every fault of all of them at once.
    """
    tree = Tree()
    problems: list[ConfigProblem] = []
    found = _files(path, problems)
    files = (*found[:1], *sorted({*found[1:], *(set(changed) - set(found[:1]))}))
    for file in files:
        _read(file, changed.get(file), tree, problems)
    unread = bool(problems)
    _override(tree, environ, problems)
    if beyond := tuple(_beyond_bounds(tree)):
        raise ConfigError(tuple(sorted((*problems, *beyond), key=_reading_order)))
    try:
        settings = Settings.model_validate(tree.values)
    except ValidationError as error:
        problems += [
            ConfigProblem(tree.origin(found["loc"]), _key(found["loc"], tree.values), message(found))
            for found in error.errors(include_url=False)
            # A list is called too short by what is right in it: what is wrong with the rest has a fault of its own.
            if not (found["type"] == "too_short" and found["input"])
        ]
    # What contradicts the rest may be right once a file that could not be read says its part.
    if not unread:
        problems += _contradictions(tree)
    if problems:
        raise ConfigError(tuple(sorted(problems, key=_reading_order)))
    return Configuration(settings, _Origins(tree, settings), path, files, _fingerprint(tree.values))


def _beyond_bounds(tree: Tree) -> Iterator[ConfigProblem]:
    """What is too long, whatever it is: each answer and each line of the log may repeat it."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((name,), value) for name, value in tree.values.items()]
    while waiting:
        place, value = waiting.pop()
        problem = ""
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            problem = f"must be at most {LONGEST_TEXT} characters long"
        elif isinstance(value, list) and len(value) > (most := MOST_ENTRIES.get(str(place[-1]), OTHER_ENTRIES)):
            problem = f"must have at most {most} entries"
        elif isinstance(value, list):
            waiting += [((*place, at), one) for at, one in enumerate(value)]
        elif isinstance(value, dict):
            waiting += [((*place, name), one) for name, one in value.items()]
        if problem:
            yield ConfigProblem(tree.origin(place), _key(place, tree.values), problem)


def _fingerprint(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]


def collected(origins: Mapping[str, str], *reads: Callable[[], Any]) -> list[Any]:
    """What each of these returns: they read what a configuration names, secrets above all.

    Raises `ConfigError` with the faults of all of them at once, each with the place of its key.
    """
    found: list[Any] = []
    problems: list[ConfigProblem] = []
    for read in reads:
        try:
            found.append(read())
        except ConfigError as error:
            problems += [
                replace(problem, where=problem.where or origins.get(problem.key, "")) for problem in error.problems
            ]
    if problems:
        raise ConfigError(tuple(sorted(problems, key=_reading_order)))
    return found


def _files(path: Path | None, problems: list[ConfigProblem]) -> list[Path]:
    """The main file, then those beside it in name order; a leading dot hides one (editors leave such behind)."""
    if path is None:
        return []
    directory = path.parent / "conf.d"
    try:
        beside = sorted(file for file in directory.iterdir() if file.suffix == ".toml" and file.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        beside = []
    except OSError as error:
        beside = []
        problems.append(ConfigProblem(str(directory), "", f"cannot be read: {error.strerror}"))
    for file in [file for file in beside if not file.is_file() and (file.is_fifo() or file.is_char_device())]:
        # It might be read for ever: whoever can write to the directory would hold up root's commands and the daemon.
        beside.remove(file)
        problems.append(ConfigProblem(str(file), "", "is no plain file"))
    return [path, *beside]


def _read(file: Path, content: bytes | None, tree: Tree, problems: list[ConfigProblem]) -> None:
    """Lays one file over the tree, or what is about to be its content."""
    try:
        text = decode(file.read_bytes() if content is None else content)
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(ConfigProblem(str(file), "", f"cannot be read: {error.strerror}"))
    except NotText as error:
        problems.append(ConfigProblem(f"{file}:{error.line}", "", error.problem))
    except (ValueError, RecursionError) as error:  # of its own kind, or a number or a nesting beyond Python's limits
        at = re.search(r"at line (\d+)", str(error))
        line = at[1] if at else text.count("\n") + 1
        problems.append(ConfigProblem(f"{file}:{line}", "", f"this is not TOML: {error}"))
    else:
        lines = lru_cache(lambda: key_lines(text))
        tree.add(table, lambda path: f"{file}:{line_of(lines(), path)}")


def _override(tree: Tree, environ: Mapping[str, str], problems: list[ConfigProblem]) -> None:
    """Lays the `TMINUS_SECTION__KEY` variables over the tree."""
    for name, text in environ.items():
        where = f"environment {name}"
        if name in ENVIRONMENT:
            try:
                text.encode()
            except UnicodeEncodeError:
                problems.append(ConfigProblem(where, "", "this is not UTF-8 text"))
                continue
            key = ENVIRONMENT[name]
            tree.replace(key, _environment_value(text, key), where)
        elif name.startswith("TMINUS_") and "__" in name:
            problems.append(ConfigProblem(where, "", f"there is no such setting{variable_suggestion(name)}"))


def _environment_value(text: str, key: tuple[str, ...]) -> object:
    """A TOML value where the key takes a number or a list, or where it is quoted; else the text as it stands."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = table.pop("value")
    if table:  # a line end and more keys: no single value
        return text
    default: Any = _WRITTEN_DEFAULTS
    for part in key:
        default = default[part]
    return value if isinstance(value, str) or isinstance(default, int | list) else text


_WRITTEN_DEFAULTS = Settings().model_dump(mode="json")


def _key(path: KeyPath, values: Mapping[str, Any]) -> str:
    """A path as a reader knows it: an agent by its id, a webhook by its name, or `#2` for the second if it has none."""
    names: list[str] = []
    for part in path:
        if isinstance(part, str):
            names.append(part)
        elif len(names) == 1 and (names[0],) in LISTS:
            entry = values[names[0]][part]
            mark = entry.get(LISTS[names[0],][1]) if isinstance(entry, dict) else None
            is_short = isinstance(mark, int) or (isinstance(mark, str) and len(mark) <= 255)
            names = [f"{names[0]}[{mark if is_short else f'#{part + 1}'}]"]
    return ".".join(names)


def _contradictions(tree: Tree) -> Iterator[ConfigProblem]:
    """What is right in itself but not together. Looks at the raw values, which may be wrong in any way."""
    for (section,), (_, known_by) in LISTS.items():
        yield from _repeated(tree, section, known_by)
    yield from _tokens_of_two(tree)
    yield from _unsigned(tree)
    yield from _never_scheduled(tree)
    yield from _uncallable(tree)

    storage = tree.values.get("storage")
    storage = storage if isinstance(storage, dict) else {}
    given = [("storage", key) for key in ("password_file", "password_credential") if storage.get(key)]
    if len(given) == 2:
        problem = "cannot stand beside storage.password_file: keep one of them"
        yield ConfigProblem(tree.origin(given[1]), "storage.password_credential", problem)
    if str(storage.get("url", "sqlite:")).startswith("sqlite:"):
        for path in given:
            problem = "is for PostgreSQL only, and storage.url names an SQLite file"
            yield ConfigProblem(tree.origin(path), ".".join(path), problem)


def _entries(tree: Tree, section: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The tables of a list, each with its path."""
    entries = tree.values.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield (section, index), entry


def _repeated(tree: Tree, section: str, known_by: str) -> Iterator[ConfigProblem]:
    """Entries of a list that are known by the same id or name."""
    marks: dict[int | str, KeyPath] = {}
    for entry_path, entry in _entries(tree, section):
        path, mark = (*entry_path, known_by), entry.get(known_by)
        if isinstance(mark, int | str) and (first := marks.setdefault(mark, path)) != path:
            problem = f"is the {known_by} of another {section[:-1]} too ({tree.origin(first)}): each has its own"
            yield ConfigProblem(tree.origin(path), _key(path, tree.values), problem)


def _tokens_of_two(tree: Tree) -> Iterator[ConfigProblem]:
    hashes: dict[str, KeyPath] = {}
    for entry_path, agent in _entries(tree, "agents"):
        tokens = agent.get("token_sha256")
        for position, token in enumerate(tokens if isinstance(tokens, list) else []):
            path = (*entry_path, "token_sha256", position)
            if isinstance(token, str) and (first := hashes.setdefault(token, path)) != path:
                problem = f"repeats a hash of {_key(first, tree.values)} ({tree.origin(first)}): a token is one agent's"
                yield ConfigProblem(tree.origin(path), _key(path, tree.values), problem)


def _unsigned(tree: Tree) -> Iterator[ConfigProblem]:
    for entry_path, webhook in _entries(tree, "webhooks"):
        if not (webhook.get("secret_file") or webhook.get("secret_credential")):
            path = (*entry_path, "secret_file")
            problem = (
                "is missing: every request is signed. `tminus webhooks secret` makes a secret for a file of its own"
            )
            yield ConfigProblem(tree.origin(path), _key(path, tree.values), problem)


def _never_scheduled(tree: Tree) -> Iterator[ConfigProblem]:
    lifecycle = tree.values.get("lifecycle")
    lifecycle = lifecycle if isinstance(lifecycle, dict) else {}
    given = {key: lifecycle[key] for key in ("lead", "horizon") if key in lifecycle}
    try:
        spans = Lifecycle.model_validate(given)
    except ValidationError:
        return  # it has a fault of its own
    if spans.lead >= spans.horizon:
        path = ("lifecycle", "lead" if "lead" in given else "horizon")
        lead, horizon = duration_text(spans.lead), duration_text(spans.horizon)
        problem = f'leaves nothing to be scheduled: lead ("{lead}") must be shorter than horizon ("{horizon}")'
        yield ConfigProblem(tree.origin(path), ".".join(path), problem)


def _uncallable(tree: Tree) -> Iterator[ConfigProblem]:
    # A token that has expired counts: what was in force yesterday must not keep a daemon from starting today.
    server = tree.values.get("server")
    tokens = any(agent.get("token_sha256") for _, agent in _entries(tree, "agents"))
    if isinstance(server, dict) and server.get("socket") == "" and not tokens:
        problem = "must not be empty while no agent has a token: nobody could call"
        yield ConfigProblem(tree.origin(("server", "socket")), "server.socket", problem)


def _reading_order(problem: ConfigProblem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (problem.where, 0)


class _Origins(Mapping[str, str]):
    """The origins of all keys, worked out when the first is asked for: a daemon that starts asks for none."""

    def __init__(self, tree: Tree, settings: Settings) -> None:
        self._tree = tree
        self._settings = settings

    @cached_property
    def _all(self) -> dict[str, str]:
        tree, settings = self._tree, self._settings
        paths: list[KeyPath] = [key for key in KEYS if key not in LISTS or not getattr(settings, key[0])]
        for (section,), names in ENTRY_KEYS.items():
            paths += [(section, index, name) for index in range(len(getattr(settings, section))) for name in names]
        return {_key(path, tree.values): tree.origin(path) if tree.holds(path) else "default" for path in paths}

    def __getitem__(self, key: str) -> str:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
