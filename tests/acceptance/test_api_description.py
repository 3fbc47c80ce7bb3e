"""The OpenAPI document describes every field and has valid examples and an introduction."""

import json
import os
import re
import subprocess
from typing import Any

import jsonschema_rs
import pytest

from tests.acceptance.daemons import Daemon
from tminus.api.examples import EXAMPLES
from tminus.api.fields import FIELDS, PARAMETERS


@pytest.fixture(scope="module")
def page(daemon: Daemon) -> dict[str, Any]:
    """The OpenAPI document that the daemon serves."""
    described: dict[str, Any] = daemon.http.get(f"{daemon.url}/openapi.json").json()
    return described


def test_every_field_and_parameter_is_described(page: dict[str, Any]) -> None:
    schemas = page["components"]["schemas"]
    described = {
        (name, field): member for name, one in schemas.items() for field, member in one.get("properties", {}).items()
    }
    assert len(described) > 200
    assert [place for place, member in described.items() if not member.get("description")] == []

    calls = [call for path in page["paths"].values() for call in path.values()]
    parameters = [parameter for call in calls for parameter in call.get("parameters", [])]
    assert [one["name"] for one in parameters if not one.get("description")] == []
    assert {tag for call in calls for tag in call["tags"]} == {tag["name"] for tag in page["tags"]}


def test_every_description_belongs_to_an_existing_field(page: dict[str, Any]) -> None:
    schemas = page["components"]["schemas"]
    for name, fields in FIELDS.items():
        for field, text in fields.items():
            assert schemas[name]["properties"][field]["description"] == text, (name, field)
    named = {
        one["name"] for path in page["paths"].values() for call in path.values() for one in call.get("parameters", [])
    }
    assert set(PARAMETERS) <= named


def test_every_schema_has_a_valid_example(page: dict[str, Any]) -> None:
    schemas = page["components"]["schemas"]
    shapes = {name for name, one in schemas.items() if one.get("type") == "object"}
    assert set(EXAMPLES) == shapes
    for name in shapes:
        [example] = schemas[name]["examples"]
        whole = {"$ref": f"#/components/schemas/{name}", "components": page["components"]}
        jsonschema_rs.validator_for(whole, validate_formats=True).validate(example)
        assert set(schemas[name].get("required", [])) <= set(example) <= set(schemas[name]["properties"]), name


def test_the_examples_of_refusals_name_their_status(page: dict[str, Any]) -> None:
    seen = 0
    for path in page["paths"].values():
        for call in path.values():
            for status, answer in call["responses"].items():
                for refcode, one in answer.get("content", {}).get("application/json", {}).get("examples", {}).items():
                    example = one["value"]
                    assert (str(example["code"]), str(example["refcode"])) == (status, refcode)
                    assert f"{refcode}: {example['description']}" in answer["description"]
                    seen += 1
    assert seen > 100


def test_the_page_begins_with_a_first_call_and_its_example_creates_a_session(
    daemon: Daemon, page: dict[str, Any]
) -> None:
    beginning = page["info"]["description"]
    for phrase in ("for programs that", "Session-id: <token>", "tminus token new"):
        assert phrase in beginning
    [first] = re.findall("```sh\n(.*?)```", beginning, re.DOTALL)
    environ = {"PATH": os.environ["PATH"], "TMINUS_TOKEN": daemon.token, "TMINUS_URL": daemon.url}
    done = subprocess.run(
        ["sh", "-c", f"{first.strip()} -sf"], env=environ, capture_output=True, timeout=30, check=True
    )
    assert json.loads(done.stdout)["session"]["name"] == "System Administrator"

    made = daemon.make(**EXAMPLES["NewSession"])
    assert set(made) == set(EXAMPLES["Session"])
    assert set(made["settings"].items()) == set(EXAMPLES["Session"]["settings"].items())
    daemon.delete(f"/supportsession/{made['id']}")
