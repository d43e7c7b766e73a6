"""Controller of a germination room: a recipe of stages, heat and cold, fog by the dew point, flushes of fresh air, light.

Levels: what protects people and the room bounds (persons: personnel_safety, air over the heater: equipment, too warm: survival), the
rest asks for values. Unknown inputs: no temperature, no heat and no cold; no humidity, door or person known, no fog; no CO2, the
damper at its fail-safe; no rotation of the fan, no heat and no fog; no hour, no light.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control.controller import Ask, Turn, unknown
from rules.control.given import chosen, is_in, middle, within
from rules.control.memory import (
    LONG_AGO,
    NEVER,
    Cycle,
    Drive,
    Duty,
    Guard,
    Moves,
    Ramp,
    Rates,
    duty,
    move,
    nanoseconds,
    ramp,
    start_drive,
    start_duty,
    start_ramp,
)
from rules.control.pi import PI, Gains, pi, start_pi
from rules.control.primitives import clamp, humidity_setpoint_pct, p_band
from telemetry import psychrometrics
from telemetry.crops import CROP_NUMBER, CROPS, thermal_time_rate_c
from telemetry.errors import CallerError
from telemetry.plan import NS_PER_S
from telemetry.site import MODES

Array = NDArray[Any]

WHAT: Final = "a germination room"
# Air that suits the seed, the middle of the handbook's range; unverified.
ROOM_C: Final = {
    "tomato": 26.5, "pepper": 29.0, "cucumber": 29.0, "watermelon": 30.0, "eggplant": 29.0, "lettuce": 19.0, "cabbage": 22.5,
}  # fmt: skip
READY: Final = 1.04  # thermal time at exit by that of half: 60 % of what emerges
WET_PCT: Final = 99.5  # a humidity sensor that stands here may be wet
APART_PCT: Final = 5.0
DRY_STEP_PCT: Final = 5.0
INNER: Final = 0.2  # of the gain inside the dead zone
DAY_S: Final = 86_400.0
FAN_MOVES: Final = Moves(least=20.0, per_day=288, wait_s=300.0)
IDLE: Final = ("EMPTY", "WASHDOWN", "DISINFECT", "MAINTENANCE")
PREHEAT: Final = float(MODES.index("PREHEAT"))


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a recipe. It ends with the first of its exits that comes; the last stage has none: the batch waits in it.

    Defaults are those of imbibition [handbook 1.3]; light, drop at night and CO2 are unverified.
    """

    name: str = "imbibition"
    air_temp_c: float = 26.5
    air_rh_pct: float = 97.0
    light_umol_m2_s: float = 0.0
    light_h: float = 0.0  # a day, from `light_from_h` on
    night_drop_k: float = 0.0  # cooler outside of those hours
    co2_max_ppm: float = 3000.0  # a flush of fresh air above it
    hours: float = np.inf  # in this stage
    thermal_time_c_d: float = np.inf  # since the batch was sown
    emerged_pct: float = np.inf  # of all seeds, by camera or hand

    def __post_init__(self) -> None:
        """Refuse what no room can do."""
        what = f"stage {self.name!r}"
        within(self, what, air_temp_c=(5, 40), air_rh_pct=(30, 100), light_umol_m2_s=(0, 400), light_h=(0, 24))
        within(self, what, night_drop_k=(0, 10), co2_max_ppm=(600, 5000), hours=(0, np.inf), thermal_time_c_d=(0, np.inf))
        within(self, what, emerged_pct=(0, np.inf))

    @property
    def ends(self) -> bool:
        """Whether it has an exit."""
        return bool(np.isfinite([self.hours, self.thermal_time_c_d, self.emerged_pct]).any())


