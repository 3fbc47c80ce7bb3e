"""One agent sends the largest requests allowed: the daemon's memory stays bounded, and other agents are served.

`tests/bench/one_agent.py` runs the same load for longer, and also measures the calls of other agents.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tminus.storage.view import PAGE_BYTES

MIB = 1024 * 1024
NESTED: list[list[int]] = [[] for _ in range(1300)]
"""The JSON value of at most four kilobytes that takes most Python objects."""


def resident(daemon: Daemon, name: str) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024


def field_errors(answer: Any) -> dict[str, str]:
    assert answer.status_code == 400, answer.text
    return {one["field"]: one["message"] for one in answer.json()["errors"]}


def deep(levels: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    return {"deep": value}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("parentObject", {"id": "1", "more": [[] for _ in range(20_000)]}, "must be at most 4096 bytes of JSON"),
        ("metaData", {"more": [[] for _ in range(6000)]}, "must be at most 16384 bytes of JSON"),
    ],
)
def test_the_size_of_values_that_are_stored_unchanged_is_limited(
    daemon: Daemon, field: str, value: JSON, message: str
) -> None:
    body = {"type": "live", "label": "A", field: value}
    if field == "parentObject":
        body["externalMapping"] = "case.1"
    assert field_errors(daemon.post("/supportsessions", body)) == {field: message}


def test_values_at_the_limit_are_accepted_and_returned(daemon: Daemon) -> None:
    parent, meta = {"id": "1", "more": deep(100)}, deep(100)
    made = daemon.make(type="live", externalMapping="case.1", parentObject=parent, metaData=meta)
    assert (made["parentObject"], made["metaData"]) == (parent, meta)


@pytest.mark.slow
def test_the_largest_responses_use_little_memory(storage: JSON, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(storage=storage)
    body = {
        "type": "live", "label": "\N{PILE OF POO}" * 255, "userDescription": "\N{PILE OF POO}" * 255,
        "externalMapping": "case.1", "parentObject": {"id": "1", "more": NESTED},
        "metaData": {"more": NESTED * 4},
    }  # fmt: skip
    with ThreadPoolExecutor(8) as agents:
        made = list(agents.map(lambda _: daemon.post("/supportsessions", body).json()["id"], range(150)))
        before = resident(daemon, "VmRSS")
        paths = ("/supportsessions?limit=1000", "/crmlookup/case.1", "/events?limit=1000")
        answers = list(agents.map(lambda number: daemon.get(paths[number % 3]), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert max(len(answer.content) for answer in answers) < PAGE_BYTES + MIB
    assert resident(daemon, "VmHWM") - before < 128 * MIB
    listed: list[str] = []
    while rows := daemon.get(f"/supportsessions?limit=1000&offset={len(listed)}").json()["rows"]:
        listed += [row["id"] for row in rows]
    assert sorted(listed) == sorted(made), "no session is missing after a page that was cut short"
