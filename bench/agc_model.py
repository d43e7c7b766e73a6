"""The multi-span model in the place of two recorded compartments: their weather, their pipes, vents, screens, lamps and CO2 valve.

    python -m bench --only agc_model

Every seventh day, each begun as recorded, so that an error is of one day and not of the weeks before.
Two things of the house are read off the recording itself, none by looking at the model's error: the light of lamps and the leaks. What it
does not say (leaf area, size of the CO2 dose, floor) is the model's default.
"""

import csv
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from bench.agc import AGC
from simulators import multispan
from simulators.measured_weather import MeasuredWeather, read_agc2022

Array = NDArray[Any]

TEAMS: Final = ("Reference", "Koala")
COLUMNS: Final = ("Tair", "Rhair", "CO2air", "VentLee", "VentWind", "PARin", "EnScr", "BlckScr", "Tpipe", "CO2reg")
DOSES: Final = 1.0  # CO2reg while CO2 flows: the air then gains 50 ppm in 5 min
# `AssimLight` says 100 in the dark, too: it is how bright lamps may burn. What burns is the PAR inside that the sun does not give.
LAMP_UMOL_J: Final = 2.7
LAMPS_W: Final = 100.0
LAMPS_LEAST_W: Final = 15.0
# With open screens and no lamps (the lowest tenth of moments over 200 umol/m2/s) 0.15 of the PAR outside comes to the sensor.
SUN_UMOL_J: Final = 0.15 * 2.06
# CO2 without lamps, dose and vents falls by 0.09 to 0.17 an hour of what it is over outside, in a wind of 6 to 9 m/s: cracks of so much.
LEAKAGE: Final = 2e-5
BOTH_SAVE: Final = 0.62  # two screens, each of which saves 0.45 alone: their resistances add
HOUSE: Final = multispan.Parameters(shade_cut=0.98, lamp_w_m2=LAMPS_W, leakage=LEAKAGE, screen_saving=BOTH_SAVE)
DAYS: Final = (0, 7, 14, 21, 28, 35)
DAY_S: Final = 86_400.0
STEP_S: Final = 60.0


def recording(team: str) -> tuple[Array, dict[str, Array]]:
    """Times [Unix s] and columns; holes bridged by straight lines."""
    with (AGC / team / "GreenhouseClimate.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    zone = ZoneInfo("Europe/Amsterdam")
    times = np.array([datetime.strptime(row["Date"], "%m/%d/%Y %H:%M").replace(tzinfo=zone).timestamp() for row in rows])
    keep = np.r_[True, np.diff(times) > 0.0]
    columns = {}
    for name in COLUMNS:
        values = np.array([float(row[name].strip() or "nan") for row in rows])[keep]
        known = np.isfinite(values)
        columns[name] = np.interp(times[keep], times[keep][known], values[known])
    return times[keep], columns


def simulate(days: Sequence[int]) -> tuple[Array, Array]:
    """Model and recording at the moments of these days, each (k, teams, 3): air [C], humidity [%], CO2 [ppm]."""
    weather = read_agc2022((AGC / "weather.csv").read_text("utf-8").splitlines())
    recorded = [recording(team) for team in TEAMS]
    times = recorded[0][0]
    if not all(np.array_equal(times, other) for other, _ in recorded):
        raise RuntimeError("the two compartments were not recorded at the same moments: no figure")
    columns = {name: np.stack([told[name] for _, told in recorded], axis=1) for name in COLUMNS}
    wanted = np.stack([columns["Tair"], columns["Rhair"], columns["CO2air"]], axis=2)
    told, at_k = [], []
    for day in days:
        first, last = np.searchsorted(times, times[0] + np.array([day, day + 1]) * DAY_S)
        state = _begun(columns, int(first))
        for k in range(int(first), int(last) - 1):
            now = {name: values[k] for name, values in columns.items()}
            state = _advanced(state, now, times[k], times[k + 1], weather)
            told.append(np.stack([state.air_c, multispan.relative_humidity_pct(state), multispan.co2_ppm(state)], axis=1))
            at_k.append(k + 1)
    return np.array(told), wanted[at_k]


def _advanced(state: multispan.State, now: dict[str, Array], begin: float, end: float, weather: MeasuredWeather) -> multispan.State:
    """The state at the next recorded moment."""
    inputs = multispan.Inputs(
        vent_lee=now["VentLee"] / 100.0,
        vent_wind=now["VentWind"] / 100.0,
        thermal_screen=_screens(now["EnScr"] / 100.0, now["BlckScr"] / 100.0),
        shade_screen=now["BlckScr"] / 100.0,
        co2_valve=now["CO2reg"] < DOSES + 0.5,
        lamp=_lamps(now["PARin"], now["BlckScr"] / 100.0, weather.at(begin).rad_w_m2),
    )
    at = begin
    while at < end:
        dt, sample = min(STEP_S, end - at), weather.at(at)
        outside = multispan.Outside(sample.temp_c, sample.rh_pct, sample.rad_w_m2, sample.wind_m_s, sample.sky_temp_c)
        # The pipe is as warm as recorded; 0 is a pipe that nothing flows through.
        pipe = np.where(now["Tpipe"] > 0.0, now["Tpipe"], state.air_c)
        state = multispan.advance(state._replace(pipe_c=pipe), dt, inputs=inputs, outside=outside, parameters=HOUSE)
        at += dt
    return state


def _screens(energy: Array, blackout: Array) -> Array:
    """One screen that saves as much as both, 1 where both are drawn."""
    resistance = 0.45 / (1.0 - 0.45)
    return (1.0 - 1.0 / (1.0 + resistance * (energy + blackout))) / BOTH_SAVE


def _lamps(par_umol_m2_s: Array, blackout: Array, rad_w_m2: float) -> Array:
    """How bright lamps burn, 0..1, by the PAR inside that is not the sun's."""
    watts = (par_umol_m2_s - SUN_UMOL_J * rad_w_m2 * (1.0 - blackout)) / LAMP_UMOL_J
    return np.where(watts < LAMPS_LEAST_W, 0.0, np.minimum(watts / LAMPS_W, 1.0))


def _begun(columns: dict[str, Array], k: int) -> multispan.State:
    """A state as recorded; benches and floor follow the mean of the day about it."""
    mass_c = columns["Tair"][max(0, k - 144) : k + 144].mean(axis=0)
    return multispan.initial_state(columns["Tair"][k], columns["Rhair"][k], mass_c, co2_ppm=columns["CO2air"][k])


def run(*, short: bool) -> list[dict[str, Any]]:
    """Bias and root mean square error of each team's compartment."""
    if not AGC.is_dir():
        print(f"agc_model: skipped, there is no {AGC.resolve()}", file=sys.stderr)
        return []
    model, recorded = simulate(DAYS[:1] if short else DAYS)
    error, rows = model - recorded, []
    for house, name in enumerate(team.lower() for team in TEAMS):
        for k, (point, unit) in enumerate((("air_temp", "K"), ("air_rh", "%"), ("co2", "ppm"))):
            of = error[:, house, k]
            for figure, value in (("bias", of.mean()), ("rmse", np.sqrt((of**2).mean()))):
                row = {"name": f"agc_model.{name}.{point}_{figure}", "value": float(value), "unit": unit}
                rows.append(row | {"reference": None, "ratio": None})
    return rows