@dataclass(frozen=True, slots=True)
class Parameters:
    """A recipe and the room that runs it. Defaults: the handbook, unverified unless said."""

    crop: str = "tomato"
    stages: tuple[Stage, ...] = ()
    stop_above_c: float = 32.0  # of the crop
    ramp_up_k_h: float = 1.5
    ramp_down_k_h: float = 2.0
    dead_zone_k: float = 0.5  # in it the coil answers a fifth, so that it comes to rest in the middle
    coil_pct_k: float = 20.0  # heater and cooler per K of error
    coil_integral_s: float = 1500.0
    fog_band_k: float = 0.6  # of the dew point, to full fog
    fog_on_s: float = 10.0  # shortest pulse, of one run
    fog_pause_s: float = 20.0  # at least, after each
    fog_heater_s: float = 60.0  # without fog before and after a heater starts
    wall_margin_k: float = 0.3  # dew point under the coldest wall
    wall_below_air_k: float = 1.0  # where the wall is not measured
    dry_from_k: float = 0.3  # dew point over its set point, from which fresh air dries; at twice as much in full
    dry_pct: float = 20.0
    flush_s: float = 180.0
    flush_pause_s: float = 600.0
    flush_pct: float = 50.0
    blind_damper_pct: float = 10.0  # while CO2 is unknown
    fan_pct: float = 60.0
    spread_k: float = 1.0  # from top to bottom, above which the fan turns faster; at twice as much in full
    fan_least_pct: float = 30.0
    airflow_rpm: float = 100.0  # proves air over the heater
    airflow_s: float = 10.0
    freeze_s: float = 300.0  # heat and cold stay as they are after door or person
    light_from_h: float = 6.0
    light_full_umol_m2_s: float = 100.0  # of the lamps

    def __post_init__(self) -> None:
        """Refuse what no room can do."""
        if self.crop not in CROP_NUMBER:
            raise CallerError(f"crop of {WHAT} is {self.crop!r}; give one of {', '.join(CROP_NUMBER)}")
        if not self.stages or self.stages[-1].ends or not all(stage.ends for stage in self.stages[:-1]):
            raise CallerError(
                "stages: each has an exit (hours, thermal_time_c_d or emerged_pct) but the last, in which the batch waits"
            )
        within(self, WHAT, stop_above_c=(15, 45), ramp_up_k_h=(0.1, 60), ramp_down_k_h=(0.1, 60), dead_zone_k=(0, 3))
        within(
            self,
            WHAT,
            coil_pct_k=(0.1, 200),
            coil_integral_s=(60, DAY_S),
            fog_band_k=(0.05, 5),
        )
        within(self, WHAT, fog_on_s=(10, 600), fog_pause_s=(10, 3600), fog_heater_s=(0, 600), wall_margin_k=(0, 5))
        within(
            self,
            WHAT,
            wall_below_air_k=(0, 10),
            dry_from_k=(0.02, 5),
            dry_pct=(0, 100),
            flush_s=(30, 3600),
            flush_pause_s=(0, DAY_S),
            flush_pct=(5, 100),
        )
        within(self, WHAT, blind_damper_pct=(0, 100), fan_pct=(30, 100), fan_least_pct=(0, 100), airflow_rpm=(1, 3000))
        within(
            self,
            WHAT,
            airflow_s=(0, 600),
            spread_k=(0.1, 10),
            freeze_s=(0, 1800),
            light_from_h=(0, 24),
            light_full_umol_m2_s=(1, 2000),
        )
        for stage in self.stages:
            if stage.air_temp_c > self.stop_above_c - 1.0:
                raise CallerError(
                    f"stage {stage.name!r} is {stage.air_temp_c:g} C; give at most stop_above_c - 1 = {self.stop_above_c - 1:g}"
                )


def recipe(crop: str) -> tuple[Stage, ...]:
    """The usual recipe: a day of imbibition, radicle until 60 % have emerged, then cooler and in the light until it is fetched."""
    warm, half = ROOM_C[crop], CROPS[CROP_NUMBER[crop]].theta50_c_d
    return (
        Stage("imbibition", warm, 97.0, hours=24.0),
        Stage("radicle", warm, 93.0, thermal_time_c_d=READY * half, emerged_pct=60.0),
        Stage("waiting", warm - 3.0, 88.0, light_umol_m2_s=80.0, light_h=14.0),
    )


class _Table(NamedTuple):
    """The stages' fields, each (stages,)."""

    air_temp_c: Array
    air_rh_pct: Array
    light_umol_m2_s: Array
    light_h: Array
    night_drop_k: Array
    co2_max_ppm: Array
    hours: Array
    thermal_time_c_d: Array
    emerged_pct: Array

    def of(self, stage: Array) -> "_Table":
        """The fields of each unit's stage, each (n,)."""
        return _Table(*(column[stage] for column in self))


@lru_cache(maxsize=1024)
def _table(stages: tuple[Stage, ...]) -> _Table:
    return _Table(*(np.array([getattr(stage, name) for stage in stages], np.float64) for name in _Table._fields))


