"""docs/api.md names every route, every metric and every closing code; nothing in it is gone from the product."""

import re
from pathlib import Path

import pytest

from api import feed
from api.application import make_app
from api.routes.metrics import render
from tests.faults.web_world import fill, make_world

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text()


def test_routes(text: str, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    schema = make_app(world.parts).openapi()
    world.close()
    real = {f"{method.upper()} {path.removeprefix('/api/v1')}" for path, item in schema["paths"].items() for method in item}
    assert set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) [^`]+)`", text, re.MULTILINE)) == real


def test_metrics(text: str, tmp_path: Path) -> None:
    world = make_world(tmp_path)
    fill(world)
    real = set(re.findall(r"^# TYPE (\w+)", render(world.parts), re.MULTILINE))
    world.close()
    assert set(re.findall(r"`(fieldloom_\w+)", text)) == real


def test_closing_codes(text: str) -> None:
    real = {str(value) for name, value in vars(feed).items() if name.startswith("CLOSE_")}
    assert set(re.findall(r"\b44\d\d\b", text)) == real
