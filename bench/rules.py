"""Decoding and rules in one process: what the parts cost beside the bare library they stand on."""

import statistics
import time
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core import check_config, without_collection
from app.wiring import build_engine
from bench.e2e import POINTS, row, site_config
from ingest.decode import Directory, Gather
from rules.condition import Conditions
from telemetry.frame import COLUMNS, DTYPES, Admission, Entries, Flag, Frames, Kind, MemberArray, Verdict
from telemetry.record import Config, Event, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.span import Span

NS = 1_000_000_000
T0 = 1_760_000_000 * NS


class _Bare(msgspec.Struct):
    v: int
    boot: int
    seq: int
    ts: int
    p: dict[str, float]


def messages(count: int, devices: int) -> list[tuple[str, bytes]]:
    """One-reading messages, each device's in order."""
    return [
        (
            f"fl/bench/dev-{i % devices}/telemetry",
            b'{"v":1,"boot":1760000000,"seq":%d,"ts":%d,"p":{"%s":%.2f}}'
            % (i // devices, T0 // 1_000_000 + i // devices, POINTS[0].encode(), 50 + (i % 1000) * 0.01),
        )
        for i in range(count)
    ]


def best(function: Any, repeats: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def bench_decode(count: int) -> list[dict[str, Any]]:
    """Messages to columns, beside msgspec's typed decoder alone."""
    sent = messages(count, 1000)
    engine = configured()
    gather = Gather(Directory(engine.plan))

    def ours() -> None:
        for topic, payload in sent:
            gather.take(topic, payload, False, T0)
        gather.build(0, T0, 0)

    decoder = msgspec.json.Decoder(_Bare)

    def bare() -> None:
        for _, payload in sent:
            decoder.decode(payload)

    us, reference = best(ours) / count * 1e6, best(bare) / count * 1e6
    return [row("rules.decode_us", us, "us/message", reference)]


def configured() -> Any:
    """An engine with the bench site in force, no longer blind."""
    engine, config = build_engine(), site_config(devices=1000)
    gather = Gather(Directory(engine.plan))
    for record in (Start(1), Config("bench", config.sha256(), config.canonical()), Event("drained")):
        gather.add(record, T0)
    engine.step(gather.build(0, T0, 0))
    return engine


def bench_step(count: int) -> list[dict[str, Any]]:
    """`step` over `count` frames, 5 rules each, beside one numpy comparison per rule on the same columns."""
    engine = configured()
    gather = Gather(Directory(engine.plan))
    for i, (topic, payload) in enumerate(messages(count, 1000)):
        gather.take(topic, payload, False, T0 + i * 1000)
    entries: Entries = gather.build(engine.position + 1, T0, 0)
    began = time.perf_counter()
    engine.step(entries)
    seconds = time.perf_counter() - began
    values = entries.frames.value
    limits = np.linspace(90, 100, 5)
    reference = best(lambda: [values > limit for limit in limits])
    return [
        row("rules.step_us", seconds / count * 1e6, "us/frame"),
        row("rules.evaluations_s", 5 * count / seconds, "1/s", 5 * count / reference),
    ]


RULE_POINTS = 10
EVERY_S = 10  # between two frames of a device
DELAYED = 10  # frames until the first delays, of 30 and 60 s, have run out: then conditions come and go as they do at any time
LIMITS = tuple(55.0 + 5.0 * k for k in range(5))  # of the five rules of each point


def rule_site(devices: int, *, windows: bool) -> SiteConfig:
    """Devices of ten points with 50 rules: a limit with hysteresis and delays each, or the same over a mean of 15 min."""
    rules = [
        RuleSpec(
            id=f"R{p}-{k}", when=f"mean(p{p}, 15 min) > {limit}" if windows else f"p{p} > {limit}", hysteresis=2.0, on_delay_s=30.0,
            off_delay_s=60.0, priority="P3",
        )
        for p in range(RULE_POINTS)
        for k, limit in enumerate(LIMITS)
    ]  # fmt: skip
    points = [PointSpec(name=f"p{p}", unit="C", low=-50.0, high=150.0) for p in range(RULE_POINTS)]
    return SiteConfig(
        site="rules", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a", count=devices)],
        profiles={"p": Profile(name="p", points=points, rules=rules)},
    )  # fmt: skip


class Stage:
    """The rule stage alone, on spans that admission has already looked at."""

    def __init__(self, config: SiteConfig) -> None:
        self.engine, self.now = build_engine(), T0
        gather = Gather(Directory(self.engine.plan))
        for record in (Start(1), Config(config.site, config.sha256(), config.canonical()), Event("drained")):
            gather.add(record, T0)
        self.engine.step(gather.build(0, T0, 0))
        self.rules = next(stage for stage in self.engine.stages if isinstance(stage, Conditions))
        self.rng = np.random.default_rng(1)
        self.level = self.rng.normal(50.0, 5.0, len(self.engine.plan.point_owner))  # one condition in thirty is on, and stays on

    def span(self, devices: NDArray[Any], after_s: int = EVERY_S) -> Span:
        """One frame of all points of each device, some seconds later, values near their levels."""
        self.now += after_s * NS
        n = len(devices)
        point = np.array([list(self.engine.plan.devices[i].points) for i in devices.tolist()]).reshape(-1)
        made: dict[str, Any] = {
            "entry": np.arange(n), "device": devices, "ts_ns": np.full(n, self.now), "boot": np.zeros(n), "seq": np.zeros(n),
            "flags": np.full(n, Flag.HAS_TS | Flag.FIRST), "offsets": np.arange(n + 1) * RULE_POINTS,
            "point": point, "value": self.level[point] + self.rng.normal(0.0, 0.2, n * RULE_POINTS),
            "quality": np.zeros(n * RULE_POINTS),
        }  # fmt: skip
        return self._admitted(Frames(**{name: np.asarray(made[name]).astype(DTYPES[name]) for name in COLUMNS}))

    def _admitted(self, frames: Frames) -> Span:
        """A span of frames, an entry each, that admission found live and good."""
        n = len(frames)
        entries = Entries(self.engine.position + 1, np.full(n, Kind.FRAME, np.uint8), np.full(n, self.now), frames)
        span = Span(entries, self.engine.plan)
        span.blind, span.sight_ns = np.zeros(n, np.bool_), T0
        span.admission = Admission(np.full(n, Verdict.LIVE, np.uint8), np.zeros(len(frames.point), np.uint16))
        return span

    def step_s(self, devices: NDArray[Any], after_s: int = EVERY_S) -> float:
        """Seconds that the whole of `step` takes for one frame of all points of each device."""
        entries = self.span(devices, after_s).entries
        began = time.perf_counter()
        self.engine.step(entries)
        return time.perf_counter() - began

    def load_s(self, config: SiteConfig) -> float:
        """Seconds that `step` takes for a configuration."""
        gather = Gather(Directory(self.engine.plan))
        self.now += NS
        gather.add(check_config(config.canonical(), ""), self.now)
        entries = gather.build(self.engine.position + 1, self.now, 0)
        began = time.perf_counter()
        with without_collection():
            self.engine.step(entries)
        return time.perf_counter() - began

    def seconds(self, devices: NDArray[Any], repeats: int = 24, warm: int = DELAYED) -> float:
        """Median of some runs, after those in which conditions begin to be on and caches are filled."""
        times = []
        for _ in range(warm + repeats):
            span = self.span(devices)
            began = time.perf_counter()
            self.rules.run(span)
            times.append(time.perf_counter() - began)
        return statistics.median(times[warm:])


SPINDLES = 1_824
MEMBER_RULES = (
    "count(members: rpm < 100) > 55", "mean(members: rpm) < 16000", "spread(members: rpm) > 9000",
    "count(members: abs(rpm - 17500) > 800 and rpm > 1000) > 50", "worst(members: held(rpm < 0.97 * mean(members: rpm), 30 s)) > 0",
)  # fmt: skip


def member_site(frames: int) -> SiteConfig:
    """Ring frames with the speed of each spindle as one array, and five rules over its members."""
    rules = [
        RuleSpec(id=f"R{k}", when=when, hysteresis=0 if "held" in when else 5, on_delay_s=30.0, off_delay_s=60.0, priority="P3")
        for k, when in enumerate(MEMBER_RULES)
    ]
    points = [PointSpec(name="rpm", unit="1", low=0.0, high=28_000.0, members=SPINDLES, heartbeat_s=60.0)]
    return SiteConfig(
        site="rules", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a", count=frames)],
        profiles={"p": Profile(name="p", points=points, rules=rules)},
    )  # fmt: skip


class MemberStage(Stage):
    """The rule stage on arrays of members."""

    def span(self, devices: NDArray[Any]) -> Span:
        """One array of 1,824 float32 values from each device, 10 s later; some spindles slip, some stand, one says nothing."""
        self.now += 10 * NS
        n = len(devices)
        values = self.rng.normal(17_500.0, 60.0, (n, SPINDLES)).astype(np.float32)
        values[:, 100:108], values[:, 200:230], values[:, 300] = 16_600.0, 0.0, np.nan
        made: dict[str, Any] = {name: np.zeros(n if name != "offsets" else n + 1) for name in COLUMNS} | {
            "entry": np.arange(n), "device": devices, "ts_ns": np.full(n, self.now), "flags": np.full(n, Flag.HAS_TS | Flag.FIRST),
        } | {name: np.zeros(0) for name in ("point", "value", "quality")}  # fmt: skip
        columns = {name: np.asarray(made[name]).astype(DTYPES[name]) for name in COLUMNS}
        points = [self.engine.plan.devices[i].points[0] for i in devices.tolist()]
        arrays = tuple(MemberArray(k, point, values[k]) for k, point in enumerate(points))
        return self._admitted(Frames(**columns, arrays=arrays))


def bench_members(frames: int) -> list[dict[str, Any]]:
    """The rule stage over one array from each ring frame."""
    stage = MemberStage(member_site(frames))
    return [row("rules.members_200k_ms", stage.seconds(np.arange(frames)) * 1e3, "ms")]


def plain_loop(span: Span) -> float:
    """Seconds of an ordinary loop that does the same for each message: latest value, hysteresis, delays."""
    rules = [(f"p{p}", limit) for p in range(RULE_POINTS) for limit in LIMITS]
    latest: dict[int, dict[str, float]] = {}
    state: dict[tuple[int, int], list[Any]] = {}
    frames, raised = span.entries.frames, 0
    devices, values, times = frames.device.tolist(), frames.value.reshape(-1, RULE_POINTS).tolist(), frames.ts_ns.tolist()
    began = time.perf_counter()
    for device, numbers, now in zip(devices, values, times, strict=True):
        latest[device] = {f"p{p}": value for p, value in enumerate(numbers)}
        for number, (point, limit) in enumerate(rules):
            value = latest[device][point]
            kept = state.setdefault((device, number), ["off", 0])
            if kept[0] == "off" and value > limit:
                kept[0], kept[1] = "raising", now + 30 * NS
            elif kept[0] == "raising" and not value > limit:
                kept[0] = "off"
            elif kept[0] == "raising" and kept[1] <= now:
                kept[0], raised = "on", raised + 1
            elif kept[0] == "on" and value <= limit - 2:
                kept[0], kept[1] = "clearing", now + 60 * NS
    return time.perf_counter() - began


def bench_evaluation(devices: int) -> list[dict[str, Any]]:
    """The rule stage over all devices and over one in a hundred, with windows, and beside an ordinary loop."""
    stage = Stage(rule_site(devices, windows=False))
    everyone, few = np.arange(devices), np.arange(0, devices, 100)
    full, changed = stage.seconds(everyone), stage.seconds(few)
    loop = plain_loop(stage.span(everyone))
    over_time = Stage(rule_site(devices, windows=True))
    for _ in range(80):  # until the windows are covered
        over_time.rules.run(over_time.span(everyone))
    windows = over_time.seconds(everyone)
    return [
        row("rules.full_10k_ms", full * 1e3, "ms"),
        row("rules.changed_10k_ms", changed * 1e3, "ms"),
        row("rules.windows_10k_ms", windows * 1e3, "ms"),
        row("rules.windows_ratio", windows / full, "1"),
        row("rules.vs_python_loop", loop / full, "1"),
    ]


def bench_load(devices: int) -> list[dict[str, Any]]:
    """How long core does nothing else while one of 50 rules of all devices gets another limit, a window rule is added, a device comes."""
    config = rule_site(devices, windows=False)
    profile, [line] = config.profiles["p"], config.devices

    def with_rules(rules: list[RuleSpec]) -> SiteConfig:
        return config.model_copy(update={"profiles": {"p": profile.model_copy(update={"rules": rules})}})

    def other_limit(k: int) -> SiteConfig:
        changed = profile.rules[3].model_copy(update={"version": 2 + k, "when": f"p0 > {70 + k}"})
        return with_rules([changed if rule.id == changed.id else rule for rule in profile.rules])

    def window(k: int) -> SiteConfig:
        return with_rules([*profile.rules, RuleSpec(id="W", version=k + 1, when=f"mean(p0, {15 + k} min) > 65", priority="P3")])

    def device(k: int) -> SiteConfig:
        return config.model_copy(update={"devices": [line.model_copy(update={"count": devices + 1 + k})]})

    stage = Stage(config)
    stage.rules.run(stage.span(np.arange(devices)))
    changes = {"rules.load_pause_ms": other_limit, "rules.load_window_pause_ms": window, "rules.load_device_pause_ms": device}
    found = [row(name, statistics.median(stage.load_s(new(k)) for k in range(7)) * 1e3, "ms") for name, new in changes.items()]
    return [*found, *bench_load_listed(config)]


def bench_load_listed(config: SiteConfig) -> list[dict[str, Any]]:
    """The same for devices that are listed one by one: one rule gets another limit, a device comes. Core's check of the text runs beside
    its loop and is not counted."""
    [line], profile = config.devices, config.profiles["p"]

    def listed(k: int, more: int) -> SiteConfig:
        devices = [
            DeviceSpec(name=name, profile="p", area="a", tags=["t"]) for name in [*line.names(), *(f"x-{n}" for n in range(more))]
        ]
        changed = profile.rules[3].model_copy(update={"version": 2 + k, "when": f"p0 > {70 + k}"})
        rules = [changed if rule.id == changed.id else rule for rule in profile.rules]
        return config.model_copy(update={"devices": devices, "profiles": {"p": profile.model_copy(update={"rules": rules})}})

    stage = Stage(listed(0, 0))
    stage.rules.run(stage.span(np.arange(line.count or 0)))
    changes = {
        "rules.load_listed_pause_ms": lambda k: listed(k, 0),
        "rules.load_listed_device_pause_ms": lambda k: listed(0, k + 1),
    }
    return [row(name, statistics.median(stage.load_s(new(k)) for k in range(7)) * 1e3, "ms") for name, new in changes.items()]


RULES_LIVE = 2_000
COVERED_MIN = 50  # until a window of an hour is covered


def many_rules(devices: int, profiles: int) -> SiteConfig:
    """2,000 rules over some profiles of equal size: of ten rules four compare a point with a number, three a mean of 15 min, one a slope
    of an hour, and two read two points. Hardly one holds, as at a site."""

    def rule(k: int) -> RuleSpec:
        p, limit = k % RULE_POINTS, 66.0 + k / 100
        one = (f"mean(p{p}, 15 min) > {limit}", f"slope(p{p}, 1 h) > {limit}", f"p{p} - p{(p + 1) % RULE_POINTS} > {limit - 43}")
        when = [f"p{p} > {limit}"] * 4 + [one[0]] * 3 + [one[1]] + [one[2]] * 2
        text = when[k // RULE_POINTS % len(when)]
        return RuleSpec(id=f"R{k}", when=text, hysteresis=1.0, on_delay_s=30.0, off_delay_s=60.0, priority="P4")

    points = [PointSpec(name=f"p{p}", unit="C", low=-50.0, high=150.0) for p in range(RULE_POINTS)]
    rules = [rule(k) for k in range(RULES_LIVE // profiles)]
    return SiteConfig(
        site="rules", areas=[AreaSpec(name="a")],
        devices=[DeviceSpec(name=f"d{n}", profile=f"p{n}", area="a", count=devices // profiles) for n in range(profiles)],
        profiles={f"p{n}": Profile(name=f"p{n}", points=points, rules=rules) for n in range(profiles)},
    )  # fmt: skip


def bench_live(devices: int, *, rounds: int) -> list[dict[str, Any]]:
    """Share of a core that `step` takes with 2,000 rules when each device sends all its points every 10 s: each rule on one of 20
    profiles, as at a site, and each on every device. Memory: of the rule stage in the second case, without its windows."""
    found = []
    for profiles, name in ((20, "rules.live_2000x10k_core_share"), (1, "rules.live_2000x10k_product_core_share")):
        stage = Stage(many_rules(devices, profiles))
        for _ in range(COVERED_MIN):
            stage.step_s(np.arange(devices), after_s=60)
        shares = [stage.step_s(np.arange(devices)) / EVERY_S for _ in range(rounds)]
        found.append(row(name, statistics.median(shares), "1"))
    found.append(row("rules.live_2000x10k_product_mb", stage.rules.memory_bytes() / 1e6, "MB"))
    return found


def run(*, short: bool) -> list[dict[str, Any]]:
    """All figures of this group."""
    count, devices = 20_000 if short else 100_000, 10_000
    return [
        *bench_decode(count),
        *bench_step(count),
        *bench_evaluation(devices),
        *bench_members(110),
        *bench_load(devices),
        *bench_live(devices, rounds=5 if short else 15),
    ]