class Batch(NamedTuple):
    """How far a batch is; each (n,)."""

    day: Array  # of the batch, as last known; NaN: there is none
    stage: Array  # int64
    stage_s: Array  # in the stage
    thermal_time_c_d: Array
    ready_ns: Array  # int64, when it met the last exit; NEVER before


class Moments(NamedTuple):
    """When things last happened; each (n,) int64."""

    run_ns: Array
    event_ns: Array  # door or person came or went
    flow_ns: Array  # since when air flows; NEVER while it does not
    fog_ns: Array
    heater_ns: Array  # started
    flush_ns: Array  # began


class State(NamedTuple):
    """Memory of the controller."""

    batch: Batch
    moments: Moments
    set_point: Ramp
    coil: PI  # -100 full cold to 100 full heat
    fog: Duty
    fan: Drive
    heats: Array  # (n,) bool
    cools: Array  # (n,) bool
    disturbed: Array  # (n,) door and person at the last run, 0 to 3


HEAT: Final = Ask("heater", "value", "temperature", "heating to the recipe", "按配方加热")
HEAT_AIR: Final = Ask("heater", "at_most", "equipment", "no proven air flow over the heater", "未确认加热器有风")
HEAT_HOT: Final = Ask("heater", "at_most", "survival", "warmer than the crop bears", "超过作物上限温度")
COOL: Final = Ask("cooler", "value", "temperature", "cooling to the recipe", "按配方制冷")
FOG: Final = Ask("humidifier", "value", "humidity_gas", "fog to the dew point of the recipe", "按配方露点喷雾")
FOG_PERSON: Final = Ask("humidifier", "at_most", "personnel_safety", "somebody is inside, or nobody knows", "有人在内或未知")
FOG_AIR: Final = Ask("humidifier", "at_most", "equipment", "no proven air flow", "未确认有风")
FOG_DOOR: Final = Ask("humidifier", "at_most", "humidity_gas", "the door is open, or nobody knows", "门开或未知")
FOG_HEATER: Final = Ask("humidifier", "at_most", "humidity_gas", "the heater starts", "加热器启动前后")
FAN: Final = Ask("circulation_fan", "value", "temperature", "even air over the trays", "空气均匀")
FAN_LEAST: Final = Ask("circulation_fan", "at_least", "survival", "least air over the trays", "最小循环风")
DAMPER: Final = Ask("fresh_air_damper", "value", "economy", "shut: warmth and moisture stay", "关闭保温保湿")
DRY: Final = Ask("fresh_air_damper", "at_least", "humidity_gas", "air is too humid", "湿度过高")
FLUSH: Final = Ask("fresh_air_damper", "at_least", "humidity_gas", "flush of CO2", "二氧化碳换气")
FLUSH_BLIND: Final = Ask("fresh_air_damper", "at_least", "humidity_gas", "CO2 is unknown", "二氧化碳未知")
DAMPER_HOT: Final = Ask("fresh_air_damper", "at_least", "survival", "warmer than the crop bears", "超过作物上限温度")
LIGHT: Final = Ask("led_light", "value", "economy", "light of the recipe", "按配方补光")


