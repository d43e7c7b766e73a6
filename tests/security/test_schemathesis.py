"""T36: generated requests, good and bad, on every operation as everybody: no failure inside, no answer that the schema does not name."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance, response_schema_conformance

from api.application import make_app
from tests.faults.web_world import World, fill, make_world
from tests.security.test_bola import PATH_VALUES

pytestmark = pytest.mark.security

HOME = "north"
PEOPLE: dict[str, Any] = {
    "anonymous": None,
    "viewer": ("viewer", None),
    "operator": ("operator", None),
    "admin": ("admin", None),
    "other": ("admin", ["south"]),
}
# What no JSON schema can say: a configuration must fit together, a range begins before it ends, only shelving takes seconds, a batch
# that ends has no day, an actuator has its own limits, and a rule's texts have a grammar. There a request that the schema allows may
# be 422.
FURTHER_RULES = (
    "/config", "/history", "/{action}", "/override", "/batch", "/measures", "/shadow", "/backtests", "/warmings", "/rules/{rule}",
)  # fmt: skip
# Its own look at bodies cannot read arrays of fixed length, see `mistakes`; and what it made wrong on purpose we put right again, in
# paths and in the header that says who asks.
REPLACED = (response_schema_conformance, negative_data_rejection)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


def on_something_that_exists(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Most requests would else end at 404."""
    if not path_parameters or sum(map(ord, str(path_parameters))) % 4 == 0:
        return path_parameters
    known = {"site": HOME, **{name: value.format(site=HOME) for name, value in PATH_VALUES.items()}}
    return {name: known.get(name, value) for name, value in path_parameters.items()}


def mistakes(document: Any, operation: Any, answer: Any) -> list[str]:
    """What of an answer's body is not as the document says."""
    content = operation.definition.raw["responses"][str(answer.status_code)].get("content")
    if not content:
        return [] if answer.content == b"" else ["a body where there should be none"]
    [(media, described)] = content.items()
    if media == "text/plain":
        return []
    validator = Draft202012Validator({**described["schema"], "components": document["components"]})
    if media == "application/x-ndjson":
        bad = [line for line in answer.text.splitlines() if not isinstance(json.loads(line), list)]
        return bad + [error.message for error in validator.iter_errors(answer.text)]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(answer.json())]


def hammer(world: World, *, examples: int, is_fixed: bool) -> None:
    """Every request is made once by the generator, which is the dear part, and sent by everybody."""
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", make_app(world.parts), headers={"Host": "testserver"})
    schema.hook("map_path_parameters")(on_something_that_exists)
    asked = settings(
        max_examples=examples,
        deadline=None,
        derandomize=is_fixed,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    statuses = {person: Counter[int]() for person in PEOPLE}

    def ask(person: str, case: Any) -> None:
        headers = {"Host": "testserver"}
        if PEOPLE[person] is not None:
            headers["Authorization"] = f"Bearer {world.token('ann', *PEOPLE[person])}"
        answer = case.call(headers=headers)
        assert str(answer.status_code) in case.operation.definition.raw["responses"], (person, answer.text)
        assert answer.status_code < 500, (person, answer.text)
        assert mistakes(schema.raw_schema, case.operation, answer) == [], person
        further = [positive_data_acceptance] if case.operation.path.endswith(FURTHER_RULES) else []
        case.validate_response(answer, excluded_checks=[*REPLACED, *further])
        statuses[person][answer.status_code] += 1

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @asked
            @given(case=operation.as_strategy(generation_mode=mode))
            def try_one(case: Any) -> None:
                for person in PEOPLE:
                    ask(person, case)

            if mode is GenerationMode.POSITIVE:
                try_one()
            else:
                with contextlib.suppress(Unsatisfiable):  # nothing can be wrong where nothing is asked for
                    try_one()
    for person, counted in statuses.items():
        print(person, dict(counted))
        assert counted.total() > 30 * examples
        assert counted[200 if PEOPLE[person] else 401] > 3 * examples


@pytest.mark.timeout(300)
def test_no_failure_and_no_undocumented_answer(world: World) -> None:
    hammer(world, examples=3, is_fixed=True)


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_no_failure_and_no_undocumented_answer_at_length(world: World) -> None:
    hammer(world, examples=60, is_fixed=False)
