"""Controller of a multi-span greenhouse: pipes, vents to lee and wind, screens, humidity, CO2, fans and pad, lamps, irrigation.

Levels: storm, rain and gusts bound as equipment, frost as survival, people as personnel_safety; what a mode presets is a hand's. The
rest asks for values. Unknown inputs: no air temperature, the vents follow the outside and the valve keeps from freezing; no wind, the
wind side is shut and lee nearly; no light, screens by the clock and no lamps but by PAR; no humidity, no fog; no CO2 or vent position,
no CO2. Nothing that is unknown stops what is known.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np

from rules.control.controller import Ask, Turn
from rules.control.given import chosen, is_in, known_or, middle
from rules.control.irrigation import irrigate, start_irrigation
from rules.control.memory import Guard, Moves, Rates, move, ramp, start_drive, start_ramp
from rules.control.multispan_base import (
    APART_K,
    BEYOND,
    CO2,
    CO2_PEOPLE,
    COLD,
    DOSE,
    FAN,
    FOG,
    FOG_PEOPLE,
    FROST,
    GUST,
    HEAT,
    HOUR_NS,
    HUMID,
    IDLE,
    LAMP,
    MIN_PIPE,
    NO_WIND,
    PAD,
    PADDED,
    PEOPLE,
    PIPE_MOST,
    PRESET,
    PUMP,
    PUMP_FROST,
    RAIN,
    SCREEN,
    SCREEN_HOT,
    SCREEN_RH,
    SHADE,
    STORM,
    UMOL_PER_J,
    WARM,
    WATER,
    WATER_MODE,
    WORK,
    Array,
    In,
    Means,
    Seen,
    State,
    below_full,
    steady,
)  # fmt: skip
from rules.control.multispan_settings import WHAT, Parameters
from rules.control.pi import Gains, pi, start_pi
from rules.control.primitives import clamp, influence, p_band, ventilation_setpoint
from rules.control.switch import start_switch, switch
from telemetry import psychrometrics
from telemetry.plan import NS_PER_S


class Multispan:
    """`Controller` (rules/control/controller.py) of profile `multispan`."""

    READS: tuple[str, ...] = (
        *("air_temp_c", "air_temp_2_c", "leaf_temp_c", "box_fan_bool", "air_rh_pct", "co2_ppm", "par_umol_m2_s", "pipe_supply_c"),
        *("screen_temp_top_c", "vent_lee_pct", "vent_wind_pct", "mixing_valve_pct", "circulation_fan_bool", "person_present_bool"),
        *("slab_weight_kg", "drip_flow_l_min", "drip_volume_l", "drain_volume_l", "drain_ec_ms_cm", "tank_level_pct"),
        *("weather.temp_c", "weather.rh_pct", "weather.rad_w_m2", "weather.rad_sum_j_cm2", "weather.wind_speed_m_s"),
        *("weather.wind_gust_m_s", "weather.wind_dir_deg", "weather.rain_bool"),
        *(
            "set.heating_c",
            "set.ventilation_c",
            "set.rh_pct",
            "set.co2_ppm",
            "set.pipe_max_c",
            "set.drip_ec_ms_cm",
            "set.dli_mol_m2",
        ),
        *("hour", "hours_after_sunrise", "hours_before_sunset", "mode"),
    )
    EVERY_S: float = 30.0

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Parameters with what a site gives. Raises CallerError."""
        return Parameters(**chosen(Parameters(), given, WHAT))

    def start(self, n: int, time_ns: int, parameters: Parameters) -> State:
        """State of n houses that have never run: pipes and vents are taken over as shut."""
        off, drive = start_switch(n), start_drive(np.zeros(n), time_ns, _moves(parameters))
        means = Means(np.full((n, 24), np.nan), np.zeros(n), np.zeros(n), np.full(n, time_ns // HOUR_NS))
        return State(
            now_ns=np.full(n, time_ns),
            heating=start_ramp(np.full(n, np.nan), time_ns),
            means=means,
            pipe=start_pi(np.zeros(n), time_ns),
            valve=start_pi(np.zeros(n), time_ns),
            opening_pct=np.zeros(n),
            pump=off,
            lee=drive,
            wind=drive,
            humid=drive,
            swapped=off,
            storm=off,
            rain=off,
            gust=start_ramp(np.full(n, np.nan), time_ns),
            screen=off,
            screen_gap=off,
            shade=off,
            fan=off,
            pad=off,
            fog=off,
            lamp=off,
            co2_pct=np.zeros(n),
            light_mol=np.zeros(n),
            sun_mol=np.zeros(n),
            yesterday_mol=np.zeros(n),
            hour=np.full(n, np.nan),
            irrigation=start_irrigation(n),
        )

    def step(self, state: State, time_ns: int, inputs: In, parameters: Parameters) -> Turn:
        """One run."""
        p = parameters
        table = np.array(list(inputs.values()))
        inputs = dict(zip(inputs, np.where(np.abs(table) < BEYOND, table, np.nan), strict=True))
        demands: dict[Ask, Array] = {}
        terms: dict[str, Array] = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            state, seen = _set_points(state, time_ns, inputs, p, terms)
            for part in (_heat, _cool, _ventilate, _screen, _dose_co2, _light, _water):
                state = part(state, seen, p, demands, terms)
        return Turn(state._replace(now_ns=np.full_like(state.now_ns, time_ns)), demands, terms)


CONTROLLER: Final = Multispan()
_GUARD: Final = Guard(Multispan.EVERY_S)


@lru_cache
def _moves(p: Parameters) -> Moves:
    return Moves(p.vent_step_pct, 0, p.vent_wait_s)


@lru_cache
def _pipe_gains(p: Parameters) -> Gains:
    return Gains(-p.heating_pipe_k_k, p.heating_integral_s, low=-p.pipe_trim_k, high=p.pipe_trim_k)


@lru_cache
def _valve_gains(p: Parameters) -> Gains:
    return Gains(-p.valve_pct_k, p.valve_integral_s)


@lru_cache
def _warming(p: Parameters) -> Rates:
    return Rates(p.ramp_up_k_h, p.ramp_down_k_h)


@lru_cache
def _calming(p: Parameters) -> Rates:
    return Rates(np.inf, (p.gust_shut_m_s - p.gust_from_m_s) * 3600.0 / p.calm_s)


def _air_c(inputs: In) -> Array:
    """Mean of two thermometers; of three, with the leaf's, the middle where the two differ; the second alone without a box fan."""
    second = inputs["air_temp_2_c"]
    first = np.where((inputs["box_fan_bool"] < 0.5) & np.isfinite(second), np.nan, inputs["air_temp_c"])
    leaf = np.where(np.abs(first - second) > APART_K, inputs["leaf_temp_c"], np.nan)
    return middle(first, second, leaf)


def _set_points(state: State, time_ns: int, inputs: In, p: Parameters, terms: dict[str, Array]) -> tuple[State, Seen]:
    """Heating by day and night with its ramp, 24 h and light; ventilation a dead zone above."""
    elapsed_s = clamp((time_ns - state.now_ns) / NS_PER_S, 0.0, 3.0 * Multispan.EVERY_S)
    after, before, rad, air = (
        inputs["hours_after_sunrise"],
        inputs["hours_before_sunset"],
        inputs["weather.rad_w_m2"],
        _air_c(inputs),
    )
    clock = np.isfinite(after) & np.isfinite(before)
    is_day = np.where(clock, (after >= p.day_from_sunrise_h) & (before >= p.day_to_sunset_h), ~(rad <= 5.0))
    idle = is_in(inputs["mode"], IDLE)
    seen = Seen(
        inputs,
        time_ns,
        elapsed_s,
        air,
        is_day,
        clock & (after >= 0.0) & (before >= 0.0),
        air,
        air,
        idle,
        is_in(inputs["mode"], PEOPLE),
    )
    day_c = seen.given("heating_c", p.heating_c)
    means, mean_c = _mean_24h(state.means, time_ns, air, elapsed_s)
    made_good = clamp(known_or(p.mean_share * (day_c - mean_c), 0.0), -p.mean_down_k, p.mean_up_k)
    target = np.where(idle, p.empty_c, day_c - np.where(is_day, 0.0, p.night_drop_k))
    heating, base = ramp(state.heating, time_ns, target, _warming(p), _GUARD)
    slope = p.light_k / (p.light_to_w_m2 - p.light_from_w_m2)
    by_light = np.where(idle, 0.0, known_or(influence(rad, p.light_from_w_m2, slope, 0.0, p.light_k), 0.0))
    made_good = np.where(idle, 0.0, made_good)
    heating_c = base + by_light + made_good
    # What is made good lowers heating, not ventilation; an empty house needs no air at 10 C.
    warm = np.maximum(heating_c, np.where(idle, day_c, base + by_light))
    ventilation_c = ventilation_setpoint(warm, known_or(inputs["set.ventilation_c"], -np.inf), p.dead_zone_k)
    terms |= {"air_c": air, "heating_setpoint_c": heating_c, "ventilation_setpoint_c": ventilation_c, "light_influence_k": by_light}
    terms |= {"mean_24h_c": mean_c, "mean_compensation_k": made_good}
    return state._replace(heating=heating, means=means), seen._replace(heating_c=heating_c, ventilation_c=ventilation_c)


def _mean_24h(state: Means, time_ns: int, air: Array, elapsed_s: Array) -> tuple[Means, Array]:
    """Mean of the last 24 h; NaN until half of them were seen."""
    hour = np.full_like(state.hour, time_ns // HOUR_NS)
    new = hour != state.hour
    hours, seen = state.hours_c, state.seen_s
    if new.any():
        of_hour = np.where(seen > 0.0, state.sum_k_s / np.where(seen > 0.0, seen, 1.0), np.nan)
        hours = np.where(new[:, None], np.concatenate([hours[:, 1:], of_hour[:, None]], axis=1), hours)
    known = np.where(np.isfinite(air), elapsed_s, 0.0)
    after = Means(hours, np.where(new, 0.0, state.sum_k_s) + known * known_or(air, 0.0), np.where(new, 0.0, seen) + known, hour)
    there = np.isfinite(hours)
    count = there.sum(axis=1)
    return after, np.where(count >= 12, np.where(there, hours, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _heat(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Air to pipe to valve; minimum pipe; frost."""
    inputs, air, time_ns = seen.inputs, seen.air_c, seen.time_ns
    most, supply, outside = seen.given("pipe_max_c", p.pipe_max_c), inputs["pipe_supply_c"], inputs["weather.temp_c"]
    blind = ~np.isfinite(air)
    error = air - seen.heating_c
    # What the weather takes and the sun gives goes before; PI makes good the rest, and begins anew where no heat is near.
    rad = known_or(inputs["weather.rad_w_m2"], 0.0)
    lost = p.pipe_outside_k_k * np.where(state.screen.on, 1.0 - p.screen_saving, 1.0) * (seen.heating_c - outside)
    ahead = seen.heating_c + known_or(lost, 0.0) - p.pipe_light_k_m2_w * rad
    near = error < 1.0
    pipe, trim = pi(state.pipe, time_ns, error, _pipe_gains(p), _GUARD, position=np.where(near, np.nan, 0.0), auto=near)
    for_heat = np.where(near, np.minimum(np.maximum(ahead + trim, 0.0), most), 0.0)
    over = inputs["air_rh_pct"] - seen.given("rh_pct", p.rh_pct)
    band = p.rh_pipe_to_pct - p.rh_pipe_from_pct
    minimum = p_band(over, p.rh_pipe_from_pct, band, low=p.pipe_min_from_c, high=p.pipe_min_to_c)
    humid = (over > p.rh_pipe_from_pct) & (air < seen.ventilation_c) & ~seen.idle
    minimum = np.where(humid, np.minimum(minimum, most), 0.0)
    wanted = np.maximum(for_heat, minimum)
    needs = (wanted > air + 2.0) & ~blind
    valve, opening = pi(
        state.valve, time_ns, supply - wanted, _valve_gains(p), _GUARD, position=inputs["mixing_valve_pct"], auto=needs
    )
    opening = np.where(np.isfinite(supply), opening, p_band(air, seen.heating_c, -p.blind_band_k))
    opening = np.where(needs, opening, 0.0)
    opening = steady(state.opening_pct, opening, p.valve_step_pct)
    by_humidity = needs & (minimum > for_heat)
    pump = switch(state.pump, time_ns, needs, ~needs, off_delay_s=p.pump_overrun_s)
    freezes = ~(outside >= p.pump_frost_c)  # an outside that is not known may freeze
    frost = np.where(blind, np.where(freezes, p.frost_valve_pct, 0.0), p_band(air, p.frost_c, -2.0))
    demands[HEAT] = np.where(blind | by_humidity, np.nan, opening)
    demands[MIN_PIPE] = np.where(by_humidity, opening, np.nan)
    demands[PIPE_MOST] = below_full(p_band(supply, most, 5.0, low=100.0, high=0.0))
    demands[FROST] = np.where(frost > 0.0, frost, np.nan)
    demands[PUMP] = np.where(pump.on, 1.0, 0.0)
    demands[PUMP_FROST] = np.where(freezes | (frost > 0.0), 1.0, np.nan)
    terms |= {"pipe_setpoint_c": wanted, "minimum_pipe_c": minimum}
    return state._replace(pipe=pipe, valve=valve, opening_pct=opening, pump=pump)


def _cool(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Exhaust fans, pad and fog, when vents alone do not hold it."""
    inputs, air, time_ns, rh = seen.inputs, seen.air_c, seen.time_ns, seen.inputs["air_rh_pct"]
    outside, outside_rh = inputs["weather.temp_c"], inputs["weather.rh_pct"]
    blind, start_c, pad_c = ~np.isfinite(air), seen.ventilation_c + p.fan_above_k, seen.ventilation_c + p.pad_above_k
    preset = is_in(inputs["mode"], PRESET)
    helps = ~(air < outside + p.fan_over_outside_k) | ((air > pad_c - 1.5) & (outside_rh < p.pad_rh_pct))
    fan = switch(state.fan, time_ns, helps & (air > start_c), ~(helps & (air > start_c - 1.0)), on_delay_s=60.0, off_delay_s=300.0)
    speed = np.ceil(p_band(air, start_c, p.fan_band_k, low=p.fan_least_pct) / 10.0) * 10.0
    speed = np.where(blind, np.where(outside > 20.0, p.fan_blind_pct, 0.0), np.where(fan.on, speed, 0.0))
    speed = np.where(preset, 0.0, np.minimum(speed, 100.0))
    wet = (speed >= p.pad_fan_pct) & (air > pad_c) & (outside_rh < p.pad_rh_pct)
    dry = ~((speed >= 0.6 * p.pad_fan_pct) & (air > pad_c - 1.5) & (outside_rh < p.pad_rh_pct + 5.0))
    pad = switch(state.pad, time_ns, wet, dry, on_delay_s=60.0, min_on_s=60.0, min_off_s=120.0)
    vpd = psychrometrics.vpd_kpa(air, rh)
    thirsty = (vpd > p.fog_on_kpa) & (air > p.fog_from_c) & ~pad.on & ~seen.people & ~seen.idle
    moist = ~((vpd > p.fog_off_kpa) & (air > p.fog_from_c - 1.0)) | pad.on | seen.people | seen.idle
    fog = switch(state.fog, time_ns, thirsty, moist, on_delay_s=60.0, min_on_s=60.0, min_off_s=120.0)
    demands[FAN] = speed
    demands[PAD] = np.where(pad.on, 1.0, 0.0)
    demands[FOG] = np.where(fog.on, 1.0, 0.0)
    demands[FOG_PEOPLE] = np.where(seen.people, 0.0, np.nan)
    terms |= {"vpd_kpa": vpd, "fan_from_c": start_c, "pad_from_c": pad_c}
    return state._replace(fan=fan, pad=pad, fog=fog)


def _ventilate(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Lee and wind side by temperature and humidity, and what limits them."""
    inputs, air, time_ns, outside = seen.inputs, seen.air_c, seen.time_ns, seen.inputs["weather.temp_c"]
    state, gust, mean, roles = _winds(state, seen, p)
    cold = known_or(influence(outside, p.band_cold_from_c, -p.band_cold_k_k, 0.0, np.inf), 0.0)
    windy = known_or(influence(mean, p.band_wind_from_m_s, p.band_wind_k, 0.0, np.inf), 0.0)
    band = np.minimum(p.band_k + cold + windy, p.band_max_k)
    fine = influence(inputs["weather.rad_w_m2"], 300.0, 1.0 / 400.0, 0.0, 1.0) * influence(outside, 10.0, 0.1, 0.0, 1.0)
    early = known_or(p.meteo_k * fine * (1.0 - influence(mean, 2.0, 0.25, 0.0, 1.0)), 0.0)
    blind, shut = ~np.isfinite(air), air < seen.heating_c - p.vents_cold_k
    by_outside = p_band(outside, 10.0, 15.0, high=50.0)  # while no air temperature is known
    warm_lee, warm_wind = (
        np.where(blind, by_outside, np.where(shut, 0.0, p_band(air, seen.ventilation_c + release - early, band)))
        for release in (p.lee_release_k, p.wind_release_k)
    )
    over = inputs["air_rh_pct"] - seen.given("rh_pct", p.rh_pct)
    most = known_or(p_band(outside, 10.0, 10.0, low=p.rh_vent_pct, high=p.rh_vent_warm_pct), p.rh_vent_pct)
    humid = p_band(over, p.rh_vent_from_pct, p.rh_vent_to_pct - p.rh_vent_from_pct, high=most)
    humid = np.where(shut | seen.idle, 0.0, known_or(humid, 0.0))
    humid_moves = Moves(np.maximum(p.rh_vent_step_pct, most / 4.0), 0, p.vent_wait_s)
    humid_drive, humid = move(state.humid, time_ns, humid, humid_moves, _GUARD)
    lee, wind = roles(warm_lee, warm_wind)
    lee_drive, lee_pct = move(state.lee, time_ns, lee, _moves(p), _GUARD)
    wind_drive, wind_pct = move(state.wind, time_ns, wind, _moves(p), _GUARD)
    demands[WARM[0]], demands[WARM[1]] = lee_pct, wind_pct
    demands[HUMID[0]], demands[HUMID[1]] = roles(np.where(humid > 0.0, humid, np.nan), np.full_like(humid, np.nan))
    _limit_vents(state, seen, p, demands, gust=gust, roles=roles)
    terms |= {"ventilation_band_k": band, "meteo_k": early, "gust_m_s": gust, "humidity_over_pct": over}
    terms["lee_and_wind_swapped"] = state.swapped.on.astype(np.float64)
    return state._replace(lee=lee_drive, wind=wind_drive, humid=humid_drive)


def _winds(state: State, seen: Seen, p: Parameters) -> tuple[State, Array, Array, Any]:
    """Storm, rain, gust and mean wind, and which drive is to lee: `roles(lee, wind)` gives (vent_lee, vent_wind)."""
    inputs, time_ns = seen.inputs, seen.time_ns
    gust, mean = inputs["weather.wind_gust_m_s"], inputs["weather.wind_speed_m_s"]
    gust, mean = np.where(np.isfinite(gust), gust, 1.5 * mean), np.where(np.isfinite(mean), mean, gust / 1.5)
    ordered = is_in(inputs["mode"], ("STORM",))
    calm = (gust < p.storm_gust_m_s - p.storm_hysteresis_m_s) & (mean < p.storm_mean_m_s - p.storm_hysteresis_m_s) & ~ordered
    storm = switch(
        state.storm, time_ns, (gust > p.storm_gust_m_s) | (mean > p.storm_mean_m_s) | ordered, calm, off_delay_s=p.calm_s
    )
    wet = inputs["weather.rain_bool"]
    rain = switch(state.rain, time_ns, wet > 0.5, wet < 0.5, off_delay_s=p.calm_s)
    felt, strongest = ramp(state.gust, time_ns, gust, _calming(p), _GUARD)
    facing = np.cos(np.radians(inputs["weather.wind_dir_deg"] - p.wind_side_deg))
    fixed, blows = p.wind_side_deg < 0.0, mean > 1.0
    swapped = switch(
        state.swapped,
        time_ns,
        (facing < -0.2) & blows & (not fixed),
        (facing > 0.2) & blows | fixed,
        on_delay_s=300.0,
        off_delay_s=300.0,
    )

    def roles(lee: Array, wind: Array) -> tuple[Array, Array]:
        return np.where(swapped.on, wind, lee), np.where(swapped.on, lee, wind)

    strongest = np.where(np.isfinite(gust), strongest, np.nan)
    return state._replace(storm=storm, rain=rain, gust=felt, swapped=swapped), strongest, mean, roles


def _limit_vents(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], *, gust: Array, roles: Any) -> None:
    """Bounds of the vents by what threatens roof, crop and work."""
    unknown, full = ~np.isfinite(gust), np.full_like(gust, np.nan)
    lee_gust = below_full(p_band(gust, p.gust_lee_m_s, p.gust_shut_m_s - p.gust_lee_m_s, low=100.0, high=0.0))
    wind_gust = below_full(p_band(gust, p.gust_from_m_s, p.gust_shut_m_s - p.gust_from_m_s, low=100.0, high=0.0))
    frozen = np.where(is_in(seen.inputs["mode"], ("FROST",)), 0.0, below_full(p_band(seen.air_c, p.vents_frost_c, 2.0)))
    work = np.where(is_in(seen.inputs["mode"], PRESET), 0.0, np.nan)
    for asks, lee, wind in (
        (STORM, *(np.where(state.storm.on, 0.0, full),) * 2),
        (GUST, *roles(lee_gust, wind_gust)),
        (RAIN, *roles(np.where(state.rain.on, p.rain_lee_pct, full), np.where(state.rain.on, p.rain_wind_pct, full))),
        (NO_WIND, *roles(np.where(unknown, p.blind_lee_pct, full), np.where(unknown, p.blind_wind_pct, full))),
        (COLD, frozen, frozen),
        (PADDED, *(np.where(state.pad.on, p.pad_vent_pct, full),) * 2),
        (WORK, work, work),
    ):
        demands[asks[0]], demands[asks[1]] = lee, wind


def _screen(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Energy screen with its gaps; shade."""
    inputs, air, time_ns, rad = seen.inputs, seen.air_c, seen.time_ns, seen.inputs["weather.rad_w_m2"]
    outside, lit = inputs["weather.temp_c"], np.isfinite(rad)
    clock = np.isfinite(inputs["hours_after_sunrise"])
    dark = np.where(lit, rad < p.screen_close_w_m2, clock & ~seen.is_up)
    bright = np.where(lit, rad > p.screen_open_w_m2, seen.is_up)
    cold_c = np.where(seen.is_day, p.screen_day_c, p.screen_night_c)
    warm = air > seen.heating_c + p.screen_hot_k
    screen = switch(
        state.screen,
        time_ns,
        dark & (outside < cold_c) & ~warm,
        bright | (outside > cold_c + 2.0) | warm,
        on_delay_s=300.0,
        off_delay_s=300.0,
    )
    since_s = (time_ns - screen.changed_ns) / NS_PER_S
    colder = air - inputs["screen_temp_top_c"] > p.screen_cold_k
    opens = ~screen.on & ((since_s < p.screen_gap_s) | (colder & (since_s < p.screen_gap_max_s)))
    position = np.where(screen.on, 100.0, np.where(opens, 100.0 - p.screen_gap_pct, 0.0))
    over = inputs["air_rh_pct"] - seen.given("rh_pct", p.rh_pct)
    gap = switch(state.screen_gap, time_ns, over > p.rh_vent_from_pct + 3.0, ~(over > p.rh_vent_from_pct - 2.0), on_delay_s=300.0)
    open_vent = np.fmax(inputs["vent_lee_pct"], inputs["vent_wind_pct"]) > 5.0
    shade = switch(
        state.shade,
        time_ns,
        rad > p.shade_w_m2,
        ~(rad >= p.shade_w_m2 - p.shade_hysteresis_w_m2),
        on_delay_s=p.shade_on_s,
        off_delay_s=p.shade_off_s,
    )
    demands[SCREEN] = position
    demands[SCREEN_RH] = np.where(gap.on & (position > 0.0), 100.0 - p.screen_rh_gap_pct, np.nan)
    demands[SCREEN_HOT] = np.where((air > p.hot_c) & open_vent, 0.0, np.nan)
    demands[SHADE] = np.where(shade.on, p.shade_pct, 0.0)
    terms |= {"screen_below_c": cold_c, "screen_gap_pct": np.where(position > 0.0, 100.0 - position, 0.0)}
    return state._replace(screen=screen, screen_gap=gap, shade=shade)


def _dose_co2(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """CO2 by light and by how far the vents stand open."""
    inputs, most = seen.inputs, seen.given("co2_ppm", p.co2_ppm)
    vents = np.maximum(inputs["vent_lee_pct"], inputs["vent_wind_pct"])
    wanted = p_band(vents, 0.0, p.co2_vent_pct, low=most, high=np.minimum(p.co2_open_ppm, most))
    people = (inputs["person_present_bool"] > 0.5) | seen.people
    doses = (inputs["weather.rad_w_m2"] > p.co2_light_w_m2) & (vents < p.co2_vent_pct) & ~(demands[FAN] > 0.0) & ~seen.idle
    doses &= ~(inputs["circulation_fan_bool"] < 0.5)
    opening = np.where(doses, known_or(p_band(inputs["co2_ppm"], wanted, -p.co2_band_ppm), 0.0), 0.0)
    demands[CO2] = opening = steady(state.co2_pct, opening, p.co2_step_pct)
    demands[CO2_PEOPLE] = np.where(people, 0.0, np.nan)
    terms["co2_setpoint_ppm"] = wanted
    return state._replace(co2_pct=opening)


def _light(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Lamps, until the day's light is reached."""
    inputs, time_ns, rad, hour = seen.inputs, seen.time_ns, seen.inputs["weather.rad_w_m2"], seen.inputs["hour"]
    sun = UMOL_PER_J * p.transmission * np.maximum(known_or(rad, 0.0), 0.0)
    par = inputs["par_umol_m2_s"]
    par = np.maximum(np.where(np.isnan(par), sun, par), 0.0)
    new_day, share = hour < state.hour, seen.elapsed_s / 1e6
    yesterday = np.where(new_day, state.sun_mol, state.yesterday_mol)
    mol = np.where(new_day, 0.0, state.light_mol) + par * share
    sun_mol = np.where(new_day, 0.0, state.sun_mol) + sun * share
    # The sun will give today what it gave yesterday, as far as the day is not over.
    after, before = inputs["hours_after_sunrise"], inputs["hours_before_sunset"]
    left = np.minimum(np.maximum(before / (after + before), 0.0), 1.0)
    expected = mol + known_or(left, 0.0) * yesterday
    target = seen.given("dli_mol_m2", p.dli_mol_m2)
    hours = (hour >= p.lamp_from_h) & (hour < p.lamp_to_h) & (expected < target) & ~seen.idle
    lamp = switch(
        state.lamp,
        time_ns,
        hours & (rad < p.lamp_w_m2),
        ~(hours & (rad < 2.0 * p.lamp_w_m2)),
        on_delay_s=300.0,
        off_delay_s=300.0,
        min_on_s=p.lamp_on_s,
        min_off_s=p.lamp_off_s,
    )
    demands[LAMP] = np.where(lamp.on, 1.0, 0.0)
    terms |= {"light_mol_m2": mol, "light_expected_mol_m2": expected, "light_target_mol_m2": target}
    known = np.where(np.isfinite(hour), hour, state.hour)
    return state._replace(lamp=lamp, light_mol=mol, sun_mol=sun_mol, yesterday_mol=yesterday, hour=known)


def _water(state: State, seen: Seen, p: Parameters, demands: dict[Ask, Array], terms: dict[str, Array]) -> State:
    """Shots and what is dosed into them."""
    may = ~(seen.idle | seen.people)
    drip = seen.given("drip_ec_ms_cm", p.drip_ec_ms_cm)
    irrigation, water = irrigate(state.irrigation, seen.time_ns, seen.elapsed_s, seen.inputs, may, drip, p)
    demands[WATER] = demands[DOSE] = np.where(water.shot, 1.0, 0.0)
    demands[WATER_MODE] = np.where(seen.people, 0.0, np.nan)
    terms |= {"sun_since_shot_j_cm2": irrigation.sun_j_cm2, "sun_to_shot_j_cm2": water.need_j_cm2}
    terms |= {"drain_pct": water.drain_pct, "drain_wanted_pct": water.drain_wanted_pct}
    return state._replace(irrigation=irrigation)
