"""Imports point one way, and pure files stay pure."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARROWS = {
    "telemetry": set(),
    "store": {"telemetry"},
    "rules": {"telemetry"},
    "simulators": {"telemetry"},
    "ingest": {"telemetry", "store"},
    "devices": {"telemetry", "store"},
    "people": {"telemetry", "store", "rules"},
    "api": {"telemetry", "store", "rules", "devices", "ingest", "people"},
    "app": {"telemetry", "store", "rules", "devices", "ingest", "people", "api", "simulators"},
}
# Files that decide: bytes, arrays and times in, values out. Everything else may do input and output.
PURE = (
    "telemetry/**/*.py",
    "rules/**/*.py",
    "ingest/decode.py",
    "ingest/mapping.py",
    "ingest/admit.py",
    "ingest/ledger.py",
    "devices/command.py",
    "devices/failsafe.py",
    "devices/drive.py",
    "devices/panel.py",
    "devices/permit.py",
    "people/escalation.py",
    "people/notices.py",
    "people/roster.py",
    "people/wording.py",
)
SIMULATOR_EDGE = {"fleet.py"}  # the one file of simulators that has sockets and a clock
IMPURE = {
    "asyncio", "duckdb", "aiomqtt", "fastapi", "httpx", "logging", "mqtt5", "os", "paho", "pathlib", "random", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time",
    "uvicorn", "websockets",
}  # fmt: skip
MQTT_CLIENT_ONLY_IN = {"ingest/mqtt.py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module


def test_no_relative_imports() -> None:
    for package in ARROWS:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level], f"{path} imports relatively"


@pytest.mark.parametrize("package", ARROWS)
def test_imports_follow_the_arrows(package: str) -> None:
    allowed = ARROWS[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name.split(".")[0] in ARROWS and name.split(".")[0] not in allowed
    ]
    assert wrong == []


def pure_files() -> list[Path]:
    found = [path for pattern in PURE for path in ROOT.glob(pattern)]
    return sorted(found + [path for path in (ROOT / "simulators").rglob("*.py") if path.name not in SIMULATOR_EDGE])


def test_pure_files_do_no_input_or_output() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in pure_files()
        for name in imports(path)
        if name.split(".")[0] in IMPURE and name != "telemetry.clock"
    ]
    assert wrong == []


def test_pure_files_read_no_clock() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} calls {node.attr}"
        for path in pure_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in {"utcnow", "today", "urandom", "default_rng"})
        or (
            isinstance(node, ast.Attribute)
            and node.attr == "now"
            and isinstance(node.value, ast.Name)
            and node.value.id == "datetime"
        )
    ]
    assert wrong == []


def test_only_one_file_imports_the_mqtt_client() -> None:
    users = {
        str(path.relative_to(ROOT))
        for package in ARROWS
        for path in (ROOT / package).rglob("*.py")
        if any(name.split(".")[0] == "mqtt5" for name in imports(path))
    }
    assert users <= MQTT_CLIENT_ONLY_IN


def test_every_top_level_package_has_its_arrows() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages == set(ARROWS)
