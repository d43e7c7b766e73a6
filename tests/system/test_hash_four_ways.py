"""What core decided, live behind a real broker and over kills, is decided again by its journal, by the history alone in another process,
and one entry at a time: byte for byte. And one frame, one bit, one tick or one field of a snapshot more or less would tell.

Saboteurs: history_swaps_frames, history_changes_last_bits, plainly_skips_ticks, forget_alarms.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import contextlib
import dataclasses
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from app.recompute import decide
from app.recovery import recover
from app.wiring import build_engine
from store.snapshot import read_snapshot, write_snapshot
from telemetry.decision import Decision, LogHash, log_line
from telemetry.frame import COLUMNS, Entries, Kind, Verdict, make_frames
from telemetry.record import Clock, Config, Request, Start
from tests.faults.broker import RealBroker
from tests.faults.hostile_farm import HostileFarm, ask, farm
from tests.faults.process import Process, wait_until
from tests.system.core_process import ROOT, CoreProcess, sabotage

pytestmark = [pytest.mark.system, pytest.mark.alone]
HOUSES = 40
WAYS = (["--journal"], ["--recompute", "journal"], ["--recompute", "history"], ["--recompute", "plainly"], ["--history"])


class Counts(NamedTuple):
    """What a recording holds."""

    frames: int
    verdicts: Counter[str]
    records: Counter[str]
    decisions: Counter[str]
    not_numbers: int
    crossed: int  # timers that ran when core was killed and fired, with their due time, in a later core


class Farm:
    """A hostile farm, core and web over one data directory."""

    def __init__(self, directory: Path, broker: RealBroker, core: CoreProcess, *, rate: float) -> None:
        self.core, self.directory = core, directory
        core.env["FIELDLOOM_WEB_PORT"] = "0"
        self.devices = HostileFarm(broker.host, broker.port, rate=rate, houses=HOUSES)
        argv = [sys.executable, "-m", "app.cli", "serve", "web"]
        self.web = Process(argv, log=directory / "web.log", env=core.env, cwd=ROOT)
        self._random, self._asked, self._configured = random.Random(7), 0, 0
        self._frames = self._position = 0

    def frames(self) -> int:
        """Frames in the journal so far."""
        for transaction in self.core.transactions(self._position - 1):
            self._frames += len(transaction.read_entries().frames)
            self._position = transaction.last + 1
        return self._frames

    def live(self, seconds: float, *, configure: bool) -> None:
        """Let it run for a while, people asking for this and that."""
        end = time.monotonic() + seconds
        if configure:
            self._configured += 1
            version = self._configured + 1
            self.core.configure(farm(version=version, houses=HOUSES - 4 * (version % 2)))
        while time.monotonic() < end:
            self._asked += 1
            self.core.ask(ask(self._asked, self._random, HOUSES))
            time.sleep(0.1)

    def restart(self, *, snapshot: bool) -> None:
        """SIGKILL and a new core; with a snapshot as core writes them, now and not only after half a minute."""
        self.core.kill()
        if snapshot:
            found = recover(self.core.data)
            state = {"engine": found.engine.state(), "inbox_row": found.inbox_row}
            write_snapshot(self.core.data / "snapshots", found.engine.position, state)
        self.core.start()

    def end(self) -> None:
        """Stop everything, once the history has all that the journal has."""
        self.devices.close()
        assert self.core.stop() == 0
        wait_until(lambda: b"behind" not in decisions(self.core, ["--history"])[1], deadline_s=120, what="history has it all")
        self.web.terminate()


def decisions(core: CoreProcess, words: list[str]) -> tuple[str, bytes]:
    """What `fieldloom decisions --hash` prints, and its standard error."""
    argv = [sys.executable, "-m", "app.cli", "decisions", "--hash", *words]
    began = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env=core.env, capture_output=True, timeout=3000, check=False)
    assert done.returncode == 0, (words, done.stderr.decode())
    print(f"{' '.join(words):22} {time.monotonic() - began:6.1f} s  {done.stdout.decode().strip()}")
    return done.stdout.decode(), done.stderr


def record(directory: Path, *, frames: int, kills: int, rate: float, changes: int) -> CoreProcess:
    """A run of so many frames, kills and changes of the configuration; the stopped core."""
    with RealBroker(directory / "broker") as broker, CoreProcess(directory / "core", broker) as core:
        core.configure(farm(houses=HOUSES)).start().wait_configured("farm")
        run = Farm(directory, broker, core, rate=rate)
        with contextlib.closing(run.devices), run.web:
            run.web.wait_ready((core.data / "run" / "web.ready").is_file)
            for kill in range(kills):
                wait_until(lambda least=frames * kill // (kills + 1): run.frames() >= least, deadline_s=600, what="frames")
                for _ in range(-(-changes // kills)):
                    run.live(run._random.uniform(0.3, 0.7), configure=True)
                run.restart(snapshot=kill % 2 == 1)
                if kill == kills // 2:
                    run.web.kill()
                    run.web.start()
            while run.frames() < frames:
                run.live(0.5, configure=False)
            run.end()
    return core


def count(core: CoreProcess) -> Counts:
    """What a run holds."""
    verdicts: Counter[str] = Counter()
    records: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    frames = not_numbers = crossed = started = 0
    for transaction in core.transactions():
        entries = transaction.read_entries()
        frames += len(entries.frames)
        not_numbers += int(np.isnan(entries.frames.value).sum())
        verdicts.update(Verdict(v).name for v in transaction.read_admission().verdict.tolist())
        for index, found in entries.records:
            records[type(found).__name__] += 1
            started = int(entries.time_ns[index]) if isinstance(found, Start) else started
        for decision in transaction.read_decisions():
            decided[decision.kind] += 1
            # A delay of at most 1.5 s, a shelving of at most 9 s: what fires so soon after a start was begun before the kill.
            crossed += decision.phase == 0 and decision.kind == "alarm" and decision.time_ns < started
    return Counts(frames, verdicts, records, decided, not_numbers, crossed)


def prove(core: CoreProcess, found: Counts) -> None:
    """Four hashes and the stored log are one."""
    print(found)
    assert not sabotage() & {"upgrade"}
    assert len({decisions(core, way)[0] for way in WAYS}) == 1
    assert found.verdicts.keys() >= {"LIVE", "LATE", "FUTURE", "DUPLICATE", "BACKFILL"}
    assert found.not_numbers > 0
    assert "decides otherwise" not in core.log
    assert found.crossed > 0


def test_live_journal_history_and_plain_loop_decide_the_same(tmp_path: Path) -> None:
    core = record(tmp_path, frames=20_000, kills=3, rate=150, changes=6)
    found = count(core)
    prove(core, found)
    assert found.decisions["alarm"] > 500
    assert found.decisions["command"] > 50


@pytest.mark.torture
@pytest.mark.timeout(7200)
def test_a_million_frames_and_twenty_kills(tmp_path: Path) -> None:
    core = record(tmp_path, frames=1_000_000, kills=20, rate=250, changes=60)
    found = count(core)
    prove(core, found)
    assert found.frames >= 1_000_000
    assert found.decisions["alarm"] >= 10_000
    assert found.decisions["command"] >= 500
    assert found.records["Config"] >= 50
    assert found.records["Start"] == 21
    assert_saboteurs_are_told(core, tmp_path)
