"""Shipped sites for tests of the simulators, which know no loader of site files."""

from pathlib import Path

import yaml

from telemetry.site import SiteConfig

ROOT = Path(__file__).parents[3]


def load_site(name: str) -> SiteConfig:
    document = yaml.safe_load((ROOT / "sites" / name / "site.yaml").read_text(encoding="utf-8"))
    profiles = {n: (ROOT / "devices" / "profiles" / f"{n}.yaml").read_text(encoding="utf-8") for n in document["profiles"]}
    document["profiles"] = {n: yaml.safe_load(text) for n, text in profiles.items()}
    return SiteConfig.model_validate(document)
