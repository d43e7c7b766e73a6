"""What OpenAPI says beyond what the framework makes: one error shape, who may call, and an example of everything that can be checked.

Examples of answers and bodies are put together from the examples of their fields, so that each stands beside the field it is of.
"""

from http import HTTPStatus
from typing import Any, Final

from api.problem import KINDS, MEDIA_TYPE, ProblemBody
from telemetry.site import SiteConfig

OPEN: Final = frozenset({"/health", "/ready"})  # ends of paths; and the login, which is how one gets in
EVERYWHERE: Final = (413, 421, 500, 503)  # a body too large, a foreign host name, a defect of ours, too many at once
REFERENCE: Final = "#/components/schemas/"

PARAMETERS: Final[dict[str, Any]] = {
    "site": "nursery",
    "device": "ms-1",
    "area": "ms",
    "point": "air_temp_c",
    "actuator": "roof_vent",
    "rule": "MS-T-HH",
    "action": "acknowledge",
    "command": "nursery/ms-1/roof_vent:17",
    "request": "wang.8c1f0a7e2b94",
    "backtest": "4f1c2a7b9d3e8a60",
    "warming": "4f1c2a7b9d3e8a60",
    "warm": "4f1c2a7b9d3e8a60",
    "session": "5f70bf18a086007016e948b04aed3b827f2d5b0c4c1a9e66d3f5b8a7c2e1d904",
    "subject": "MS-T-HH@nursery/ms-1",
    "kind": "alarm",
    "state": "confirmed",
    "fate": "failed",
    "reason": "malformed",
    "key": "8c1f0a7e2b94",
    "start_ms": 1767222000000,
    "end_ms": 1767225600000,
    "at_ms": 1767225660000,
    "points": 500,
    "limit": 100,
    "after": -1,
    "from_version": 2,
    "to_version": 3,
    "comment": "told by nobody",
    "shadow": False,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
SITE: Final[dict[str, Any]] = {
    "v": 1,
    "site": "nursery",
    "label": {"en": "Nursery", "zh": "育苗场"},
    "areas": [{"name": "house-1"}],
    "devices": [{"name": "ms-1", "profile": "house", "area": "house-1"}],
    "profiles": {
        "house": {"name": "house", "points": [{"name": "air_temp_c", "unit": "C", "low": -30, "high": 60, "heartbeat_s": 60}]}
    },
}


def describe(schema: dict[str, Any]) -> None:
    """Complete an OpenAPI schema in place."""
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.setdefault("ProblemBody", ProblemBody.model_json_schema(ref_template=REFERENCE + "{model}"))
    site = SiteConfig.model_json_schema(ref_template=REFERENCE + "{model}")
    for name, definition in site.pop("$defs").items():
        # The framework leaves out what is null, such as a default.
        assert _without_null(schemas.get(name, definition)) == _without_null(definition), f"two schemas are called {name}"
        schemas[name] = definition
    schemas["SiteConfig"] = {**site, "examples": [SITE]}
    ways = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "cookie": {"type": "apiKey", "in": "cookie", "name": "fieldloom_session"},
    }
    schema["components"]["securitySchemes"] = ways
    schema["security"] = [{name: []} for name in ways]
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            is_login = (method, path.rpartition("/")[2]) == ("post", "session")
            if is_login or path.endswith(tuple(OPEN)):
                operation["security"] = []
            _describe_operation(operation, schemas)


def _without_null(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_null(value) for key, value in part.items() if value is not None}
    return [_without_null(value) for value in part] if isinstance(part, list) else part


def _describe_operation(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        parameter["example"] = PARAMETERS[parameter["name"]]
    contents = [operation["requestBody"]["content"]] if "requestBody" in operation else []
    answers = operation["responses"]
    answers |= {str(status): {} for status in EVERYWHERE if str(status) not in answers}
    for status, answer in answers.items():
        if int(status) >= 400:
            answer["description"] = HTTPStatus(int(status)).phrase
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": REFERENCE + "ProblemBody"}, "example": _problem(int(status))}}
        else:
            contents.append(answer.get("content", {}))
    for content in contents:
        for media in content.values():
            if "example" not in media:
                media["example"] = example(media["schema"], schemas)
    operation["responses"] = dict(sorted(answers.items()))


def _problem(status: int) -> dict[str, Any]:
    details = {
        404: "There is no such site, or you may not see it.",
        413: "The body may have at most 65536 bytes.",
        422: "What was sent is not valid.",
        429: "Too many login attempts. Try again in 12 s.",
    }
    phrase = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": f"/problems/{KINDS[status]}", "title": phrase, "status": status, "detail": details.get(status, phrase),
    }  # fmt: skip
    return body | ({"errors": [example(ProblemBody.model_json_schema()["$defs"]["FieldError"], {})]} if status == 422 else {})


def example(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value of a JSON schema: its own first example, else one put together from its parts. KeyError where a part has none."""
    if "$ref" in schema:
        return example(schemas[schema["$ref"].removeprefix(REFERENCE)], schemas)
    if schema.get("examples"):
        return schema["examples"][0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0], schemas)
    if schema.get("type") == "object" or "properties" in schema:
        return {name: example(part, schemas) for name, part in schema["properties"].items()}
    if schema.get("type") == "array":
        return [example(schema["items"], schemas)]
    return schema["default"]
