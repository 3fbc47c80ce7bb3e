"""Merge several configuration sources into one tree of values, and remember the origin of each value."""

from collections.abc import Callable
from typing import Any

from tminus.config.lines import KeyPath

Locate = Callable[[KeyPath], str]
"""Returns the location of a path in its source: `path:line`, or `environment NAME`."""


class _Node:
    """The origin of one value and, as a tree, of the values in it. Replacing a value drops only its own branch."""

    __slots__ = ("is_tables", "source", "within")

    def __init__(self) -> None:
        self.source: tuple[Locate, KeyPath] | None = None
        """The function that returns the location of the value, and the value's path in its source. The function is
        called only on demand, since few locations are needed.
        """
        self.is_tables = False
        """Whether the value is a list of tables, to which the next source appends."""
        self.within: dict[str | int, _Node] = {}

    def at(self, name: str | int) -> "_Node":
        found = self.within.get(name)
        if found is None:
            found = self.within[name] = _Node()
        return found


class Tree:
    """The merged values; later sources override earlier ones."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._root = _Node()

    def add(self, table: dict[str, Any], locate: Locate) -> None:
        """Merge a table into the tree: tables key by key, lists of tables by appending; other values are replaced."""
        self._merge(self.values, table, locate, self._root, ())

    def replace(self, path: tuple[str, ...], value: object, origin: str) -> None:
        """Set one value and drop the old one, also if it is a list of tables."""
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
        """Return the origin of the value at this path, or of the nearest value that contains it, or "default"."""
        nearest: tuple[Locate, KeyPath] | None = None
        node = self._root
        for part in path:
            found = node.within.get(part)
            if found is None:
                break
            node, nearest = found, found.source or nearest
        return nearest[0](nearest[1]) if nearest is not None else "default"

    def holds(self, path: KeyPath) -> bool:
        """Return whether a source has set this value."""
        node: _Node | None = self._root
        for part in path:
            node = node.within.get(part) if node is not None else None
        return node is not None and node.source is not None

    def _merge(self, into: dict[str, Any], table: dict[str, Any], locate: Locate, at: _Node, path: KeyPath) -> None:
        """Merge `table` into `into`, whose node is `at`. `path` is the path of `table` in its own source: an entry that
        is appended to a list has another path in the tree.
        """
        for name, value in table.items():
            node, value_path = at.at(name), (*path, name)
            node.source = locate, value_path
            if isinstance(value, dict):
                if not isinstance(into.get(name), dict):
                    self._start(into, name, node, {})
                self._merge(into[name], value, locate, node, value_path)
            elif _is_tables(value):
                if not node.is_tables:
                    self._start(into, name, node, [])
                    node.is_tables = True
                for index, entry in enumerate(value):
                    entry_node = node.at(len(into[name]))
                    entry_node.source = locate, (*value_path, index)
                    into[name].append({})
                    self._merge(into[name][-1], entry, locate, entry_node, (*value_path, index))
            else:
                self._start(into, name, node, value)

    @staticmethod
    def _start(into: dict[str, Any], name: str, node: _Node, value: object) -> None:
        """Set a value, and drop the origins of the values that the old one contained."""
        node.within = {}
        node.is_tables = False
        into[name] = value


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
