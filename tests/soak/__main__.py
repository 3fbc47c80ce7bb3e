"""`python -m tests.soak`: run the soak test and print its report; exit code 1 if a check fails."""

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
from tests.soak.faults import FaultInjector, Log
from tests.soak.judge import Findings, explain, judge
from tests.soak.settled import differences
from tests.soak.stages import STAGES, OnPostgres, Stage
from tests.support.waiting import eventually
from tminus.storage.tables import EVENTS, SERIES, SESSIONS

SETTLING = 120.0
"""Seconds after the last fault within which everything that is due must be done and delivered."""

MAILS_SETTLING = 300.0
"""The same for mails. The daemon may wait some minutes before it sends a mail again that the server has deferred."""

GROWTH = 2.0
"""Maximum memory of a daemon at the end, as a multiple of its memory after a minute (or a tenth of the run)."""

SHOWN = 15
"""Maximum number of findings that are printed with their details."""


def main() -> int:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 110)
    seconds = options.minutes * 60
    folder = Path(tempfile.mkdtemp(prefix="tminus-soak-"))
    folder.chmod(0o755)
    begun = time.monotonic()
    printing = threading.Lock()

    def log(what: str) -> None:
        with printing:
            print(f"{time.monotonic() - begun:7.1f} s  {what}", flush=True)

    log(f"seed {options.seed}, {options.minutes:g} minutes on {options.database}")
    ok = True
    with ExitStack() as ending:
        stages: list[Stage] = []
        for kind in STAGES[options.database]:
            (folder / kind.name).mkdir()
            stage = kind(folder / kind.name, options.seed)
            ending.callback(stage.end)
            stages.append(stage)
            stage.open()
        log("all daemons run, faults begin")
        injectors = _run_with_faults(stages, seconds, log)
        for stage, one in zip(stages, injectors, strict=True):
            findings, memory = _settle(stage, one, seconds, log)
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
        log("all checks passed")
    else:
        kept = [f"{daemon.name}: {daemon.home}" for stage in stages if stage.kept for daemon in stage.daemons]
        kept += [f"PostgreSQL: {stage.data}" for stage in stages if stage.kept and isinstance(stage, OnPostgres)]
        log(f"CHECKS FAILED (seed {options.seed}). Kept: {', '.join(kept)}")
    return 0 if ok else 1


def _run_with_faults(stages: list[Stage], seconds: float, log: Log) -> list[FaultInjector]:
    """Run the callers and the faults for some seconds, then stop the faults, then the callers."""
    injectors = [FaultInjector(stage, seconds, log) for stage in stages]
    for stage in stages:
        stage.begin()
    for one in injectors:
        one.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        for stage in stages:
            for daemon in stage.daemons:
                daemon.sample_memory()
    for one in injectors:
        one.stopping.set()
    for one in injectors:
        one.join(180)
    log("faults end")
    for stage in stages:
        stage.calm()
        stage.stop_calling()
    log("callers have stopped")
    return injectors


def _settle(stage: Stage, injector: FaultInjector, seconds: float, log: Log) -> tuple[Findings, report.Memory]:
    """Wait until everything is done and delivered, stop the daemons, and check the result."""
    complaints = [*stage.model.problems, *injector.problems, *stage.feed.problems, *stage.mailbox.problems]
    complaints += stage.subscriber.problems
    settled_at, settled = 0, None
    try:
        stage.reload(extra=True)
        settled_at = _wait_until_settled(stage)
        log(f"{stage.name}: settled, {settled_at} events")
        settled = datetime.now(UTC) - timedelta(seconds=5)
        _wait_for_mails(stage)
        log(f"{stage.name}: all mails are sent")
        complaints += differences(stage)
    except Exception as error:
        complaints.append(f"not everything was done and delivered: {error!r} {traceback.format_exc(limit=3)}")
    memory: report.Memory = {}
    for daemon in stage.daemons:
        daemon.sample_memory()
        warm = min(60.0, seconds / 10)
        start = next((one for one in daemon.memory if one[0] >= warm), daemon.memory[-1] if daemon.memory else (0, 0))
        end = daemon.memory[-1] if daemon.memory else (0, 0)
        memory[daemon.name] = (start[1], end[1], start[0], end[0], daemon.starts)
        if end[1] > start[1] * GROWTH:
            complaints.append(f"the memory of {daemon.name} grew from {start[1]:.0f} MB to {end[1]:.0f} MB")
    checks = stage.daemons[0].command("db", "check")
    if checks.returncode != 0:
        complaints.append(f"db check: {checks.stdout}{checks.stderr}")
    for daemon in stage.daemons:
        daemon.wanted = False
        if (code := daemon.terminate()) != 0:
            complaints.append(f"{daemon.name} was stopped at the end and exited with code {code}")
    stage.feed.stopping.set()
    stage.feed.join(20)
    findings = judge(stage, settled_at, complaints, settled)
    return findings, memory


def _wait_until_settled(stage: Stage) -> int:
    """Wait until nothing is overdue and everything is delivered; return the number of the last event by then."""
    daemon = stage.daemons[0]
    for name in (*stage.sinks, "mail"):
        eventually(lambda name=name: _resumed(daemon.post(f"/webhooks/{name}/resume")), 30)  # type: ignore[misc]
    engine = stage.engine()
    try:

        def overdue() -> int:
            with engine.connect() as connection:
                late = datetime.now(UTC) - timedelta(seconds=2)
                queries = (
                    select(func.count()).select_from(table).where(column < late)
                    for table, column in (
                        (SESSIONS, SESSIONS.c.due_at), (SESSIONS, SESSIONS.c.remind_at), (SERIES, SERIES.c.next_at),
                    )
                )  # fmt: skip
                return sum(int(connection.execute(query).scalar_one()) for query in queries)

        eventually(lambda: _after_pause() and overdue() == 0, SETTLING)
        with engine.connect() as connection:
            last = int(connection.execute(select(func.coalesce(func.max(EVENTS.c.seq), 0))).scalar_one())
    finally:
        engine.dispose()
    eventually(lambda: _after_pause() and stage.feed.after >= last, SETTLING)
    for name, sink in stage.sinks.items():

        def endpoint_state(name: str = name) -> JSON:
            shown: JSON = daemon.get(f"/webhooks/{name}").json()
            return shown

        try:
            eventually(lambda sink=sink: _after_pause() and sink.high >= last, SETTLING)  # type: ignore[misc]
        except AssertionError:
            raise AssertionError(f"endpoint {name} is at {sink.high} of {last}: {endpoint_state()}") from None
    return last


def _wait_for_mails(stage: Stage) -> None:
    """Wait until all mails are sent, including those that the server has deferred."""
    daemon = stage.daemons[0]
    shown: JSON = {}

    def sent() -> bool:
        shown.update(daemon.get("/webhooks/mail").json())
        return _after_pause() and shown["backlog"] == 0 and shown["replays"] == 0

    try:
        eventually(sent, MAILS_SETTLING)
    except AssertionError:
        raise AssertionError(f"mails are still to be sent: {shown}") from None


def _after_pause() -> bool:
    time.sleep(0.2)
    return True


def _resumed(answer: httpx.Response) -> bool:
    time.sleep(0.1)
    return answer.status_code == 200


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes with faults (default: 5)")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(10**6),
        help="seed of all random choices (default: random)",
    )
    parser.add_argument("--database", choices=STAGES, default="both", help="default: both, at the same time")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
