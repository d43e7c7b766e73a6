"""`fieldloom lab` as a user runs it: two processes with equal seed print one hash, though one kills its engine."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lab(*words: str) -> str:
    argv = [sys.executable, "-m", "app.cli", "lab", "sites/nursery", "--hours", "0.25", *words]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.days
def test_equal_seeds_one_hash_also_across_kills() -> None:
    plain = lab("--seed", "5")
    assert "decisions sha256" in plain
    assert int(plain.split()[0]) > 10
    assert lab("--seed", "5", "--kills", "6") == plain
