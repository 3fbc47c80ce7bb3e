"""Shared by all figures: a row of the report, the sizes, and the directories."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import rows


class Missing(Exception):
    """A program that a figure needs is not installed."""


@dataclass
class Figure:
    """A row of the report: the measured value, its floor, and whether it meets its target (None: it has no target)."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    floor_name: str = ""
    ratio: float | None = None
    wanted: str = ""
    met: bool | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Sizes:
    """The lengths of runs and the sizes of databases; `--quick` uses smaller ones."""

    rounds: int = 3
    floor_seconds: float = 2.5
    load_seconds: float = 4.0
    herds: tuple[int, ...] = (10_000, 100_000)
    herd_runs: int = 3
    million: int = 1_000_000
    idle_seconds: int = 20
    rooms: int = 400
    steady_rate: float = 100.0
    steady_seconds: float = 12.0


QUICK = Sizes(
    rounds=1,
    floor_seconds=1.5,
    load_seconds=2.0,
    herds=(10_000,),
    herd_runs=1,
    million=50_000,
    idle_seconds=5,
    rooms=40,
    steady_seconds=4.0,
)


class Bench:
    """The directories of the figures, on a real disk, and the databases that several of them copy."""

    def __init__(self, directory: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.sizes = sizes
        self.say = say
        self.beside = directory.parent
        """The parent directory, for files of other users, because only the owner may enter the directory itself."""
        self._directory = directory
        self._built: dict[tuple[str, int], Path] = {}
        self._number = 0

    def herd(self, session_type: str, number: int) -> Path:
        """Return a state directory with this number of scheduled sessions. It is a pattern: use a copy."""
        if (session_type, number) not in self._built:
            self.say(f"storing {number:,} {session_type} sessions")
            self._built[session_type, number] = rows.build(self._path(), session_type, number)
        return self._built[session_type, number]

    @contextmanager
    def scratch(self, pattern: Path | None = None) -> Iterator[Path]:
        """Yield a temporary state directory: empty, or a copy of a pattern."""
        path = self._path()
        try:
            if pattern is None:
                path.mkdir()
            else:
                rows.copy(pattern, path)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def _path(self) -> Path:
        self._number += 1
        return self._directory / str(self._number)
