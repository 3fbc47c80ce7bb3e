"""What all figures share: a row of the report, how much of everything, and where they work."""

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
    """One row: what was measured, what it stands beside, and whether it is as wanted (None: it is only reported)."""

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
    """How long and how large; `--quick` takes less of all."""

    rounds: int = 3
    floor_seconds: float = 2.5
    load_seconds: float = 4.0
    herds: tuple[int, ...] = (10_000, 100_000)
    herd_runs: int = 3
    million: int = 1_000_000
    idle_seconds: int = 20
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
    steady_seconds=4.0,
)


class Bench:
    """Where the figures work: a directory on a real disk, and databases that several of them start from."""

    def __init__(self, directory: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.sizes = sizes
        self.say = say
        self.beside = directory.parent
        """The folder that the directory is in: for what cannot live in one that only its owner may enter."""
        self._directory = directory
        self._built: dict[tuple[str, int], Path] = {}
        self._number = 0

    def herd(self, session_type: str, number: int) -> Path:
        """A state directory with so many scheduled sessions. It is a pattern: work on a copy."""
        if (session_type, number) not in self._built:
            self.say(f"storing {number:,} {session_type} sessions")
            self._built[session_type, number] = rows.build(self._path(), session_type, number)
        return self._built[session_type, number]

    @contextmanager
    def scratch(self, pattern: Path | None = None) -> Iterator[Path]:
        """A state directory that is gone afterwards: empty, or a copy of a pattern."""
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