class GerminationRoom:
    """See rules.control.controller.Controller."""

    READS: tuple[str, ...] = (
        "air_temp_c", "air_temp_top_c", "air_temp_bottom_c", "air_rh_pct", "air_rh_2_pct", "tray_temp_c", "wall_temp_c", "co2_ppm",
        "door_open_bool", "person_present_bool", "fan_rpm", "emerged_pct",
        "set.air_temp_c", "set.air_rh_pct", "set.stop_above_c", "hour", "day_of_batch", "mode",
    )  # fmt: skip
    ASKS: tuple[Ask, ...] = (
        HEAT, HEAT_AIR, HEAT_HOT, COOL, FOG, FOG_PERSON, FOG_AIR, FOG_DOOR, FOG_HEATER, FAN, FAN_LEAST, DAMPER, DRY, FLUSH,
        FLUSH_BLIND, DAMPER_HOT, LIGHT,
    )  # fmt: skip
    EVERY_S = 10.0

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """`crop` gives the usual recipe and limit; `stages`, a list of mappings, another recipe."""
        crop = given.get("crop", "tomato")
        if crop not in CROP_NUMBER:
            raise CallerError(f"crop of {WHAT} is {crop!r}; give one of {', '.join(CROP_NUMBER)}")
        usual = Parameters(crop, recipe(crop), CROPS[CROP_NUMBER[crop]].stop_above_c)
        values = chosen(usual, given, WHAT)
        if "stages" in given:
            if not isinstance(given["stages"], (list, tuple)) or not all(isinstance(stage, Mapping) for stage in given["stages"]):
                raise CallerError("stages is a list, each with name, air_temp_c, air_rh_pct and an exit")
            values["stages"] = tuple(Stage(**chosen(Stage(), stage, "a stage")) for stage in given["stages"])
        return Parameters(**values)

    def names(self, parameters: Parameters) -> dict[str, tuple[str, ...]]:
        """What the numbers of a term stand for, from 1 on."""
        return {"stage_number": tuple(stage.name for stage in parameters.stages)}

    def start(self, n: int, time_ns: int, parameters: Parameters) -> State:
        """Nothing known, all off."""
        past = np.full(n, LONG_AGO)
        never = np.full(n, NEVER)
        batch = Batch(unknown(n), np.zeros(n, np.int64), np.zeros(n), np.zeros(n), never)
        off = np.zeros(n, np.bool_)
        moments = Moments(np.full(n, time_ns), past, never, past, past, past)
        fan = start_drive(np.full(n, parameters.fan_pct), time_ns, FAN_MOVES)
        coil, fog = start_pi(np.zeros(n), time_ns), start_duty(n, time_ns)
        return State(batch, moments, start_ramp(unknown(n), time_ns), coil, fog, fan, off, off, np.full(n, -1.0))

    def step(self, state: State, time_ns: int, inputs: Mapping[str, Array], parameters: Parameters) -> Turn:
        """One run."""
        p, now = parameters, np.full(len(state.heats), time_ns)
        air_c = middle(inputs["air_temp_c"], inputs["air_temp_top_c"], inputs["air_temp_bottom_c"])
        works = ~is_in(inputs["mode"], IDLE)
        batch = _progress(state, now, inputs, air_c, p)
        stage = _table(p.stages).of(batch.stage)
        is_day = np.mod(inputs["hour"] - p.light_from_h, 24.0) < stage.light_h
        disturbed, event_ns = _event(state, now, inputs)
        frozen = now - event_ns < nanoseconds(p.freeze_s)
        turns = inputs["fan_rpm"] >= p.airflow_rpm
        flow_ns = np.where(turns, np.minimum(state.moments.flow_ns, now), NEVER)
        flows = turns & (now - flow_ns >= nanoseconds(p.airflow_s))

        # -- heat and cold ----------------------------------------------------------------------------------------------------
        stop_c = _first(inputs["set.stop_above_c"], p.stop_above_c)
        wanted_c = _first(inputs["set.air_temp_c"], stage.air_temp_c) - np.where(
            (stage.light_h > 0.0) & ~is_day, stage.night_drop_k, 0.0
        )
        work = _work(p)
        set_point, set_c = ramp(state.set_point, now, np.minimum(wanted_c, stop_c - 1.0), work.rates, _GUARD)
        error_k = air_c - set_c
        auto = np.isfinite(error_k) & works
        inner_k = clamp(error_k, -p.dead_zone_k, p.dead_zone_k)
        beyond_k = np.where(frozen, np.nan, error_k - (1.0 - INNER) * inner_k)
        held = np.where(~auto | (~flows & (state.coil.output > 0.0)), 0.0, np.nan)
        coil, coil_pct = pi(state.coil, now, np.where(auto, beyond_k, np.nan), work.gains, _GUARD, position=held, auto=auto)
        heat_pct, cool_pct = np.maximum(coil_pct, 0.0), np.maximum(-coil_pct, 0.0)
        wants_heat = auto & (heat_pct >= np.where(state.heats, 0.5, 3.0))
        after_fog = now - state.moments.fog_ns >= nanoseconds(p.fog_heater_s)
        heats = wants_heat & flows & (state.heats | after_fog)
        heater_ns = np.where(heats & ~state.heats, now, state.moments.heater_ns)
        cools = auto & (cool_pct >= np.where(state.cools, 2.0, 10.0))
        hot = air_c > stop_c

        # -- humidity ---------------------------------------------------------------------------------------------------------
        wet = _humidity(air_c, inputs, _first(inputs["set.air_rh_pct"], stage.air_rh_pct), p)
        door = ~(inputs["door_open_bool"] < 0.5)
        person = ~(inputs["person_present_bool"] < 0.5)
        heater_starts = (wants_heat & ~heats) | (now - heater_ns < nanoseconds(p.fog_heater_s))
        blocked = door | person | heater_starts | ~flows
        permitted = works & (inputs["mode"] != PREHEAT) & np.isfinite(wet.share) & ~blocked
        fog, fogs = duty(state.fog, now, np.where(permitted, wet.share, 0.0), work.cycle, _FOG_GUARD)
        fogs = fogs & permitted

        # -- fresh air --------------------------------------------------------------------------------------------------------
        since_flush = now - state.moments.flush_ns
        again = since_flush >= nanoseconds(p.flush_s + p.flush_pause_s)
        flush_ns = np.where((inputs["co2_ppm"] > stage.co2_max_ppm) & again, now, state.moments.flush_ns)
        flushes = now - flush_ns < nanoseconds(p.flush_s)
        blind = np.isnan(inputs["co2_ppm"])

        humid_pct = p_band(wet.dew_c - wet.dew_set_c, p.dry_from_k, p.dry_from_k, high=p.dry_pct)
        dry_pct = np.where(np.isfinite(humid_pct), np.minimum(np.ceil(humid_pct / DRY_STEP_PCT) * DRY_STEP_PCT, p.dry_pct), 0.0)

        spread_k = inputs["air_temp_top_c"] - inputs["air_temp_bottom_c"]
        even_pct = p_band(spread_k, p.spread_k, p.spread_k, low=p.fan_pct, high=100.0)
        fan, fan_pct = move(state.fan, now, _first(even_pct, p.fan_pct), FAN_MOVES, _GUARD)
        light_pct = np.where(is_day, np.minimum(100.0 * stage.light_umol_m2_s / p.light_full_umol_m2_s, 100.0), 0.0)
        demands = {
            HEAT: _ask(works, np.where(heats, heat_pct, 0.0)),
            HEAT_AIR: _ask(~flows, 0.0),
            HEAT_HOT: _ask(hot, 0.0),
            COOL: _ask(works, np.where(cools, cool_pct, 0.0)),
            FOG: _ask(works, fogs.astype(np.float64)),
            FOG_PERSON: _ask(person, 0.0),
            FOG_AIR: _ask(~flows, 0.0),
            FOG_DOOR: _ask(door, 0.0),
            FOG_HEATER: _ask(heater_starts, 0.0),
            FAN: _ask(works, fan_pct),
            FAN_LEAST: _ask(works, p.fan_least_pct),
            DAMPER: _ask(works, 0.0),
            DRY: _ask(works & (dry_pct > 0.0), dry_pct),
            FLUSH: _ask(flushes & works, p.flush_pct),
            FLUSH_BLIND: _ask(blind & works, p.blind_damper_pct),
            DAMPER_HOT: _ask(hot & works, 100.0),
            LIGHT: _ask(works, light_pct),
        }
        after = State(
            batch,
            Moments(now, event_ns, flow_ns, np.where(fogs, now, state.moments.fog_ns), heater_ns, flush_ns),
            set_point, coil, fog, fan, heats, cools, disturbed,
        )  # fmt: skip
        ready = batch.ready_ns < NEVER
        terms = {
            "air_temp_c": air_c,
            "air_temp_setpoint_c": set_c,
            "temp_error_k": error_k,
            "coil_pct": coil_pct,
            "coil_integral_pct": coil.integral,
            "air_rh_pct": wet.rh_pct,
            "rh_setpoint_pct": wet.limit_pct,
            "dew_point_c": wet.dew_c,
            "dew_point_setpoint_c": wet.dew_set_c,
            "wall_c": wet.wall_c,
            "fog_share_pct": 100.0 * wet.share,
            "fog_blocked_bool": blocked.astype(np.float64),
            "frozen_bool": frozen.astype(np.float64),
            "airflow_bool": flows.astype(np.float64),
            "co2_max_ppm": stage.co2_max_ppm,
            "stage_number": batch.stage + 1.0,
            "stage_h": batch.stage_s / 3600.0,
            "thermal_time_c_d": batch.thermal_time_c_d,
            "overdue_h": np.where(ready, (now - np.where(ready, batch.ready_ns, now)) / NS_PER_S / 3600.0, np.nan),
        }
        return Turn(after, demands, terms)


