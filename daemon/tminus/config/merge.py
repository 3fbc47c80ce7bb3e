"""Several sources, one tree of values, and where each value came from."""

from collections.abc import Callable
from typing import Any

from tminus.config.lines import KeyPath

Place = Callable[[KeyPath], str]
"""Where in its source the value at a path stands: `path:line`, or `environment NAME`."""


class Tree:
    """The values, later sources over earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._origins: dict[KeyPath, str] = {}

    def add(self, table: dict[str, Any], place: Place) -> None:
        """Lays a table over what there is: tables key by key, lists of tables end to end; the rest is replaced."""
        self._lay(self.values, table, place, (), ())

    def replace(self, path: tuple[str, ...], value: object, origin: str) -> None:
        """Sets one value, whatever was there: lists of tables are not joined."""
        *tables, name = path
        holder: Any = self.values
        for table in tables:
            holder = holder.get(table, {}) if isinstance(holder, dict) else {}
        if isinstance(holder, dict):
            holder.pop(name, None)
        self._forget(path)
        branch: Any = value
        for part in reversed(path):
            branch = {part: branch}
        self.add(branch, lambda _: origin)

    def origin(self, path: KeyPath) -> str:
        """Where the value at this path came from, or the nearest thing around it; "default" if from nowhere."""
        found = (self._origins.get(path[:length]) for length in range(len(path), 0, -1))
        return next((origin for origin in found if origin), "default")

    def holds(self, path: KeyPath) -> bool:
        """Whether any source gave this value."""
        return path in self._origins

    def _lay(self, into: dict[str, Any], table: dict[str, Any], place: Place, at: KeyPath, source: KeyPath) -> None:
        """`at` is where `into` stands in the tree, `source` where `table` stands in its source: joined lists shift."""
        for name, value in table.items():
            here, there = (*at, name), (*source, name)
            self._origins[here] = place(there)
            if isinstance(value, dict):
                if not isinstance(into.get(name), dict):
                    self._start(into, here, {})
                self._lay(into[name], value, place, here, there)
            elif _is_tables(value):
                if not _is_tables(into.get(name)):
                    self._start(into, here, [])
                for index, entry in enumerate(value):
                    position = (*here, len(into[name]))
                    self._origins[position] = place((*there, index))
                    into[name].append({})
                    self._lay(into[name][-1], entry, place, position, (*there, index))
            else:
                self._start(into, here, value)

    def _start(self, into: dict[str, Any], path: KeyPath, value: object) -> None:
        """Puts a value in place of one of another shape, and of the origins beneath that."""
        origin = self._origins[path]
        self._forget(path)
        self._origins[path] = origin
        into[str(path[-1])] = value

    def _forget(self, path: KeyPath) -> None:
        self._origins = {key: origin for key, origin in self._origins.items() if key[: len(path)] != path}


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
