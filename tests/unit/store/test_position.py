"""What a follower tells core: whole, seldom, and never a reason to fail."""

from pathlib import Path

from store.position import TOLD_EVERY_S, PositionFile
from telemetry.clock import ManualClock


def test_a_position_is_told_at_once_and_then_at_most_every_five_seconds(tmp_path: Path) -> None:
    clock, file = ManualClock(1_000_000_000), tmp_path / "run" / "web.position"
    told = PositionFile(file, clock=clock)
    told.tell(7)
    assert file.read_text() == "7"
    told.tell(8)
    assert file.read_text() == "7"
    clock.advance(int(TOLD_EVERY_S * 1e9))
    told.tell(9)
    assert int(file.read_text()) == 9
    assert [path.name for path in file.parent.iterdir()] == ["web.position"]


def test_a_place_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the directory should be")
    PositionFile(tmp_path / "run" / "web.position", clock=ManualClock(1)).tell(7)
