import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from telemetry import psychrometrics as psy

# value, expected, tolerance: the handbook's computed check values (section 7).
CHECKS = [
    ("es 20", psy.saturation_vapour_pressure_pa(20), 2338.3, 0.05),
    ("es 25", psy.saturation_vapour_pressure_pa(25), 3167.8, 0.05),
    ("es 30", psy.saturation_vapour_pressure_pa(30), 4243.1, 0.05),
    ("ea 25/60", psy.vapour_pressure_pa(25, 60), 1900.7, 0.05),
    ("vpd 25/60", psy.vpd_kpa(25, 60), 1.2671, 5e-5),
    ("vpd 20/80", psy.vpd_kpa(20, 80), 0.4677, 5e-5),
    ("vpd 10/95", psy.vpd_kpa(10, 95), 0.0614, 5e-5),
    ("vpd 30/55", psy.vpd_kpa(30, 55), 1.9094, 5e-5),
    ("vpd 25/95", psy.vpd_kpa(25, 95), 0.158, 5e-4),
    ("leaf vpd", psy.leaf_vpd_kpa(23, 25, 60), 0.9088, 5e-5),
    ("td 25/60", psy.dew_point_c(25, 60), 16.70, 0.005),
    ("td 30/55", psy.dew_point_c(30, 55), 19.97, 0.005),
    ("td 25/95", psy.dew_point_c(25, 95), 24.14, 0.005),
    ("tw 25/60", psy.wet_bulb_c(25, 60), 19.52, 0.005),
    ("tw 20/80", psy.wet_bulb_c(20, 80), 17.70, 0.005),
    ("tw 35/40", psy.wet_bulb_c(35, 40), 24.0, 0.05),
    ("ah 25/60", psy.abs_humidity_g_m3(25, 60), 13.81, 0.005),
    ("hd 25/60", psy.humidity_deficit_g_m3(25, 60), 9.21, 0.005),
    ("w 25/60", psy.mixing_ratio(25, 60) * 1000, 11.89, 0.005),
    ("h 25/60", psy.enthalpy_kj_kg(25, 60), 55.44, 0.005),
    ("h 30/55", psy.enthalpy_kj_kg(30, 55), 67.67, 0.005),
    ("p 0 m", psy.pressure_at_altitude_pa(0), 101325.0, 1e-9),
    ("p 1000 m", psy.pressure_at_altitude_pa(1000), 89875.0, 1.0),
    ("thi 24/80", psy.thi(24, 80), 73.28, 0.005),
    ("thi 30/60", psy.thi(30, 60), 79.76, 0.005),
    ("thi 35/50", psy.thi(35, 50), 84.70, 0.005),
    ("dli 250", psy.dli_mol_m2(250, 12 * 3600), 10.80, 0.005),
    ("dli 300", psy.dli_mol_m2(np.full(12, 300.0), 3600), 12.96, 0.005),
    ("par greenlight", psy.par_mol_from_global_mj(10), 23.0, 1e-9),
    ("par outdoor", psy.par_mol_from_global_mj(10, constant="outdoor"), 20.6, 1e-9),
    ("nh3", psy.mg_m3_from_ppm(1, "nh3"), 0.708, 5e-4),
    ("h2s", psy.mg_m3_from_ppm(1, "h2s"), 1.417, 5e-4),
    ("co2", psy.mg_m3_from_ppm(1, "co2"), 1.830, 1e-3),
    ("1500 mg/m3 co2", psy.ppm_from_mg_m3(1500, "co2"), 820, 0.5),
]
TWO = [
    psy.vapour_pressure_pa,
    psy.vpd_kpa,
    psy.dew_point_c,
    psy.wet_bulb_c,
    psy.abs_humidity_g_m3,
    psy.humidity_deficit_g_m3,
    psy.mixing_ratio,
    psy.enthalpy_kj_kg,
    psy.thi,
    psy.relative_humidity_pct,
]
ONE = [psy.saturation_vapour_pressure_pa, psy.saturation_vapour_pressure_ice_pa, psy.pressure_at_altitude_pa]
temperatures = st.floats(-40, 60)
humidities = st.floats(1, 100)


@pytest.mark.parametrize(("name", "value", "expected", "tolerance"), CHECKS, ids=[row[0] for row in CHECKS])
def test_check_value_of_the_handbook(name, value, expected, tolerance):
    assert value == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("function", TWO, ids=lambda f: f.__name__)
