"""Where recordings made by others lie, beside the project; tests that need them are skipped where they are absent."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "shared" / "data"


def recording(name: str) -> Path:
    """The path of a recording; skips the calling test when the data folder is not here."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"recording {name} is not beside the project ({ROOT})")
    return path
