"""Control quality of multi-span greenhouses: the controller, a plain thermostat and a plain PI on the same winter and summer day."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.control import PLACE, Drives, Loop
from bench.recordings import shipped_profile
from rules.control.controller import Controller
from simulators.plants import multispan as plant
from simulators.plants import weather_station
from simulators.weather import Scenario, Weather

Array = NDArray[Any]

ZONE: Final = dt.timezone(dt.timedelta(hours=PLACE[2]))
DAYS: Final = {
    "winter": (dt.datetime(2026, 1, 15, tzinfo=ZONE), Scenario(-4.0, 10.0, -9.0, sky="clear", rain_per_day=0.0)),
    "summer": (dt.datetime(2026, 7, 15, tzinfo=ZONE), Scenario(28.0, 9.0, 19.0, sky="clear", rain_per_day=0.0)),
}
NOISE: Final = {"air_temp_c": 0.05, "air_temp_2_c": 0.05, "air_rh_pct": 0.3, "co2_ppm": 10.0, "pipe_supply_c": 0.1}
BANDS: Final = {"air_temp_2_c": (17.5, 28.0), "air_rh_pct": (50.0, 90.0)}


def loop_of(
    season: str, controller: Controller, n: int = 1, *, from_h: float = 0.0, given: Mapping[str, Any] | None = None, seed: int = 1
) -> Loop:
    """n compartments on a day of a season from a local hour on, with the drives of the shipped profile."""
    start, scenario = DAYS[season]
    unix_s = start.timestamp() + from_h * 3600.0
    random = np.random.default_rng(seed)
    weather = Weather(start_s=unix_s, latitude=PLACE[0], longitude=PLACE[1], scenario=scenario, random=random)
    houses = plant.make(n, weather, unix_s, [np.random.default_rng([seed, k]) for k in range(n)])
    specs = {spec.name: spec for spec in shipped_profile("multispan").actuators}
    mast = weather_station.make(1, weather, unix_s, [])
    parameters = controller.parameters(given or {})
    return Loop(houses, controller, parameters, Drives(specs, n), unix_s, links={"weather": mast}, noise=NOISE)
