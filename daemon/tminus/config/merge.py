"""Several sources, one tree of values, and where each value came from."""

from collections.abc import Callable
from typing import Any

from tminus.config.lines import KeyPath

Place = Callable[[KeyPath], str]
"""Where in its source the value at a path stands: `path:line`, or `environment NAME`."""


class _Node:
    """Where one value came from, and those within it: as a tree, so that a value replaced costs what is in it alone."""

    __slots__ = ("is_tables", "source", "within")

    def __init__(self) -> None:
        self.source: tuple[Place, KeyPath] | None = None
        """What says where the value stands, and its path there: few are ever asked for."""
        self.is_tables = False
        """Whether it is a list of tables, which the next source adds to."""
        self.within: dict[str | int, _Node] = {}

    def at(self, name: str | int) -> "_Node":
        found = self.within.get(name)
        if found is None:
            found = self.within[name] = _Node()
        return found


class Tree:
    """The values, later sources over earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._root = _Node()

    def add(self, table: dict[str, Any], place: Place) -> None:
        """Lays a table over what there is: tables key by key, lists of tables end to end; the rest is replaced."""
        self._lay(self.values, table, place, self._root, ())

    def replace(self, path: tuple[str, ...], value: object, origin: str) -> None:
        """Sets one value, whatever was there: lists of tables are not joined."""
        *tables, name = path
        holder: Any = self.values
        node = self._root
        for table in tables:
            holder = holder.get(table, {}) if isinstance(holder, dict) else {}
            node = node.at(table)
        if isinstance(holder, dict):
            holder.pop(name, None)
        node.within.pop(name, None)
        branch: Any = value
        for part in reversed(path):
            branch = {part: branch}
        self.add(branch, lambda _: origin)

    def origin(self, path: KeyPath) -> str:
        """Where the value at this path came from, or the nearest thing around it; "default" if from nowhere."""
        nearest: tuple[Place, KeyPath] | None = None
        node = self._root
        for part in path:
            found = node.within.get(part)
            if found is None:
                break
            node, nearest = found, found.source or nearest
        return nearest[0](nearest[1]) if nearest is not None else "default"

    def holds(self, path: KeyPath) -> bool:
        """Whether any source gave this value."""
        node: _Node | None = self._root
        for part in path:
            node = node.within.get(part) if node is not None else None
        return node is not None and node.source is not None

    def _lay(self, into: dict[str, Any], table: dict[str, Any], place: Place, at: _Node, source: KeyPath) -> None:
        """`at` stands for `into`; `source` is where `table` stands in its source: joined lists shift."""
        for name, value in table.items():
            node, there = at.at(name), (*source, name)
            node.source = place, there
            if isinstance(value, dict):
                if not isinstance(into.get(name), dict):
                    self._start(into, name, node, {})
                self._lay(into[name], value, place, node, there)
            elif _is_tables(value):
                if not node.is_tables:
                    self._start(into, name, node, [])
                    node.is_tables = True
                for index, entry in enumerate(value):
                    entry_node = node.at(len(into[name]))
                    entry_node.source = place, (*there, index)
                    into[name].append({})
                    self._lay(into[name][-1], entry, place, entry_node, (*there, index))
            else:
                self._start(into, name, node, value)

    @staticmethod
    def _start(into: dict[str, Any], name: str, node: _Node, value: object) -> None:
        """Puts a value in place of one of another shape, and of the origins beneath that."""
        node.within = {}
        node.is_tables = False
        into[name] = value


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
