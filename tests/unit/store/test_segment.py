import sqlite3
from pathlib import Path

import msgspec
import pytest

from store.segment import checksum, explain, from_row, read_mark, to_row, write_mark
from telemetry.errors import CorruptError, StoreError
from tests.faults.journal_rows import make_transaction

PATH = Path("/data/journal/x.sqlite")
ROW = to_row(make_transaction(70))


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "disk is full"),
        (sqlite3.SQLITE_IOERR | (4 << 8), "I/O error"),
        (sqlite3.SQLITE_READONLY, "read-only"),
        (sqlite3.SQLITE_BUSY, "another process"),
    ],
)
def test_errors_of_the_environment_say_what_to_do(code, words):
    error = explain(sqlite_error(code), PATH)
    assert type(error) is StoreError
    assert words in str(error)
    assert str(PATH) in str(error)


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR])
def test_damage_is_a_corrupt_error(code):
    assert isinstance(explain(sqlite_error(code), PATH), CorruptError)


@pytest.mark.parametrize(
    "name", ["first", "count", "epoch", "engine_ns", "rows", "entries", "admission", "decisions", "accounting"]
)
def test_checksum_covers_every_field(name):
    transaction = make_transaction(70)
    value = getattr(transaction, name)
    changed = msgspec.structs.replace(transaction, **{name: value + (b"x" if isinstance(value, bytes) else 1)})
    assert checksum(changed) != checksum(transaction)


def test_byte_moved_from_one_blob_to_the_next_is_seen():
    one = msgspec.structs.replace(make_transaction(1), decisions=b"ab", accounting=b"c")
    assert checksum(one) != checksum(msgspec.structs.replace(one, decisions=b"a", accounting=b"bc"))


@pytest.mark.parametrize("column", range(10))
def test_wrong_type_in_any_column_is_a_corrupt_error(column):
    with pytest.raises(CorruptError, match=r"x\.sqlite"):
        from_row((*ROW[:column], "text", *ROW[column + 1 :]), PATH)


def test_damaged_or_missing_mark_proves_nothing(tmp_path):
    assert read_mark(tmp_path) == -1
    with (tmp_path / "mark").open("w+b") as file:
        write_mark(file.fileno(), 41)
        assert read_mark(tmp_path) == 41
        file.seek(0)
        file.write(b"\x2a")
        file.flush()
        assert read_mark(tmp_path) == -1