_GUARD: Final = Guard(GerminationRoom.EVERY_S)
_FOG_GUARD: Final = Guard(GerminationRoom.EVERY_S, 0.0)


class _Work(NamedTuple):
    """What follows from the parameters alone."""

    rates: Rates
    gains: Gains
    cycle: Cycle


@lru_cache(maxsize=1024)
def _work(p: Parameters) -> _Work:
    gains = Gains(-p.coil_pct_k, p.coil_integral_s, low=-100.0, high=100.0)
    return _Work(Rates(p.ramp_up_k_h, p.ramp_down_k_h), gains, Cycle(p.fog_on_s, p.fog_on_s, p.fog_pause_s))


class _Wet(NamedTuple):
    """What fog is decided by; each (n,)."""

    rh_pct: Array
    wall_c: Array
    limit_pct: Array
    dew_c: Array
    dew_set_c: Array
    share: Array


def _humidity(air_c: Array, inputs: Mapping[str, Array], wanted_pct: Array, p: Parameters) -> _Wet:
    """Fog by the dew point, with a set point that leaves the wall dry."""
    first, second = inputs["air_rh_pct"], inputs["air_rh_2_pct"]
    lower, upper = np.fmin(first, second), np.fmax(first, second)
    rh_pct = np.where((upper >= WET_PCT) & (upper - lower >= APART_PCT), lower, lower + (upper - lower) / 2.0)
    wall_c = _first(inputs["wall_temp_c"], air_c - p.wall_below_air_k)
    limit_pct = humidity_setpoint_pct(wanted_pct, air_c, wall_c, margin_k=p.wall_margin_k)
    dew_c = psychrometrics.dew_point_c(air_c, rh_pct)
    dew_set_c = psychrometrics.dew_point_c(air_c, limit_pct)
    share = p_band(dew_set_c - dew_c, 0.0, p.fog_band_k, low=0.0, high=1.0)
    return _Wet(rh_pct, wall_c, limit_pct, dew_c, dew_set_c, share)


