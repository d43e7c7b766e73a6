"""What a backtest is asked, and how its work is cut: areas that no rule connects may go to different processes.

Rules read across devices by links, groups and peers, and areas share floods and first-out groups: devices that any of these joins stay
together. Every part runs the same `step` on its own devices, so the parts' decisions together are those of one run.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from app.wiring import build_engine
from rules.book import bind
from rules.cohort import Rulebook
from rules.engine import Engine
from telemetry.errors import CallerError
from telemetry.plan import Plan
from telemetry.record import Request
from telemetry.site import RuleSpec, SiteConfig

SPAN_MAX_MS: Final = 20 * 366 * 86_400_000
UNEVEN_MAX: Final = 1.1  # how much larger than the evenest the largest share may be, for the sake of reading
PEOPLE: Final = ("mode", "batch", "override", "release", "confirm")  # acknowledgements would be of alarms that never were


@dataclass(frozen=True, slots=True)
class Job:
    """One backtest. numbers: the plan's snapshot that gave history its point numbers; variants: configurations to run side by side,
    the first is the one that is asked about; requests: (time in ns, Request) of people, in order of time. Times in ms, [start, end).
    """

    site: str
    numbers: dict[str, Any]
    variants: tuple[SiteConfig, ...]
    start_ms: int
    end_ms: int
    requests: tuple[tuple[int, Request], ...] = ()

    def plan(self, variant: SiteConfig) -> Plan:
        """The plan with history's numbers and one variant in force."""
        plan = Plan.from_snapshot({**self.numbers, "sites": {}})
        plan.apply(variant)
        return plan

    def engine(self, variant: SiteConfig) -> Engine:
        """A fresh engine for one variant. It speaks to no device."""
        made = build_engine(commands=False)
        made.plan = self.plan(variant)
        for stage in made.stages:
            stage.configure(made.plan)
        return made


def check_span(start_ms: int, end_ms: int) -> None:
    """CallerError unless start is before end and not decades away."""
    if not start_ms < end_ms <= start_ms + SPAN_MAX_MS:
        raise CallerError("--from has to be before --to, and not more than 20 years")


def with_rules(config: SiteConfig, rules: Iterable[RuleSpec] | None) -> SiteConfig:
    """A site with other rules and no others (None: its own). A recording counts as live: what it would have moved is shown."""
    origin = "LIVE" if config.origin == "REPLAY" else config.origin
    if rules is None:
        return config.model_copy(update={"origin": origin})
    bare = {name: profile.model_copy(update={"rules": []}) for name, profile in config.profiles.items()}
    return config.model_copy(update={"origin": origin, "profiles": bare, "rules": list(rules)})


def faults(job: Job) -> list[str]:
    """Rules of the first variant that cannot be bound, each with its reason."""
    return [f"{fault.key.partition('/')[2]} {fault.field}: {fault.message}" for fault in bind(job.plan(job.variants[0])).faults]


def split(job: Job, parts: int) -> list[Job]:
    """At most `parts` jobs over disjoint areas, about equal in points."""
    joined = _Joined(area.name for variant in job.variants for area in variant.areas)
    for variant in job.variants:
        _join(bind(job.plan(variant)), joined)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in joined.names():
        groups[joined.root(name)].append(name)
    weight: dict[str, int] = defaultdict(int)
    for device in job.variants[0].devices:
        weight[joined.root(device.area)] += len(device.names()) * len(job.variants[0].profiles[device.profile].points)
    # Points that lie together are read together: shares in the order of points, unless that makes one much larger.
    plan = job.plan(job.variants[0])
    first: dict[str, int] = {}
    for number in sorted(plan.active):
        first.setdefault(joined.root(plan.devices[number].area), number)
    in_order = _in_order(sorted(groups, key=lambda root: (first.get(root, 0), root)), weight, parts)
    even = _even(sorted(groups, key=lambda root: (-weight[root], root)), weight, parts)
    chosen = in_order if _largest(in_order, weight) <= UNEVEN_MAX * _largest(even, weight) else even
    return [
        _part(job, frozenset(name for root in roots for name in groups[root])) for roots in chosen if any(weight[r] for r in roots)
    ]


def _in_order(roots: list[str], weight: dict[str, int], parts: int) -> list[list[str]]:
    """Cut where an equal share ends."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    total, done = max(sum(weight[root] for root in roots), 1), 0
    for root in roots:
        shares[min((2 * done + weight[root]) * parts // (2 * total), parts - 1)].append(root)
        done += weight[root]
    return shares


def _even(roots: list[str], weight: dict[str, int], parts: int) -> list[list[str]]:
    """Largest first, each to the smallest share."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    for root in roots:
        min(shares, key=lambda share: sum(weight[r] for r in share)).append(root)
    return shares


def _largest(shares: list[list[str]], weight: dict[str, int]) -> int:
    return max(sum(weight[root] for root in share) for share in shares)


def _part(job: Job, areas: frozenset[str]) -> Job:
    def cut(variant: SiteConfig) -> SiteConfig:
        kept = [area for area in variant.areas if area.name in areas]
        stay = [device for device in variant.devices if device.area in areas]
        names = {name for device in stay for name in device.names()}
        calibrations = [one for one in variant.calibrations if one.device in names]
        return variant.model_copy(update={"areas": kept, "devices": stay, "calibrations": calibrations})

    devices = {name for device in job.variants[0].devices if device.area in areas for name in device.names()}

    def is_own(request: Request) -> bool:
        place = str(request.body.get("area") or request.body.get("actuator") or "").split("/")
        return len(place) > 1 and place[0] == job.site and place[1] in (areas | devices)

    requests = tuple((time_ns, request) for time_ns, request in job.requests if is_own(request))
    return replace(job, variants=tuple(map(cut, job.variants)), requests=requests)


def _join(book: Rulebook, joined: "_Joined") -> None:
    for cohort in book.cohorts:
        pairs = [pair for _, sources in cohort.imports for pair in zip(cohort.areas, sources, strict=True)]
        for made in cohort.virtual:
            pairs += [(area, source) for area, group in zip(cohort.areas, made.sources, strict=False) for source in group]
        for area, (other, _, local) in pairs:
            joined.join(area, other.areas[local])


class _Joined:
    """Sets of areas, by union and find."""

    def __init__(self, names: Iterable[str]) -> None:
        self._up = {name: name for name in names}

    def names(self) -> list[str]:
        return sorted(self._up)

    def root(self, name: str) -> str:
        while self._up[name] != name:
            name = self._up[name]
        return name

    def join(self, one: str, other: str) -> None:
        if self.root(one) != self.root(other):
            self._up[self.root(one)] = self.root(other)
