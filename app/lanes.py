"""Results of lanes: data_dir/lanes/<name>.jsonl, the canonical decision log of one lane, and its SHA-256 beside it.

The hash file has the form of `sha256sum`, so that `sha256sum -c` proves the log without this program. A result is replaced whole or
not at all; one whose bytes do not fit its hash is refused.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from app.settings import Settings
from telemetry.decision import Decision, LogHash, log_line
from telemetry.errors import CallerError, CorruptError, StoreError
from telemetry.topic import NAME, NAME_RULE

DIRECTORY: Final = "lanes"
BATCH: Final = 1_000
_decoder = msgspec.json.Decoder(Decision)


class LaneResult(NamedTuple):
    """A written decision log."""

    path: Path
    decisions: int
    sha256: str


def lane_path(data_dir: Path, name: str) -> Path:
    """Where a lane's log lies. Raises CallerError when the name is none (it becomes a file name)."""
    if not NAME.fullmatch(name):
        raise CallerError(f"{name!r} is not the name of a lane: {NAME_RULE}")
    return data_dir / DIRECTORY / f"{name}.jsonl"


def write_lane(data_dir: Path, name: str, decisions: Iterable[Decision]) -> LaneResult:
    """Write the log, then its hash. Decisions come in canonical order. Raises StoreError when the disk refuses."""
    path = lane_path(data_dir, name)
    log_hash, draft = LogHash(), path.with_suffix(".jsonl.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            for decision in decisions:
                log_hash.add([decision])
                file.write(log_line(decision))
            file.flush()
            os.fsync(file.fileno())
        # The old hash goes first: a log without a hash is incomplete, never wrong.
        hash_path(path).unlink(missing_ok=True)
        draft.replace(path)
        _write_hash(path, log_hash.hexdigest())
    except OSError as error:
        raise StoreError(f"{path}: the lane's decisions could not be written: {error.strerror}") from error
    return LaneResult(path, log_hash.count, log_hash.hexdigest())


def _write_hash(path: Path, sha256: str) -> None:
    draft = path.with_suffix(".sha256.new")
    with draft.open("w", encoding="ascii") as file:
        file.write(f"{sha256}  {path.name}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(hash_path(path))
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def hash_path(path: Path) -> Path:
    """The file that holds a log's hash."""
    return path.with_suffix(".jsonl.sha256")


def read_lane(data_dir: Path, name: str) -> Iterator[Decision]:
    """Decisions of a lane, in canonical order.

    Raises CallerError when there is no such lane (naming those there are), CorruptError when the log does not fit its hash.
    """
    path = lane_path(data_dir, name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.jsonl"))
        raise CallerError(
            f"there is no lane {name!r} in {path.parent}; known: {', '.join(known) or 'none, play a recording first'}"
        )
    try:
        content = path.read_bytes()
        told = hash_path(path).read_text("ascii").split()
    except FileNotFoundError:
        raise CorruptError(f"{path}: was written without its hash, so it may be incomplete; play the recording again") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if not told or hashlib.sha256(content).hexdigest() != told[0]:
        raise CorruptError(f"{path}: the decision log does not fit its hash; play the recording again")
    return (_decoder.decode(line) for line in content.splitlines())


def lane_decisions(settings: Settings, name: str) -> Iterator[list[Decision]]:
    """What `fieldloom decisions --lane NAME` prints, in batches."""
    batch: list[Decision] = []
    for decision in read_lane(settings.data_dir, name):
        batch.append(decision)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    yield batch
