"""`python -m tests.soak`: runs, shows a table; exit code 1 if anything is not as it must be."""

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from rich.console import Console
from sqlalchemy import func, select

from tests.acceptance.daemons import JSON
from tests.soak import report
from tests.soak.faults import Say, Trouble
from tests.soak.judge import Findings, explain, judge
from tests.soak.stages import STAGES, OnPostgres, Stage
from tests.support.waiting import eventually
from tminus.storage.tables import EVENTS, SESSIONS

SETTLING = 120.0
"""Seconds in which all must be done once nothing goes wrong any more."""

GROWTH = 2.0
"""How much more memory than after its first minute (or a tenth of the run) a daemon may take at the end."""

SHOWN = 15
"""Findings that are shown with all that is known of them."""


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 110)
    seconds = options.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="tminus-soak-"))
    folder.chmod(0o755)
    begun = time.monotonic()
    quiet = threading.Lock()

    def say(what: str) -> None:
        with quiet:
            print(f"{time.monotonic() - begun:7.1f} s  {what}", flush=True)

    say(f"seed {options.seed}, {options.minutes:g} minutes on {options.database}")
    ok = True
    with ExitStack() as ending:
        stages: list[Stage] = []
        for kind in STAGES[options.database]:
            (folder / kind.name).mkdir()
            stage = kind(folder / kind.name, options.seed)
            ending.callback(stage.end)
            stages.append(stage)
            stage.open()
        say("everything runs: faults begin")
        trouble = _run(stages, seconds, say)
        for stage, one in zip(stages, trouble, strict=True):
            findings, memory = _settle(stage, one, seconds, say)
            faults = one.counted + sum((mood.counted for mood in stage.moods), start=type(one.counted)())
            report.show(console, stage, findings, faults, memory)
            stage.kept = bool(findings.facts)
            ok = ok and not findings.facts
            for fact in findings.facts[:SHOWN]:
                print(f"{stage.name}: {fact.kind}: session {fact.session}: {fact.text}")
                for line in explain(stage, fact):
                    print(line)
            if len(findings.facts) > SHOWN:
                print(f"and {len(findings.facts) - SHOWN} findings more")
    if ok:
        shutil.rmtree(folder, ignore_errors=True)
        say("all is as it must be")
    else:
        kept = [f"{daemon.name}: {daemon.home}" for stage in stages if stage.kept for daemon in stage.daemons]
        kept += [f"PostgreSQL: {stage.data}" for stage in stages if stage.kept and isinstance(stage, OnPostgres)]
        say(f"NOT as it must be (seed {options.seed}). Kept: {', '.join(kept)}")
    return 0 if ok else 1


def _run(stages: list[Stage], seconds: float, say: Say) -> list[Trouble]:
    """All of it, for so long; then nothing goes wrong any more and nobody calls."""
    trouble = [Trouble(stage, seconds, say) for stage in stages]
    for stage in stages:
        stage.begin()
    for one in trouble:
        one.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        for stage in stages:
            for daemon in stage.daemons:
                daemon.weigh()
    for one in trouble:
        one.stopping.set()
    for one in trouble:
        one.join(180)
    say("faults end")
    for stage in stages:
        stage.calm()
        stage.stop_calling()
    say("nobody calls any more")
    return trouble


def _settle(stage: Stage, trouble: Trouble, seconds: float, say: Say) -> tuple[Findings, report.Memory]:
    """Waits until everything is done and told, ends the daemons, and looks."""
    complaints = [*stage.model.trouble, *trouble.trouble, *stage.feed.trouble]
    settled_at = 0
    try:
        stage.reload(extra=True)
        settled_at = _wait_until_settled(stage)
        say(f"{stage.name}: settled, {settled_at} events")
    except Exception as error:
        complaints.append(f"it does not settle: {error!r} {traceback.format_exc(limit=3)}")
    memory: report.Memory = {}
    for daemon in stage.daemons:
        daemon.weigh()
        warm = min(60.0, seconds / 10)
        start = next((one for one in daemon.memory if one[0] >= warm), daemon.memory[-1] if daemon.memory else (0, 0))
        end = daemon.memory[-1] if daemon.memory else (0, 0)
        memory[daemon.name] = (start[1], end[1], start[0], end[0], daemon.starts)
        if end[1] > start[1] * GROWTH:
            complaints.append(f"{daemon.name} took {start[1]:.0f} MB, and takes {end[1]:.0f}")
    checks = stage.daemons[0].command("db", "check")
    if checks.returncode != 0:
        complaints.append(f"db check: {checks.stdout}{checks.stderr}")
    for daemon in stage.daemons:
        daemon.wanted = False
        if (code := daemon.terminate()) != 0:
            complaints.append(f"{daemon.name} was told to stop at the end and ended with {code}")
    stage.feed.stopping.set()
    stage.feed.join(20)
    findings = judge(stage, settled_at, complaints)
    return findings, memory


def _wait_until_settled(stage: Stage) -> int:
    """Waits until nothing is overdue and all is told; returns the number of the last event that must have been."""
    daemon = stage.daemons[0]
    for name in stage.sinks:
        eventually(lambda name=name: _resumed(daemon.post(f"/webhooks/{name}/resume")), 30)  # type: ignore[misc]
    engine = stage.engine()
    try:

        def overdue() -> int:
            with engine.connect() as connection:
                late = datetime.now(UTC) - timedelta(seconds=2)
                query = select(func.count()).select_from(SESSIONS).where(SESSIONS.c.due_at < late)
                return int(connection.execute(query).scalar_one())

        eventually(lambda: _now_and_then() and overdue() == 0, SETTLING)
        with engine.connect() as connection:
            last = int(connection.execute(select(func.coalesce(func.max(EVENTS.c.seq), 0))).scalar_one())
    finally:
        engine.dispose()
    eventually(lambda: _now_and_then() and stage.feed.after >= last, SETTLING)
    for name, sink in stage.sinks.items():

        def behind(name: str = name) -> JSON:
            shown: JSON = daemon.get(f"/webhooks/{name}").json()
            return shown

        try:
            eventually(lambda sink=sink: _now_and_then() and sink.high >= last, SETTLING)  # type: ignore[misc]
        except AssertionError:
            raise AssertionError(f"endpoint {name} is at {sink.high} of {last}: {behind()}") from None
    return last


def _now_and_then() -> bool:
    time.sleep(0.2)
    return True


def _resumed(answer: httpx.Response) -> bool:
    time.sleep(0.1)
    return answer.status_code == 200


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults go on (default: 5)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="what is drawn by lot")
    parser.add_argument("--database", choices=STAGES, default="both", help="default: both, at once")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
