import random

import numpy as np
import pytest

from store.snapshot import draft_snapshot, newest_snapshot, read_snapshot, remove_drafts, valid_snapshots, write_snapshot
from telemetry.errors import CorruptError, StoreError

STATE = {
    "name": "电",
    "n": -(2**40),
    "x": 0.1,
    "on": True,
    "none": None,
    "raw": b"\x00\xff",
    "list": [1, {"deep": np.arange(5, dtype=np.int32)}],
    "by_number": {3: "a"},
    "empty": np.zeros((0, 4)),
    "matrix": np.arange(6.0).reshape(2, 3),
    "flags": np.array([True, False, True]),
    "scalar": np.float64(2.5),
    "words": np.array(["a", "长"]),
}


def assert_same(left, right):
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, list):
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_state_comes_back_equal_with_writable_arrays(tmp_path):
    write_snapshot(tmp_path, 7, STATE)
    position, state = newest_snapshot(tmp_path)
    assert position == 7
    assert_same(STATE, state)
    state["matrix"][0, 0] = 9


def test_two_newest_are_kept(tmp_path):
    for position in (5, 50, 500):
        write_snapshot(tmp_path, position, {"p": position})
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == [50, 500]


def test_damaged_newest_is_passed_over_with_a_reason(tmp_path):
    write_snapshot(tmp_path, 1, {"p": 1})
    path = write_snapshot(tmp_path, 2, {"p": 2})
    path.write_bytes(path.read_bytes()[:-1])
    skipped: list[str] = []
    assert newest_snapshot(tmp_path, skipped=skipped) == (1, {"p": 1})
    assert len(skipped) == 1
    assert str(path) in skipped[0]


def test_other_build_is_taken_only_when_allowed(tmp_path):
    write_snapshot(tmp_path, 1, {"p": 1}, build="older")
    assert newest_snapshot(tmp_path) is None
    assert newest_snapshot(tmp_path, is_other_build_allowed=True) == (1, {"p": 1})


def test_any_flipped_bit_or_cut_is_refused(tmp_path):
    path = write_snapshot(tmp_path, 3, STATE)
    whole, rng = path.read_bytes(), random.Random(1)
    for _ in range(100):
        broken = bytearray(whole)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(CorruptError):
            read_snapshot(path)
        path.write_bytes(whole[: rng.randrange(len(whole))])
        with pytest.raises(CorruptError):
            read_snapshot(path)


def test_missing_directory_has_no_snapshot(tmp_path):
    assert newest_snapshot(tmp_path / "none") is None


def test_directory_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        write_snapshot(tmp_path / "file" / "below", 1, {})


def test_all_valid_snapshots_come_newest_first_and_drafts_of_a_killed_writer_are_forgotten(tmp_path):
    write_snapshot(tmp_path, 1, {"p": 1})
    write_snapshot(tmp_path, 2, {"p": 2})
    draft = draft_snapshot(tmp_path, 3, {"p": 3})  # killed before it was published
    assert [position for position, _ in valid_snapshots(tmp_path)] == [2, 1]
    assert draft.exists()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:020d}.snap" for n in (1, 2)]
    remove_drafts(tmp_path / "missing")


def test_objects_are_refused(tmp_path):
    with pytest.raises(TypeError):
        write_snapshot(tmp_path, 1, {"x": np.array([object()])})
