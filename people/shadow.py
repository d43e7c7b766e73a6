"""What a shadow rule would have done beside what the rule of the same name did. Pure: changes in, episodes and demands out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from people.changes import Change
from people.measures import STANDING

Episode = tuple[int, int]  # [begin, end) in ns
REAL: Final = "real"
SHADOW: Final = "shadow"
BOTH: Final = "both"


@dataclass(frozen=True, slots=True)
class Episodes:
    """A stretch of time in which an alarm of one device was on in the one, in the other or in both, without a pause in between."""

    subject: str
    by: str
    real: tuple[Episode, ...]
    shadow: tuple[Episode, ...]

    @property
    def begin_ns(self) -> int:
        """When the first of them began."""
        return min(begin for begin, _ in (*self.real, *self.shadow))


class Asked(NamedTuple):
    """From a time on, what a rule asks of an actuator (bound and value; None: nothing), and where all rules together put it.

    told None: that has not changed.
    """

    time_ns: int
    actuator: str
    by: str
    wanted: tuple[str, float] | None
    told: float | None = None


class Step(NamedTuple):
    """What both ask of an actuator from a time on, and where it was then put; told None: not known."""

    time_ns: int
    actuator: str
    real: tuple[str, float] | None
    shadow: tuple[str, float] | None
    told: float | None


def compare(real: Iterable[Change], shadow: Iterable[Change], start_ns: int, end_ns: int) -> list[Episodes]:
    """Episodes of [start_ns, end_ns) in which either stood (UNACK, ACKED), by when they began; they are cut to the range."""
    on = {REAL: _on(real, start_ns, end_ns), SHADOW: _on(shadow, start_ns, end_ns)}
    found = []
    for subject in {*on[REAL], *on[SHADOW]}:
        marked = sorted((*episode, by) for by in (REAL, SHADOW) for episode in on[by].get(subject, []))
        group: list[tuple[int, int, str]] = []
        for episode in marked:
            if group and episode[0] > max(end for _, end, _ in group):
                found.append(_grouped(subject, group))
                group = []
            group.append(episode)
        found.append(_grouped(subject, group))
    return sorted(found, key=lambda episodes: (episodes.begin_ns, episodes.subject))


def _grouped(subject: str, group: Sequence[tuple[int, int, str]]) -> Episodes:
    real, shadow = (tuple((begin, end) for begin, end, by in group if by == wanted) for wanted in (REAL, SHADOW))
    return Episodes(subject, BOTH if real and shadow else REAL if real else SHADOW, real, shadow)


def _on(changes: Iterable[Change], start_ns: int, end_ns: int) -> dict[str, list[Episode]]:
    """Stretches in which each alarm stood."""
    since: dict[str, int] = {}
    seen: set[str] = set()
    found: dict[str, list[Episode]] = {}
    for change in changes:
        if change.subject not in seen and change.before in STANDING:
            since[change.subject] = start_ns
        seen.add(change.subject)
        if change.after in STANDING:
            since.setdefault(change.subject, change.time_ns)
        elif change.subject in since:
            found.setdefault(change.subject, []).append((since.pop(change.subject), change.time_ns))
    for subject, begin in since.items():
        found.setdefault(subject, []).append((begin, end_ns))
    cut = {
        subject: [(max(begin, start_ns), min(end, end_ns)) for begin, end in episodes if end > start_ns and begin < end_ns]
        for subject, episodes in found.items()
    }
    return {subject: episodes for subject, episodes in cut.items() if episodes}


def side_by_side(asked: Iterable[Asked]) -> list[Step]:
    """What both ask, at each change of either, in the order given."""
    wanted: dict[tuple[str, str], tuple[str, float] | None] = {}
    told: dict[str, float] = {}
    steps = []
    for one in asked:
        if one.told is not None:
            told[one.actuator] = one.told
        key = (one.actuator, one.by)
        if wanted.get(key) == one.wanted:
            continue
        wanted[key] = one.wanted
        real, shadow = wanted.get((one.actuator, REAL)), wanted.get((one.actuator, SHADOW))
        steps.append(Step(one.time_ns, one.actuator, real, shadow, told.get(one.actuator)))
    return steps
