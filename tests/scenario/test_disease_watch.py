"""A simulated herd falls ill behind the shipped rules: what is told, and how soon after the first fall of water."""

from pathlib import Path

import numpy as np
import pytest

from app.scenario_run import run_cases
from app.scenarios import load_all
from app.site_files import SHIPPED
from simulators import herd

OUTBREAK_DAY, PART_H = 6, 4
COUNTED = ("water_total_l", "feed_total_kg")
HEALTH = ("PH-HEALTH", "PH-COUGH", "PH-WATER-LOW", "PH-WATER-DROP", "PH-WATER-CUSUM", "PH-FEED-LOW", "PH-MORT", "PH-MORT-RISE")
HEAD = """\
profile: pig_house
rows: {R: "disease"}
start: "2026-03-21 00:00"
normal: {}
scenarios:
"""


def lived(severity: float, *, seed: int = 3, days: float = 9.0) -> dict[str, list[float]]:
    """In parts of four hours what a house of a thousand pigs drank and ate, how it coughed, and how many died so far."""
    breed, random = herd.Parameters(), np.random.default_rng(seed)
    state = herd.book(herd.empty(1), herd.Ledger(placed=1000), age_d=90.0, weight_kg=herd.gompertz_kg(90.0, breed))
    found: dict[str, list[float]] = {"water_total_l": [], "feed_total_kg": [], "cough_index": [], "deaths_total": []}
    for hour in range(0, int(24 * days), PART_H):
        inputs = herd.Inputs(outbreak=severity * (hour == 24 * OUTBREAK_DAY))
        before = state
        dead = herd.deaths(state, 3600.0 * PART_H, inputs=inputs, parameters=breed, random=random)
        after = herd.advance(state, 3600.0 * PART_H, hour=hour % 24, inputs=inputs, parameters=breed)
        state = herd.book(after, herd.Ledger(died=dead))
        # Houses are not metronomes.
        scatter = 1.0 + 0.05 * random.standard_normal(2)
        found["water_total_l"].append(float((state.water_l - before.water_l)[0] * scatter[0]))
        found["feed_total_kg"].append(float((state.feed_kg - before.feed_kg)[0] * scatter[1]))
        found["cough_index"].append(1.0 + 4.0 * float(herd.illness(state, breed)[0][0]) + 0.1 * abs(random.standard_normal()))
        found["deaths_total"].append(float(state.ledger.died[0]))
    return found


def scenario(name: str, seen: dict[str, list[float]]) -> str:
    series = {
        point: ", ".join(f"rise {part:.1f} in {PART_H} h" if point in COUNTED else f"{part:.2f} for {PART_H} h" for part in parts)
        for point, parts in seen.items()
    }
    lines = ", ".join(f'{point}: "{text}"' for point, text in series.items())
    return f"  - {{name: {name}, rule: PH-HEALTH, row: R, bare: true, every: 2 min, series: {{pig_count: 1000, {lines}}}}}\n"


def told(path: Path, houses: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """By house: hours after the outbreak's begin at which each rule of health was on for the first time."""
    path.write_text(HEAD + "".join(scenario(name, seen) for name, seen in houses.items()))
    (suite,) = load_all([path], SHIPPED)
    seen = run_cases(suite.cases, suite.sites)
    begin_ns = OUTBREAK_DAY * 86_400 * 10**9
    return {
        name: {rule: (on[0][0] - begin_ns) / 3.6e12 for (rule, _), on in one.active.items() if on and rule in HEALTH}
        for name, one in zip(houses, seen, strict=True)
    }


def test_a_mild_illness_is_told_by_its_signs_together_and_a_meter_that_loses_pulses_is_none(tmp_path: Path) -> None:
    mild, meter = lived(0.7, days=OUTBREAK_DAY + 1.0), lived(0.0, days=OUTBREAK_DAY + 1.0)
    first = OUTBREAK_DAY * 24 // PART_H
    meter["water_total_l"] = [part / 2.0 if k >= first else part for k, part in enumerate(meter["water_total_l"])]
    found = told(tmp_path / "herds.yaml", {"mild": mild, "meter": meter})
    assert 0.0 < found["mild"]["PH-HEALTH"] <= 24.0
    assert not {"PH-WATER-LOW", "PH-WATER-DROP", "PH-WATER-CUSUM", "PH-FEED-LOW"} & set(found["mild"])  # no sign of these alone
    assert "PH-WATER-LOW" in found["meter"]
    assert not {"PH-HEALTH", "PH-COUGH", "PH-FEED-LOW"} & set(found["meter"])


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(5))
def test_illness_at_its_worst_is_told_by_every_sign_and_a_healthy_herd_never(seed: int, tmp_path: Path) -> None:
    found = told(tmp_path / "herds.yaml", {"ill": lived(1.0, seed=seed), "healthy": lived(0.0, seed=seed)})
    assert found["healthy"].keys() <= {"PH-MORT", "PH-MORT-RISE"}  # a day of three deaths comes by chance
    assert 0.0 < found["ill"]["PH-HEALTH"] <= 24.0
    assert max(found["ill"][rule] for rule in ("PH-COUGH", "PH-WATER-LOW", "PH-WATER-CUSUM")) <= 28.0
    assert 24.0 < found["ill"]["PH-FEED-LOW"] <= 60.0
    assert not [rule for rule, hours in found["ill"].items() if hours < 0.0 and not rule.startswith("PH-MORT")]
