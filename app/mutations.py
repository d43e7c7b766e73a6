"""Do the scenarios notice a wrong rule? Every threshold 20 % up and down, every delay halved, every hysteresis gone.

A mutant is a profile with the one changed rule; the rule's scenarios run on it, side by side with those of all other mutants. One that
all of them still pass has survived: a figure that no scenario holds.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from app.scenario_run import judge, run_cases
from app.scenarios import FRAMES, Case, Suite, compose, of_members
from app.series import length_ns
from telemetry.site import Profile, RuleSpec

SITE: Final = "mutants"
_SWITCH: Final = re.compile(r"(?:\b(?:max|min)\s*\(\s*\w*_bool\s*,[^()]*\)|\w*_bool)\s*(?:<|>|<=|>=|==|!=)\s*\d+(?:\.\d+)?")
_NUMBER: Final = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?(?:\s*(?P<unit>min|s|h|d)\b)?(?![\w.])")
_WHOLE: Final = re.compile(
    r"\b(?:between|quantile|ewma|quality)\s*\([^()]*\)(?:\s*[<>=!]+\s*\d+)?"
)  # numbers that are no thresholds
_DELAY: Final = re.compile(r"\b(?:silent|stale|held)\s*\(")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule with one figure changed."""

    rule: RuleSpec
    change: str


def mutants(rule: RuleSpec) -> Iterator[Mutant]:
    """Every mutant of a rule, after the rule itself: what its scenarios say of that must hold, or the others would prove nothing."""
    yield Mutant(rule, "")
    for name in ("when", "clear"):
        text = getattr(rule, name)
        for changed, change in _texts(text) if text is not None else ():
            yield Mutant(rule.model_copy(update={name: changed}), f"{name}: {change}")
    for name in ("on_delay_s", "off_delay_s"):
        if value := getattr(rule, name):
            yield Mutant(rule.model_copy(update={name: value / 2}), f"{name}: {value:g} -> {value / 2:g}")
    if rule.hysteresis and rule.clear is None:
        yield Mutant(rule.model_copy(update={"hysteresis": 0.0}), f"hysteresis: {rule.hysteresis:g} -> 0")


def _texts(text: str) -> Iterator[tuple[str, str]]:
    """(changed text, what changed): thresholds up and down, lengths of silence halved. Switches have no threshold."""
    held = [found.span() for pattern in (_SWITCH, _WHOLE) for found in pattern.finditer(text)]
    for found in _NUMBER.finditer(text):
        if any(a <= found.start() < b for a, b in held):
            continue
        for new in _others(text, found):
            yield text[: found.start()] + new + text[found.end() :], f"{found[0]} -> {new}"


def _others(text: str, found: re.Match[str]) -> Iterator[str]:
    if found["unit"]:
        inside = [start for start in _DELAY.finditer(text) if start.end() <= found.start() < _closing(text, start.end())]
        if inside:
            seconds = length_ns(found[0]) / 1e9
            yield f"{max(3.0, seconds / 2 - seconds / 2 % 3):g} s"
        return
    value = float(found[0])
    yield from (f"{value * 0.8:g}", f"{value * 1.2:g}") if value else ("-1", "1")


def _closing(text: str, start: int) -> int:
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    return len(text)


def survivors(suites: Sequence[Suite], advance: Callable[[int], None] = lambda _: None) -> tuple[int, list[str]]:
    """(number of mutants, a line for each that no scenario noticed). Rules without a scenario are told too."""
    told, count = [], 0
    for done, suite in enumerate(suites):
        profile = next((case.profile for case in suite.cases), None)
        if profile is None:
            continue
        by_rule = {rule.id: [case for case in suite.cases if rule.id in case.expected] for rule in profile.rules}
        told += [
            f"{profile.name}: {rule.id} has no scenario" for rule in profile.rules if not by_rule[rule.id] and _needs_one(rule)
        ]
        made = [(mutant, by_rule[rule.id]) for rule in profile.rules for mutant in mutants(rule) if by_rule[rule.id]]
        count += sum(bool(mutant.change) for mutant, _ in made)
        alive = _survive(suite, profile, made)
        told += [f"{profile.name}: {mutant.rule.id}: {mutant.change}: survives" for mutant in alive if mutant.change]
        sane = {mutant.rule.id for mutant in alive if not mutant.change}
        told += [
            f"{profile.name}: {rule}: its scenarios fail when it runs alone"
            for rule in by_rule
            if by_rule[rule] and rule not in sane
        ]
        advance(done + 1)
    return count, told


def _needs_one(rule: RuleSpec) -> bool:
    """An alarm does, and what has a figure that may be wrong."""
    return rule.priority is not None or any(mutant.change for mutant in mutants(rule))


def _survive(suite: Suite, profile: Profile, made: Sequence[tuple[Mutant, list[Case]]]) -> list[Mutant]:
    cases, owner = [], []
    for number, (mutant, originals) in enumerate(made):
        changed = profile.model_copy(update={"name": f"{profile.name}-{number}", "rules": [mutant.rule]})
        for case in originals:
            cases.append(_on(case, changed, mutant.rule))
            owner.append(number)
    if not cases:
        return []
    seen = run_cases(cases, [compose(suite.file, cases, SITE)])
    # A mutant that cannot run proves nothing: it counts as unnoticed.
    noticed = {number for number, case, what in zip(owner, cases, seen, strict=True) if not what.faults and judge(case, what)}
    return [mutant for number, (mutant, _) in enumerate(made) if number not in noticed]


def _on(case: Case, changed: Profile, rule: RuleSpec) -> Case:
    """The case on a changed profile: only that rule is there and expected, and only what it reads is sent."""
    text = f"{rule.when} {rule.clear} {rule.suppress_when}"
    for point in reversed(changed.points):  # what a computed point is made of is read, too; it stands before it
        if point.is_virtual and re.search(rf"\b{point.name}\b", text):
            text += f" {point.formula}"
    bare = {prefix: profile.model_copy(update={"rules": []}) for prefix, profile in case.profiles.items()}
    same = {prefix for prefix, profile in case.profiles.items() if profile.name == case.profile.name}
    signals = {
        prefix: {name: parts for name, parts in points.items() if name == FRAMES or re.search(rf"\b{of_members(name)[0]}\b", text)}
        for prefix, points in case.signals.items()
    }
    if not signals[""].keys() - {FRAMES}:  # a rule of silence reads nothing, but the device has to speak
        signals[""] |= dict([one for one in case.signals[""].items() if one[0] != FRAMES][:1])
    scenario = case.scenario.model_copy(update={"demands": [], "states": None})
    return replace(
        case, profile=changed, profiles={prefix: changed if prefix in same else bare[prefix] for prefix in case.profiles},
        scenario=scenario, signals=signals, expected={rule.id: case.expected[rule.id]}, devices={}, area="",
    )  # fmt: skip
