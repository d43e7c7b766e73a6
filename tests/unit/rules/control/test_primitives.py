"""Primitives without memory against scalar loops, and against figures worked out by hand."""

import datetime as dt
import math

import numpy as np
import pytest

from rules.control import primitives
from rules.control.primitives import MIDNIGHT, SUNRISE, SUNSET
from telemetry import quality, sun
from telemetry.errors import CallerError
from telemetry.psychrometrics import dew_point_c

NAN = float("nan")
BEIJING = (39.9, 116.4)
ZONE_S = 8 * 3600.0
H = 3600.0


def local(text: str) -> float:
    """Unix time of a local time in China."""
    return dt.datetime.fromisoformat(text + "+08:00").timestamp()


# -- against their definitions -------------------------------------------------------------------------------------------


def scalar_p_band(measured: float, set_point: float, band: float, low: float, high: float) -> float:
    if math.isnan(measured) or math.isnan(set_point) or band == 0.0 or math.isnan(band):
        return NAN
    share = min(max((measured - set_point) / band, 0.0), 1.0)
    return high if share == 1.0 else low + (high - low) * share


def scalar_curve(x: float, places: list[float], values: list[float]) -> float:
    if math.isnan(x):
        return NAN
    if x < places[0]:
        return values[0]
    for k in range(len(places) - 2, -1, -1):
        if x >= places[k + 1]:
            return values[k + 1]
        if x >= places[k]:
            return values[k] + (values[k + 1] - values[k]) * ((x - places[k]) / (places[k + 1] - places[k]))
    return values[0]


@pytest.mark.parametrize("seed", range(4))
def test_p_band_equals_its_definition_and_stays_in_its_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 3000
    measured, set_point = rng.uniform(-5, 40, n), rng.uniform(10, 30, n)
    band = rng.choice([-1.0, 4.0, 0.0, 1e-9, 20.0, NAN], n)
    low, high = rng.uniform(0, 50, n), rng.uniform(50, 100, n)
    measured[rng.random(n) < 0.1] = NAN
    out = primitives.p_band(measured, set_point, band, low=low, high=high)
    np.testing.assert_array_equal(out, [scalar_p_band(*row) for row in zip(measured, set_point, band, low, high, strict=True)])
    assert np.isnan(out[np.isnan(measured) | (band == 0.0)]).all()
    fine = ~np.isnan(out)
    assert ((out >= low) & (out <= high))[fine].all()


