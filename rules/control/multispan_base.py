"""What the parts of the multi-span controller share: what it asks for, what it remembers, what a step knows."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.controller import Ask
from rules.control.irrigation import Irrigation
from rules.control.memory import Drive, Ramp
from rules.control.pi import PI
from rules.control.switch import Switch
from telemetry.plan import NS_PER_S

Array = NDArray[Any]
In = Mapping[str, Array]

UMOL_PER_J: Final = 2.3  # PAR photons per J of global radiation [GreenLight]
APART_K: Final = 2.5  # two thermometers that differ by more are judged by the leaf's
BEYOND: Final = 1e6  # no measurement: unknown
HOUR_NS: Final = 3600 * NS_PER_S
IDLE: Final = ("EMPTY", "WASHDOWN", "DISINFECT")  # no crop
PRESET: Final = ("DISINFECT", "SPRAYING")  # vents and fans as the work wants them
PEOPLE: Final = ("WASHDOWN", "DISINFECT", "SPRAYING", "MAINTENANCE")  # work inside: no CO2, no fog, no water

HEAT = Ask("mixing_valve", "value", "temperature", "heating", "加热")
MIN_PIPE = Ask("mixing_valve", "value", "humidity_gas", "minimum pipe against humidity", "除湿最低管温")
PIPE_MOST = Ask("mixing_valve", "at_most", "equipment", "pipe at its highest", "管温上限")
FROST = Ask("mixing_valve", "at_least", "survival", "frost", "防冻")
PUMP = Ask("circulation_pump", "value", "temperature", "heat is asked for", "供热")
PUMP_FROST = Ask("circulation_pump", "at_least", "survival", "frost outside", "室外霜冻")
SCREEN = Ask("thermal_screen", "value", "temperature", "energy screen", "保温幕节能")
SCREEN_RH = Ask("thermal_screen", "at_most", "humidity_gas", "gap against humidity", "除湿留缝")
SCREEN_HOT = Ask("thermal_screen", "at_most", "survival", "too hot behind the screen", "幕下过热")
SHADE = Ask("shade_screen", "value", "economy", "too much sun", "光照过强")
CO2 = Ask("co2_valve", "value", "economy", "CO2 for the crop", "二氧化碳施肥")
CO2_PEOPLE = Ask("co2_valve", "at_most", "personnel_safety", "people inside", "室内有人")
FOG = Ask("fog", "value", "humidity_gas", "dry and warm", "干热")
FOG_PEOPLE = Ask("fog", "at_most", "manual", "work inside", "室内作业")
FAN = Ask("exhaust_fan", "value", "temperature", "too hot for vents alone", "天窗降温不足")
PAD = Ask("pad_pump", "value", "temperature", "too hot for fans alone", "风机降温不足")
LAMP = Ask("grow_light", "value", "economy", "light of the day is short", "日累积光不足")
WATER = Ask("irrigation_valve", "value", "temperature", "shot", "灌溉")
WATER_MODE = Ask("irrigation_valve", "at_most", "manual", "work inside", "室内作业")
DOSE = Ask("dosing", "value", "economy", "fertiliser into the shot", "随水施肥")


def _vents(bound: str, level: str, en: str, zh: str) -> tuple[Ask, Ask]:
    return Ask("vent_lee", bound, level, en, zh), Ask("vent_wind", bound, level, en, zh)


WARM = _vents("value", "temperature", "ventilation", "通风降温")
HUMID = _vents("value", "humidity_gas", "ventilation against humidity", "通风除湿")
STORM = _vents("at_most", "equipment", "storm", "大风")
GUST = _vents("at_most", "equipment", "gusts", "阵风")
RAIN = _vents("at_most", "equipment", "rain", "降雨")
NO_WIND = _vents("at_most", "equipment", "wind is not known", "风速未知")
COLD = _vents("at_most", "survival", "frost", "防冻")
PADDED = _vents("at_most", "temperature", "air through the pad", "湿帘进风")
WORK = _vents("at_most", "manual", "closed for spraying or disinfection", "喷药或消毒关窗")


class Means(NamedTuple):
    """Air temperature of the last 24 h, in whole hours of UTC."""

    hours_c: Array  # (n, 24) NaN where nothing is known
    sum_k_s: Array  # (n,) of the hour that runs
    seen_s: Array  # (n,)
    hour: Array  # (n,) int64


class State(NamedTuple):
    """Memory of a greenhouse's controller."""

    now_ns: Array  # (n,) int64, last call
    heating: Ramp
    means: Means
    pipe: PI
    valve: PI
    opening_pct: Array  # (n,) of the mixing valve, as asked last
    pump: Switch
    lee: Drive
    wind: Drive
    humid: Drive
    swapped: Switch  # what is named lee is to wind
    storm: Switch
    rain: Switch
    gust: Ramp  # rises at once and falls slowly, so that vents wait for the calm
    screen: Switch
    screen_gap: Switch
    shade: Switch
    fan: Switch
    pad: Switch
    fog: Switch
    lamp: Switch
    co2_pct: Array  # (n,) as asked last
    light_mol: Array  # (n,) since midnight, with lamps
    sun_mol: Array  # (n,) without
    yesterday_mol: Array  # (n,) of the sun
    hour: Array  # (n,) of the last call
    irrigation: Irrigation


class Seen(NamedTuple):
    """What a step knows and has decided so far; each (n,)."""

    inputs: In
    time_ns: int
    elapsed_s: Array
    air_c: Array
    is_day: Array  # of the temperature programme
    is_up: Array  # the sun, by the clock; False when no clock is known
    heating_c: Array
    ventilation_c: Array
    idle: Array
    people: Array

    def given(self, name: str, default: float) -> Array:
        """A set point of the area, or the default."""
        value = self.inputs[f"set.{name}"]
        return np.where(np.isfinite(value), value, default)


def steady(last: Array, target: Array, least: ArrayLike) -> Array:
    """The last target until the new one differs by `least` or is an end of the travel: noise moves no valve."""
    stays = (np.abs(target - last) < least) & (target > 0.0) & (target < 100.0)
    return np.where(stays, last, target)


def below_full(limit: Array) -> Array:
    """A limit of 100 % is none."""
    return np.where(limit < 100.0, limit, np.nan)
