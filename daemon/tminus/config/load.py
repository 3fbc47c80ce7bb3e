"""Read files and environment into `Settings`, or raise all problems at once."""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from tminus.config.consistency import contradictions
from tminus.config.errors import ConfigError, ConfigProblem
from tminus.config.keys import ENTRY_KEYS, ENVIRONMENT, KEYS, LISTS, display_key, variable_suggestion
from tminus.config.lines import KeyPath, key_lines, line_of
from tminus.config.merge import Tree
from tminus.config.messages import message
from tminus.config.settings import Settings
from tminus.config.text import NotText, decode

MAX_TEXT = 4096
"""Maximum characters of any text, which is the longest path. Names and addresses have lower limits."""

MAX_NESTING = 200
"""Maximum levels of tables and lists in each other, as in the API. Each name in a dotted key is a level."""

MAX_ENTRIES = {"agents": 20_000, "webhooks": 1_000}
"""Maximum entries of the long lists. Loading them takes seconds, and a few hundred MB of memory."""

MAX_OTHER_ENTRIES = 1_000
"""Maximum entries of any other list."""


class Configuration(NamedTuple):
    """The settings in force, and where they come from."""

    settings: Settings
    origins: Mapping[str, str]
    """By key (`server.listen`, `agents[7].roles`): "default", `path:line`, or `environment NAME`."""
    path: Path | None
    """The main file; None if there is none, and so no `conf.d` either."""
    files: tuple[Path, ...]
    """All files that were read, in order."""
    fingerprint: str
    """A hash of all values from files and environment: equal for equal values, however they are written."""


def load(
    path: Path | None, environ: Mapping[str, str], changed: Mapping[Path, bytes] = MappingProxyType({})
) -> Configuration:
    """Read the file, the `conf.d/*.toml` files next to it and the environment; each overrides the ones before.

    `changed` contains the new content of files that are about to be written, by the path at which they are read.

    Raises `ConfigError` with the problems of all sources at once.
    """
    tree = Tree()
    problems: list[ConfigProblem] = []
    found = _files(path, problems)
    files = (*found[:1], *sorted({*found[1:], *(set(changed) - set(found[:1]))}))
    for file in files:
        _read(file, changed.get(file), tree, problems)
    unread = bool(problems)
    _override(tree, environ, problems)
    if too_long := tuple(_too_long(tree)):
        raise ConfigError(tuple(sorted((*problems, *too_long), key=_reading_order)))
    try:
        settings = Settings.model_validate(tree.values)
    except ValidationError as error:
        problems += [
            ConfigProblem(tree.origin(found["loc"]), display_key(found["loc"], tree.values), message(found))
            for found in error.errors(include_url=False)
            # pydantic counts only the valid entries of a list; the wrong entries have problems of their own.
            if not (found["type"] == "too_short" and found["input"])
        ]
    # A file that could not be read might resolve a contradiction.
    if not unread:
        problems += contradictions(tree)
    if problems:
        raise ConfigError(tuple(sorted(problems, key=_reading_order)))
    return Configuration(settings, _Origins(tree, settings), path, files, _fingerprint(tree.values))


def _too_long(tree: Tree) -> Iterator[ConfigProblem]:
    """Yield all texts and lists that are too long: answers and log lines may repeat them."""
    waiting: list[tuple[KeyPath, Any]] = [((name,), value) for name, value in tree.values.items()]
    while waiting:
        path, value = waiting.pop()
        problem = ""
        if isinstance(value, str) and len(value) > MAX_TEXT:
            problem = f"must be at most {MAX_TEXT} characters long"
        elif isinstance(value, list) and len(value) > (limit := MAX_ENTRIES.get(str(path[-1]), MAX_OTHER_ENTRIES)):
            problem = f"must have at most {limit} entries"
        elif isinstance(value, list):
            waiting += [((*path, at), one) for at, one in enumerate(value)]
        elif isinstance(value, dict):
            waiting += [((*path, name), one) for name, one in value.items()]
        if problem:
            yield ConfigProblem(tree.origin(path), display_key(path, tree.values), problem)


def _fingerprint(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]


