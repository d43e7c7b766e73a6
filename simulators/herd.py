"""Growing pigs of any number of rooms at once: weight, feed, water, illness, mortality and the ledger of heads.

What a batch is and does per day after the growth curve [1] and what it eats and drinks by the hour of its day [2]. Heads change only
through `book`, which keeps the ledger from going below zero. State and inputs are arrays of shape (n,) or scalars; nothing here reads
a clock, and the only draw is that of `deaths`, from the generator it is given. Figures are defaults of the handbook (sections 4.3
and 4.5), which a real herd overrides.

References
----------
.. [1] Gompertz growth, fitted to 25 kg at 63 days and 120 kg at 165 days; maintenance of 0.44 MJ per kg^0.75 and day as in CIGR:
   Heat and moisture production at animal and house levels (2002).
.. [2] Madsen, Kristensen: A model for monitoring the condition of young pigs by their drinking behaviour, Computers and Electronics in
   Agriculture 48 (2005): a stable daily course of water; peaks of feeding in the morning and the late afternoon.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators.multispan import held
from simulators.pig_house import MAINTENANCE_MJ_D
from telemetry import psychrometrics

DAY_S: Final = 86_400.0
# The courses of the day are smooth: at the middle of 96 steps a day they sum to the day's amounts to rounding.
STEP_S_MAX: Final = 900.0
_BOUNDS: Final = {"temp_c": (-60.0, 60.0), "rh_pct": (0.0, 100.0)}


@dataclass(frozen=True, slots=True)
class Parameters:
    """A breed and its habits. Units in the names."""

    mature_kg: float = 220.0
    growth_per_d: float = 0.012525
    delay: float = 4.7875  # b of the Gompertz curve
    intake_max_kg_d: float = 3.6
    intake_per_kg: float = 0.0165
    energy_mj_kg: float = 13.0  # metabolisable, of the feed
    feed_waste: float = 0.05  # spilled, of what is eaten
    comfort_c: float = 24.0  # above it pigs eat less and drink more
    feed_heat_per_k: float = 0.02
    water_heat_per_k: float = 0.03
    water_l_kg: float = 2.3  # used per kg of feed that a healthy pig would eat
    water_waste: float = 0.365  # spilled, of what is used: use is not intake
    water_swing: float = 0.6  # of the day's mean, highest at 17 h, lowest at 5 h
    feed_base: float = 0.3  # share of feed eaten evenly over the day; the rest at two peaks
    feed_morning: float = 0.45  # of the peaks, at 7 h; the rest at 16:30
    feed_peak: float = 6.0  # sharpness of a peak: 1.6 h either side
    ill_water: float = 0.22  # less water at the worst of an illness
    ill_feed: float = 0.30  # less feed
    ill_lead_s: float = DAY_S  # from the first fall of water to the first fall of feed
    ill_onset_s: float = DAY_S / 2  # in which each falls to its worst
    ill_feed_s: float = 5 * DAY_S  # feed below normal, recovery not counted
    ill_recovery_s: float = DAY_S
    ill_flattening: float = 0.5  # of the day's swing of water, at the worst
    deaths_per_d: float = 0.0003
    ill_deaths_per_d: float = 0.003  # more, at the worst
    lethal_thi: float = 84.0
    heat_deaths_per_h: float = 0.01  # more, for each unit of the index above


class Ledger(NamedTuple):
    """Heads that came and went, each (n,) whole numbers: of a room since the start, or of one entry for `book`."""

    placed: Any = 0
    moved_in: Any = 0
    died: Any = 0
    culled: Any = 0
    moved_out: Any = 0
    sold: Any = 0


class State(NamedTuple):
    """What a room's herd remembers; each (n,), amounts of the whole room.

    `ill_s` counts from the first fall of water, infinite in a herd that was never ill; `severity` scales that illness. Counters since
    the start: `eaten_kg`, `feed_kg` (with what was spilled), `water_l` (as a meter counts it).
    """

    ledger: Ledger
    age_d: Any
    weight_kg: Any
    ill_s: Any
    severity: Any
    eaten_kg: Any
    feed_kg: Any
    water_l: Any


class Inputs(NamedTuple):
    """What acts on a herd: air, supply of feed and water (0..1 of what it wants), and the severity of an illness that starts now."""

    temp_c: ArrayLike = 20.0
    rh_pct: ArrayLike = 60.0
    feed: ArrayLike = 1.0
    water: ArrayLike = 1.0
    outbreak: ArrayLike = 0.0


def empty(rooms: int) -> State:
    """Rooms without pigs."""
    none, zero = np.zeros(rooms, np.int64), np.zeros(rooms)
    return State(Ledger(none, none, none, none, none, none), zero, zero, zero + np.inf, zero, zero, zero, zero)


def heads(ledger: Ledger) -> Any:
    """Pigs that are in the room now."""
    return ledger.placed + ledger.moved_in - ledger.died - ledger.culled - ledger.moved_out - ledger.sold


def book(state: State, entry: Ledger, *, age_d: ArrayLike = np.nan, weight_kg: ArrayLike = np.nan) -> State:
    """The herd after heads came or went; those who go have the mean age and weight of the room. Into an empty room comes health.

    Parameters
    ----------
    entry : heads of this moment, whole numbers of shape (n,) or scalars
    age_d, weight_kg : mean of those who come [d], [kg]; needed where any come

    Raises
    ------
    ValueError
        An entry is negative or no whole number, takes more heads than a room has, or brings heads without age or weight. The state
        that was given is as before.
    """
    entered = Ledger(*(_whole(name, value) for name, value in entry._asdict().items()))
    before, came = heads(state.ledger), entered.placed + entered.moved_in
    ledger = Ledger(*(have + more for have, more in zip(state.ledger, entered, strict=True)))
    left = np.atleast_1d(heads(ledger))
    if np.any(left < 0):
        room = int(np.argmin(left))
        has = int(np.broadcast_to(before + came, left.shape)[room])
        raise ValueError(f"room {room} has {has} pigs, {-int(left[room])} too few: book those that came in before those that went")
    age, weight = np.asarray(age_d, float), np.asarray(weight_kg, float)
    if np.any((came > 0) & ~((age >= 0) & (weight > 0) & np.isfinite(age * weight))):
        raise ValueError("pigs come without age or weight: give age_d in days and weight_kg above 0")
    return state._replace(
        ledger=ledger,
        age_d=_mean(state.age_d, before, age, came, left),
        weight_kg=_mean(state.weight_kg, before, weight, came, left),
        ill_s=np.where((before == 0) & (came > 0), np.inf, state.ill_s),
    )


def _mean(have: Any, pigs: Any, new: Any, came: Any, left: Any) -> Any:
    mixed = np.where(came > 0, (pigs * have + came * new) / np.maximum(1, pigs + came), have)
    return np.where(left > 0, mixed, 0.0)


def _whole(name: str, value: ArrayLike) -> NDArray[np.int64]:
    numbers = np.asarray(value, float)
    if not np.all((numbers >= 0) & (numbers == np.floor(numbers)) & np.isfinite(numbers)):
        raise ValueError(f"{name} is {value!r}: heads are whole numbers of 0 and more")
    return numbers.astype(np.int64)


def gompertz_kg(age_d: ArrayLike, parameters: Parameters) -> Any:
    """Weight of a healthy, well-fed pig, A exp(-b exp(-k t)) [1].

    Parameters
    ----------
    age_d : [d]

    Returns
    -------
    [kg]. 21 d: 5.55, 63 d: 25.0, 100 d: 56.0, 165 d: 120.0.
    """
    return parameters.mature_kg * np.exp(-parameters.delay * np.exp(-parameters.growth_per_d * np.asarray(age_d, float)))


def gompertz_gain_kg_d(weight_kg: ArrayLike, parameters: Parameters) -> Any:
    """Slope of the Gompertz curve at a weight, k W ln(A / W) [1].

    Parameters
    ----------
    weight_kg : [kg]

    Returns
    -------
    [kg/d]. Highest at 81 kg: 1.014.
    """
    weight = np.asarray(weight_kg, float)
    return parameters.growth_per_d * weight * np.log(parameters.mature_kg / np.maximum(weight, 1e-9))


def appetite_kg_d(weight_kg: ArrayLike, parameters: Parameters) -> Any:
    """Feed that a healthy pig in comfort eats, 3.6 (1 - exp(-0.0165 W)).

    Parameters
    ----------
    weight_kg : [kg]

    Returns
    -------
    [kg/d]. 25 kg: 1.22, 50 kg: 2.02, 100 kg: 2.91.
    """
    return parameters.intake_max_kg_d * -np.expm1(-parameters.intake_per_kg * np.asarray(weight_kg, float))


def gain_kg_d(weight_kg: ArrayLike, eaten_kg_d: ArrayLike, parameters: Parameters) -> Any:
    """Gain by what is eaten: the curve's gain, times energy left above maintenance over what appetite leaves.

    Parameters
    ----------
    weight_kg : [kg]
    eaten_kg_d : [kg/d]

    Returns
    -------
    [kg/d]. With all its appetite the curve's gain; below maintenance a loss. 100 kg without feed: -0.58 of the curve's.
    """
    weight, energy = np.asarray(weight_kg, float), parameters.energy_mj_kg
    maintenance = MAINTENANCE_MJ_D * weight**0.75
    spare = appetite_kg_d(weight, parameters) * energy - maintenance
    share = (np.asarray(eaten_kg_d, float) * energy - maintenance) / np.where(spare > 0.0, spare, 1.0)
    return np.where(spare > 0.0, gompertz_gain_kg_d(weight, parameters) * share, 0.0)


def feed_course(hour: ArrayLike, parameters: Parameters) -> Any:
    """Feeding by the hour over the day's mean: a base and two peaks of von Mises shape at 7 h and 16:30 [2]; mean 1.

    Parameters
    ----------
    hour : of the local day [h]
    """
    p = parameters
    peaks = p.feed_morning * _peak(hour, 7.0, p.feed_peak) + (1.0 - p.feed_morning) * _peak(hour, 16.5, p.feed_peak)
    return p.feed_base + (1.0 - p.feed_base) * peaks


def _peak(hour: ArrayLike, at_h: float, sharpness: float) -> Any:
    angle = 2.0 * np.pi * (np.asarray(hour, float) - at_h) / 24.0
    return np.exp(sharpness * np.cos(angle)) / _bessel(sharpness)


@cache
def _bessel(sharpness: float) -> float:
    return float(np.i0(sharpness))


def water_course(hour: ArrayLike, swing: ArrayLike) -> Any:
    """Drinking by the hour over the day's mean, 1 + swing cos(2 pi (h - 17) / 24) [2]; mean 1.

    Parameters
    ----------
    hour : of the local day [h]
    swing : [-]
    """
    return 1.0 + np.asarray(swing, float) * np.cos(2.0 * np.pi * (np.asarray(hour, float) - 17.0) / 24.0)


def illness(state: State, parameters: Parameters) -> tuple[Any, Any]:
    """How far water and feed are on their way to the worst of an illness, 0..1 each; feed follows `ill_lead_s` later."""
    p = parameters
    rest_s = p.ill_feed_s + p.ill_recovery_s
    feed = np.interp(state.ill_s - p.ill_lead_s, [0.0, p.ill_onset_s, p.ill_feed_s, rest_s], [0.0, 1.0, 1.0, 0.0])
    ends = [0.0, p.ill_onset_s, p.ill_lead_s + p.ill_feed_s, p.ill_lead_s + rest_s]
    return state.severity * np.interp(state.ill_s, ends, [0.0, 1.0, 1.0, 0.0]), state.severity * feed


def intake_kg_d(state: State, inputs: Inputs, parameters: Parameters) -> Any:
    """Feed that one pig eats at this rate in a day: appetite, less heat stress and illness, as far as there is feed [kg/d]."""
    _, ill = illness(state, parameters)
    warm = np.maximum(0.0, np.asarray(inputs.temp_c, float) - parameters.comfort_c)
    stress = np.maximum(0.0, 1.0 - parameters.feed_heat_per_k * warm) * (1.0 - parameters.ill_feed * ill)
    return appetite_kg_d(state.weight_kg, parameters) * stress * np.asarray(inputs.feed, float)


def water_l_h(state: State, hour: ArrayLike, inputs: Inputs, parameters: Parameters) -> Any:
    """Water that a room's meter counts now; `water_waste` of it is spilled.

    Parameters
    ----------
    hour : of the local day [h]

    Returns
    -------
    [L/h]. 1000 pigs of 100 kg: 117 at 4 h, 446 at 17 h.
    """
    p = parameters
    ill, _ = illness(state, p)
    warm = np.maximum(0.0, np.asarray(inputs.temp_c, float) - p.comfort_c)
    day = p.water_l_kg * appetite_kg_d(state.weight_kg, p) * (1.0 + p.water_heat_per_k * warm) * (1.0 - p.ill_water * ill)
    course = water_course(hour, p.water_swing * (1.0 - p.ill_flattening * ill))
    return heads(state.ledger) * day / 24.0 * course * np.asarray(inputs.water, float)


def drunk_l(state: State, parameters: Parameters) -> Any:
    """Water that the herd took of what the meter counted; the rest went to the slurry [L]."""
    return state.water_l * (1.0 - parameters.water_waste)


def feed_kg_h(state: State, hour: ArrayLike, inputs: Inputs, parameters: Parameters) -> Any:
    """Feed that a room eats now; with `feed_waste` more it is what the feeders give.

    Parameters
    ----------
    hour : of the local day [h]

    Returns
    -------
    [kg/h].
    """
    return heads(state.ledger) * intake_kg_d(state, inputs, parameters) / 24.0 * feed_course(hour, parameters)


def death_rate_per_d(state: State, inputs: Inputs, parameters: Parameters) -> Any:
    """Hazard of one pig: base, illness, and heat by the temperature-humidity index above `lethal_thi`; [1/d]."""
    p = parameters
    _, ill = illness(state, p)
    heat = np.maximum(0.0, psychrometrics.thi(inputs.temp_c, inputs.rh_pct) - p.lethal_thi)
    return p.deaths_per_d + p.ill_deaths_per_d * ill + 24.0 * p.heat_deaths_per_h * heat


def deaths(state: State, dt_s: float, *, inputs: Inputs, parameters: Parameters, random: np.random.Generator) -> NDArray[np.int64]:
    """Pigs that die within `dt_s`, binomial with 1 - exp(-rate dt); never more than there are. Book them as `died`."""
    rate = death_rate_per_d(state, inputs, parameters)
    return np.asarray(random.binomial(heads(state.ledger), -np.expm1(-rate * dt_s / DAY_S)), np.int64)


def advance(state: State, dt_s: float, *, hour: float, inputs: Inputs, parameters: Parameters) -> State:
    """The state `dt_s` later, in steps of at most 15 min with inputs held; heads do not change.

    Parameters
    ----------
    hour : of the local day at the start [h]

    Raises
    ------
    ValueError : where an input is no number. Supplies and severity beyond 0..1 count as 0 or 1.
    """
    assert dt_s >= 0.0
    steps = int(np.ceil(dt_s / STEP_S_MAX))
    inputs = Inputs(*(held(name, v, *_BOUNDS.get(name, (0.0, 1.0))) for name, v in inputs._asdict().items()))
    if steps:
        state = _infect(state, inputs, parameters)
    for k in range(steps):
        state = _step(state, dt_s / steps, hour + (k + 0.5) * dt_s / steps / 3600.0, inputs, parameters)
    return state


def _infect(state: State, inputs: Inputs, p: Parameters) -> State:
    # A herd that is ill already is not infected anew.
    outbreak = np.asarray(inputs.outbreak, float)
    new = (outbreak > 0.0) & (state.ill_s > p.ill_lead_s + p.ill_feed_s + p.ill_recovery_s)
    return state._replace(ill_s=np.where(new, 0.0, state.ill_s), severity=np.where(new, outbreak, state.severity))


def _step(state: State, dt_s: float, hour: float, inputs: Inputs, p: Parameters) -> State:
    days, pigs = dt_s / DAY_S, heads(state.ledger)
    eaten = dt_s / 3600.0 * feed_kg_h(state, hour, inputs, p)
    gain = gain_kg_d(state.weight_kg, intake_kg_d(state, inputs, p), p)
    return state._replace(
        age_d=state.age_d + days * (pigs > 0),
        weight_kg=np.maximum(0.0, state.weight_kg + days * gain),
        ill_s=state.ill_s + dt_s,
        eaten_kg=state.eaten_kg + eaten,
        feed_kg=state.feed_kg + eaten * (1.0 + p.feed_waste),
        water_l=state.water_l + dt_s / 3600.0 * water_l_h(state, hour, inputs, p),
    )
