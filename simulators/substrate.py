"""Water and nutrients in the substrate of a house, and what drips in and drains out; per m2 of floor, arrays or scalars.

A bucket with a saltmeter: what is above field capacity drains within minutes, plants take water and a part of its nutrients, so
salts build up where nothing drains. All figures are configurable defaults of the field.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

DRAIN_TAU_S = 60.0
STEP_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Substrate:
    """A bed of plug trays."""

    dry_kg_m2: float = 2.0
    capacity_kg_m2: float = 6.0  # water at field capacity
    uptake_fraction: float = 0.7  # nutrients taken, of what the water taken holds in the solution as fed
    fed_ms_cm: float = 1.5  # strength of the solution that `uptake_fraction` refers to
    flow_kg_m2_s: float = 1.67e-3  # 96 L/min over 960 m2


class SubstrateState(NamedTuple):
    """water [kg/m2], salts [mS/cm kg/m2]; dripped and drained since the start [kg/m2], counters."""

    water_kg_m2: Any
    salts: Any
    dripped_kg_m2: Any
    drained_kg_m2: Any


def wet(substrate: Substrate, fill: float = 0.95) -> SubstrateState:
    """Filled to a part of field capacity with the solution as fed."""
    water = np.atleast_1d(fill * substrate.capacity_kg_m2)
    return SubstrateState(water, water * substrate.fed_ms_cm, np.zeros_like(water), np.zeros_like(water))


def advance(
    state: SubstrateState, dt_s: float, *, valve: ArrayLike, drip_ms_cm: ArrayLike, taken_kg_m2_s: ArrayLike, substrate: Substrate
) -> SubstrateState:
    """The state `dt_s` later, in Euler steps of at most 5 s.

    Parameters
    ----------
    valve : opening of the irrigation valve, 0..1
    drip_ms_cm : strength of what drips [mS/cm]
    taken_kg_m2_s : transpiration [kg/(m2 s)]
    """
    steps = int(np.ceil(dt_s / STEP_S_MAX))
    drip, drip_strength = np.asarray(valve, float) * substrate.flow_kg_m2_s, np.asarray(drip_ms_cm, float)
    for _ in range(steps):
        step_s = dt_s / steps
        drain = np.maximum(0.0, state.water_kg_m2 - substrate.capacity_kg_m2) / DRAIN_TAU_S
        taken = np.minimum(np.asarray(taken_kg_m2_s, float), state.water_kg_m2 / step_s)
        strength = conductivity_ms_cm(state)
        eaten = np.minimum(taken * substrate.uptake_fraction * substrate.fed_ms_cm, state.salts / step_s)
        state = SubstrateState(
            np.maximum(0.0, state.water_kg_m2 + step_s * (drip - drain - taken)),
            np.maximum(0.0, state.salts + step_s * (drip * drip_strength - drain * strength - eaten)),
            state.dripped_kg_m2 + step_s * drip,
            state.drained_kg_m2 + step_s * drain,
        )
    return state


def conductivity_ms_cm(state: SubstrateState) -> Any:
    """Of the solution in the substrate, which is what drains [mS/cm]."""
    return state.salts / np.maximum(state.water_kg_m2, 1e-6)
