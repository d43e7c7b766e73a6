"""The multi-span model beside GreenLight (Katzin 2021, PyPI `greenlight`), an independent model, in the same weather.

    python3 -m venv DIRECTORY && DIRECTORY/bin/pip install greenlight==2.0.5
    GREENLIGHT_PYTHON=DIRECTORY/bin/python python -m bench --only greenlight

It has an environment of its own, since it needs older libraries than the product. GreenLight controls its house itself, without lamps;
the multi-span model gets the same weather, crop, vents, screen, heat and CO2 dose moment by moment, with the volume and vent area of that
house and all else as it is by default. Two days each; the second one counts.
"""

import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.control import PLACE
from bench.control_multispan import DAYS
from simulators import multispan
from simulators.weather import Weather
from telemetry import psychrometrics

Array = NDArray[Any]

INSTALL: Final = (
    "python3 -m venv DIRECTORY && DIRECTORY/bin/pip install greenlight==2.0.5, then GREENLIGHT_PYTHON=DIRECTORY/bin/python"
)
TOLD: Final = ("Time", "tAir", "rhIn", "co2InPpm", "uRoof", "uThScr", "hBoilPipe", "mcExtAir", "lai")
ACTS: Final = ("uRoof", "uThScr", "hBoilPipe", "mcExtAir")
STEP_S: Final = 300.0
DAY_S: Final = 86_400.0
CO2_KG_M2_S: Final = 1e-5  # a valve large enough for any dose
# The house of GreenLight: vent area 4676 m2 of 40,000, height 6.3 m.
HOUSE: Final = multispan.Parameters(height_m=6.3, air_j_m2_k=45_000.0, roof_vent_area=4676 / 40_000, co2_kg_m2_s=CO2_KG_M2_S)
_SCRIPT: Final = """
import contextlib, io, sys
from importlib import resources
import greenlight
weather, out, seconds, names = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4].split(",")
model = str(resources.files("greenlight") / "models/katzin_2021/definition/main_katzin_2021.json")
changes = {"thetaLampMax": {"definition": "0"}, "options": {"t_end": seconds, "output_step": "300"}}
with contextlib.redirect_stdout(io.StringIO()):
    run = greenlight.GreenLight(input_prompt=[model, weather, changes], output_path=out)
    run.load()
    run.solve()
run.full_sol[names].to_csv(out, index=False)
"""