def read_all(origins: Mapping[str, str], *reads: Callable[[], Any]) -> list[Any]:
    """Call functions that read the files which a configuration names, such as secrets, and return their results.

    Raises `ConfigError` with the problems of all of them at once, each with the origin of its key.
    """
    found: list[Any] = []
    problems: list[ConfigProblem] = []
    for read in reads:
        try:
            found.append(read())
        except ConfigError as error:
            problems += [
                problem._replace(where=problem.where or origins.get(problem.key, "")) for problem in error.problems
            ]
    if problems:
        raise ConfigError(tuple(sorted(problems, key=_reading_order)))
    return found


def _files(path: Path | None, problems: list[ConfigProblem]) -> list[Path]:
    """Return the main file, then the `conf.d/*.toml` files by name, except hidden ones, which editors leave behind."""
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
        # Reading it might never end. Whoever can write to the directory could block the daemon and root's commands.
        beside.remove(file)
        problems.append(ConfigProblem(str(file), "", "is not a regular file"))
    return [path, *beside]


def _read(file: Path, content: bytes | None, tree: Tree, problems: list[ConfigProblem]) -> None:
    """Merge one file into the tree, or `content`, if it is about to be written to the file."""
    if file.is_fifo():
        # A reload would read it a second time, find nothing, and put the defaults into force.
        problem = "is a pipe, which can be read only once: save the configuration as a regular file"
        problems.append(ConfigProblem(str(file), "", problem))
        return
    try:
        text = decode(file.read_bytes() if content is None else content)
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(ConfigProblem(str(file), "", f"cannot be read: {error.strerror}"))
    except NotText as error:
        problems.append(ConfigProblem(f"{file}:{error.line}", "", error.problem))
    except (ValueError, RecursionError) as error:  # not TOML, or a number or a nesting beyond Python's limits
        at = re.search(r"at line (\d+)", str(error))
        line = at[1] if at else text.count("\n") + 1
        problems.append(ConfigProblem(f"{file}:{line}", "", f"this is not TOML: {error}"))
    else:
        if (key := _too_deep(table)) is not None:
            # Without its line: that of a key with many names takes too long to find.
            problems.append(ConfigProblem(str(file), f"{key}…", f"is nested more than {MAX_NESTING} levels deep"))
            return
        lines = lru_cache(lambda: key_lines(text))
        tree.add(table, lambda path: f"{file}:{line_of(lines(), path)}")


def _too_deep(table: dict[str, Any]) -> str | None:
    """Return the beginning of a key that is nested too deeply; None if there is none.

    tomllib refuses deep lists and inline tables, but no key with thousands of names, and merging it is recursive.
    """
    waiting: list[tuple[KeyPath, Any]] = [((), table)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > MAX_NESTING:
            return ".".join(part for part in path[:4] if isinstance(part, str))
        if isinstance(value, dict):
            waiting += [((*path, name), one) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, at), one) for at, one in enumerate(value)]
    return None


def _override(tree: Tree, environ: Mapping[str, str], problems: list[ConfigProblem]) -> None:
    """Merge the `TMINUS_SECTION__KEY` variables into the tree."""
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
    """Parse a variable as TOML if it is quoted, or if its key takes a number or a list; otherwise return the text."""
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = table.pop("value")
    # With a line end and more keys in it, the text is not a single value.
    if table or _too_deep({"value": value}) is not None:
        return text
    default: Any = _WRITTEN_DEFAULTS
    for part in key:
        default = default[part]
    return value if isinstance(value, str) or isinstance(default, int | list) else text


_WRITTEN_DEFAULTS = Settings().model_dump(mode="json", by_alias=True)


def _reading_order(problem: ConfigProblem) -> tuple[str, int]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line)) if line.isdecimal() else (problem.where, 0)


class _Origins(Mapping[str, str]):
    """The origins of all keys, computed on first use: a daemon that starts needs none."""

    def __init__(self, tree: Tree, settings: Settings) -> None:
        self._tree = tree
        self._settings = settings

    @cached_property
    def _all(self) -> dict[str, str]:
        tree, settings = self._tree, self._settings
        paths: list[KeyPath] = [key for key in KEYS if key not in LISTS or not getattr(settings, key[0])]
        for (section,), names in ENTRY_KEYS.items():
            paths += [(section, index, name) for index in range(len(getattr(settings, section))) for name in names]
        return {display_key(path, tree.values): tree.origin(path) if tree.holds(path) else "default" for path in paths}

    def __getitem__(self, key: str) -> str:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
