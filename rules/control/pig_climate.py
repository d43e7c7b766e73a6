"""Climate of pig houses: temperature, minimum ventilation and its trims, fans, inlets, tunnel, pad, heater, lamps, curtains."""

import functools
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control import memory, pi, staging
from rules.control.given import known_or
from rules.control.memory import DAY_S, NEVER, Cycle, Guard
from rules.control.pig_settings import Parameters, along
from rules.control.primitives import clamp, influence, p_band, ventilation_for_co2_m3_h
from telemetry.plan import NS_PER_S
from telemetry.site import MODES

Array = NDArray[Any]
Inputs = Mapping[str, Array]

PERIOD_S: Final = 10.0
FANS: Final = ("fan_2", "fan_3", "fan_4")
AIR_PROOF_S: Final = 360.0  # a pause of minimum ventilation is shorter
HEATED_S: Final = 900.0  # after the heater cooling begins later
AIR_LOST_S: Final = 60.0
POWER_LOST_S: Final = 120.0
MISSING_S: Final = 30.0  # a fan that was asked for so long without turning is left out
RETRY_S: Final = 900.0
TURNING_RPM: Final = 100.0
ELSEWHERE_PCT: Final = 5.0
COOLED_STEP, TRIM_STEP_PCT = 0.08, 3.0  # noise of an instrument moves no fan
# Air answers a fan within half a minute: a share that followed each reading would swing with it. Gases take minutes.
COOLED_TAU_S, TRIM_TAU_S = 120.0, 300.0
TUNNEL_BACK_K: Final = 1.5
IDLE_K: Final = -10.0  # an error that asks for nothing
COLD_OUTSIDE_K: Final = 8.0  # below the set point: without a thermometer no more than the first stage
AIRED_SHARE: Final = 0.8  # after a disinfection
_EMPTY, _WASHDOWN, _DISINFECT, _PREHEAT = (float(MODES.index(name)) for name in ("EMPTY", "WASHDOWN", "DISINFECT", "PREHEAT"))
_NOBODY_SHARE: Final = ((_EMPTY, 0.1), (_WASHDOWN, 0.6), (_PREHEAT, 0.1))  # of the first stage


class Climate(NamedTuple):
    """What the climate of each house remembers; times int64 [ns]."""

    fan: memory.Duty
    trim_pct: Array  # last asked for
    trim_mean_pct: Array  # smoothed; NaN before the first
    cooled: Array  # share of the first stage that temperature last asked for
    cooled_mean: Array  # smoothed; NaN before the first
    stages: staging.Staging  # fan_2 to fan_4
    tunnel: Array  # bool, wanted
    pad: Array  # bool
    suction: pi.PI
    inlet_pct: Array
    heats: Array  # bool
    heated_ns: Array  # when heat was last wanted
    lamp_pct: Array
    curtain: Array  # bool, open
    missing_ns: Array  # (n, 3) since when a fan is asked for and does not turn; NEVER
    retry_ns: Array  # (n, 3) until when it is left out
    turned_ns: Array  # when a fan was last seen turning
    still_ns: Array  # since when none turns though one is asked for; NEVER
    dark_ns: Array  # since when there is no power; NEVER
    tunnel_ns: Array  # since when the tunnel stands open; NEVER
    left_ns: Array  # when the tunnel was last wanted
    mode: Array
    mode_ns: Array


class Situation(NamedTuple):
    """What both parts of the controller know of each house; weight, heads and set point as last known."""

    now_ns: int
    room_c: Array
    hot_c: Array  # the warmer of two
    set_point_c: Array
    weight_kg: Array
    heads: Array
    occupied: Array  # bool
    preheat: Array  # bool
    mode_s: Array
    agitation: Array  # bool: slurry is to move, more air is needed
    purge: Array  # bool: slurry moves or moved, all air is needed


