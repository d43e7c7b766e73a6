"""Documents keep up with the code."""

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from app.cli import app
from app.settings import Settings
from telemetry import unit as unit_module

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", read("docs/operations.md"), re.MULTILINE)
    assert [name for name in Settings.model_fields if name not in rows] == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "docs/operations.md"])
def test_every_command_in_the_documents_exists(name: str) -> None:
    group = get_command(app)
    known = set(group.commands)  # type: ignore[attr-defined]
    used = set(re.findall(r"`(?:\.venv/bin/)?fieldloom ([a-z]+)", read(name)))
    assert used <= known


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for document in DOCUMENTS:
        used = set(re.findall(r"(?:`|^    )make ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE))
        assert used <= targets, document


def test_both_readmes_have_the_same_commands_and_links() -> None:
    def facts(name: str) -> list[str]:
        text = read(name)
        return sorted(set(re.findall(r"`fieldloom [^`]+`|^    make \w+|\]\((?!README)[^)]+\)", text, re.MULTILINE)))

    assert facts("README.md") == facts("README.zh-CN.md")


def test_the_licence_is_the_one_that_the_package_names() -> None:
    assert "Apache License" in read("LICENSE")
    assert 'license = "Apache-2.0"' in read("pyproject.toml")


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for word in (
        "demo",
        "serve",
        "simulate",
        "lab",
        "play",
        "decisions",
        "tail",
        "query",
        "apply",
        "export",
        "check",
        "doctor",
        "status",
    ):
        assert word in text


def test_records_of_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (ROOT / "docs" / "adr").glob("*.md")]
    assert len(numbers) == len(set(numbers))
    assert all(number.isdigit() for number in numbers)


def test_every_unit_is_in_the_glossary() -> None:
    section = read("docs/glossary.md").split("## Units")[1].split("## ")[0].split()
    listed = {word.strip(":.;,") for word in section}
    assert [unit for unit in (*unit_module._PREFIXED.split(), *unit_module._PLAIN.split()) if unit not in listed] == []
