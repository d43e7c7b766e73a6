"""Controller of a pig house: climate, feed, water, manure and slurry of any number of houses at once (docs/control.md).

What is known of each house goes into `pig_climate` and `pig_works`; here their outputs become demands at the levels of the field:
people before machines before animals before hands before air before temperature before economy.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np

from rules.control import pig_climate, pig_works
from rules.control.controller import Array, Ask, Turn
from rules.control.feed_phases import feed_phases
from rules.control.pig_climate import FANS, PERIOD_S, Climate, Inputs, Situation
from rules.control.pig_settings import Parameters, along
from rules.control.pig_works import Works
from rules.control.settings import settings
from telemetry.plan import NS_PER_S
from telemetry.site import MODES

H2S_PPM, H2S_PERSON_PPM = 20.0, 10.0
PEOPLE, MACHINES, ANIMALS = "personnel_safety", "equipment", "survival"
AIR, TEMPERATURE, ECONOMY = "humidity_gas", "temperature", "economy"

MINIMUM: Final = Ask("fan", "at_least", ANIMALS, "minimum ventilation", "最小通风")
GASES: Final = Ask("fan", "at_least", AIR, "gases and moisture", "有害气体和湿度")
COOLING: Final = Ask("fan", "value", TEMPERATURE, "room temperature", "舍温")
HOT: Final = "too hot, or temperature not known", "过热或温度未知"
PURGE: Final = "slurry gas", "粪污气体"
INLET: Final = Ask("inlet", "value", TEMPERATURE, "suction", "静压")
TUNNEL: Final = Ask("tunnel", "value", TEMPERATURE, "room temperature", "舍温")
CURTAIN: Final = Ask("curtain", "value", TEMPERATURE, "fans give the air", "风机供风")
CURTAIN_OPEN: Final = Ask("curtain", "at_least", ANIMALS, "no power, no air or too hot", "断电、无风或过热")
HEATER: Final = Ask("heater", "value", TEMPERATURE, "room temperature", "舍温")
HEATER_OFF: Final = Ask("heater", "at_most", MACHINES, "no air proven, or fans cool", "通风未确认或正在降温")
LAMP: Final = Ask("heat_lamp", "value", TEMPERATURE, "nest temperature", "保温箱温度")
PAD: Final = Ask("pad_pump", "value", TEMPERATURE, "room temperature", "舍温")
PAD_OFF: Final = Ask("pad_pump", "at_most", MACHINES, "no tunnel, too humid, or drying", "非隧道模式、过湿或晾干时段")
SPRINKLER: Final = Ask("sprinkler", "value", TEMPERATURE, "heat", "高温")
WATER: Final = Ask("water_valve", "at_least", ANIMALS, "animals drink", "供猪饮水")
MEDICATOR: Final = Ask("medicator", "value", ECONOMY, "medication of these days", "用药日程")
AUGER: Final = Ask("auger", "value", ECONOMY, "feed of this hour", "本小时饲喂计划")
AUGER_OFF: Final = Ask("auger", "at_most", MACHINES, "feeders full or lid open", "料斗已满或料塔盖打开")
SCRAPER: Final = Ask("scraper", "value", ECONOMY, "time to scrape", "清粪时间")
SCRAPER_BACK: Final = Ask("scraper_back", "value", ECONOMY, "way back, or once after an overload", "返程，或过载后反转一次")
SCRAPER_OFF: Final = Ask("scraper", "at_most", MACHINES, "runs backward, or gate open", "正在反转或隔栏打开")
SCRAPER_BACK_OFF: Final = Ask("scraper_back", "at_most", MACHINES, "runs forward, or gate open", "正在正转或隔栏打开")
SLURRY: Final = Ask("slurry_pump", "value", ECONOMY, "asked for, and permitted", "已申请并许可")
SLURRY_OFF: Final = Ask("slurry_pump", "at_most", PEOPLE, "no permit", "无许可")
FAN_HOT, FAN_PURGE = Ask("fan", "at_least", ANIMALS, *HOT), Ask("fan", "at_least", PEOPLE, *PURGE)
STAGE: Final = {fan: Ask(fan, "value", TEMPERATURE, "room temperature", "舍温") for fan in FANS}
STAGE_HOT: Final = {fan: Ask(fan, "at_least", ANIMALS, *HOT) for fan in FANS}
STAGE_PURGE: Final = {fan: Ask(fan, "at_least", PEOPLE, *PURGE) for fan in FANS}

_EMPTY, _WASHDOWN, _DISINFECT, _PREHEAT, _MAINTENANCE = (
    float(MODES.index(name)) for name in ("EMPTY", "WASHDOWN", "DISINFECT", "PREHEAT", "MAINTENANCE")
)


class State(NamedTuple):
    """Memory of the controller; weight, heads and set point as last known."""

    climate: Climate
    works: Works
    weight_kg: Array
    ratio: Array  # of the weight to that of its age
    heads: Array  # NaN before they were known
    set_point_c: Array


def _kept(new: Array, old: Array) -> Array:
    return np.where(np.isfinite(new), new, old)


class PigHouse:
    """The controller of profile `pig_house`."""

    READS = (
        "room_temp_c", "room_temp_2_c", "creep_temp_c", "rh_pct", "co2_ppm", "nh3_ppm", "h2s_ppm", "static_pressure_pa", "fan_rpm",
        "fan_pct", "fan_2_bool", "fan_3_bool", "fan_4_bool", "tunnel_bool", "inlet_pct", "feed_total_kg", "bin_weight_kg",
        "hopper_full_bool", "bin_lid_open_bool", "scraper_run_bool", "scraper_back_bool", "scraper_overload_bool", "scraper_end_bool",
        "scraper_home_bool", "gate_open_bool", "slurry_pump_bool", "slurry_request_bool", "beacon_bool", "door_locked_bool",
        "person_present_bool", "pig_count", "weight_kg", "mains_bool", "generator_bool", "weather.temp_c", "weather.rh_pct",
        "set.room_temp_c", "hour", "day_of_batch", "mode",
    )  # fmt: skip
    EVERY_S = PERIOD_S

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Parameters with what a site gives in place of the defaults; CallerError says what is wrong."""
        made = settings(Parameters, {name: value for name, value in given.items() if name != "feed_phases"})
        return replace(made, feed_phases=feed_phases(given["feed_phases"])) if "feed_phases" in given else made

    def names(self, parameters: Parameters) -> dict[str, tuple[str, ...]]:
        """What the numbers of a term stand for, from 1 on."""
        return {"feed_phase_1": tuple(phase.words() for phase in parameters.feed_phases)}

    def start(self, n: int, time_ns: int, parameters: Parameters) -> State:
        """State of n houses that have never run."""
        weight = np.full(n, along(parameters.placed_age_d, parameters.weight_by_day))
        climate, works = pig_climate.start(n, time_ns), pig_works.start(n, time_ns)
        return State(climate, works, weight, np.ones(n), np.full(n, np.nan), along(weight, parameters.room_c_by_kg))

    def step(self, state: State, time_ns: int, inputs: Inputs, parameters: Parameters) -> Turn:
        """One run: what is known, then slurry (it asks for air), climate, feed and manure."""
        p = parameters
        state, at = _situation(state, time_ns, inputs, p)
        works = state.works
        slurry, permit, purge, air = pig_works.agitate(works.slurry, time_ns, inputs, weight_kg=at.weight_kg, heads=at.heads, p=p)
        at = at._replace(agitation=inputs["slurry_request_bool"] > 0.5, purge=purge | _fumes(inputs))
        climate, demands, terms = _climate(state.climate, at, inputs, p)
        working = at.occupied & (inputs["mode"] != _MAINTENANCE) & ~pig_climate.dark(inputs)
        feeding, auger, feed_terms = pig_works.feed(
            works.feeding, time_ns, inputs, allowed=working & ~_feed_barred(inputs), weight_kg=at.weight_kg, heads=state.heads, p=p
        )
        scraping = pig_works.scrape(works.scraping, time_ns, inputs, allowed=working, feeding=auger, p=p)
        demands |= _works_demands(auger, scraping, permit, at, inputs, p)
        terms |= feed_terms | {"proven_air_m3_h": air}
        return Turn(state._replace(climate=climate, works=Works(feeding, scraping, slurry)), demands, terms)