def _progress(state: State, now: Array, inputs: Mapping[str, Array], air_c: Array, p: Parameters) -> Batch:
    """The batch a run later: thermal time is integrated, never taken from the clock, but for a batch that is older than the memory."""
    old, table, crop = state.batch, _table(p.stages), CROP_NUMBER[p.crop]
    day, stood = inputs["day_of_batch"], np.minimum(old.stage, len(p.stages) - 1)  # a new recipe may be shorter
    stands = np.isfinite(day)
    begins = stands & ~(day >= old.day)
    past_s = np.where(begins, np.maximum(day, 0.0) * DAY_S, 0.0)
    seed_c = _first(_first(inputs["tray_temp_c"], air_c), table.air_temp_c[stood])
    run_s = np.where(begins, 0.0, clamp((now - state.moments.run_ns) / NS_PER_S, 0.0, DAY_S))
    gained = thermal_time_rate_c(seed_c, crop) * run_s / DAY_S
    guessed = thermal_time_rate_c(table.air_temp_c[0], crop) * past_s / DAY_S
    thermal_time = np.where(begins, guessed, np.where(stands, old.thermal_time_c_d + gained, 0.0))
    stage = np.where(begins | ~stands, 0, stood)
    stage_s = np.where(begins, past_s, np.where(stands, old.stage_s + run_s, 0.0))
    here = table.of(stage)
    leaves = (
        (stage_s >= here.hours * 3600.0) | (thermal_time >= here.thermal_time_c_d) | (inputs["emerged_pct"] >= here.emerged_pct)
    )
    leaves = leaves & stands & ~begins
    ready_ns = np.where(begins | ~stands, NEVER, old.ready_ns)
    ready_ns = np.where(leaves & (stage + 1 == len(p.stages) - 1), now, ready_ns)
    return Batch(day, stage + leaves, np.where(leaves, 0.0, stage_s), thermal_time, ready_ns)


def _event(state: State, now: Array, inputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """(what stands open or inside, when that last changed)."""
    present = 1.0 * (inputs["door_open_bool"] > 0.5) + 2.0 * (inputs["person_present_bool"] > 0.5)
    changed = (present != state.disturbed) & (state.disturbed >= 0.0)
    return present, np.where(changed, now, state.moments.event_ns)


def _first(value: Array, otherwise: Any) -> Array:
    """The value where it is known, else the other."""
    return np.where(np.isfinite(value), value, otherwise)


def _ask(when: Array, value: Any) -> Array:
    return np.where(when, value, np.nan)


CONTROLLER: Final = GerminationRoom()
