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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pytest

from app.recompute import decide
from app.recovery import recover
from app.wiring import build_engine
from store.snapshot import read_snapshot, write_snapshot
from telemetry.decision import LogHash
from telemetry.frame import COLUMNS, Entries, Flag, Kind, Verdict, make_frames
from telemetry.record import Start
from tests.faults.broker import RealBroker
from tests.faults.hostile_farm import HostileFarm, ask, farm
from tests.faults.process import Process, wait_until
from tests.system.core_process import ROOT, CoreProcess

pytestmark = pytest.mark.system
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
        self.frames()
        last = self._position - 1
        ticks = lambda: sum(int((t.read_entries().kind == Kind.TICK).sum()) for t in self.core.transactions(last))  # noqa: E731
        wait_until(lambda: ticks() >= 3, deadline_s=60, what="ticks, at which delays end")
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
    """Four hashes and the stored log are one, and what a saboteur changes is another."""
    print(found)
    assert found.records["Start"] > 1
    printed = {decisions(core, way)[0] for way in WAYS}
    assert len(printed) == 1
    assert "decides otherwise" not in core.log
    assert found.verdicts.keys() >= {"LIVE", "LATE", "FUTURE", "DUPLICATE", "BACKFILL"}
    assert found.not_numbers > 0
    assert found.crossed > 0
    facts = Facts.read(core)
    assert facts.hash_of(lambda entries: entries) == facts.digest
    for saboteur in (facts.swap_two_frames, facts.change_one_bit, facts.skip_one_tick):
        assert facts.hash_of(saboteur) != facts.digest, saboteur.__name__
    assert facts.hash_over_snapshot(core.directory / "whole", forget=False) == facts.digest
    assert facts.hash_over_snapshot(core.directory / "less", forget=True) != facts.digest
    facts.change_one_stored_bit(core)
    assert decisions(core, ["--recompute", "history"])[0] not in printed


@dataclasses.dataclass(frozen=True)
class Facts:
    """A recording, and where in it something was decided."""

    runs: list[Entries]
    digest: str
    frame: int  # position of a frame that raised an alarm with the value of its first sample; the next entry is another frame of its device
    tick: int  # position of a tick before which a timer fired
    before_ns: int  # engine time of the entry before it

    @classmethod
    def read(cls, core: CoreProcess) -> "Facts":
        """Out of a stopped core's journal."""
        log, runs, frame, tick, before_ns, last_ns = LogHash(), [], -1, -1, 0, 0
        for transaction in core.transactions():
            entries, decided = transaction.read_entries(), transaction.read_decisions()
            log.add(decided)
            runs.append(entries)
            for decision in decided:
                at = decision.position - entries.first
                if decision.phase == 0 and entries.kind[at] == Kind.TICK and decision.time_ns < entries.time_ns[at]:
                    tick, before_ns = decision.position, int(entries.time_ns[at - 1]) if at else last_ns
                elif decision.subject.startswith("HOT@") and decision.body.get("event") == "raise":
                    frame = decision.position if _is_before_its_like(entries, at) else frame
            last_ns = int(entries.time_ns[-1])
        assert min(frame, tick) >= 0
        return cls(runs, log.hexdigest(), frame, tick, before_ns)

    def hash_of(self, change: Callable[[Entries], Entries]) -> str:
        """Of what is decided on changed entries."""
        log = LogHash()
        for decided in decide(map(change, self.runs)):
            log.add(decided)
        return log.hexdigest()

    def swap_two_frames(self, entries: Entries) -> Entries:
        """A frame and the next one of its device."""
        frames, at = entries.frames, _frame_at(entries, self.frame)
        if at is None:
            return entries
        columns = {name: getattr(frames, name).copy() for name in COLUMNS}
        for name in ("ts_ns", "boot", "seq", "flags"):
            columns[name][[at, at + 1]] = columns[name][[at + 1, at]]
        first, second, third = frames.offsets[at : at + 3].tolist()
        for name in ("point", "value", "quality"):
            columns[name][first:third] = np.concatenate([columns[name][second:third], columns[name][first:second]])
        columns["offsets"][at + 1] = first + third - second
        return dataclasses.replace(entries, frames=make_frames(columns, frames.arrays))

    def change_one_bit(self, entries: Entries) -> Entries:
        """The last one of one value."""
        frames, at = entries.frames, _frame_at(entries, self.frame)
        if at is None:
            return entries
        value = frames.value.copy()
        value.view(np.int64)[frames.offsets[at]] ^= 1
        return dataclasses.replace(entries, frames=dataclasses.replace(frames, value=value))

    def skip_one_tick(self, entries: Entries) -> Entries:
        """A tick that brings no time on is none."""
        at = self.tick - entries.first
        if not 0 <= at < len(entries):
            return entries
        time_ns = entries.time_ns.copy()
        time_ns[at] = self.before_ns
        return dataclasses.replace(entries, time_ns=time_ns)

    def hash_over_snapshot(self, directory: Path, *, forget: bool) -> str:
        """Decided in two halves with a snapshot between them that has lost a field, or not."""
        log, engine, half = LogHash(), build_engine(), len(self.runs) // 2
        for at, entries in enumerate(self.runs):
            if at == half:
                saved = read_snapshot(write_snapshot(directory, engine.position, engine.snapshot())).state
                if forget:
                    saved["stages"]["Admit"]["point"]["last_ts"][:] = 0
                    saved["stages"]["Alarms"]["alarms"] = []
                engine = build_engine()
                engine.restore(saved)
            log.add(engine.step(entries).decisions)
        return log.hexdigest()

    def change_one_stored_bit(self, core: CoreProcess) -> None:
        """Of one value in the history's file."""
        for entries in self.runs:
            if (at := _frame_at(entries, self.frame)) is not None:
                frames = entries.frames
                sample = int(frames.offsets[at])
                value = float((frames.value[sample : sample + 1].view(np.int64) ^ 1).view(np.float64)[0])
                where = [int(frames.point[sample]), int(frames.ts_ns[at]) // 1_000_000]
                with contextlib.closing(duckdb.connect(str(core.data / "history.duckdb"))) as file:
                    told = file.execute("UPDATE recent SET value = ? WHERE point = ? AND ts_ms = ?", [value, *where]).fetchall()
                assert told == [(1,)]


def _frame_at(entries: Entries, position: int) -> int | None:
    """Which frame an entry is; None when it is not in this run."""
    found = np.flatnonzero(entries.frames.entry == position - entries.first)
    return int(found[0]) if len(found) else None


def _is_before_its_like(entries: Entries, at: int) -> bool:
    """True for an entry that is a frame, with another frame of its device, of the same message, after it."""
    frames, frame = entries.frames, _frame_at(entries, entries.first + at)
    if frame is None or frame + 1 >= len(frames):
        return False
    same = frames.device[frame] == frames.device[frame + 1] and frames.entry[frame + 1] == at + 1
    return bool(same and frames.seq[frame] == frames.seq[frame + 1] and frames.flags[frame] & Flag.HAS_SEQ)


@pytest.mark.timeout(300)
def test_live_journal_history_and_plain_loop_decide_the_same(tmp_path: Path) -> None:
    core = record(tmp_path, frames=12_000, kills=3, rate=60, changes=6)
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