def _fumes(inputs: Inputs) -> Array:
    """Whether people need all air: H2S at its alarm, or somebody in a disinfected room."""
    somebody, gas = inputs["person_present_bool"] > 0.5, inputs["h2s_ppm"]
    return np.asarray((gas > H2S_PPM) | (somebody & ((gas > H2S_PERSON_PPM) | (inputs["mode"] == _DISINFECT))))


def _feed_barred(inputs: Inputs) -> Array:
    return np.asarray((inputs["hopper_full_bool"] > 0.5) | (inputs["bin_lid_open_bool"] > 0.5))


def _situation(state: State, now_ns: int, inputs: Inputs, p: Parameters) -> tuple[State, Situation]:
    """Weight by age, corrected by what a scale last said; heads, set point and temperature as far as they are known."""
    by_age = along(inputs["day_of_batch"] + p.placed_age_d, p.weight_by_day)
    ratio = _kept(inputs["weight_kg"] / by_age, state.ratio)
    weight = _kept(inputs["weight_kg"], _kept(by_age * ratio, state.weight_kg))
    heads = _kept(inputs["pig_count"], state.heads)
    set_point = _kept(_kept(inputs["set.room_temp_c"], along(weight, p.room_c_by_kg)), state.set_point_c)
    first, second = inputs["room_temp_c"], inputs["room_temp_2_c"]
    room = np.where(np.isnan(first), second, np.where(np.isnan(second), first, (first + second) / 2.0))
    mode, climate = inputs["mode"], state.climate
    changed = (mode != climate.mode) & ~(np.isnan(mode) & np.isnan(climate.mode))
    climate = climate._replace(mode=mode, mode_ns=np.where(changed, now_ns, climate.mode_ns))
    preheat = mode == _PREHEAT
    no = np.zeros(len(mode), np.bool_)
    at = Situation(
        now_ns=now_ns,
        room_c=room,
        hot_c=np.fmax(first, second),
        set_point_c=set_point,
        weight_kg=weight,
        heads=_kept(heads, np.full(len(mode), p.places)),
        occupied=~((mode == _EMPTY) | (mode == _WASHDOWN) | (mode == _DISINFECT) | preheat),
        preheat=preheat,
        mode_s=(now_ns - climate.mode_ns) / NS_PER_S,
        agitation=no,
        purge=no,
    )
    return State(climate, state.works, weight, ratio, heads, set_point), at