def start(n: int, time_ns: int) -> Climate:
    """Nothing runs, nothing is known."""
    never, zero, none = np.full(n, NEVER), np.zeros(n), np.zeros(n, np.bool_)
    now = np.full(n, time_ns, np.int64)
    three = np.full((n, len(FANS)), NEVER)
    return Climate(
        fan=memory.start_duty(n, time_ns),
        trim_pct=zero,
        trim_mean_pct=zero + np.nan,
        cooled=zero,
        cooled_mean=zero + np.nan,
        stages=staging.start_staging(n, len(FANS), time_ns, _FAN_LIMITS),
        tunnel=none,
        pad=none,
        suction=pi.start_pi(np.full(n, 30.0), time_ns),
        inlet_pct=zero + 30.0,
        heats=none,
        heated_ns=now - int(DAY_S) * NS_PER_S,
        lamp_pct=zero + np.nan,
        curtain=none,
        missing_ns=three,
        retry_ns=np.full_like(three, time_ns),
        turned_ns=now,
        still_ns=never,
        dark_ns=never,
        tunnel_ns=never,
        left_ns=now - int(DAY_S) * NS_PER_S,
        mode=zero + np.nan,
        mode_ns=now,
    )


_GUARD: Final = Guard(PERIOD_S)
_FAN_LIMITS: Final = staging.MachineLimits(min_on_s=90.0, min_off_s=60.0, stagger_s=5.0, starts_per_hour=12, rotates=True)


def _since(holds: Array, since_ns: Array, now_ns: int) -> Array:
    """Since when a condition holds; NEVER where it does not."""
    return np.where(holds, np.minimum(since_ns, now_ns), NEVER)


def _for_s(since_ns: Array, now_ns: int, seconds: float) -> Array:
    return np.asarray(since_ns <= now_ns - round(seconds * NS_PER_S))


def latched(was: Array, error: Array, on_at: float, off_at: float) -> Array:
    """Hysteresis, bool: on from `on_at`, off from `off_at` down, as before between them and while the error is unknown."""
    return np.asarray((error >= on_at) | (was & ~(error <= off_at)))


def steady(was: Array, now: Array, step: float) -> Array:
    """A value that follows only what differs by a step."""
    return np.where(np.abs(now - was) >= step, now, was)


def smoothed(mean: Array, now: Array, tau_s: float) -> Array:
    """A first-order lag of `tau_s`; it begins with the first value."""
    return np.where(np.isnan(mean), now, mean + (now - mean) * (PERIOD_S / tau_s))


def speed_pct(share: Array, p: Parameters) -> Array:
    """Speed of the first stage that gives a share of its full air against the suction set, f = s - k / s; at most 100 [%]."""
    flow = clamp(share, 0.0, 1.0) * (1.0 - p.back_share)
    return np.asarray(50.0 * (flow + np.sqrt(flow**2 + 4.0 * p.back_share)))


def minimum_m3_h(at: Situation, p: Parameters) -> tuple[Array, Array]:
    """Minimum ventilation of the house [m3/h]: by weight, and by the CO2 of the animals' heat."""
    by_weight = along(at.weight_kg, p.cold_m3_h_by_kg)
    by_co2 = ventilation_for_co2_m3_h(along(at.weight_kg, p.heat_w_by_kg), p.co2_max_ppm)
    return at.heads * by_weight, at.heads * by_co2


def trims_pct(inputs: Inputs, p: Parameters) -> Array:
    """What gases and moisture add to the minimum, of the first stage [%]; a dead sensor adds nothing."""
    limits = (
        ("co2_ppm", p.co2_max_ppm, p.co2_trim_ppm),
        ("rh_pct", p.rh_max_pct, p.rh_trim_pct),
        ("nh3_ppm", p.nh3_max_ppm, p.nh3_trim_ppm),
    )
    each = [known_or(influence(inputs[name], most, 10.0 / step, 0.0, p.trim_max_pct), 0.0) for name, most, step in limits]
    return np.asarray(np.minimum(sum(each), p.trim_max_pct))


