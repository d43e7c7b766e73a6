"""Shots of water to trays and slabs: by the sum of radiation, by weight, by what drained; fertiliser only into what flows.

A shot is due when the sun since the last one has used what it gave: need [J/cm2] = shot [mL/m2] / water per J. Shots come closer where
less drains than the day's sun and the drain's EC want, and further apart where more does. Unknown sun counts as an ordinary one during
the hours of shots, unknown drain as wanted; trays whose weight is known to be full get nothing.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control.given import known_or
from rules.control.memory import LONG_AGO, NEVER, nanoseconds
from rules.control.multispan_settings import Parameters
from rules.control.primitives import clamp, curve

Array = NDArray[Any]

# Drain of a day by its sum of radiation, for a drip of 3.0 and a drain of 4.5 mS/cm [handbook 3.3].
DRAIN_SUN_J_CM2: Final = (0.0, 500.0, 1000.0, 1500.0, 2000.0)
DRAIN_PCT: Final = (0.0, 10.0, 20.0, 30.0, 40.0)
MEASURABLE_L: Final = 50.0  # given since sunrise, before drain says anything


class Irrigation(NamedTuple):
    """Memory of `irrigate`; each (n,)."""

    sun_j_cm2: Array  # since the last shot
    shot_ns: Array  # int64, begin of the last shot
    until_ns: Array  # int64, its end
    wait_ns: Array  # int64, no shot before
    given_l: Array  # meters at sunrise
    drained_l: Array
    is_day: Array  # bool, as the last call saw it
    dusk_kg: Array  # weight when the sun set


class Water(NamedTuple):
    """What a call of `irrigate` gives; each (n,)."""

    shot: Array  # bool, the valve shall be open
    need_j_cm2: Array
    drain_pct: Array
    drain_wanted_pct: Array


def start_irrigation(n: int) -> Irrigation:
    """State of n houses that were not watered yet."""
    nan, never = np.full(n, np.nan), np.full(n, LONG_AGO)
    return Irrigation(np.zeros(n), never, never, never, nan, nan, np.zeros(n, np.bool_), nan)


def irrigate(
    state: Irrigation, time_ns: int, elapsed_s: Array, inputs: Mapping[str, Array], may: Array, drip_ms_cm: Array, p: Parameters
) -> tuple[Irrigation, Water]:
    """One call.

    Parameters
    ----------
    state : of `start_irrigation`
    time_ns : now [ns]
    elapsed_s : (n,) since the last call [s]
    inputs : (n,) by the names of the controller
    may : (n,) bool, the house's mode lets it be watered
    drip_ms_cm : (n,) wanted strength of what drips
    p : parameters
    """
    after_rise, before_set, rad = inputs["hours_after_sunrise"], inputs["hours_before_sunset"], inputs["weather.rad_w_m2"]
    clock = np.isfinite(after_rise)
    is_day = np.where(clock, (after_rise >= 0.0) & (before_set >= 0.0), rad > 5.0)
    hours = np.where(clock, (after_rise >= p.first_shot_h) & (before_set >= p.last_shot_h), rad > 50.0)
    begins = is_day & ~state.is_day
    given, drained = (
        np.where((begins | ~np.isfinite(old)) & np.isfinite(meter), meter, old)
        for old, meter in ((state.given_l, inputs["drip_volume_l"]), (state.drained_l, inputs["drain_volume_l"]))
    )
    weight = inputs["slab_weight_kg"]
    dusk = np.where((~is_day & state.is_day) | ~np.isfinite(state.dusk_kg), weight, state.dusk_kg)

    light = np.where(np.isfinite(rad), np.maximum(rad, 0.0), np.where(hours, p.blind_rad_w_m2, 0.0))
    sun = np.where(begins, 0.0, state.sun_j_cm2) + light * elapsed_s / 1e4
    drain, wanted, need = _need(inputs, given, drained, drip_ms_cm, p)
    flow, open_s = inputs["drip_flow_l_min"], (time_ns - state.shot_ns) / 1e9
    runs = time_ns < state.until_ns
    dry = runs & (open_s >= 60.0) & (flow < p.flow_least_l_min)
    least = np.where(np.isfinite(inputs["tank_level_pct"]), inputs["tank_level_pct"], 100.0) >= p.tank_least_pct
    may = may & least & ~dry
    light_tray, lost = weight < p.weight_least_kg, weight < dusk * (1.0 - p.night_loss_pct / 100.0)
    due = np.where(hours, (sun >= need) | light_tray, ~is_day & lost) & (time_ns >= state.wait_ns) & ~runs & may
    # At a start: nothing is owed for hours that nobody saw.
    shot_ns = np.where(due, time_ns, state.shot_ns)
    until = np.where(due, time_ns + nanoseconds(p.shot_s), np.where(runs & ~may, time_ns, state.until_ns))
    wait = np.where(due, until + nanoseconds(p.shot_pause_s), state.wait_ns)
    wait = np.where(dry, time_ns + nanoseconds(p.retry_s), wait)
    sun = np.where(due, 0.0, np.minimum(sun, 2.0 * need))
    dusk = np.where(due & ~is_day, weight, dusk)
    after = Irrigation(sun, shot_ns, until, np.minimum(wait, NEVER), given, drained, is_day, dusk)
    return after, Water(time_ns < until, need, drain, wanted)


def _need(
    inputs: Mapping[str, Array], given: Array, drained: Array, drip_ms_cm: Array, p: Parameters
) -> tuple[Array, Array, Array]:
    """Drain since sunrise [%], drain wanted [%], sun between two shots [J/cm2]."""
    dripped = inputs["drip_volume_l"] - given
    with np.errstate(all="ignore"):
        drain = np.where(dripped >= MEASURABLE_L, 100.0 * (inputs["drain_volume_l"] - drained) / dripped, np.nan)
    drain = clamp(drain, 0.0, 100.0)
    salt = known_or(inputs["drain_ec_ms_cm"] - p.drain_ec_factor * drip_ms_cm, 0.0)
    by_sun = curve(known_or(inputs["weather.rad_sum_j_cm2"], 500.0), DRAIN_SUN_J_CM2, DRAIN_PCT)
    wanted = clamp(by_sun + clamp(p.drain_ec_pct * salt, -10.0, 10.0), 0.0, 50.0)
    lacks = known_or((wanted - drain) / 100.0, 0.0)
    need = 1000.0 * p.shot_l_m2 / p.water_ml_j * clamp(1.0 - p.drain_share * lacks, 0.6, 1.6)
    return drain, wanted, need
