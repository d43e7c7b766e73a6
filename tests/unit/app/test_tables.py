"""Numbers and the progress bar."""

import subprocess
import sys

import pytest

from app.tables import number, site_time

SLOW = """
import sys, time
from app import tables
tables.PROGRESS_AFTER_S = float(sys.argv[1])
from rich.console import Console
tables.Console = lambda stderr: Console(file=sys.stderr, force_terminal=True, width=80)
with tables.slow_progress("first", 2) as advance:
    time.sleep(0.3)
    advance(1)
with tables.slow_progress("second"):
    time.sleep(0.3)
"""


def shown(after_s: float) -> str:
    return subprocess.run([sys.executable, "-c", SLOW, str(after_s)], capture_output=True, text=True, check=True, timeout=60).stderr


def test_a_bar_is_shown_for_slow_work_only_and_the_steps_of_a_command_add_up() -> None:
    assert shown(30.0) == ""
    both = shown(0.0)
    assert "first" in both
    assert "second" in both
    assert "first" not in (late := shown(0.45))
    assert "second" in late


@pytest.mark.parametrize(
    ("value", "decimals", "text"), [(-0.04, 1, "0.0"), (-0.06, 1, "-0.1"), (12345.6, 0, "12,346"), (0.0, 2, "0.00")]
)
def test_there_is_no_minus_before_zero(value: float, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


def test_a_time_is_the_one_of_the_site() -> None:
    assert site_time(0, "Asia/Shanghai") == "1970-01-01 08:00:00"