def test_arrays_broadcast_and_equal_scalars(function):
    temps = np.array([-10.0, 0.0, 25.0, 40.0])
    humidity = np.array([[30.0], [99.0]])
    result = function(temps, humidity)
    assert result.shape == (2, 4)
    for i in range(2):
        for j in range(4):
            assert result[i, j] == function(temps[j], humidity[i, 0])


@pytest.mark.parametrize("function", TWO, ids=lambda f: f.__name__)
def test_nan_in_any_argument_gives_nan_only_there(function):
    result = function(np.array([np.nan, 20.0, 20.0]), np.array([50.0, np.nan, 50.0]))
    assert np.isnan(result).tolist() == [True, True, False]


@pytest.mark.parametrize("function", ONE, ids=lambda f: f.__name__)
def test_one_argument_functions_keep_shape_and_nan(function):
    result = function(np.array([[np.nan, 5.0]]))
    assert result.shape == (1, 2)
    assert np.isnan(result).tolist() == [[True, False]]


@pytest.mark.parametrize("function", [*TWO, psy.leaf_vpd_kpa], ids=lambda f: f.__name__)
def test_empty_arrays_stay_empty(function):
    empty = np.empty(0)
    arguments = (empty, empty, empty) if function is psy.leaf_vpd_kpa else (empty, empty)
    assert function(*arguments).shape == (0,)


@given(hnp.arrays(np.float64, 5), hnp.arrays(np.float64, 5))
def test_no_float_makes_any_function_warn_or_raise(temps, humidity):
    for function in TWO:
        function(temps, humidity)
    for single in ONE:
        single(temps)


def test_dry_air_has_no_dew_point():
    assert np.isnan(psy.dew_point_c([20.0, 20.0], [0.0, -5.0])).all()


def test_saturated_air_has_dew_point_and_wet_bulb_at_its_temperature():
    for temp in (-20.0, 0.0, 24.3, 55.0):
        assert psy.dew_point_c(temp, 100) == pytest.approx(temp, abs=1e-9)
        assert psy.wet_bulb_c(temp, 100) == pytest.approx(temp, abs=1e-9)
        assert psy.vpd_kpa(temp, 100) == 0


def test_ice_is_below_water_under_zero_and_equal_above():
    assert psy.saturation_vapour_pressure_ice_pa(-5) == pytest.approx(401.8, abs=0.2)
    assert psy.saturation_vapour_pressure_ice_pa(-5) < psy.saturation_vapour_pressure_pa(-5)
    assert psy.saturation_vapour_pressure_ice_pa(5) == psy.saturation_vapour_pressure_pa(5)


def test_at_the_pole_of_the_formula_there_is_no_value():
    assert np.isnan(psy.saturation_vapour_pressure_pa([-237.3, -300.0, -np.inf])).all()


def test_boiling_air_has_no_mixing_ratio():
    assert np.isnan(psy.mixing_ratio(110, 100))


def test_a_light_sum_with_a_hole_is_not_a_number():
    assert np.isnan(psy.dli_mol_m2([250, np.nan, 250], 3600))
    assert psy.dli_mol_m2(np.ones((3, 4)), 1e6).tolist() == [4.0, 4.0, 4.0]


def test_unknown_gas_or_constant_is_the_callers_error():
    with pytest.raises(KeyError):
        psy.mg_m3_from_ppm(1, "argon")
    with pytest.raises(KeyError):
        psy.par_mol_from_global_mj(1, constant="guess")


@given(temperatures, humidities)
def test_dew_point_below_wet_bulb_below_air(temp, humidity):
    dew, wet = psy.dew_point_c(temp, humidity), psy.wet_bulb_c(temp, humidity)
    assert wet <= temp + 1e-9
    if temp > 0:  # below 0 C the psychrometer's constant is another; the order need not hold
        assert dew <= wet + 1e-9


@given(temperatures, humidities, st.floats(60_000, 105_000))
def test_wet_bulb_solves_its_equation(temp, humidity, pressure):
    wet = psy.wet_bulb_c(temp, humidity, pressure)
    left = psy.saturation_vapour_pressure_pa(wet) - 0.000665 * pressure * (temp - wet)
    assert left == pytest.approx(psy.vapour_pressure_pa(temp, humidity), abs=1e-5)


@given(temperatures, humidities)
def test_humidity_comes_back_from_the_dew_point(temp, humidity):
    vapour = psy.saturation_vapour_pressure_pa(psy.dew_point_c(temp, humidity))
    assert psy.relative_humidity_pct(temp, vapour) == pytest.approx(humidity, rel=1e-9)
