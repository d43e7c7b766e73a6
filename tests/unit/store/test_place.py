import subprocess
from pathlib import Path

import pytest

from store.place import check_place, file_system_of, owned
from telemetry.errors import StoreError
from tests.faults.disk import fill, small_disk

MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:40 / /srv rw shared:1 - nfs4 server:/export rw
31 30 0:41 / /srv/local\\040disk rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(("where", "kind"), [("/a", "ext4"), ("/srv/x", "nfs4"), ("/srv/local disk/x", "xfs"), ("/srvx", "ext4")])
def test_file_system_is_that_of_the_longest_mount_point(where, kind):
    assert file_system_of(Path(where), MOUNTS) == kind


def test_local_writable_directory_is_made_and_accepted(tmp_path):
    place = check_place(tmp_path / "new", free_bytes_min=1)
    assert place.free_bytes <= place.disk_bytes
    assert list((tmp_path / "new").iterdir()) == []


def test_network_file_system_is_refused_with_the_reason(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 0 0:40 / {tmp_path.resolve()} rw - nfs4 server:/x rw\n")
    with pytest.raises(StoreError, match="network file system"):
        check_place(tmp_path, mounts=mounts)


def test_too_little_space_and_a_file_in_the_way_are_refused(tmp_path):
    with pytest.raises(StoreError, match="are free"):
        check_place(tmp_path, free_bytes_min=1 << 60)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"is a file, not a directory; .*FIELDLOOM_DATA_DIR"):
        check_place(tmp_path / "file" / "below")
    with pytest.raises(StoreError, match="is a file, not a directory"):
        check_place(tmp_path / "file")


def test_a_full_and_a_read_only_disk_are_told_apart(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        fill(disk)
        with pytest.raises(StoreError, match="the disk is full; free some space"):
            check_place(disk / "data", free_bytes_min=1)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreError, match="is read-only; mount it for writing"):
            check_place(disk / "more", free_bytes_min=1)


def test_second_owner_is_refused_until_the_first_is_gone(tmp_path):
    with owned(tmp_path, "web"), pytest.raises(StoreError, match="runs already"), owned(tmp_path, "web"):
        pass
    with owned(tmp_path, "web"):
        pass