class Air(NamedTuple):
    """What the first stage is to give, as shares of its full air, and how it gives it."""

    least: Array  # minimum ventilation; 0 in a room without animals
    gas: Array
    warm: Array  # with what temperature or mode asks for
    on: Array  # bool: the phase of the duty cycle


def _speed(share: Array, on: Array, p: Parameters) -> Array:
    """Speed for a share [%]; below the lowest speed that speed, in the phases of the duty cycle."""
    return np.where(share >= p.lowest_share, speed_pct(share, p), np.where((share > 0.0) & on, p.fan_lowest_pct, 0.0))


def first_stage(
    state: Climate, at: Situation, error: Array, inputs: Inputs, p: Parameters
) -> tuple[Climate, Air, dict[str, Array]]:
    """Minimum ventilation, its trims, and cooling by the first stage."""
    by_weight, by_co2 = minimum_m3_h(at, p)
    trim_mean = smoothed(state.trim_mean_pct, trims_pct(inputs, p), TRIM_TAU_S)
    trim = steady(state.trim_pct, trim_mean, TRIM_STEP_PCT)
    least = np.where(at.occupied, np.minimum(np.maximum(by_weight, by_co2) / (p.places * p.fan_m3_h), 1.0), 0.0)
    gas = np.where(at.occupied, np.where(at.agitation, 1.0, np.minimum(least + trim / 100.0, 1.0)), 0.0)
    mode = inputs["mode"]
    aired = np.where(at.mode_s >= p.disinfect_s, AIRED_SHARE, 0.0)
    nobody = np.where(mode == _DISINFECT, aired, 0.0)
    for number, share in _NOBODY_SHARE:
        nobody = np.where(mode == number, share, nobody)
    # Between heating and cooling lies a dead zone.
    over = error - np.where(_for_s(state.heated_ns, at.now_ns, HEATED_S), 0.0, p.dead_zone_k)
    cooled = np.where(np.isnan(error), 1.0, p_band(over, 0.0, p.band_k, low=least, high=1.0))
    cooled_mean = cooled = np.where(cooled == 1.0, 1.0, smoothed(state.cooled_mean, cooled, COOLED_TAU_S))
    cooled = np.where((cooled == 1.0) | (cooled <= least), cooled, np.maximum(steady(state.cooled, cooled, COOLED_STEP), least))
    warm = np.where(at.occupied, cooled, nobody)
    part = np.maximum(gas, warm) / p.lowest_share
    fan, on = memory.duty(state.fan, at.now_ns, part, _pauses(p), _GUARD)
    terms = {
        "minimum_by_weight_m3_h": by_weight,
        "minimum_by_co2_m3_h": by_co2,
        "trims_pct": trim,
        "first_stage_air_pct": 100.0 * part * p.lowest_share,
    }
    state = state._replace(fan=fan, trim_pct=trim, trim_mean_pct=trim_mean, cooled=cooled, cooled_mean=cooled_mean)
    return state, Air(least, gas, warm, on), terms


def fan_demands(air: Air, p: Parameters) -> tuple[Array, Array, Array]:
    """Speeds of the first stage [%]: at least for animals, at least for their air, and as temperature asks."""
    least, gas = _speed(air.least, air.on, p), _speed(air.gas, air.on, p)
    nothing = np.nan
    return (
        np.where(least > 0.0, least, nothing),
        np.where((air.gas > air.least) & (gas > 0.0), gas, nothing),
        np.where(air.warm > air.least, _speed(air.warm, air.on, p), 0.0),
    )


