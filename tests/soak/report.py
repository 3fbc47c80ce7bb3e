"""The report of one stage as tables."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from tests.soak.judge import Findings
from tests.soak.stages import Stage

OUTCOMES = ("acknowledged", "refused", "unknown", "retried", "unchanged")

Memory = dict[str, tuple[float, float, float, float, int]]
"""Daemon -> megabytes at the first and last sample, their times in seconds since its last start, number of starts."""


def show(console: Console, stage: Stage, findings: Findings, faults: Counter[str], memory: Memory) -> None:
    calls = Table(title=f"{stage.name}: calls")
    calls.add_column("call")
    for outcome in OUTCOMES:
        calls.add_column(outcome, justify="right")
    names = sorted({call for call, _ in stage.model.calls})
    for call in names:
        calls.add_row(call, *(f"{stage.model.calls[call, outcome]:,}" for outcome in OUTCOMES))
    calls.add_section()
    sums = (sum(stage.model.calls[call, outcome] for call in names) for outcome in OUTCOMES)
    calls.add_row("all", *(f"{number:,}" for number in sums))
    console.print(calls)

    rest = Table(title=f"{stage.name}: results", show_header=False)
    rest.add_column()
    rest.add_column(justify="right")
    for fault, number in sorted(faults.items()):
        rest.add_row(f"fault: {fault}", f"{number:,}")
    rest.add_row("faults", f"{faults.total():,}", style="bold")
    rest.add_section()
    rest.add_row("sessions", f"{findings.sessions:,}")
    for status, number in sorted(findings.by_status.items()):
        rest.add_row(f"  {status}", f"{number:,}")
    rest.add_row("events", f"{findings.events:,}")
    for event_type, number in sorted(findings.by_type.items()):
        rest.add_row(f"  {event_type}", f"{number:,}")
    rest.add_row("events read from the feed", f"{len(stage.feed.received):,}")
    for fate, number in sorted(findings.mails.items()):
        rest.add_row(f"mails {fate}", f"{number:,}")
    rest.add_row("batches", f"{len(stage.model.batches):,}")
    rest.add_row("series", f"{findings.series:,}")
    rest.add_row("  occurrences", f"{findings.occurrences:,}")
    for name, sink in stage.sinks.items():
        rest.add_row(f"events that {name} received", f"{len(sink.received):,}")
        rest.add_row("  repeated", f"{sink.repeats:,}")
        rest.add_row("  deliveries taken", f"{sink.deliveries['taken']:,}")
        rest.add_row("  deliveries refused", f"{sink.deliveries['refused']:,}")
    rest.add_section()
    for line, number in sorted(findings.lines.items()):
        rest.add_row(f"log: {line}", f"{number:,}")
    rest.add_section()
    for daemon, (start, end, after, at, starts) in memory.items():
        rest.add_row(f"memory of {daemon}, {after:.0f} s after its last start (of {starts})", f"{start:.1f} MB")
        rest.add_row(f"  at the end, {at:.0f} s after", f"{end:.1f} MB")
    rest.add_section()
    for kind, named in (("loss", "losses"), ("duplicate", "duplicates"), ("other", "other findings")):
        number = findings.count(kind)
        rest.add_row(named, f"{number:,}", style="bold green" if number == 0 else "bold red")
    console.print(rest)
