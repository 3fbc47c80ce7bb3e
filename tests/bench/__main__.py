"""`python -m tests.bench`: measure, print a table, write it as JSON; exit code 1 if a figure misses its target."""

import argparse
import os
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.bench import report
from tests.bench.figures import FIGURES
from tests.bench.workbench import QUICK, Bench, Figure, Missing, Sizes


def main() -> int:
    options = _options()
    console = Console()
    begun = time.monotonic()

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {what} …", style="dim")

    figures: list[Figure] = []
    unfinished: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tminus-bench-", dir=options.dir) as path:
        directory = Path(path)
        about = report.machine(directory)
        bench = Bench(directory, QUICK if options.quick else Sizes(), say)
        for name in options.only or FIGURES:
            try:
                figures += FIGURES[name](bench)
            except Missing as error:
                console.print(f"{name} was not measured: {error}", style="bold red")
                unfinished.append(name)
            except Exception:
                # The other figures do not depend on this one, and took minutes.
                console.print_exception()
                unfinished.append(name)
    about |= {"load_after": round(os.getloadavg()[0], 2), "quick": options.quick, "unfinished": unfinished}
    report.show(console, figures, about)
    report.write(options.json, figures, about)
    say(f"report written to {options.json}")
    return 1 if unfinished or any(figure.met is False for figure in figures) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=FIGURES, metavar="NAME", help=f"some of {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes and shorter runs, to test the bench itself")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="the file to write (default: bench.json)")
    parser.add_argument("--dir", help="directory of the databases, on a real disk: in memory an fsync costs nothing")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
