"""Phases of feeding as data: from when each holds, which feed it is, how much of it one head gets in a day, and at which hours."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control.settings import rows, setting, settings
from telemetry.errors import CallerError

Array = NDArray[Any]

BEGINS: Final = ("from_day", "from_kg", "from_eaten_kg")
HOURS: Final = 24
_TEXTS: Final = ("name", "feed")
_MOST: Final = 12


@dataclass(frozen=True, slots=True)
class FeedPhase:
    """One phase. It holds from a day of the batch, a weight, or kilograms eaten by one head; the first from the start.

    `kg_by_day` or `kg_by_kg`: feed of one head in a day [kg] over the day of the batch or its weight; without one the house's own curve.
    `meals`: whole hours of the day with their parts of the day's feed, in any unit; without them the house's own hours.
    """

    name: str = ""
    feed: str = ""  # what the bin must hold
    from_day: float | None = setting(None, -100, 1000)
    from_kg: float | None = setting(None, 0, 1000)
    from_eaten_kg: float | None = setting(None, 0, 1000)
    kg_by_day: tuple[tuple[float, float], ...] = rows((), 0.05, 20)
    kg_by_kg: tuple[tuple[float, float], ...] = rows((), 0.05, 20)
    ration: float | None = setting(None, 0.3, 1.5)  # of the curve; None: the house's
    meals: tuple[tuple[float, float], ...] = rows((), 0, 100)

    @property
    def begins(self) -> tuple[str, float] | None:
        """By what it begins, and at which value; None: from the start."""
        given = [(name, value) for name in BEGINS if (value := getattr(self, name)) is not None]
        return given[0] if given else None

    def words(self) -> str:
        """Its name, and its feed where that is named."""
        return f"{self.name} ({self.feed})" if self.feed else self.name


# By what a fattening pig has eaten: 240 kg from 25 to 120 kg of weight.
USUAL: Final = (
    FeedPhase("starter"),
    FeedPhase("grower", from_eaten_kg=30.0),
    FeedPhase("finisher", from_eaten_kg=90.0),
    FeedPhase("late finisher", from_eaten_kg=160.0),
)


def feed_phases(given: object) -> tuple[FeedPhase, ...]:
    """Phases that a site gives. Raises CallerError: what is wrong, in which of them, and what may be given."""
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= _MOST:
        raise CallerError(
            f"feed_phases is a list of 1 to {_MOST} phases, each with a name and, but for the first, {' or '.join(BEGINS)}"
        )
    made = tuple(_phase(place, one) for place, one in enumerate(given, 1))
    names = [phase.name for phase in made]
    if len(set(names)) < len(names):
        raise CallerError("two feed_phases have the same name; give each its own")
    starts = [phase.begins for phase in made if phase.begins is not None]
    if len({by for by, _ in starts}) > 1:
        raise CallerError(f"all feed_phases begin by the same: one of {', '.join(BEGINS)}")
    if any(a >= b for (_, a), (_, b) in itertools.pairwise(starts)):
        raise CallerError("each of feed_phases begins later than the one before it")
    return made


def _phase(place: int, given: object) -> FeedPhase:
    if not isinstance(given, Mapping):
        raise CallerError(f"feed_phases {place} is {given!r:.40}; give such as {{name: grower, from_day: 21}}")
    texts = {name: given.get(name, "") for name in _TEXTS}
    if not all(isinstance(text, str) and len(text) <= 40 for text in texts.values()) or not texts["name"]:
        raise CallerError(f"feed_phases {place} needs a name, and name and feed are texts of up to 40 letters")
    try:
        rest = settings(FeedPhase, {name: value for name, value in given.items() if name not in _TEXTS})
    except CallerError as error:
        raise CallerError(f"feed_phases {place} ({texts['name']}): {error}") from None
    made = FeedPhase(**texts, **{name: getattr(rest, name) for name in FeedPhase.__slots__ if name not in _TEXTS})
    wrong = _contradiction(made, is_first=place == 1)
    if wrong:
        raise CallerError(f"feed_phases {place} ({made.name}): {wrong}")
    return made


def _contradiction(phase: FeedPhase, *, is_first: bool) -> str:
    begins = sum(getattr(phase, name) is not None for name in BEGINS)
    if begins > 1 or (begins == 0 and not is_first):
        return f"give one of {', '.join(BEGINS)}"
    if phase.kg_by_day and phase.kg_by_kg:
        return "give one of kg_by_day and kg_by_kg"
    if any(hour != int(hour) or not 0 <= hour < HOURS for hour, _ in phase.meals):
        return "hours of meals are whole numbers of 0 to 23"
    if phase.meals and not sum(share for _, share in phase.meals) > 0.0:
        return "meals need at least one hour with a part above 0"
    return ""


class Table(NamedTuple):
    """Phases as arrays: by what they begin ("" for a single one), where each but the first does, and the day's parts by the hour."""

    by: str
    starts: Array  # (phases - 1,)
    shares: Array  # (phases, 24), each sums to 1
    until: Array  # (phases, 24), up to the end of each hour
    open: Array  # (phases, 24) bool: hours in which the auger may run; after a meal also for what its hour did not bring


@functools.cache
def table(phases: tuple[FeedPhase, ...], share_by_hour: tuple[float, ...]) -> Table:
    """The phases of a house whose own hours of feeding are `share_by_hour`."""
    shares = np.array([_by_hour(phase, share_by_hour) for phase in phases], np.float64)
    shares /= shares.sum(axis=1, keepdims=True)
    begins = [phase.begins for phase in phases[1:]]
    starts = np.array([begin[1] for begin in begins if begin is not None], np.float64)
    until, has_meals = np.cumsum(shares, axis=1), np.array([[bool(phase.meals)] for phase in phases])
    opened = (shares > 0.0) | (has_meals & (until > 0.0))
    return Table(begins[0][0] if begins and begins[0] is not None else "", starts, shares, until, opened)


def _by_hour(phase: FeedPhase, own: tuple[float, ...]) -> list[float]:
    if not phase.meals:
        return list(own)
    meals = {int(hour): share for hour, share in phase.meals}
    return [meals.get(hour, 0.0) for hour in range(HOURS)]
