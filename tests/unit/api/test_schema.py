"""The OpenAPI document is valid, every operation has examples, and every example is what its schema asks for."""

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.application import make_app
from api.schema import EVERYWHERE, SITE
from telemetry.site import SiteConfig
from tests.faults.web_world import make_world

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = make_world(tmp_path_factory.mktemp("world"))
    made = make_app(world.parts).openapi()
    world.close()
    return made


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def mistakes(schema: dict[str, Any], part: dict[str, Any], value: Any) -> list[str]:
    validator = Draft202012Validator({**part, "components": schema["components"]})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_document_is_valid(schema: dict[str, Any]) -> None:
    assert [str(error) for error in OpenAPIV31SpecValidator(schema).iter_errors()] == []
    names = [operation["operationId"] for _, operation in operations(schema)]
    assert len(names) == len(set(names)) >= 25


def test_every_parameter_body_and_answer_has_an_example_that_holds(schema: dict[str, Any]) -> None:
    checked = 0
    for name, operation in operations(schema):
        for parameter in operation.get("parameters", []):
            assert mistakes(schema, parameter["schema"], parameter["example"]) == [], (name, parameter["name"])
            checked += 1
        contents = [operation.get("requestBody", {}).get("content", {})]
        for status, answer in operation["responses"].items():
            assert answer.get("content") or status == "204", (name, status)
            contents.append(answer.get("content", {}))
        for media in (media for content in contents for media in content.values()):
            assert mistakes(schema, media["schema"], media["example"]) == [], name
            checked += 1
    assert checked > 200


def test_every_answer_that_can_come_is_named_and_every_error_is_a_problem(schema: dict[str, Any]) -> None:
    for name, operation in operations(schema):
        assert "default" not in operation["responses"], name
        assert {str(status) for status in EVERYWHERE} <= set(operation["responses"]), name
        is_open = operation.get("security") == []
        assert ("401" in operation["responses"]) != is_open or "session" in name, name
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert set(answer["content"]) == {PROBLEM}, (name, status)
                assert answer["content"][PROBLEM]["example"]["status"] == int(status)
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_example_of_a_configuration_is_one(schema: dict[str, Any]) -> None:
    assert SiteConfig.model_validate(SITE).site == "nursery"
    assert mistakes(schema, {"$ref": "#/components/schemas/SiteConfig"}, {**SITE, "wrong": 1})
