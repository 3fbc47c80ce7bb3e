"""The report as a table and as JSON, with a description of the machine."""

import json
import os
import platform
import sqlite3
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.workbench import Figure

FSYNCS = 50


def machine(directory: Path) -> dict[str, Any]:
    """Return the properties of the machine that influence the figures."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load_before": round(os.getloadavg()[0], 2),
        "fsync_ms": round(_fsync_ms(directory), 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fsync_ms(directory: Path) -> float:
    """Return the milliseconds of one durable write of a page."""
    probe = directory / "probe"
    with probe.open("wb") as file:
        begun = time.perf_counter()
        for _ in range(FSYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        took = time.perf_counter() - begun
    probe.unlink()
    return took / FSYNCS * 1000


def table(figures: list[Figure]) -> Table:
    shown = Table()
    for heading, justify in (
        ("figure", "left"), ("measured", "right"), ("floor", "right"), ("ratio", "right"), ("wanted", "left"),
        ("met", "left"),
    ):  # fmt: skip
        shown.add_column(heading, justify=justify)  # type: ignore[arg-type]  # left or right
    for figure in figures:
        met = {True: "[green]yes", False: "[bold red]NO", None: "–"}[figure.met]
        floor = "" if figure.floor is None else f"{_number(figure.floor)} {figure.unit}\n{figure.floor_name}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        shown.add_row(figure.name, f"{_number(figure.value)} {figure.unit}", floor, ratio, figure.wanted, met)
        shown.add_section()
    return shown


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(path: Path, figures: list[Figure], about: dict[str, Any]) -> None:
    report = {"machine": about, "figures": [figure.as_json() for figure in figures]}
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(console: Console, figures: list[Figure], about: dict[str, Any]) -> None:
    console.print(table(figures))
    for figure in figures:
        if figure.more:
            besides = ", ".join(f"{name} {value}" for name, value in figure.more.items())
            console.print(f"{figure.name}: {besides}", style="dim", soft_wrap=True)
    console.print("  ".join(f"{name} {value}" for name, value in about.items()), style="dim")