@pytest.mark.parametrize("seed", range(4))
def test_influence_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-100, 1000, 3000)
    x[::7] = NAN
    start, slope, low, high = rng.uniform(0, 500, 3000), rng.normal(0, 0.1, 3000), rng.uniform(-3, 0, 3000), rng.uniform(0, 3, 3000)
    expected = [
        NAN if math.isnan(a) else min(max(k * (a - b), lo), hi) for a, b, k, lo, hi in zip(x, start, slope, low, high, strict=True)
    ]
    np.testing.assert_array_equal(primitives.influence(x, start, slope, low, high), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("knots", [1, 2, 3, 10])
def test_curve_equals_its_definition(seed: int, knots: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(rng.uniform(-20, 120, 1000) * 4) / 4
    x[::9] = NAN
    places = np.sort(np.round(rng.uniform(0, 100, (1000, knots))), axis=1)
    values = rng.uniform(10, 30, (1000, knots))
    x[::5] = places[::5, -1]
    x[1::5] = places[1::5, 0]
    expected = [scalar_curve(a, list(p), list(v)) for a, p, v in zip(x, places, values, strict=True)]
    np.testing.assert_array_equal(primitives.curve(x, places, values), expected)
    shared = [scalar_curve(a, list(places[0]), list(values[0])) for a in x]
    np.testing.assert_array_equal(primitives.curve(x, places[0], values[0]), shared)


def test_a_curve_out_of_order_is_refused_with_the_fix() -> None:
    with pytest.raises(CallerError, match="sort them"):
        primitives.curve(1.0, [0.0, 2.0, 1.0], [1.0, 2.0, 3.0])
    with pytest.raises(CallerError, match="finite"):
        primitives.curve(1.0, [0.0, NAN], [1.0, 2.0])
    with pytest.raises(CallerError, match="as many values as places"):
        primitives.curve(1.0, [0.0, 1.0], [1.0, 2.0, 3.0])


def scalar_period(now: float, starts: list[float]) -> int:
    begun = [(s, k) for k, s in enumerate(starts) if s <= now]
    every = [(s, k) for k, s in enumerate(starts) if math.isfinite(s)]
    if math.isnan(now) or not every:
        return -1
    return max(begun or every)[1]


def scalar_schedule(now: float, starts: list[float], ends: list[float], conditions: list[float], values: list[float]) -> float:
    if math.isnan(now):
        return NAN
    for start, end, condition, value in zip(starts, ends, conditions, values, strict=True):
        if math.isnan(start) or math.isnan(end) or condition == 0.0:
            continue
        if (start <= now < end) if start <= end else (now >= start or now < end):
            return NAN if math.isnan(condition) else value
    return -1.0


@pytest.mark.parametrize("seed", range(4))
def test_periods_and_schedules_equal_their_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = 2000, 4
    now = rng.integers(0, 24, n).astype(float)
    now[::50] = NAN
    starts, ends = (rng.integers(0, 24, (n, k)).astype(float) for _ in range(2))
    starts[rng.random((n, k)) < 0.2] = NAN
    conditions = rng.choice([0.0, 1.0, NAN], (n, k), p=[0.4, 0.5, 0.1])
    values = rng.uniform(0, 100, (n, k))
    periods = primitives.period_of_day(now, starts)
    np.testing.assert_array_equal(periods, [scalar_period(t, list(row)) for t, row in zip(now, starts, strict=True)])
    out = primitives.schedule(now, starts, ends, conditions=conditions, values=values, otherwise=-1.0)
    rows = zip(now, starts, ends, conditions, values, strict=True)
    np.testing.assert_array_equal(out, [scalar_schedule(t, list(a), list(b), list(c), list(v)) for t, a, b, c, v in rows])
    assert -1.0 in out
    assert np.isnan(out).any()


def test_bad_values_are_unknown_and_uncertain_ones_are_not() -> None:
    out = primitives.known([1.0, 2.0, 3.0], [quality.GOOD, quality.UNCERTAIN | quality.STUCK, quality.BAD | quality.OUT_OF_RANGE])
    np.testing.assert_array_equal(out, [1.0, 2.0, NAN])


# -- times of day --------------------------------------------------------------------------------------------------------


def test_times_are_counted_from_midnight_sunrise_and_sunset() -> None:
    now = [local("2024-06-21T00:00"), local("2024-06-21T13:30"), local("2024-06-21T23:59")]
    found = primitives.moments_s(now, ZONE_S, *BEIJING, anchor=[MIDNIGHT, SUNRISE, SUNSET], offset_s=[6 * H, -1800.0, H])
    assert found.shape == (3, 3)
    assert (found == found[0]).all(), "the same all through the local day"
    assert found[0, 0] == local("2024-06-21T06:00")
    # Calendars give 04:46 and 19:46 for Beijing on this day; sun.py promises some minutes.
    assert abs(found[0, 1] - local("2024-06-21T04:16")) < 300
    assert abs(found[0, 2] - local("2024-06-21T20:46")) < 300
    rise, down = sun.sunrise_sunset_s(local("2024-06-21T12:00"), *BEIJING)
    assert (found[0, 1], found[0, 2]) == (rise - 1800.0, down + H)


def test_a_day_without_sunrise_has_no_period_that_begins_with_it() -> None:
    now = local("2024-12-21T12:00")
    starts = primitives.moments_s([now, now], ZONE_S, [39.9, 80.0], 116.4, anchor=[MIDNIGHT, SUNRISE], offset_s=0.0)
    assert np.isnan(starts[1, 1])
    np.testing.assert_array_equal(primitives.period_of_day([now, now], starts), [1, 0])
    np.testing.assert_array_equal(primitives.period_of_day([now], [[NAN, NAN]]), [-1])


def test_before_the_first_period_of_today_the_last_of_yesterday_holds() -> None:
    now = np.array([local(f"2024-03-20T{h:02d}:00") for h in range(24)])
    starts = primitives.moments_s(now, ZONE_S, *BEIJING, anchor=[SUNRISE, SUNSET], offset_s=[-H, 0.0])
    night = 1
    periods = primitives.period_of_day(now, starts)
    assert list(periods[[0, 4, 20, 23]]) == [night] * 4
    assert list(periods[[6, 12, 17]]) == [0] * 3


def test_a_window_may_cross_midnight() -> None:
    now = np.array([local(f"2024-03-20T{h:02d}:30") for h in range(24)])
    starts = primitives.moments_s(now, ZONE_S, *BEIJING, anchor=[MIDNIGHT], offset_s=[22 * H])
    ends = primitives.moments_s(now, ZONE_S, *BEIJING, anchor=[MIDNIGHT], offset_s=[3 * H])
    out = primitives.schedule(now, starts, ends, conditions=1.0, values=[40.0], otherwise=0.0)
    assert list(np.flatnonzero(out)) == [0, 1, 2, 22, 23]


def test_the_dehumidifying_pulse_needs_its_condition() -> None:
    """Handbook 2.3: 10 % for 15 minutes, 30 min after opening at sunrise + 1 h, when it is above 15 C inside."""
    opening = local("2024-01-10T08:30")
    now = opening + np.array([20, 30, 44.9, 45, 35, 35]) * 60.0
    inside = np.array([18.0, 18.0, 18.0, 18.0, 14.0, NAN])
    condition = np.where(np.isnan(inside), NAN, inside > 15.0)
    start, end = np.full((6, 1), opening + 1800.0), np.full((6, 1), opening + 2700.0)
    out = primitives.schedule(now, start, end, conditions=condition[:, None], values=[10.0], otherwise=0.0)
    np.testing.assert_array_equal(out, [0.0, 10.0, 10.0, 0.0, 0.0, NAN])


# -- worked out by hand from the handbook --------------------------------------------------------------------------------


def test_vents_of_a_multi_span_house() -> None:
    """3.3: ventilation = heating + 5 K, P-band 4 K; heating band -1 K: the two never overlap."""
    heat = 19.5
    vent = primitives.ventilation_setpoint(heat, 0.0, 5.0)
    assert vent == 24.5
    air = np.array([18.0, 18.5, 19.0, 19.5, 24.5, 25.5, 26.5, 28.5, 40.0])
    np.testing.assert_allclose(primitives.p_band(air, vent, 4.0), [0, 0, 0, 0, 0, 25, 50, 100, 100])
    np.testing.assert_allclose(primitives.p_band(air, heat, -1.0), [100, 100, 50, 0, 0, 0, 0, 0, 0])
    every = np.linspace(0.0, 50.0, 5001)
    assert not (primitives.p_band(every, vent, 4.0) * primitives.p_band(every, heat, -1.0)).any()
    assert primitives.ventilation_setpoint(heat, 30.0, 5.0) == 30.0
    assert math.isnan(primitives.ventilation_setpoint(NAN, 30.0, 5.0))


def test_the_vents_band_widens_in_cold_and_wind() -> None:
    """3.3: pb = 4 + 0.4 max(0, 15 - To) + 0.5 max(0, wind - 3), at most 20 K."""
    outside, wind = np.array([20.0, 5.0, 5.0, -20.0]), np.array([0.0, 2.0, 9.0, 12.0])
    wider = primitives.influence(outside, 15.0, -0.4, 0.0, np.inf) + primitives.influence(wind, 3.0, 0.5, 0.0, np.inf)
    np.testing.assert_allclose(np.minimum(4.0 + wider, 20.0), [4.0, 8.0, 11.0, 20.0])
    light = primitives.influence([100.0, 200.0, 400.0, 600.0, 900.0], 200.0, 2.0 / 400.0, 0.0, 2.0)
    np.testing.assert_allclose(light, [0.0, 0.0, 1.0, 2.0, 2.0])


def test_minimum_pipe_and_co2_set_point() -> None:
    """3.3: pipe 20 C at set + 10 %, 40 C at set + 15 %; CO2 from 1000 ppm at closed vents to 425 at 25 %."""
    above = np.array([10.0, 12.5, 15.0, 20.0])
    np.testing.assert_allclose(primitives.p_band(80.0 + above, 80.0 + 10.0, 5.0, low=20.0, high=40.0), [20.0, 30.0, 40.0, 40.0])
    vents = [0.0, 12.5, 25.0, 100.0]
    np.testing.assert_allclose(primitives.curve(vents, [0.0, 25.0], [1000.0, 425.0]), [1000.0, 712.5, 425.0, 425.0])


def test_temperature_curve_of_pigs() -> None:
    """4.3: the table of room set points by weight."""
    weights, room = [6, 8, 12, 18, 25, 35, 50, 70, 90, 110], [28, 27, 25.5, 23.5, 22, 21, 20, 19, 18, 17]
    np.testing.assert_allclose(primitives.curve([5.0, 6.0, 10.0, 60.0, 150.0], weights, room), [28.0, 28.0, 26.25, 19.5, 17.0])


def test_stage_speeds_of_a_pig_house() -> None:
    """4.3: stage 1 50 % at set point, 100 % at +1.1 K; stage 2 50 % at +1.4 K, 100 % at +2.2 K."""
    above = np.array([-3.0, 0.0, 0.55, 1.1, 1.4, 1.8, 2.2])
    first = primitives.p_band(18.0 + above, 18.0, 1.1, low=50.0, high=100.0)
    second = primitives.p_band(18.0 + above, 18.0 + 1.4, 0.8, low=50.0, high=100.0)
    np.testing.assert_allclose(first, [50.0, 50.0, 75.0, 100.0, 100.0, 100.0, 100.0])
    np.testing.assert_allclose(second, [50.0, 50.0, 50.0, 50.0, 50.0, 75.0, 100.0])


def test_blanket_break_even() -> None:
    assert abs(primitives.blanket_break_even_w_m2(9.0, -11.0) - 94.0) < 0.6
    assert primitives.blanket_break_even_w_m2(10.0, 15.0) == 0.0
    assert math.isnan(primitives.blanket_break_even_w_m2(NAN, 15.0))


def test_minimum_ventilation_by_co2() -> None:
    """O20: a pig of 100 kg gives 224 W; 3000 ppm need 16.1 m3/h."""
    assert abs(primitives.ventilation_for_co2_m3_h(224.0, 3000.0) - 16.1) < 0.2
    assert abs(primitives.ventilation_for_co2_m3_h(224.0, 1605.0) - 35.0) < 0.2
    assert math.isnan(primitives.ventilation_for_co2_m3_h(224.0, 420.0))


def test_humidity_set_point_never_wets_the_wall() -> None:
    rng = np.random.default_rng(1)
    air = rng.uniform(15.0, 32.0, 5000)
    wall = air - rng.uniform(0.0, 8.0, 5000)
    wanted = rng.uniform(60.0, 99.0, 5000)
    cut = primitives.humidity_setpoint_pct(wanted, air, wall)
    assert (cut <= wanted).all()
    assert (dew_point_c(air, cut) <= wall - 0.3 + 1e-9).all()
    touched = cut < wanted
    assert 100 < touched.sum() < 4900
    np.testing.assert_allclose(dew_point_c(air, cut)[touched], (wall - 0.3)[touched], atol=1e-9)
    assert math.isnan(primitives.humidity_setpoint_pct(95.0, 25.0, NAN))
