"""Cases through the engine, and what differed from what was expected."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.scenarios import FRAMES, Case, Demanded, find_part, moments, of_members
from app.series import length_ns, length_words
from app.wiring import build_engine
from rules.alarm_states import NEW
from rules.lane import READ_BACK
from telemetry import quality
from telemetry.decision import Decision
from telemetry.frame import COLUMNS, Entries, Kind, MemberArray, make_frames, slice_entries
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Record, Request
from telemetry.site import RuleSpec, SiteConfig
from telemetry.span import Span

STEP: Final = 2_000  # entries of one step: 30 MB when each brings the members of a ring frame
LEAD_NS: Final = NS_PER_S  # the clock of an area is known from the first full minute on, which is the begin
ACTIVE: Final = frozenset({"UNACK", "ACKED"})
_NAN: Final = float("nan")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?")
Lasted = list[tuple[int, int | None]]  # times on, off (None: still on)


@dataclass(slots=True)
class Seen:
    """What happened to one case: when each rule was on [ns after its start], states of alarms, positions of actuators."""

    active: dict[tuple[str, str], Lasted] = field(default_factory=dict)  # (rule, device)
    states: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    positions: dict[str, list[tuple[int, float, str]]] = field(default_factory=dict)  # actuator: time, value, rule that wins
    faults: dict[str, str] = field(default_factory=dict)  # rule: why it cannot run


@dataclass(slots=True)
class Result:
    """One case and what differed; nothing means it passed."""

    case: Case
    differences: list[str]


class _Watch:
    """A last stage that notes the demands of rules: arbitration tells only what comes out of them."""

    rank = 1_000

    def __init__(self) -> None:
        self.demands: list[tuple[str, int, bool]] = []  # source, time, whether it asks or withdraws

    def configure(self, plan: Plan) -> None:
        """Needs nothing of it."""

    def run(self, span: Span) -> None:
        """Note them."""
        self.demands += [(change.source, change.time_ns, change.value is not None) for change in span.demands]

    def snapshot(self) -> dict[str, Any]:
        """Nothing that has to survive."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Nothing."""