def stages(state: Climate, at: Situation, error: Array, inputs: Inputs, p: Parameters) -> tuple[Climate, Array]:
    """The staged fans that run, (n, 3) bool. One that does not turn is left out for a while, and another takes its place."""
    turning = np.stack([inputs[f"{name}_bool"] for name in FANS], axis=1)
    missing_ns = _since(state.stages.machines.on & (turning < 0.5), state.missing_ns, at.now_ns)
    lost = _for_s(missing_ns, at.now_ns, MISSING_S)
    retry_ns = np.where(lost, at.now_ns + int(RETRY_S) * NS_PER_S, state.retry_ns)
    # Without a thermometer: all fans, in the cold none but the first stage.
    blind = np.where(inputs["weather.temp_c"] < at.set_point_c - COLD_OUTSIDE_K, IDLE_K, p.stages_k[-1])
    wants = _for_slurry(np.where(np.isnan(error), blind, error), at, p)
    ours = retry_ns <= at.now_ns
    new, on = staging.staging(state.stages, at.now_ns, wants, _rule(p), _FAN_LIMITS, _GUARD, available=ours)
    return state._replace(stages=new, missing_ns=missing_ns, retry_ns=retry_ns), on


def _for_slurry(error: Array, at: Situation, p: Parameters) -> Array:
    """The error, or one that brings as many stages as slurry needs: the mild rate before it moves, all once it does."""
    own = np.maximum(np.where(at.occupied, error, IDLE_K), IDLE_K)
    if not (at.agitation | at.purge).any():
        return own
    missing = at.heads * along(at.weight_kg, p.mild_m3_h_by_kg) - p.places * p.fan_m3_h
    count = clamp(np.ceil(missing / (p.places * p.stage_m3_h)), 0, len(FANS)).astype(np.int64)
    count = np.where(at.purge, len(FANS), np.where(at.agitation, count, 0))
    return np.asarray(np.maximum(own, np.array([IDLE_K, *p.stages_k])[count]))


@functools.cache
def _rule(p: Parameters) -> staging.Stages:
    return staging.Stages(p.stages_k, p.hysteresis_k, p.stage_down_s)


@functools.cache
def _gains(p: Parameters) -> pi.Gains:
    return pi.Gains(kp=0.4, ti_s=60.0, low=p.inlet_least_pct, high=100.0)


@functools.cache
def _pauses(p: Parameters) -> Cycle:
    return Cycle(p.duty_s, 60.0, 30.0)


class Openings(NamedTuple):
    """Demands on what lets air in, and on the pad."""

    tunnel: Array  # bool
    pad: Array  # bool
    pad_barred: Array  # bool
    inlet_pct: Array
    suction_pa: Array


def openings(
    state: Climate, at: Situation, error: Array, air_share: Array, inputs: Inputs, p: Parameters
) -> tuple[Climate, Openings]:
    """Tunnel with change-over, pad, and inlets by suction. Inlets shut once the tunnel stands open, the tunnel once they are open."""
    hour, outside_rh = inputs["hour"], inputs["weather.rh_pct"]
    dry = (hour >= p.pad_dry_h[0]) & (hour < p.pad_dry_h[1])
    barred = ~state.tunnel | dry | ~(outside_rh < p.pad_rh_pct) | (inputs["rh_pct"] >= 85.0)
    wanted = at.occupied & latched(state.tunnel, error, p.tunnel_k, p.tunnel_k - TUNNEL_BACK_K)
    pad = wanted & ~barred & latched(state.pad, error, p.pad_k, p.pad_k - 1.0) & np.isfinite(error)
    left_ns = np.where(wanted, at.now_ns, state.left_ns)
    tunnel = wanted | ~_for_s(left_ns, at.now_ns, p.dwell_s)
    tunnel_ns = _since(wanted & (inputs["tunnel_bool"] > 0.5), state.tunnel_ns, at.now_ns)
    shut = _for_s(tunnel_ns, at.now_ns, p.dwell_s)
    suction, inlet = _inlets(state, at, air_share, shut, inputs, p)
    state = state._replace(tunnel=wanted, pad=pad, left_ns=left_ns, tunnel_ns=tunnel_ns, suction=suction, inlet_pct=inlet)
    return state, Openings(tunnel, pad, barred, inlet, np.abs(inputs["static_pressure_pa"]))


