"""Is the data directory a place where the journal can keep its promises? Checked at start, refused with the reason.

SQLite's WAL shares memory between processes through a mapped file: that works on a local file system only.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from telemetry.errors import StoreError

FREE_BYTES_MIN: Final = 256 << 20  # one segment's WAL, one snapshot and a sort of the history
NETWORK_TYPES: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse.s3fs",
        "virtiofs",
        "vboxsf",
        "lustre",
        "gpfs",
        "ncpfs",
    }
)


class Place(NamedTuple):
    """What was found: type of the file system, its size and what is free on it, in bytes."""

    kind: str
    disk_bytes: int
    free_bytes: int


def check_place(directory: Path, *, free_bytes_min: int = FREE_BYTES_MIN, mounts: Path = Path("/proc/self/mountinfo")) -> Place:
    """Make `directory` if needed and check it: local, writable, locks work, space left. Raises StoreError naming the fix."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        kind = file_system_of(directory.resolve(), mounts.read_text("utf-8") if mounts.exists() else "")
        if kind in NETWORK_TYPES:
            raise StoreError(
                f"{directory} is on {kind}, a network file system: SQLite's shared memory does not work there; use a local disk"
            )
        _try_to_write(directory)
        usage = shutil.disk_usage(directory)
    except OSError as error:
        raise StoreError(f"{directory}: {_fix(error)}") from error
    if usage.free < free_bytes_min:
        raise StoreError(
            f"{directory}: only {usage.free >> 20} MB are free, {free_bytes_min >> 20} MB are needed to start; free some"
        )
    return Place(kind, usage.total, usage.free)


def file_system_of(directory: Path, mountinfo: str) -> str:
    """Type of the file system `directory` (absolute) is on, from the text of /proc/self/mountinfo; "" when it is not told."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = Path(fields.split()[4].encode("ascii", "backslashreplace").decode("unicode_escape"))  # blanks are written \\040
        if directory.is_relative_to(point) and len(point.parts) >= best:  # of equals the later mount covers the earlier
            best, kind = len(point.parts), rest.split()[0]
    return kind


@contextlib.contextmanager
def owned(directory: Path, name: str) -> Iterator[None]:
    """Hold `directory`/`name`.lock while the block runs. Raises StoreError, naming the process, when another one holds it."""
    descriptor = os.open(directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise StoreError(f"{directory}: {name} runs already as process {owner or '?'}; stop it first") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _fix(error: OSError) -> str:
    """What is wrong with the place, and what to do."""
    elsewhere = "or set FIELDLOOM_DATA_DIR to another place"
    fixes = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EROFS: f"the file system is read-only; mount it for writing, {elsewhere}",
        errno.EACCES: f"permission denied for user {os.getuid()}; make the directory his, {elsewhere}",
        errno.EPERM: f"permission denied for user {os.getuid()}; make the directory his, {elsewhere}",
        errno.EEXIST: f"is a file, not a directory; move it away, {elsewhere}",
        errno.ENOTDIR: f"a part of this path is a file, not a directory; move it away, {elsewhere}",
        errno.EAGAIN: f"locks do not work there; use a local disk, {elsewhere}",
    }
    return fixes.get(error.errno or 0, f"cannot be made or written ({error.strerror}); use a local disk, {elsewhere}")


def _try_to_write(directory: Path) -> None:
    probe = directory / f".probe-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(b"fieldloom")
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)
