"""T22: samples shuffled, tripled and cut into random messages are stored once each; the first value stays; nothing is uncounted."""

import json
import random
from typing import Any

import pytest

from app.wiring import build_engine
from ingest.admit import Admit
from ingest.decode import Directory, Gather
from rules.engine import Engine
from telemetry import quality
from telemetry.decision import LogHash
from telemetry.frame import Entries, Verdict, slice_entries
from telemetry.record import Config, Event, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig

S, MS = 1_000_000_000, 1_000_000
T0 = 1_760_000_000 * S
Sample = tuple[int, int, str, float]  # device, ts ms, point, value
Key = tuple[int, int, int]  # device, ts ns, point
POINTS = ("temp_c", "rh_pct", "co2_ppm")


def site() -> SiteConfig:
    rules = [
        RuleSpec(id="HOT", when="temp_c > 30", on_delay_s=3, priority="P1"),
        RuleSpec(id="DRY", when="rh_pct < 40", priority="P3"),
        RuleSpec(id="AIR", when="mean(co2_ppm, 30 s) > 60", priority="P2"),
    ]
    points = [PointSpec(name=name, unit="1", low=-1000, high=1000) for name in POINTS]
    profile = Profile(name="p", lateness_s=20, points=points, rules=rules)
    return SiteConfig(
        site="s",
        areas=[AreaSpec(name="a")],
        devices=[DeviceSpec(name="d", profile="p", area="a", count=5)],
        profiles={"p": profile},
    )


class Core:
    """An engine fed in batches; keeps what history keeps, by its rules: the first value of (point, ts) stays."""

    def __init__(self, sabotage: frozenset[str] = frozenset()) -> None:
        self.engine: Engine = build_engine(sabotage=sabotage)
        self.gather = Gather(Directory(self.engine.plan))
        self.now = T0
        self.hash = LogHash()
        self.batches: list[Entries] = []
        self.stored: dict[Key, float] = {}
        self.repeated = self.changed = 0
        config = site()
        self.gather.add(Start(1), self.now)
        self.gather.add(Config("s", config.sha256(), config.canonical()), self.now)
        self.gather.add(Event("drained"), self.now)
        self.flush()
        self.gather.directory = Directory(self.engine.plan)

    @property
    def admit(self) -> Admit:
        stage = self.engine.stages[0]
        assert isinstance(stage, Admit)
        return stage

    def flush(self) -> None:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        outcome = self.engine.step(entries)
        self.hash.add(outcome.decisions)
        self.batches.append(entries)
        assert self.admit.accounting.is_balanced(), self.admit.accounting
        frames, frame = entries.frames, entries.frames.frame_of_sample
        for m in range(len(frames.point)):
            f = frame[m]
            if outcome.admission.verdict[f] == Verdict.DUPLICATE or outcome.admission.quality[m] & quality.REPEATED:
                continue
            key = (int(frames.device[f]), int(frames.ts_ns[f]), int(frames.point[m]))
            if key in self.stored:
                self.repeated += 1
                self.changed += self.stored[key] != float(frames.value[m])
            else:
                self.stored[key] = float(frames.value[m])


def samples(rng: random.Random, count: int) -> list[Sample]:
    """Distinct (device, ts, point), over ten minutes."""
    wanted: dict[tuple[int, int, str], float] = {}
    while len(wanted) < count:
        ts = T0 // MS + rng.randrange(600) * 1000 + rng.choice([0, 500])
        wanted[rng.randrange(5), ts, rng.choice(POINTS)] = float(rng.randrange(100))
    return [(d, ts, p, v) for (d, ts, p), v in wanted.items()]


def messages(rng: random.Random, of: list[Sample], *, with_seq: bool) -> list[tuple[int, dict[str, Any]]]:
    """The samples in random messages of one device each: rows of any size, in any order."""
    by_device: dict[int, list[Sample]] = {}
    for sample in of:
        by_device.setdefault(sample[0], []).append(sample)
    out: list[tuple[int, dict[str, Any]]] = []
    for device, mine in sorted(by_device.items()):
        rng.shuffle(mine)
        seq = 0
        while mine:
            part = [mine.pop() for _ in range(min(len(mine), rng.randint(1, 40)))]
            body: dict[str, Any] = {"rows": [{"ts": ts, "p": {p: v}} for _, ts, p, v in part]}
            if with_seq:
                body |= {"boot": 1, "seq": seq}
                seq += 1
            out.append((device, body))
    return out


