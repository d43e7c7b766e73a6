"""Control quality of multi-span greenhouses: the controller, a plain thermostat and a plain PI on the same winter and summer day."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.control import PLACE, Drives, Loop, Quality
from bench.recordings import shipped_profile
from rules.control import multispan as control
from rules.control.controller import Ask, Controller, Turn
from rules.control.memory import Guard
from rules.control.pi import PI, Gains, pi, start_pi
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
BANDS: Final = {"air_temp_2_c": (17.5, 28.0), "air_rh_pct": (0.0, 90.0)}
DAY_C, NIGHT_C, DEAD_ZONE_K = 19.5, 18.5, 5.0  # as the controller's defaults


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


class PlainState(NamedTuple):
    """Memory of `Plain`; each (n,)."""

    heats: Array  # bool
    opens: Array  # bool
    valve: PI
    vents: PI


class Plain:
    """What everybody has: heating and vents at two set points, by a thermostat of 1 K or by PI; storm and rain are not its business."""

    READS: tuple[str, ...] = ("air_temp_c", "hours_after_sunrise", "hours_before_sunset")
    EVERY_S: float = 30.0

    def __init__(self, *, by_pi: bool) -> None:
        self._by_pi = by_pi

    def parameters(self, given: Mapping[str, Any]) -> None:
        """None."""

    def start(self, n: int, time_ns: int, parameters: Any) -> PlainState:  # noqa: ARG002
        """All shut."""
        off = np.zeros(n, np.bool_)
        return PlainState(off, off, start_pi(np.zeros(n), time_ns), start_pi(np.zeros(n), time_ns))

    def step(self, state: PlainState, time_ns: int, inputs: Mapping[str, Array], parameters: Any) -> Turn:  # noqa: ARG002
        """Valve, pump and vents."""
        air, guard = inputs["air_temp_c"], Guard(self.EVERY_S)
        is_day = (inputs["hours_after_sunrise"] >= -1.0) & (inputs["hours_before_sunset"] >= 0.0)
        cold = air - np.where(is_day, DAY_C, NIGHT_C)
        hot = cold - DEAD_ZONE_K
        heats, opens = np.where(state.heats, cold < 0.5, cold < -0.5), np.where(state.opens, hot > 0.0, hot > 1.0)
        valve, valve_pct = pi(state.valve, time_ns, cold, Gains(-30.0, 1800.0), guard)
        vents, vents_pct = pi(state.vents, time_ns, hot, Gains(20.0, 1800.0), guard)
        if not self._by_pi:
            valve_pct, vents_pct = np.where(heats, 100.0, 0.0), np.where(opens, 100.0, 0.0)
        asked = {"mixing_valve": valve_pct, "circulation_pump": valve_pct > 0.0, "vent_lee": vents_pct, "vent_wind": vents_pct}
        demands = {Ask(name, "value", "temperature"): np.asarray(value, float) for name, value in asked.items()}
        return Turn(PlainState(heats, opens, valve, vents), demands)


def quality(season: str, controller: Controller, given: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a day, after six hours of running in."""
    loop, counted = loop_of(season, controller, from_h=-6.0, given=given), Quality(BANDS)
    loop.run(6.0)
    before, moves = loop.houses.panel({}), {name: count.copy() for name, count in loop.drives.moves.items()}
    loop.run(24.0, counted.note)
    used = {name: float((value - before[name])[0]) / plant.FLOOR_M2 for name, value in loop.houses.panel({}).items()}
    moved = {name: float((count - moves[name])[0]) for name, count in loop.drives.moves.items()}
    return {
        "temp_in_band_h": float(counted.in_band_h["air_temp_2_c"][0]),
        "temp_lowest_c": float(counted.lowest["air_temp_2_c"][0]),
        "temp_highest_c": float(counted.highest["air_temp_2_c"][0]),
        "rh_in_band_h": float(counted.in_band_h["air_rh_pct"][0]),
        "heat_kwh_m2": used["heat_kwh"],
        "elec_kwh_m2": used["elec_kwh"],
        "vent_moves": moved["vent_lee"] + moved["vent_wind"],
        "valve_moves": moved["mixing_valve"],
        "other_moves": sum(moved[name] for name in ("thermal_screen", "shade_screen", "exhaust_fan", "fog", "pad_pump")),
    }


def run(*, short: bool) -> list[dict[str, Any]]:
    """The table of docs/control.md; `short`: the summer day only."""
    kinds: dict[str, tuple[Controller, Mapping[str, Any]]] = {
        "multispan": (control.CONTROLLER, {"dli_mol_m2": 0}),  # without lamps: the others have none
        "thermostat": (Plain(by_pi=False), {}),
        "pi": (Plain(by_pi=True), {}),
    }
    rows = []
    for season in ("summer",) if short else DAYS:
        for name, (controller, given) in kinds.items():
            for figure, value in quality(season, controller, given).items():
                row = {"name": f"control.{season}.{name}.{figure}", "value": value, "unit": figure.rpartition("_")[2]}
                rows.append(row | {"reference": None, "ratio": None})
    return rows
