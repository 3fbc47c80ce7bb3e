"""The API conforms to its OpenAPI document: schemathesis generates requests from it and checks the responses."""

from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import Any, cast

import orjson
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation.stateful.state_machine import StepOutput
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance, use_after_free
from schemathesis.specs.openapi.stateful import collect_transitions
from schemathesis.specs.openapi.stateful.links import OpenApiLink

from tests.acceptance.daemons import Daemon
from tests.acceptance.times import from_now
from tests.support.databases import KINDS

EXAMPLES = 12
"""Number of valid requests that are generated for each call, and of invalid ones."""

CALLS = (
    "POST /v3/supportsessions",
    "POST /v3/supportsessions/batch",
    "POST /v3/supportsessions/batch/reschedule",
    "POST /v3/supportsessions/batch/close",
    "GET /v3/supportsessions",
    "GET /v3/supportsession/{session_id}",
    "PUT /v3/supportsession/{session_id}",
    "DELETE /v3/supportsession/{session_id}",
    "GET /v3/supportsession/{session_id}/events",
    "GET /v3/supportsession/{session_id}/invite.ics",
    "POST /v3/supportsession/{session_id}/participants",
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}",
    "DELETE /v3/supportsession/{session_id}/participants/{participant_id}",
    "GET /v3/events",
    "GET /v3/crmlookup/{key}",
    "GET /v3/discovery",
    "GET /v3/support/{pin}/meta",
    "GET /v3/support/{pin}/metadata",
    "GET /v3/support/challenge",
    "POST /v3/support/connect",
    "POST /v3/live/connect",
    "POST /v3/auth/{provider}/authWithToken",
    "GET /v3/auth/{provider}/exchangeCode",
    "GET /v3/auth/signout",
    "GET /v3/me",
    "GET /v3/configuration/{type_id}",
    "GET /v3/organization/{organization_id}/remotewidgetconfig",
    "GET /v3/organization/{organization_id}/cobrowsedeployments",
    "GET /v3/agents",
    "GET /v3/clock",
    "POST /v3/clock",
    "GET /v3/report",
    "POST /v3/agents/{number}/shutOut",
    "POST /v3/agents/{number}/readmit",
    "POST /v3/agents/{number}/calendar",
    "DELETE /v3/agents/{number}/calendar",
    "GET /v3/calendars/{secret}.ics",
    "GET /v3/agents/{number}/freebusy",
    "GET /v3/webhooks",
    "GET /v3/webhooks/{name}",
    "POST /v3/webhooks/{name}/ping",
    "POST /v3/webhooks/{name}/sample",
    "POST /v3/webhooks/{name}/pause",
    "POST /v3/webhooks/{name}/resume",
    "GET /v3/webhooks/{name}/deliveries",
    "POST /v3/webhooks/{name}/replay",
    "POST /v3/series",
    "GET /v3/series",
    "GET /v3/series/{series_id}",
    "PUT /v3/series/{series_id}",
    "DELETE /v3/series/{series_id}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)

STRICTER_THAN_SCHEMA = (
    "POST /v3/supportsessions",
    "POST /v3/supportsessions/batch",
    "POST /v3/supportsessions/batch/reschedule",
    "POST /v3/supportsessions/batch/close",
    "PUT /v3/supportsession/{session_id}",
    "POST /v3/webhooks/{name}/replay",
    "GET /v3/agents/{number}/freebusy",
    "GET /v3/auth/{provider}/exchangeCode",
    "POST /v3/clock",
    "GET /v3/report",
    "POST /v3/series",
    "PUT /v3/series/{series_id}",
    "DELETE /v3/series/{series_id}",
)
"""Calls that may refuse a request that conforms to its schema: a start time is in the past, a code was not issued, or
members that require or exclude each other are combined wrongly. JSON Schema cannot express the current time, or that
null counts as absent.
"""


ALWAYS_VALID = (
    "GET /v3/support/challenge",
    "GET /v3/calendars/{secret}.ics",
    "GET /healthz",
    "GET /readyz",
    "GET /v3/clock",
)
"""Calls that cannot be invalid: they take no parameter, or any text."""


class DaemonTransport:
    """A transport that calls a daemon over one connection, as a caller with all necessary roles."""

    def __init__(self, daemon: Daemon, *without: Any) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # otherwise it would read the proxy settings before each request
        self.how: dict[str, Any] = {
            "base_url": daemon.url,
            "session": self._session,
            "headers": {"Session-id": daemon.token},
        }
        # Both headers: the check that a created resource is available uses every documented way of authentication.
        self.credentials = {"Session-id": daemon.token, "Authorization": f"Bearer {daemon.token}"}
        self.without = without
        """Checks that are left out."""

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def both(daemon: Daemon, pg_daemon: Daemon) -> Iterator[tuple[DaemonTransport, DaemonTransport]]:
    """A daemon on each database. Both get the same requests: generating these takes longer than answering them.

    Requests without a token and with a wrong one are sent to one daemon only: they are refused before the database
    matters, and test_rights.py sends such requests to both.
    """
    with (
        closing(DaemonTransport(daemon)) as on_sqlite,
        closing(DaemonTransport(pg_daemon, ignored_auth)) as on_postgresql,
    ):
        yield on_sqlite, on_postgresql


@pytest.fixture(scope="module")
def described(daemon: Daemon) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{daemon.url}/openapi.json")


