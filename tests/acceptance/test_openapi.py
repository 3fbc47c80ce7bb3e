"""The API's description is true: schemathesis draws requests from it and finds no lie in the answers."""

from contextlib import nullcontext
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.acceptance.daemons import Daemon

EXAMPLES = 12
"""Requests drawn for each call, well-formed ones and as many others."""

CALLS = (
    "POST /v3/supportsessions",
    "GET /v3/supportsessions",
    "GET /v3/supportsession/{session_id}",
    "PUT /v3/supportsession/{session_id}",
    "DELETE /v3/supportsession/{session_id}",
    "GET /v3/supportsession/{session_id}/events",
    "POST /v3/supportsession/{session_id}/participants",
    "PUT /v3/supportsession/{session_id}/participants/{participant_id}",
    "DELETE /v3/supportsession/{session_id}/participants/{participant_id}",
    "GET /v3/events",
    "GET /v3/crmlookup/{key}",
    "GET /v3/discovery",
    "GET /v3/support/{pin}/meta",
    "POST /v3/auth/{provider}/authWithToken",
    "GET /v3/auth/signout",
    "GET /v3/me",
    "GET /v3/organization/{organization_id}/remotewidgetconfig",
    "GET /v3/organization/{organization_id}/cobrowsedeployments",
    "GET /v3/webhooks",
    "GET /v3/webhooks/{name}",
    "POST /v3/webhooks/{name}/ping",
    "POST /v3/webhooks/{name}/pause",
    "POST /v3/webhooks/{name}/resume",
    "GET /v3/webhooks/{name}/deliveries",
    "POST /v3/webhooks/{name}/replay",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)

MORE_THAN_SHAPE = (
    "POST /v3/supportsessions",
    "PUT /v3/supportsession/{session_id}",
    "POST /v3/webhooks/{name}/replay",
)
"""Calls that may refuse what is well-formed: where a start time has to lie in the future, or where of several members
all or just one have to be there. JSON Schema has no words for a clock, and none for "null counts as absent".
"""


NEVER_WRONG = ("GET /v3/support/{pin}/meta", "GET /healthz", "GET /readyz")
"""Calls that cannot be asked wrongly: they take nothing, or any text."""


@pytest.fixture(scope="module")
def described(daemon: Daemon) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{daemon.url}/openapi.json")


def test_every_call_is_described_and_tried(described: schemathesis.BaseSchema) -> None:
    assert sorted(found.ok().label for found in described.get_all_operations() if isinstance(found, Ok)) == sorted(
        CALLS
    )


def test_every_check_is_on(described: schemathesis.BaseSchema) -> None:
    load_all_checks()
    operation: Any = described["/v3/me"]["GET"]
    config = described.config.checks_config_for(operation=operation, phase=None)
    assert len(CHECKS.get_all_names()) > 10
    assert [name for name in CHECKS.get_all_names() if not config.get_by_name(name=name).enabled] == []


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("call", CALLS)
def test_every_answer_is_as_described(
    daemon: Daemon, described: schemathesis.BaseSchema, call: str, mode: GenerationMode
) -> None:
    method, path = call.split()
    operation: Any = described[path][method]

    judged_otherwise: list[Any] = [positive_data_acceptance] if call in MORE_THAN_SHAPE else []

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
        # `type=` is no type, but it is no fault either: an empty value counts as absent.
        assume("" not in (case.query or {}).values())
        # Nothing happens meanwhile, and the answer would be the same a minute later.
        if case.query and isinstance(case.query.get("wait"), int | float):
            case.query["wait"] = min(case.query["wait"], 0.01)
        case.headers.pop("Accept", None)
        case.call_and_validate(headers={"Session-id": daemon.token}, excluded_checks=judged_otherwise)

    never_wrong = mode is GenerationMode.NEGATIVE and call in NEVER_WRONG
    with pytest.raises(Unsatisfiable) if never_wrong else nullcontext():
        ask()
