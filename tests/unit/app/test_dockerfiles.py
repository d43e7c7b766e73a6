"""The container files keep what the documents promise."""

import re
import tomllib
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
        assert [volume for volume in service["volumes"] if not volume.endswith(":ro")] == ["fieldloom:/data"]


def test_volumes_are_named_and_local() -> None:
    assert [name for name, volume in compose()["volumes"].items() if volume and volume.get("driver", "local") != "local"] == []


def test_ports_are_on_loopback_unless_the_operator_says_otherwise() -> None:
    for service in compose()["services"].values():
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${DEVICE_ADDRESS:-127.0.0.1}:"))


def test_every_setting_given_to_a_container_exists() -> None:
    known = {f"FIELDLOOM_{name.upper()}" for name in Settings.model_fields}
    for name in ("core", "web", "notify", "setup"):
        assert set(compose()["services"][name]["environment"]) <= known


def test_variables_of_the_operator_are_settings_or_others_names() -> None:
    """A variable FIELDLOOM_* that is no setting would be refused by every command in a shell that exports it."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(FIELDLOOM_\w+)", text))
    assert asked <= {f"FIELDLOOM_{name.upper()}" for name in Settings.model_fields}
    steps = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    assert [name for name in needed if name not in steps] == []


def test_what_shares_a_network_survives_the_restart_of_the_others() -> None:
    """Containers in the network of another one lose it when that one ends: the holder does nothing that could end."""
    services = compose()["services"]
    holders = {service["network_mode"] for service in services.values() if "network_mode" in service}
    assert holders == {"service:net"}
    assert services["net"]["entrypoint"] == ["sleep", "infinity"]


def test_the_image_carries_what_the_program_reads() -> None:
    """Sites are data of an installed package: the demo, `warm` and the image's build need them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "sites" in project["tool"]["setuptools"]["packages"]
    assert project["tool"]["setuptools"]["package-data"]["sites"] == ["**/*.yaml"]


def test_no_secret_stands_in_the_file() -> None:
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN", name):
                assert value.startswith("${"), name