def test_every_call_is_described_and_tested(described: schemathesis.BaseSchema) -> None:
    assert sorted(found.ok().label for found in described.get_all_operations() if isinstance(found, Ok)) == sorted(
        CALLS
    )


def test_every_check_is_on(described: schemathesis.BaseSchema) -> None:
    load_all_checks()
    operation: Any = described["/v3/me"]["GET"]
    config = described.config.checks_config_for(operation=operation, phase=None)
    assert len(CHECKS.get_all_names()) > 10
    assert [name for name in CHECKS.get_all_names() if not config.get_by_name(name=name).enabled] == []


def _can_go_out(body: Any) -> bool:
    """Return whether orjson can serialize a body. JSON Schema cannot forbid integers beyond 64 bits in members that it
    does not name.
    """
    try:
        return not isinstance(body, dict) or bool(orjson.dumps(body))
    except TypeError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("call", CALLS)
def test_every_response_conforms_to_the_description(
    both: tuple[DaemonTransport, DaemonTransport], described: schemathesis.BaseSchema, call: str, mode: GenerationMode
) -> None:
    method, path = call.split()
    operation: Any = described[path][method]

    judged_otherwise: list[Any] = [positive_data_acceptance] if call in STRICTER_THAN_SCHEMA else []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        # The API treats an empty value, as in `type=`, as absent. The generator counts it as invalid.
        values = (case.query or {}).values()
        assume(not any(one == "" or (isinstance(one, list) and "" in one) for one in values))
        assume(mode is GenerationMode.NEGATIVE or _can_go_out(case.body))
        # No event occurs while a long poll waits, so a short wait gets the same response as a long one.
        if case.query and isinstance(case.query.get("wait"), int | float):
            case.query["wait"] = min(case.query["wait"], 0.01)
        case.headers.pop("Accept", None)
        for asked in both:
            case.call_and_validate(**asked.how, excluded_checks=[*judged_otherwise, *asked.without])

    never_wrong = mode is GenerationMode.NEGATIVE and call in ALWAYS_VALID
    with pytest.raises(Unsatisfiable) if never_wrong else nullcontext():
        ask()


# --- links from call to call ------------------------------------------------------------------------------------------

BODIES: dict[str, dict[str, Any]] = {
    "POST /v3/supportsessions": {"type": "live", "label": "Linked", "agentPrefs": {"knock": True}},
    "POST /v3/supportsession/{session_id}/participants": {"role": "guest", "name": "Guest", "knock": True},
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}": {"admitted": True},
}
"""The body of each call when the test follows links. The test adds a start time if a session is to be rescheduled."""

RESCHEDULE = "PUT /v3/supportsession/{session_id}"
CLOSE = "DELETE /v3/supportsession/{session_id}"


def _links(described: schemathesis.BaseSchema) -> dict[str, list[OpenApiLink]]:
    """Return the links in the OpenAPI document, with their targets, by call."""
    found = collect_transitions([one.ok() for one in described.get_all_operations() if isinstance(one, Ok)])
    return {
        call: [link for link in leading.outgoing if not link.is_inferred]
        for call, leading in found.operations.items()
        if leading.outgoing
    }


def _walks(links: dict[str, list[OpenApiLink]], call: str) -> Iterator[tuple[OpenApiLink, ...]]:
    """Return every path of links that begins at a call."""
    leading = links.get(call, [])
    if not leading:
        yield ()
    for link in leading:
        for rest in _walks(links, link.target.label):
            yield (link, *rest)


@pytest.mark.parametrize("number", [0, 1], ids=KINDS)
def test_every_link_leads_to_the_created_session_and_a_closed_session_stays_closed(
    both: tuple[DaemonTransport, DaemonTransport], described: schemathesis.BaseSchema, number: int
) -> None:
    transport, links = both[number], _links(described)
    followed: set[str] = set()
    begin: Any = described["/v3/supportsessions"]["POST"]

    def send(recorder: ScenarioRecorder, case: Case[Any], parent: StepOutput | None = None) -> StepOutput:
        recorder.record_case(case=case, parent_id=parent.case.id if parent else None)
        answer = case.call(**transport.how)
        recorder.record_response(case_id=case.id, response=answer)
        # A closed session still exists, so its use is no error.
        excluded = [use_after_free, *transport.without]
        case.validate_response(answer, excluded_checks=excluded, recorder=recorder, transport_kwargs=transport.how)
        assert answer.status_code == 200, case.operation.label
        return StepOutput(answer, case)

    for walk in _walks(links, begin.label):
        recorder = ScenarioRecorder(label="links", config=described.config.output)
        when = {"startTime": from_now(days=1)} if walk[0].target.label == RESCHEDULE else {}
        step = send(recorder, begin.Case(body=BODIES[begin.label] | when, media_type="application/json"))
        calls = [begin.label]
        for link in walk:
            values = link.extract(step).parameters["path_parameters"]
            named = {name: cast("Ok[Any]", value.value).ok() for name, value in values.items()}
            case: Case[Any] = link.target.Case(path_parameters=named, headers=dict(transport.credentials))
            body: Any = (
                {"startTime": from_now(days=2)} if link.target.label == RESCHEDULE else BODIES.get(link.target.label)
            )
            if body is not None:
                case.body, case.media_type = body, "application/json"
            step = send(recorder, case, step)
            followed.add(link.full_name)
            if CLOSE in calls and link.name == "show":
                assert step.response.json()["status"] == "closed"
            calls.append(link.target.label)

    assert followed == {link.full_name for leading in links.values() for link in leading}
    assert len(followed) > 10
