"""Recordings of others as history: messages through the engine's own admission and the projection, as core and web would have done.

What was read from a file is not yet what a rule sees: admission judges it, and history keeps whole milliseconds.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from app.core import admit_of, make_transaction
from app.site_files import SHIPPED
from app.wiring import build_engine
from bench.rig import ROOT
from ingest.decode import Directory, Gather
from store.duckdb_history import DuckDBHistory
from store.projection import Projector
from telemetry.record import Config, Start
from telemetry.site import Profile, SiteConfig
from telemetry.transaction import Accounting

DATA: Final = ROOT / ".." / "shared" / "data"  # what others recorded lies beside the project and is never copied
SAMPLES: Final = 20_000  # of one transaction


def shipped_profile(name: str) -> Profile:
    """A profile as it is shipped."""
    return Profile.model_validate(yaml.safe_load((SHIPPED / f"{name}.yaml").read_text("utf-8")))


def write_history(file: Path, config: SiteConfig, messages: Iterable[tuple[str, bytes]]) -> Accounting:
    """A history of one site from (topic, payload) in order; what became of every sample."""
    engine = build_engine()
    history = DuckDBHistory(file)
    projector = Projector(history, now_s=time.time)
    gather, now_ns = Gather(Directory(engine.plan)), time.time_ns()

    def commit() -> None:
        entries = gather.build(engine.position + 1, now_ns, 0)
        projector.take(make_transaction(entries, engine.step(entries), 1, admit_of(engine).accounting))
        projector.flush()
        gather.clear()

    for record in (Start(1), Config(config.site, config.sha256(), config.canonical(), "bench")):
        gather.add(record, now_ns)
    commit()
    gather.directory = Directory(engine.plan)
    for topic, payload in messages:
        gather.take(topic, payload, False, now_ns)
        if gather.samples >= SAMPLES:
            commit()
    if gather.rows:
        commit()
    history.close()
    return admit_of(engine).accounting


def backtest(data_dir: Path, rules: str, site: str, start: str, end: str, *more: str) -> dict[str, Any]:
    """The report of the installed command over a written history."""
    out = data_dir / "report.json"
    words = [str(Path(sys.executable).parent / "fieldloom"), "backtest", rules, "--site", site, "--from", start, "--to", end]
    environment = {**os.environ, "FIELDLOOM_DATA_DIR": str(data_dir)}
    subprocess.run([*words, "--json", str(out), *more], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return dict(json.loads(out.read_text()))