def weather_file(path: Path, season: str, days: float) -> None:
    """The generator's weather of a season as GreenLight reads it."""
    start, scenario = DAYS[season]
    begin = start.timestamp()
    random = np.random.default_rng(1)
    weather = Weather(start_s=begin, latitude=PLACE[0], longitude=PLACE[1], scenario=scenario, random=random)
    samples = [weather.at(begin + k * STEP_S) for k in range(int(days * DAY_S / STEP_S) + 2)]
    sums = [sum(s.rad_w_m2 for s in samples[k : k + 288]) * STEP_S / 1e6 for k in range(0, len(samples), 288)]
    names = (
        "Time",
        "tOut",
        "vpOut",
        "co2Out",
        "wind",
        "tSky",
        "tSoOut",
        "iGlob",
        "dayRadSum",
        "isDay",
        "isDaySmooth",
        "hElevation",
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file)
        write.writerows([names, names, ["-"] * len(names)])
        for k, sample in enumerate(samples):
            vapour = float(psychrometrics.vapour_pressure_pa(sample.temp_c, sample.rh_pct))
            outside = [sample.temp_c, vapour, multispan.OUTSIDE_CO2_KG_M3 * 1e6, sample.wind_m_s, sample.sky_temp_c, HOUSE.soil_c]
            is_day = float(sample.rad_w_m2 > 20.0)
            write.writerow([k * STEP_S, *outside, sample.rad_w_m2, sums[k // 288], is_day, is_day, 0.0])


def greenlight(python: str, directory: Path, season: str, days: float) -> dict[str, Array]:
    """What GreenLight makes of it, by name."""
    weather, out = directory / f"{season}.csv", directory / f"{season}-out.csv"
    weather_file(weather, season, days)
    command = [python, "-c", _SCRIPT, str(weather), str(out), str(int(days * DAY_S)), ",".join(TOLD)]
    subprocess.run(command, check=True, cwd=directory, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    with out.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if _is_number(row["Time"])]
    return {name: np.array([float(row[name]) for row in rows]) for name in TOLD}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def multispan_beside(told: dict[str, Array], season: str, days: float) -> tuple[Array, Array]:
    """(model, GreenLight), each (k, 3) every 5 min: air [C], humidity [%], CO2 [ppm]."""
    start, scenario = DAYS[season]
    begin = start.timestamp()
    random = np.random.default_rng(1)
    weather = Weather(start_s=begin, latitude=PLACE[0], longitude=PLACE[1], scenario=scenario, random=random)
    at = np.arange(0.0, days * DAY_S, STEP_S)
    now = {name: np.interp(at, told["Time"], values) for name, values in told.items()}
    now |= {name: _means(told["Time"], told[name], at) for name in ACTS}
    state = multispan.initial_state(now["tAir"][0], now["rhIn"][0], now["tAir"].mean(), co2_ppm=now["co2InPpm"][0])
    model = []
    for k, time_s in enumerate(at):
        model.append([state.air_c[0], multispan.relative_humidity_pct(state)[0], multispan.co2_ppm(state)[0]])
        house = replace(HOUSE, leaf_area_index=now["lai"][k])
        inputs = multispan.Inputs(
            vent_lee=now["uRoof"][k],
            vent_wind=now["uRoof"][k],
            thermal_screen=now["uThScr"][k],
            heat_w_m2=now["hBoilPipe"][k],
            co2_valve=now["mcExtAir"][k] * 1e-6 / CO2_KG_M2_S,
        )
        sample = weather.at(begin + time_s)
        outside = multispan.Outside(sample.temp_c, sample.rh_pct, sample.rad_w_m2, sample.wind_m_s, sample.sky_temp_c)
        state = multispan.advance(state, STEP_S, inputs=inputs, outside=outside, parameters=house)
    return np.array(model), np.stack([now["tAir"], now["rhIn"], now["co2InPpm"]], axis=1)


def _means(time_s: Array, values: Array, at: Array) -> Array:
    """Mean of a line between points over the 5 min from each moment on."""
    area = np.r_[0.0, np.cumsum(np.diff(time_s) * (values[1:] + values[:-1]) / 2.0)]
    return np.diff(np.interp(np.r_[at, at[-1] + STEP_S], time_s, area)) / STEP_S


def run(*, short: bool) -> list[dict[str, Any]]:
    """Bias and root mean square difference to GreenLight on a winter and a summer day."""
    python = os.environ.get("GREENLIGHT_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import greenlight"], capture_output=True, check=False, cwd="/").returncode:
        print(f"greenlight: skipped, {python} does not have it: {INSTALL}", file=sys.stderr)
        return []
    rows: list[dict[str, Any]] = []
    days = 1.0 if short else 2.0
    with tempfile.TemporaryDirectory(prefix="fieldloom-greenlight-") as directory:
        for season in DAYS:
            told = greenlight(python, Path(directory), season, days)
            model, other = multispan_beside(told, season, days)
            difference = (model - other)[-288:]
            for k, (point, unit) in enumerate((("air_temp", "K"), ("air_rh", "%"), ("co2", "ppm"))):
                of = difference[:, k]
                for figure, value in (("bias", of.mean()), ("rmse", np.sqrt((of**2).mean()))):
                    row = {"name": f"greenlight.{season}.{point}_{figure}", "value": float(value), "unit": unit}
                    rows.append(row | {"reference": None, "ratio": None})
    return rows
