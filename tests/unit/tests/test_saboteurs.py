"""The table of saboteurs says what the code contains."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.saboteurs import ROOT, saboteurs


def switches(file: Path) -> Iterator[str]:
    """Names that code compares with its sabotage switch."""
    source = file.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        parts = [node.left, *node.comparators]
        text = " ".join(ast.unparse(part) for part in parts)
        if "SABOTAGE" in text.upper() or (" in chosen" in ast.unparse(node) and "SABOTAGE" in source):
            yield from (p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str) and p.value)


def test_the_table_is_the_code() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    found = {
        (name, str(file.relative_to(ROOT)))
        for package in packages
        for file in (ROOT / package.replace(".", "/")).glob("*.py")
        for name in switches(file)
    }
    assert found == {(saboteur.name, saboteur.place) for saboteur in saboteurs()}


def test_every_test_of_the_table_exists() -> None:
    for saboteur in saboteurs():
        assert all((ROOT / test.partition("::")[0]).is_file() for test in saboteur.test.split() if not test.startswith("-")), (
            saboteur
        )
