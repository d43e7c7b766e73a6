"""Arrays of houses against the scalar reference of the handbook, beside the project: each house of a call is what the reference is."""

import ast
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simulators import multispan, pig_house
from tests.shared_data import ROOT

REFERENCE = ROOT.parent / "reference" / "domain_checks.py"
HOUSES = 32


@pytest.fixture(scope="module")
def reference() -> Any:
    """Functions and constants of the reference, without the checks that it prints."""
    if not REFERENCE.exists():
        pytest.skip(f"the reference is not beside the project ({REFERENCE})")
    names: dict[str, Any] = {}
    for node in ast.parse(REFERENCE.read_text(encoding="utf-8")).body:
        is_constant = isinstance(node, ast.Assign) and not any(isinstance(part, ast.Name) for part in ast.walk(node.value))
        if is_constant or isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
            exec(compile(ast.Module([node], []), str(REFERENCE), "exec"), names)
    return SimpleNamespace(**names)


def test_compartments_live_as_the_reference_does_one_by_one(reference: Any) -> None:
    random = np.random.default_rng(3)
    low_high = {
        "Ta": (8, 30), "RH": (50, 90), "Tm": (10, 28), "To": (-10, 32), "RHo": (30, 90), "I": (0, 800), "wind": (0, 8),
        "u": (0, 1), "Qh": (0, 120), "screen": (0, 1), "LAI": (0.5, 3),
    }  # fmt: skip
    drawn = {name: random.uniform(low, high, HOUSES) for name, (low, high) in low_high.items()}
    # The reference has no pipes, and its screen holds back heat alone.
    parameters = multispan.Parameters(leaf_area_index=drawn["LAI"], pipe_length_m_m2=1e-6, screen_tight=0.0)
    state = multispan.advance(
        multispan.initial_state(drawn["Ta"], drawn["RH"], drawn["Tm"]),
        3600.0,
        inputs=multispan.Inputs(vent_lee=drawn["u"], vent_wind=drawn["u"], heat_w_m2=drawn["Qh"], thermal_screen=drawn["screen"]),
        outside=multispan.Outside(drawn["To"], drawn["RHo"], drawn["I"], drawn["wind"]),
        parameters=parameters,
    )
    for house in range(HOUSES):
        one = {name: float(values[house]) for name, values in drawn.items()}
        scalar = reference.MS1(one["Ta"], one["RH"], one["Tm"], LAI=one["LAI"])
        for _ in range(720):
            scalar.step(5.0, **{name: one[name] for name in ("To", "RHo", "I", "wind", "u", "Qh", "screen")})
        assert state.air_c[house] == pytest.approx(scalar.Ta, abs=0.05), one
        assert state.mass_c[house] == pytest.approx(scalar.Tm, abs=0.05)
        assert multispan.relative_humidity_pct(state)[house] == pytest.approx(scalar.RH, abs=0.5)
        assert multispan.co2_ppm(state)[house] == pytest.approx(scalar.C / 1.83e-6, abs=2)


@pytest.mark.parametrize("kind", ["fat", "wean", "dry", "lac"])
def test_heat_of_animals_is_the_references_animal_by_animal(reference: Any, kind: str) -> None:
    random = np.random.default_rng(4)
    mass, temp, level = random.uniform(8, 120, HOUSES), random.uniform(5, 38, HOUSES), random.uniform(1.5, 3.5, HOUSES)
    days, milk = random.uniform(0, 114, HOUSES), random.uniform(4, 12, HOUSES)
    at_20 = {
        "fat": lambda: pig_house.finisher_heat_w(mass, level),
        "wean": lambda: pig_house.weaner_heat_w(mass, level),
        "dry": lambda: pig_house.dry_sow_heat_w(mass, days),
        "lac": lambda: pig_house.lactating_sow_heat_w(mass, milk),
    }[kind]()
    found = np.stack([at_20, *pig_house.animal_heat_w(at_20, temp)])
    expected = [
        reference.pig(*(float(values[one]) for values in (mass, temp, level)), kind, p=float(days[one]), milk=float(milk[one]))
        for one in range(HOUSES)
    ]
    assert found == pytest.approx(np.array(expected).T, abs=0.5)