def _climate(old: Climate, at: Situation, inputs: Inputs, p: Parameters) -> tuple[Climate, dict[Ask, Array], dict[str, Array]]:
    error = at.room_c - at.set_point_c
    was_on = old.fan.on & (old.fan.heard.value > 0.0)
    state, air, terms = pig_climate.first_stage(old, at, error, inputs, p)
    least, gas, warm = pig_climate.fan_demands(air, p)
    state, stages_on = pig_climate.stages(state, at, error, inputs, p)
    count = stages_on.sum(axis=1)
    all_m3_h = p.fan_m3_h + len(FANS) * p.stage_m3_h
    share = (np.maximum(air.warm, air.gas) * p.fan_m3_h + count * p.stage_m3_h) / all_m3_h
    state, opened = pig_climate.openings(state, at, error, share, inputs, p)
    state, heater_barred = pig_climate.heater(state, at, (count > 0) | opened.tunnel, inputs, p)
    state = pig_climate.curtains(state, at, was_on, inputs, p)
    lamps = pig_climate.lamps_pct(state, at, inputs, p)
    warm_pigs = at.occupied & (error >= p.sprinkle_k) & (at.weight_kg >= p.sprinkle_from_kg)
    rains = warm_pigs & (at.now_ns / NS_PER_S % p.sprinkle_every_s < p.sprinkle_s)
    hot = at.occupied & ((at.hot_c - at.set_point_c >= p.hot_k) | np.isnan(error))
    demands: dict[Ask, Array] = {
        MINIMUM: least,
        GASES: gas,
        COOLING: warm,
        FAN_HOT: np.where(hot, 100.0, np.nan),
        FAN_PURGE: np.where(at.purge, 100.0, np.nan),
        INLET: opened.inlet_pct,
        TUNNEL: 1.0 * opened.tunnel,
        CURTAIN: np.zeros(len(error)),
        CURTAIN_OPEN: np.where(state.curtain, 1.0, np.nan),
        HEATER: 1.0 * state.heats,
        HEATER_OFF: np.where(heater_barred, 0.0, np.nan),
        LAMP: lamps,
        PAD: 1.0 * opened.pad,
        PAD_OFF: np.where(opened.pad_barred, 0.0, np.nan),
        SPRINKLER: 1.0 * rains,
    }
    hot_known = hot & np.isfinite(error)
    for k, name in enumerate(FANS):
        demands[STAGE[name]] = 1.0 * stages_on[:, k]
        demands[STAGE_HOT[name]] = np.where(hot_known, 1.0, np.nan)
        demands[STAGE_PURGE[name]] = np.where(at.purge, 1.0, np.nan)
    terms |= {
        "set_point_c": at.set_point_c,
        "room_c": at.room_c,
        "weight_kg": at.weight_kg,
        "pigs_head": at.heads,
        "stages_1": 1.0 * count,
        "suction_pa": opened.suction_pa,
    }
    return state._replace(lamp_pct=lamps), demands, terms


def _works_demands(
    auger: Array, scraping: pig_works.Scraping, permit: Array, at: Situation, inputs: Inputs, p: Parameters
) -> dict[Ask, Array]:
    day, gate = inputs["day_of_batch"], inputs["gate_open_bool"] > 0.5
    dosed = np.zeros(len(day), np.bool_)
    for first, last in p.medication:
        dosed |= (day >= first) & (day <= last)
    back = (scraping.phase == pig_works.BACK) | (scraping.phase == pig_works.REVERSE)
    nan = np.nan
    return {
        WATER: np.where(at.occupied, 1.0, nan),
        MEDICATOR: 1.0 * (dosed & at.occupied),
        AUGER: 1.0 * auger,
        AUGER_OFF: np.where(_feed_barred(inputs), 0.0, nan),
        SCRAPER: 1.0 * (scraping.phase == pig_works.FORWARD),
        SCRAPER_BACK: 1.0 * back,
        SCRAPER_OFF: np.where(gate | (inputs["scraper_back_bool"] > 0.5), 0.0, nan),
        SCRAPER_BACK_OFF: np.where(gate | (inputs["scraper_run_bool"] > 0.5), 0.0, nan),
        SLURRY: 1.0 * permit,
        SLURRY_OFF: np.where(permit, nan, 0.0),
    }


CONTROLLER: Final = PigHouse()
