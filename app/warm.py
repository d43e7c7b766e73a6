"""Compiles every kernel into its cache at installation, by sending one message through the whole decision path of the demo and
one recorded row through that of a backtest.

Without it the first start of core takes one to two minutes instead of 1 s.
"""

import os
import shutil
import time
from pathlib import Path

import msgspec
import numpy as np

from app.demo import DEMO_SITES
from app.site_files import load_site
from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.recorded import places, recorded_entries
from telemetry.record import Config, Start


def warm() -> None:
    """Run one configuration, message and tick; nothing is kept of it."""
    site = load_site(DEMO_SITES[0])
    engine, now_ns = build_engine(), time.time_ns()
    gather = Gather(Directory(engine.plan))
    gather.add(Start(1, "warm"), now_ns)
    gather.add(Config(site.site, site.sha256(), site.canonical(), "warm"), now_ns)
    engine.step(gather.build(0, now_ns, 0))
    gather.directory = Directory(engine.plan)
    message = {"v": 1, "boot": 1, "seq": 1, "ts": now_ns // 1_000_000, "p": {"air_temp_c": 20.5, "air_rh_pct": 70.0}}
    gather.take(f"fl/{site.site}/climate-1/telemetry", msgspec.json.encode(message), False, now_ns)
    gather.tick(now_ns)
    engine.step(gather.build(engine.position + 1, now_ns, now_ns))
    one_row = np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.uint16)
    recorded_entries([one_row], places(engine.plan), first=0, start_ms=0, end_ms=1)
    _forget_other_code()


def _forget_other_code() -> None:
    """Remove the kernels of former versions, whose folders lie beside the present one's (`app.cli.place_kernels`)."""
    here = Path(os.environ["NUMBA_CACHE_DIR"])
    for other in here.parent.glob("[0-9a-f]" * len(here.name)):
        if other != here:
            shutil.rmtree(other, ignore_errors=True)
