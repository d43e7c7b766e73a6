"""Units are SI or the field's, in one spelling."""

import pytest

from telemetry.unit import unit_problem


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "1",
        "C",
        "°C",
        "%",
        "ppm",
        "m/s",
        "W/m2",
        "umol/m2/s",
        "mS/cm",
        "kWh/m2/d",
        "kJ/kg",
        "L/min",
        "g/m3",
        "kg/m2/d",
        "bool",
        "mmol/L",
        "cN/tex",
        "1/h",
    ],
)
def test_units_of_the_field_are_known(unit: str) -> None:
    assert unit_problem(unit) == ""


@pytest.mark.parametrize(
    ("unit", "says"),
    [
        ("Celsius", "write 'C' for 'Celsius'"),
        ("μmol/m2/s", "write 'umol' for 'μmol'"),
        ("KWH", "write 'kWh'"),
        ("furlong", "what is 'furlong'?"),
        ("m/", "what is ''?"),
    ],
)
def test_another_spelling_is_told_with_the_right_one(unit: str, says: str) -> None:
    assert says in unit_problem(unit)