def run_cases(cases: Sequence[Case], sites: Sequence[SiteConfig], advance: Callable[[int], None] = lambda _: None) -> list[Seen]:
    """What happened to every case. Those that begin at the same time and last about as long run side by side in one engine."""
    seen = [Seen() for _ in cases]
    groups: dict[tuple[int, int], list[int]] = {}
    for k, case in enumerate(cases):
        groups.setdefault((case.start_ns, (case.end_ns // (3_600 * NS_PER_S)).bit_length()), []).append(k)
    done = 0
    for (start_ns, _), chosen in sorted(groups.items()):
        _run_group([cases[k] for k in chosen], [seen[k] for k in chosen], sites, start_ns)
        done += len(chosen)
        advance(done)
    return seen


def _run_group(cases: Sequence[Case], seen: Sequence[Seen], sites: Sequence[SiteConfig], start_ns: int) -> None:
    engine, watch = build_engine(control=False, commands=False), _Watch()
    engine.stages.append(watch)
    taking_part = {case.area.partition("/")[0] for case in cases}
    chosen = [site for site in sites if site.site in taking_part]
    for site in chosen[:-1]:
        engine.plan.apply(site)
    engine.configure(chosen[-1])
    first = Entries(0, np.array([Kind.TICK], np.uint8), np.array([start_ns - LEAD_NS]), make_frames(_no_columns()))
    outcome = engine.step(first)
    entries, decisions = _entries(cases, engine.plan, start_ns), list(outcome.decisions)
    for k in range(0, len(entries), STEP):
        decisions += engine.step(slice_entries(entries, k, min(k + STEP, len(entries)))).decisions
    _sort_out(cases, seen, decisions, watch.demands, start_ns)


def _no_columns() -> dict[str, list[Any]]:
    return {name: [0] if name == "offsets" else [] for name in COLUMNS}


def _entries(cases: Sequence[Case], plan: Plan, start_ns: int) -> Entries:
    """Frames and requests of all cases by time, from position 1; requests come before frames of the same time."""
    happenings: list[tuple[int, int, int, Any]] = []  # time, order, device, frame or request
    for number, case in enumerate(cases):
        happenings += [(time_ns, 0, n, record) for n, (time_ns, record) in enumerate(_requests(case, number))]
        for prefix, key in case.devices.items():
            device = plan.device_number[key]
            happenings += [(time_ns, 1, device, sent) for time_ns, sent in _frames(case, prefix, plan, key)]
    happenings.sort(key=lambda item: item[:3])
    last = max(case.end_ns for case in cases)
    columns, records, kinds, times = _no_columns(), list[tuple[int, Record]](), [], []
    arrays: list[MemberArray] = []
    for index, (time_ns, order, device, what) in enumerate(happenings):
        times.append(start_ns + time_ns)
        kinds.append(Kind.REQUEST if order == 0 else Kind.FRAME)
        if order == 0:
            records.append((index, what))
            continue
        samples, with_members = what
        arrays += [MemberArray(len(columns["entry"]), point, values) for point, values in with_members.items()]
        columns["entry"].append(index)
        columns["device"].append(device)
        columns["ts_ns"].append(start_ns + time_ns)
        columns["flags"].append(int(READ_BACK))
        for name, column in zip(("point", "value", "quality"), zip(*samples, strict=True), strict=bool(samples)):
            columns[name].extend(column)
        columns["offsets"].append(len(columns["point"]))
    columns["boot"] = columns["seq"] = [0] * len(columns["entry"])
    times.append(start_ns + last)
    kinds.append(Kind.TICK)
    return Entries(1, np.array(kinds, np.uint8), np.array(times, np.int64), make_frames(columns, tuple(arrays)), tuple(records))


Sent = tuple[list[tuple[int, float, int]], dict[int, NDArray[np.float32]]]


def _frames(case: Case, prefix: str, plan: Plan, key: str) -> Iterable[tuple[int, Sent]]:
    """(time after the start, (samples as (point, value, quality), members by point)) of one device."""
    device = plan.devices[plan.device_number[key]]
    signals = [(*of_members(name), parts) for name, parts in case.signals[prefix].items() if name != FRAMES]
    signals.sort(key=lambda signal: signal[1] > 0)  # single members come after what all of them read
    lengths = {spec.name: spec.members for spec in device.profile.points if spec.members is not None}
    numbers = {spec.name: number for spec, number in zip(device.profile.points, device.points, strict=True)}
    speaks = case.signals[prefix].get(FRAMES)
    for time_ns in moments(case, prefix):
        said = None if speaks is None else find_part(speaks, time_ns)
        if said is not None and said.what == "gap":
            continue
        samples, given = [], dict[str, list[tuple[int, int, float]]]()
        for name, first, last, parts in signals:
            part = find_part(parts, time_ns)
            if part is None or part.what == "gap" or (first and name not in given):
                continue
            inside = time_ns if part.end is None else min(time_ns, part.end)
            value = _NAN if part.what == "nan" else part.at(inside)
            if name in lengths:
                given.setdefault(name, []).append((first, last, _NAN if part.what == "bad" else value))
                continue
            samples.append((numbers[name], value, quality.BAD | quality.DEVICE_BAD if part.what == "bad" else quality.GOOD))
        arrays = {numbers[name]: _array(lengths[name], tuple(parts)) for name, parts in given.items()}
        if samples or arrays:
            yield time_ns, (samples, arrays)


@lru_cache(maxsize=16)
def _array(length: int, given: tuple[tuple[int, int, float], ...]) -> NDArray[np.float32]:
    """Values of members, given as (first, last, value), from the first of all on; the same object where nothing changed."""
    values = np.empty(length, np.float32)
    for first, last, value in given:
        values[slice(first - 1, last) if first else slice(None)] = value
    return values


def _requests(case: Case, number: int) -> Iterable[tuple[int, Request]]:
    """(time after the start, request): mode and batch at the begin, then what somebody asks."""
    scenario, own = case.scenario, case.devices[""]
    if scenario.mode is not None:
        yield 0, Request(f"{number}-mode", "mode", "scenario", {"area": case.area, "mode": scenario.mode})
    if scenario.day is not None:
        yield 0, Request(f"{number}-batch", "batch", "scenario", {"area": case.area, "day": scenario.day})
    for k, asked in enumerate(scenario.requests):
        body = dict(asked.body)
        if "alarm" in body:
            body["alarm"] = f"{body['alarm']}@{own}"
        if "actuator" in body:
            body["actuator"] = f"{own}/{body['actuator']}"
        if asked.kind in {"mode", "batch"}:
            body["area"] = case.area
        yield length_ns(asked.at), Request(f"{number}-{k}", asked.kind, asked.author, body)


# -- what happened -----------------------------------------------------------------------------------------------------------------


def _sort_out(
    cases: Sequence[Case],
    seen: Sequence[Seen],
    decisions: Iterable[Decision],
    demands: Iterable[tuple[str, int, bool]],
    start_ns: int,
) -> None:
    """Give every case what was decided of its devices before its end."""
    of_device: dict[str, int] = {key: k for k, case in enumerate(cases) for key in case.devices.values()}
    of_site: dict[str, list[int]] = {}
    for k, case in enumerate(cases):
        of_site.setdefault(case.area.partition("/")[0], []).append(k)
    for decision in decisions:
        time_ns = decision.time_ns - start_ns
        if decision.kind == "alarm":
            rule, _, key = decision.subject.partition("@")
            k = of_device.get(key, -1)
            if k >= 0 and time_ns <= cases[k].end_ns:
                _note_state(seen[k], (rule, key), time_ns, str(decision.body["to"]))
        elif decision.kind == "demand":
            key, _, actuator = decision.subject.rpartition("/")
            k = of_device.get(key, -1)
            if k >= 0 and key == cases[k].devices[""] and time_ns <= cases[k].end_ns:
                winner = decision.body["winner"] or {"source": ""}
                place = (time_ns, float(decision.body["value"]), str(winner["source"]).partition("@")[0])
                seen[k].positions.setdefault(actuator, []).append(place)
        elif decision.kind == "fault" and "/" in decision.subject and "@" in decision.subject:
            site, _, rule = decision.subject.partition("/")
            for k in of_site.get(site, []):
                seen[k].faults[rule.rpartition("@")[0]] = f"{decision.body['field']}: {decision.body['error']}"
    for source, at_ns, asks in demands:
        rule, _, key = source.partition("@")
        k = of_device.get(key, -1)
        if k >= 0 and at_ns - start_ns <= cases[k].end_ns and _is_demand_only(cases[k], key, rule):
            _note(seen[k].active.setdefault((rule, key), []), at_ns - start_ns, is_on=asks)


def _is_demand_only(case: Case, key: str, rule: str) -> bool:
    """Its alarm tells when a rule is on, if it has one."""
    spec = find_rule(case, rule, key)
    return spec is not None and spec.priority is None


def find_rule(case: Case, rule: str, key: str | None = None) -> RuleSpec | None:
    """A rule of one of the case's devices: by the device's key, or the first that has it."""
    for prefix, profile in case.profiles.items():
        if key is None or case.devices[prefix] == key:
            for spec in profile.rules:
                if spec.id == rule:
                    return spec
    return None


def _note_state(seen: Seen, what: tuple[str, str], time_ns: int, state: str) -> None:
    states = seen.states.setdefault(what, [NEW.state])
    if states[-1] != state:
        states.append(state)
    _note(seen.active.setdefault(what, []), time_ns, is_on=state in ACTIVE)


def _note(lasted: Lasted, time_ns: int, *, is_on: bool) -> None:
    standing = bool(lasted) and lasted[-1][1] is None
    if is_on and not standing:
        lasted.append((time_ns, None))
    elif not is_on and standing:
        lasted[-1] = (lasted[-1][0], time_ns)


# -- what differed -----------------------------------------------------------------------------------------------------------------


def judge(case: Case, seen: Seen) -> list[str]:
    """What differed, in sentences; nothing when all went as expected."""
    out = [f"{rule} cannot run: {why}" for rule, why in seen.faults.items() if rule in case.expected]
    own = case.devices[""]
    found: dict[str, Lasted] = {}
    unspoken = {key for prefix, key in case.devices.items() if not case.signals[prefix]}  # devices nothing is said of
    for (rule, key), lasted in seen.active.items():
        if key in unspoken and rule not in case.expected:
            continue
        spec = find_rule(case, rule, key)
        if lasted and (rule in case.expected or (spec is not None and spec.priority is not None)):
            found[rule] = lasted if key == own or rule not in found else found[rule]
    for rule in dict.fromkeys([*case.expected, *found]):
        out += _compare(case, rule, case.expected.get(rule, []), found.get(rule, []))
    if case.scenario.states is not None:
        walked = seen.states.get((case.scenario.rules[0], own), [NEW.state])
        if walked != case.scenario.states:
            out.append(f"{case.scenario.rules[0]}: states {' '.join(walked)}, expected {' '.join(case.scenario.states)}")
    for told in case.scenario.demands:
        out += _compare_position(case, told, seen)
    return out


def _compare(case: Case, rule: str, expected: Sequence[Any], found: Lasted) -> list[str]:
    spec = find_rule(case, rule)
    says = "" if spec is None else f" ({spec.when}, after {length_words(spec.on_delay_s * NS_PER_S)})"
    out = [
        f"{rule}{says}: comes on at {length_words(on)}, which is not expected; {_values(case, spec, on)}"
        for on, _ in found[len(expected) :]
    ]
    for k, (on_window, off_window) in enumerate(expected):
        if k >= len(found):
            out.append(f"{rule}{says}: expected on at {_window(on_window)}, never comes on; {_values(case, spec, on_window[1])}")
            continue
        on, ended = found[k]
        if not on_window[0] <= on <= on_window[1]:
            out.append(
                f"{rule}{says}: expected on at {_window(on_window)}, comes on at {length_words(on)}; {_values(case, spec, on)}"
            )
        if off_window is None and ended is not None:
            out.append(f"{rule}: goes off at {length_words(ended)}, expected to stay on; {_values(case, spec, ended)}")
        elif off_window is not None and (ended is None or not off_window[0] <= ended <= off_window[1]):
            when = "stays on" if ended is None else f"goes off at {length_words(ended)}"
            out.append(f"{rule}: expected off at {_window(off_window)}, {when}; {_values(case, spec, off_window[1])}")
    return out


def _window(expected: tuple[int, int]) -> str:
    first, last = expected
    if last - first <= NS_PER_S:
        return length_words((first + last) // 2)
    return f"{length_words(first)} .. {length_words(last)}"


def _values(case: Case, spec: RuleSpec | None, time_ns: int) -> str:
    """What the points that a rule reads are at a time."""
    time_ns = max(0, min(time_ns, case.end_ns))
    read = _NAME.findall("" if spec is None else f"{spec.when} {spec.clear or ''}")
    words = []
    for name in dict.fromkeys(read):
        prefix, _, point = name.rpartition(".")
        for key, parts in case.signals.get(prefix, {}).items():
            part = find_part(parts, time_ns) if of_members(key)[0] == point else None
            if part is not None:
                inside = time_ns if part.end is None else min(time_ns, part.end)
                words.append(f"{name}{key.removeprefix(point)} {f'= {part.at(inside):g}' if part.what == 'value' else part.what}")
    return f"there {', '.join(words)}" if words else "nothing is read there"


def _compare_position(case: Case, told: Demanded, seen: Seen) -> list[str]:
    spec = next((actuator for actuator in case.profile.actuators if actuator.name == told.actuator), None)
    if spec is None:
        return [f"profile {case.profile.name!r} has no actuator {told.actuator!r}"]
    places = [(0, spec.rest, ""), *seen.positions.get(told.actuator, [])]  # at rest nobody asks, and nothing was decided
    _, got, winner = [place for place in places if place[0] <= length_ns(told.at)][-1]
    if abs(got - told.value) > 1e-6 * max(1.0, abs(told.value)):
        return [f"{told.actuator}: expected {told.value:g} at {told.at}, it is {got:g} (by {winner or 'nobody'})"]
    if told.by is not None and told.by != winner:
        return [f"{told.actuator}: expected {told.by} to win at {told.at}, it is {winner or 'nobody'}"]
    return []


def write_junit(path: Path, results: Sequence[Result], seconds: float) -> None:
    """The results as JUnit XML, which build servers read."""
    root = ET.Element("testsuite", name="rules", tests=str(len(results)), time=f"{seconds:.3f}")
    root.set("failures", str(sum(bool(result.differences) for result in results)))
    for result in results:
        name = f"{', '.join(result.case.scenario.rules)}: {result.case.scenario.name}"
        one = ET.SubElement(root, "testcase", classname=result.case.document.file.stem, name=name)
        one.set("file", str(result.case.document.file))
        one.set("line", str(result.case.document.line(("scenarios", result.case.index))))
        if result.differences:
            ET.SubElement(one, "failure", message=result.differences[0]).text = "\n".join(result.differences)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