def run(seed: int, count: int, *, with_seq: bool, is_met: bool = False, sabotage: frozenset[str] = frozenset()) -> Core:
    """Every message three times, in random order, while time goes on. `is_met`: message 0 of each device comes first."""
    rng = random.Random(seed)
    wanted = samples(rng, count)
    sent = messages(rng, wanted, with_seq=with_seq) * 3
    rng.shuffle(sent)
    if is_met:
        sent.sort(key=lambda message: message[1]["seq"] != 0)
    core = Core(sabotage)
    for n, (device, body) in enumerate(sent):
        core.now = T0 + n * 600 * S // len(sent)
        core.gather.take(f"fl/s/d-{device}/telemetry", json.dumps(body).encode(), False, core.now)
        if rng.random() < 0.02:
            core.gather.tick(core.now)
            core.flush()
    core.flush()
    check(core, wanted, is_met=is_met)
    return core


def check(core: Core, wanted: list[Sample], *, is_met: bool) -> None:
    plan, a = core.engine.plan, core.admit.accounting
    expected = {}
    for d, ts, p, v in wanted:
        device = plan.devices[d]
        number = device.point(p)
        assert number is not None
        expected[d, ts * MS, number] = v
    assert core.stored == expected
    assert core.changed == a.changed == 0
    assert a.samples_received == 3 * len(wanted)
    assert a.samples_rejected == a.rejected == 0
    # With a ledger that knows the device core alone finds every repetition; else the history follower finds those that come late.
    assert a.samples_stored - core.repeated == len(wanted)
    if is_met and not core.admit.ledger.counts[:, 1].any():
        assert core.repeated == 0
        assert (a.stored * 3, a.duplicate * 3) == (a.received, a.received * 2)
        assert a.gaps == 0


def check_journal_decides(core: Core, seed: int) -> None:
    """The journal that came of it decides the same in any other cut."""
    rng, again, log = random.Random(seed), build_engine(numba=seed % 2 == 0), LogHash()
    for entries in core.batches:
        cut = rng.randint(0, len(entries))
        for a, b in ((0, cut), (cut, len(entries))):
            if a < b:
                log.add(again.step(slice_entries(entries, a, b)).decisions)
    assert log.count > 0
    assert log.hexdigest() == core.hash.hexdigest()


@pytest.mark.parametrize(("with_seq", "is_met"), [(True, True), (True, False), (False, False)], ids=["met", "ledger", "no ledger"])
@pytest.mark.parametrize("seed", range(20))
def test_shuffled_and_tripled_samples_are_stored_once(seed: int, with_seq: bool, is_met: bool) -> None:
    check_journal_decides(run(seed, 600, with_seq=with_seq, is_met=is_met), seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(200))
def test_ten_thousand_samples_shuffled_and_tripled(seed: int) -> None:
    check_journal_decides(run(seed, 10_000, with_seq=seed % 3 != 0, is_met=seed % 3 == 1), seed)


@pytest.mark.parametrize("gap_s", [0, 30], ids=["inside the lateness", "late"])
def test_of_two_values_at_one_time_the_first_stays_and_the_other_is_counted(gap_s: int) -> None:
    core = Core()
    for value in (20.0, 35.0, 20.0):
        payload = json.dumps({"ts": T0 // MS, "p": {"temp_c": value}}).encode()
        core.gather.take("fl/s/d-0/telemetry", payload, False, core.now)
        core.flush()
        core.now += gap_s * S
    number = core.engine.plan.devices[0].point("temp_c")
    assert core.stored == {(0, T0, number): 20.0}
    # Inside the lateness core counts it, behind it the history follower does.
    assert (core.admit.accounting.changed, core.changed) == ((1, 0) if gap_s == 0 else (0, 1))


def test_without_deduplication_the_proof_fails() -> None:
    with pytest.raises(AssertionError):
        run(0, 1000, with_seq=True, is_met=True, sabotage=frozenset({"skip_dedup"}))