def _inlets(state: Climate, at: Situation, air_share: Array, shut: Array, inputs: Inputs, p: Parameters) -> tuple[pi.PI, Array]:
    error = np.abs(inputs["static_pressure_pa"]) - p.suction_pa
    error = np.where(np.abs(error) < p.suction_band_pa, 0.0, error)
    # Without a pressure to go by: 30 % as the drive's fail-safe, more for the air of more fans.
    blind = Guard(PERIOD_S, np.maximum(30.0, 100.0 * air_share))
    moves = (inputs["fan_rpm"] >= TURNING_RPM) & ~shut
    # What was not worth a move is no hand's doing: only a drive that stands elsewhere leads the integral.
    elsewhere = np.where(np.abs(inputs["inlet_pct"] - state.inlet_pct) > ELSEWHERE_PCT, inputs["inlet_pct"], np.nan)
    suction, wanted = pi.pi(state.suction, at.now_ns, error, _gains(p), blind, position=elsewhere, auto=moves)
    wanted = np.where(shut, 0.0, np.where(at.occupied | at.preheat, wanted, np.maximum(30.0, 100.0 * air_share)))
    worth = (np.abs(wanted - state.inlet_pct) >= p.inlet_step_pct) | (wanted == 0.0) | (wanted == 100.0)
    return suction, np.where(worth, wanted, state.inlet_pct)


def heater(state: Climate, at: Situation, staged: Array, inputs: Inputs, p: Parameters) -> tuple[Climate, Array]:
    """Whether heat is wanted (kept in the state), and whether it is barred: no moving air, a second stage, no thermometer."""
    turns = inputs["fan_rpm"] >= TURNING_RPM
    turned_ns = np.where(turns, at.now_ns, state.turned_ns)
    target = np.where(at.occupied | at.preheat, at.set_point_c, np.where(inputs["mode"] == _EMPTY, p.frost_c, np.nan))
    below = target - at.room_c
    heats = latched(state.heats, below, p.heat_on_k, p.heat_off_k) & np.isfinite(below)
    no_air = _for_s(turned_ns, at.now_ns, AIR_PROOF_S) | np.isnan(inputs["fan_rpm"])
    heated_ns = np.where(heats, at.now_ns, state.heated_ns)
    return state._replace(turned_ns=turned_ns, heats=heats, heated_ns=heated_ns), staged | no_air


def lamps_pct(state: Climate, at: Situation, inputs: Inputs, p: Parameters) -> Array:
    """Heat lamps over the nest [%] in steps of 5; unknown: as last; NaN in a house that has no nest."""
    wanted = p_band(inputs["creep_temp_c"], along(inputs["day_of_batch"], p.creep_c_by_day), -2.0)
    steps = np.round(wanted / 5.0) * 5.0
    kept = np.where(np.isnan(steps), state.lamp_pct, steps)
    return np.asarray(np.where((at.weight_kg <= p.creep_until_kg) | np.isnan(kept), kept, 0.0))


def dark(inputs: Inputs) -> Array:
    """Whether there is no power, neither mains nor generator; bool."""
    return np.asarray((inputs["mains_bool"] < 0.5) & ~(inputs["generator_bool"] > 0.5))


def curtains(state: Climate, at: Situation, asked: Array, inputs: Inputs, p: Parameters) -> Climate:
    """Curtains fall without power, without air though it is asked for, and in heat; they close again when all of it is over."""
    unlit = dark(inputs)
    still = asked & (inputs["fan_rpm"] < TURNING_RPM)
    dark_ns, still_ns = _since(unlit, state.dark_ns, at.now_ns), _since(still, state.still_ns, at.now_ns)
    # In a heat wave the house is no warmer than outside by so much, and open curtains would spoil tunnel and pad.
    over = at.hot_c - np.fmax(at.set_point_c, inputs["weather.temp_c"])
    opens = _for_s(dark_ns, at.now_ns, POWER_LOST_S) | _for_s(still_ns, at.now_ns, AIR_LOST_S) | (over >= p.curtain_k)
    stays = unlit | still | ~(over < p.hot_k)
    return state._replace(dark_ns=dark_ns, still_ns=still_ns, curtain=opens | (state.curtain & stays))
