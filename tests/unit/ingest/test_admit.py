"""Admission against the obvious loop: verdicts, qualities, counters, and the one word about a wrong clock."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest

from ingest.admit import Admit
from ingest.decode import Directory, Gather
from rules.engine import Engine
from telemetry import quality as q
from telemetry.decision import Decision
from telemetry.frame import Verdict
from telemetry.plan import Plan
from telemetry.record import Config, Event, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig

S, MS = 1_000_000_000, 1_000_000
T0 = 1_760_000_000 * S
LATENESS, STUCK, RATE = 10, 30, 120.0 / 60.0


def site() -> SiteConfig:
    points = [
        PointSpec(name="temp_c", unit="C", low=-40, high=80, rate_per_min=120, stuck_s=STUCK),
        PointSpec(name="rh_pct", unit="%", low=0, high=100),
    ]
    profile = Profile(name="p", lateness_s=LATENESS, points=points)
    return SiteConfig(
        site="s",
        areas=[AreaSpec(name="a")],
        devices=[DeviceSpec(name="d", profile="p", area="a", count=3)],
        profiles={"p": profile},
    )


class Door:
    """The admission stage alone in an engine, fed with messages."""

    def __init__(self, *, numba: bool = True, drained: bool = True) -> None:
        self.admit = Admit(numba=numba)
        self.engine = Engine([self.admit])
        self.gather = Gather(Directory(Plan()))
        self.now = T0
        config = site()
        self.gather.add(Start(1), T0)
        self.gather.add(Config("s", config.sha256(), config.canonical()), T0)
        if drained:
            self.gather.add(Event("drained"), T0)
        self.engine.step(self.gather.build(0, T0, 0))
        self.gather.directory = Directory(self.engine.plan)

    def send(self, values: dict[str, Any], age_ms: int = 0, device: int = 0, channel: str = "telemetry", **more: Any) -> None:
        body = {"ts": self.now // MS - age_ms, "p": values, **more}
        self.gather.take(f"fl/s/d-{device}/{channel}", json.dumps(body).encode(), False, self.now)

    def flush(self) -> tuple[list[int], list[int], list[Decision]]:
        out = self.engine.step(self.gather.build(self.engine.position + 1, self.now, 0))
        assert self.admit.accounting.is_balanced()
        return out.admission.verdict.tolist(), out.admission.quality.tolist(), out.decisions

    def one(self, values: dict[str, Any], age_ms: int = 0, after_s: float = 0, **more: Any) -> tuple[Verdict, list[int]]:
        self.now += int(after_s * S)
        self.send(values, age_ms, **more)
        verdicts, qualities, _ = self.flush()
        return Verdict(verdicts[-1]), qualities


@pytest.mark.parametrize(
    ("age_ms", "verdict"),
    [(0, Verdict.LIVE), (10_000, Verdict.LIVE), (10_001, Verdict.LATE), (-2_000, Verdict.LIVE), (-2_001, Verdict.FUTURE)],
)
def test_the_edges_of_what_is_live(age_ms: int, verdict: Verdict) -> None:
    assert Door().one({"temp_c": 20}, age_ms)[0] is verdict


def test_what_is_older_than_the_last_decision_of_its_device_is_late() -> None:
    door = Door()
    assert door.one({"temp_c": 20}, 1000)[0] is Verdict.LIVE
    assert door.one({"temp_c": 21}, 1001)[0] is Verdict.LATE
    assert door.one({"temp_c": 21}, 1001, device=1)[0] is Verdict.LIVE, "another device decides for itself"


def test_frames_of_one_time_are_live_while_they_bring_other_points() -> None:
    door = Door()
    assert door.one({"temp_c": 20})[0] is Verdict.LIVE
    assert door.one({"rh_pct": 50}) == (Verdict.LIVE, [0])
    assert door.one({"rh_pct": 50}) == (Verdict.DUPLICATE, [q.REPEATED])
    assert door.admit.accounting.changed == 0
    assert door.one({"rh_pct": 51}) == (Verdict.DUPLICATE, [q.REPEATED])
    assert door.admit.accounting.changed == 1


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (-40, 0), (80, 0), (-40.001, q.BAD | q.OUT_OF_RANGE), (80.001, q.BAD | q.OUT_OF_RANGE), (1e308, q.BAD | q.OUT_OF_RANGE),
        (None, q.BAD | q.DEVICE_BAD | q.NOT_A_NUMBER), (-0.0, 0), (5e-324, 0),
    ],
)  # fmt: skip
def test_range(value: float | None, bits: int) -> None:
    assert Door().one({"temp_c": value}) == (Verdict.LIVE, [bits])


def test_rate() -> None:
    door = Door()
    door.one({"temp_c": 20})
    assert door.one({"temp_c": 22}, after_s=1)[1] == [0]
    assert door.one({"temp_c": 24.01}, after_s=1)[1] == [q.UNCERTAIN | q.RATE]
    assert door.one({"rh_pct": 99}, after_s=1)[1] == [0]


def test_stuck_begins_and_ends() -> None:
    door = Door()
    door.one({"temp_c": 20})
    assert door.one({"temp_c": 20}, after_s=STUCK - 0.001)[1] == [0]
    assert door.one({"temp_c": 20}, after_s=0.001)[1] == [q.UNCERTAIN | q.STUCK]
    assert door.one({"temp_c": 20.1}, after_s=1)[1] == [0]
    assert door.one({"temp_c": 20.1}, after_s=STUCK)[1] == [q.UNCERTAIN | q.STUCK]


@pytest.mark.parametrize("age_ms", [3_600_000, -3_600_000, 86_400_000, -86_400_000, 1_760_000_000_000], ids=str)
def test_a_wrong_clock_is_told_once_and_when_it_is_right_again(age_ms: int) -> None:
    door = Door()
    told = []
    for age in [age_ms] * 25 + [0, 0] + [age_ms] * 9 + [0] + [age_ms] * 10:
        door.now += S
        door.send({"temp_c": 20}, age)
        told += [d.body["wrong"] for d in door.flush()[2] if d.kind == "clock_wrong"]
    assert told == [True, False, True]


def test_a_future_sample_does_not_block_what_comes_after_it() -> None:
    door = Door()
    verdict, bits = door.one({"temp_c": 20}, -86_400_000)
    assert (verdict, bits) == (Verdict.FUTURE, [q.UNCERTAIN | q.CLOCK_WRONG])
    assert door.one({"temp_c": 21})[0] is Verdict.LIVE


def test_frames_of_a_blind_time_are_live_however_late() -> None:
    door = Door()
    door.now += 100 * S
    door.gather.add(Event("broker_lost"), door.now)
    door.flush()
    door.now += 50 * S
    assert door.one({"temp_c": 20}, 49_000)[0] is Verdict.LIVE
    assert door.one({"temp_c": 20}, 160_000, device=1)[0] is Verdict.LATE, "older than the blind time"
    door.gather.add(Event("drained"), door.now)
    door.flush()
    assert door.one({"temp_c": 20}, 49_000, device=2)[0] is Verdict.LATE


def test_a_rejected_message_and_a_lost_range_are_booked() -> None:
    door = Door()
    door.send({"temp_c": 20}, boot=1, seq=0)
    door.send({"nothing": 20}, boot=1, seq=1)
    door.send({"temp_c": 20}, boot=1, seq=5)
    door.gather.take("fl/s/d-0/status", b'{"state":"online","boot":1,"lost_to":3}', False, door.now)
    door.flush()
    assert door.admit.ledger.receipt(0) == (1, 3)
    a = door.admit.accounting
    assert (a.received, a.stored, a.rejected, a.duplicate, a.gaps) == (4, 2, 1, 1, 3), "the second frame repeats point and time"
    assert a.rejected_by_reason == {"unknown_point": 1}


# -- the obvious loop ------------------------------------------------------------------------------------------------------


class Naive:
    """Admission of one message after the other, without sequence numbers."""

    def __init__(self) -> None:
        self.decided: dict[int, int] = {}
        self.last: dict[tuple[int, str], tuple[int, float]] = {}
        self.since: dict[tuple[int, str], int] = {}
        self.changed = 0

    def take(self, now: int, device: int, ts: int, values: dict[str, Any], channel: str) -> tuple[int, list[int]]:
        verdict = Verdict.LIVE
        if channel == "backfill":
            verdict = Verdict.BACKFILL
        elif ts > now + 2 * S:
            verdict = Verdict.FUTURE
        elif ts < now - LATENESS * S or ts < self.decided.get(device, 0):
            verdict = Verdict.LATE
        bits = [self.sample(device, ts, name, value, verdict) for name, value in values.items()]
        if verdict is Verdict.LIVE:
            self.decided[device] = ts
            if all(b & q.REPEATED for b in bits):
                verdict = Verdict.DUPLICATE
        return int(verdict), bits

    def sample(self, device: int, ts: int, name: str, given: float | None, verdict: Verdict) -> int:
        key, value = (device, name), math.nan if given is None else float(given)
        low, high = (-40, 80) if name == "temp_c" else (0, 100)
        bits = 0
        if given is None:
            bits = q.BAD | q.DEVICE_BAD | q.NOT_A_NUMBER
        elif not low <= value <= high:
            bits = q.BAD | q.OUT_OF_RANGE
        if verdict is Verdict.FUTURE:
            bits = bits | q.CLOCK_WRONG if bits else q.UNCERTAIN | q.CLOCK_WRONG
        if verdict is not Verdict.LIVE:
            return bits
        before = self.last.get(key)
        if before is not None and before[0] == ts:
            self.changed += before[1] != value and not (math.isnan(before[1]) and math.isnan(value))
            return bits | q.REPEATED
        if before is not None and name == "temp_c":
            if bits == 0 and not math.isnan(before[1]) and abs(value - before[1]) > RATE * ((ts - before[0]) * 1e-9):
                bits |= q.UNCERTAIN | q.RATE
            if value == before[1] and ts - self.since[key] >= STUCK * S:
                bits |= q.STUCK | (0 if bits & q.BAD else q.UNCERTAIN)
        if before is None or before[1] != value:
            self.since[key] = ts
        self.last[key] = (ts, value)
        return bits


@pytest.mark.parametrize("seed", range(8))
def test_random_messages_equal_the_obvious_loop(seed: int) -> None:
    rng, naive = random.Random(seed), Naive()
    doors = [Door(), Door(numba=False)]
    expected: list[tuple[int, list[int]]] = []
    found: list[list[tuple[int, int]]] = [[], []]
    for _ in range(600):
        now = doors[0].now + rng.choice([0, 0, 100, 1000, 1000, 7000]) * MS
        device, channel = rng.randrange(3), "backfill" if rng.random() < 0.05 else "telemetry"
        age = rng.choice([0, 0, 0, 500, 1000, 3000, 9999, 10_001, 60_000, -1999, -2001])
        temp = rng.choice([20, 20, 20, 21, 22.5, 90, None, -0.0, 0.0, 5e-324, rng.uniform(-50, 90)])
        rh = rng.choice([50, 60, 101, None])
        values = rng.choice([{"temp_c": temp}, {"rh_pct": rh}, {"temp_c": temp, "rh_pct": rh}])
        expected.append(naive.take(now, device, now // MS * MS - age * MS, values, channel))
        for door, out in zip(doors, found, strict=True):
            door.now = now
            door.send(values, age, device, channel)
            if rng.random() < 0.3:
                verdicts, bits, _ = door.flush()
                out.extend([(v, -1) for v in verdicts] + [(-1, b) for b in bits])
    for door, out in zip(doors, found, strict=True):
        verdicts, bits, _ = door.flush()
        out.extend([(v, -1) for v in verdicts] + [(-1, b) for b in bits])
        assert [v for v, _ in out if v >= 0] == [v for v, _ in expected]
        assert [b for _, b in out if b >= 0] == [b for _, bits in expected for b in bits]
        assert door.admit.accounting.changed == naive.changed
    for name, column in doors[0].admit.snapshot()["point"].items():
        np.testing.assert_array_equal(column, doors[1].admit.snapshot()["point"][name])
