"""Small disks that fill up. A tmpfs needs root; without it the caller's test is skipped with the reason."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """`directory` as its own file system of so many MB while the block runs."""
    if os.geteuid() != 0:
        pytest.skip("a tmpfs can be mounted by root only")
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"this container may not mount: {done.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path, *, spare_bytes: int = 0) -> Path:
    """Write a filler file until only `spare_bytes` are left; returns it."""
    filler = directory / "filler"
    status = os.statvfs(directory)
    size = status.f_bavail * status.f_frsize - spare_bytes
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return filler
