"""The container files keep what the documents promise."""

import re
from pathlib import Path
from typing import Any

import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[3]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found


def test_the_image_runs_without_rights_and_looks_after_its_health() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    last_stage = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM ")) :]
    users = [line.split()[1] for line in last_stage if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("0", "root")
    assert any(line.startswith("HEALTHCHECK ") for line in last_stage)
    assert "--require-hashes" in "\n".join(lines)


def test_every_image_has_a_pinned_version() -> None:
    argument = re.search(r"ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert argument is not None
    images = [argument[1], *(s["image"] for s in compose()["services"].values())]
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+", image)] == []


def test_our_services_cannot_write_outside_their_volume() -> None:
    for name in ("core", "web", "notify"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["volumes"] == ["fieldloom:/data"]


def test_volumes_are_named_and_local() -> None:
    assert [name for name, volume in compose()["volumes"].items() if volume and volume.get("driver", "local") != "local"] == []


def test_ports_are_on_loopback_unless_the_operator_says_otherwise() -> None:
    for service in compose()["services"].values():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${FIELDLOOM_DEVICE_ADDRESS:-127.0.0.1}:"))


def test_every_setting_given_to_a_container_exists() -> None:
    known = {f"FIELDLOOM_{name.upper()}" for name in Settings.model_fields}
    for name in ("core", "web", "notify"):
        assert set(compose()["services"][name]["environment"]) <= known


def test_no_secret_stands_in_the_file() -> None:
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN", name):
                assert value.startswith("${"), name
