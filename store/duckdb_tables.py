"""The tables of a history's DuckDB file, and how a file of an older version is brought to them."""

from pathlib import Path
from typing import Any, Final

from store.history import SCHEMA, check_schema

# Runs came later and changed nothing else: a file without them gets an empty table, and what was written before has no order.
_RUNS: Final = (
    "CREATE TABLE IF NOT EXISTS runs(first BIGINT NOT NULL, last BIGINT NOT NULL, time_ns BIGINT NOT NULL, data BLOB NOT NULL);"
)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS recent(point INTEGER NOT NULL, ts_ms BIGINT NOT NULL, value DOUBLE NOT NULL, quality USMALLINT NOT NULL);
CREATE TABLE IF NOT EXISTS packed(point INTEGER NOT NULL, ts_ms BIGINT NOT NULL, value DOUBLE NOT NULL, quality USMALLINT NOT NULL);
CREATE VIEW IF NOT EXISTS samples AS SELECT * FROM recent UNION ALL SELECT * FROM packed;
CREATE TABLE IF NOT EXISTS series(number INTEGER PRIMARY KEY, site VARCHAR, device VARCHAR, point VARCHAR, unit VARCHAR);
CREATE TABLE IF NOT EXISTS records(position BIGINT, time_ns BIGINT, kind VARCHAR, site VARCHAR, device VARCHAR,
    subject VARCHAR, body VARCHAR, phase UTINYINT, stage INTEGER);
CREATE TABLE IF NOT EXISTS members(point INTEGER, ts_ms BIGINT, form UTINYINT, dtype VARCHAR, member BLOB, value BLOB);
CREATE TABLE IF NOT EXISTS progress(position BIGINT NOT NULL);
INSERT INTO progress SELECT -1 WHERE NOT EXISTS (FROM progress);
CREATE TABLE IF NOT EXISTS saved(plan BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS about(schema INTEGER NOT NULL, decisions_from BIGINT NOT NULL);
"""
# Before the schema had a number, decisions were kept in ms, without phase and stage: what is there stays, whole ones follow it.
_MIGRATE: Final = """
UPDATE records SET time_ms = 1000000 * time_ms;
ALTER TABLE records RENAME time_ms TO time_ns;
ALTER TABLE records ADD COLUMN phase UTINYINT;
ALTER TABLE records ADD COLUMN stage INTEGER;
"""


def make_tables(connection: Any, path: Path) -> int:
    """Bring the file to this schema, whole or not at all; the position its whole decisions begin at."""
    tables = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if "about" in tables:
        schema, decisions_from = connection.execute("SELECT schema, decisions_from FROM about").fetchall()[0]
        check_schema(path, schema)
        connection.execute(_RUNS)
        return int(decisions_from)
    connection.begin()
    decisions_from = 0
    if "records" in tables:
        decisions_from = int(connection.execute("SELECT position + 1 FROM progress").fetchall()[0][0])
        connection.execute(_MIGRATE)
    connection.execute(_SCHEMA + _RUNS)
    connection.execute("INSERT INTO about VALUES (?, ?)", [SCHEMA, decisions_from])
    connection.commit()
    return decisions_from
