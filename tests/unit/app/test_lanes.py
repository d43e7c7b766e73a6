"""Lane results: written whole, proved by their hash, refused when damaged."""

import hashlib
from pathlib import Path

import pytest

from app.lanes import hash_path, lane_decisions, lane_path, read_lane, write_lane
from app.settings import Settings
from telemetry.decision import Decision, LogHash
from telemetry.errors import CallerError, CorruptError, StoreError


def decision(position: int, **body: object) -> Decision:
    return Decision(position, 1, position * 1_000_000_007, 40, "alarm", "R@s/d", {"event": "raise", "value": 27.25, **body})


MANY = [decision(k, text="温度", none=None) for k in range(2_500)]


def test_what_was_written_is_read_back_and_the_hash_is_of_the_log_and_of_the_file(tmp_path: Path) -> None:
    result = write_lane(tmp_path, "agc-lettuce", MANY)
    assert list(read_lane(tmp_path, "agc-lettuce")) == MANY
    expected = LogHash()
    expected.add(MANY)
    assert (result.decisions, result.sha256) == (2_500, expected.hexdigest())
    assert hashlib.sha256(result.path.read_bytes()).hexdigest() == result.sha256
    assert hash_path(result.path).read_text() == f"{result.sha256}  agc-lettuce.jsonl\n"  # as sha256sum -c reads it


def test_batches_hold_all_decisions(tmp_path: Path) -> None:
    write_lane(tmp_path, "x", MANY)
    batches = list(lane_decisions(Settings(data_dir=tmp_path), "x"))
    assert max(map(len, batches)) <= 1_000
    assert [d for batch in batches for d in batch] == MANY


def test_a_lane_without_decisions_is_a_result_too(tmp_path: Path) -> None:
    assert write_lane(tmp_path, "calm", []).decisions == 0
    assert list(read_lane(tmp_path, "calm")) == []


def test_a_failing_run_leaves_the_last_result(tmp_path: Path) -> None:
    write_lane(tmp_path, "x", MANY[:3])

    def fails() -> object:
        yield MANY[0]
        raise StoreError("history went away")

    with pytest.raises(StoreError, match="went away"):
        write_lane(tmp_path, "x", fails())  # type: ignore[arg-type]
    assert list(read_lane(tmp_path, "x")) == MANY[:3]


@pytest.mark.parametrize("damage", ["bit", "cut", "no hash", "empty hash"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    path = write_lane(tmp_path, "x", MANY[:3]).path
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[10] ^= 1
    elif damage == "cut":
        del content[-20:]
    path.write_bytes(content)
    if damage == "no hash":
        hash_path(path).unlink()
    elif damage == "empty hash":
        hash_path(path).write_text("")
    with pytest.raises(CorruptError, match="play the recording again"):
        read_lane(tmp_path, "x")


def test_an_unknown_lane_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="known: none"):
        read_lane(tmp_path, "x")
    write_lane(tmp_path, "agc-tomato", [])
    with pytest.raises(CallerError, match="known: agc-tomato"):
        read_lane(tmp_path, "x")


@pytest.mark.parametrize("name", ["../journal/1", "", "a/b", ".hidden", "x\n"])
def test_a_lane_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallerError, match="not the name of a lane"):
        lane_path(tmp_path, name)
