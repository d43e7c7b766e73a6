"""Controller of a Chinese solar greenhouse: blanket by the balance of radiation, vents, irrigation, emergency heat.

Levels: persons at the blanket bound its permit (personnel_safety), wind and rain bound vents and permit (equipment), cold bounds vents and
asks for heat (survival), the rest asks for values. Unknown inputs: position of the blanket, wind or persons unknown, it stands; hours,
sun, rain, snow or outside air unknown, it is not opened, and closed at night as long as the hours are known; wind or rain
unknown, the top vent at most a third open, the bottom vent shut; no inside temperature, the top vent by the sun outside and no heat (the
panel's thermostat remains); no moisture, soil temperature or sun, no irrigation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.control.controller import Ask, Turn, unknown
from rules.control.given import chosen, is_in, middle, ordered, within
from rules.control.memory import DAY_NS, LONG_AGO, NEVER, Drive, Guard, Moves, move, nanoseconds, start_drive
from rules.control.primitives import blanket_break_even_w_m2, clamp, curve, p_band
from telemetry.plan import NS_PER_S

Array = NDArray[Any]

WHAT: Final = "a solar greenhouse"
MOVES_PER_DAY: Final = 6  # of the blanket
IDLE: Final = ("EMPTY", "WASHDOWN", "DISINFECT", "MAINTENANCE")
ARRIVED_PCT: Final = 1.5


LIMITS: Final = {
    "open_after_sunrise_h": (0.0, 4.0), "open_gain": (1.0, 5.0), "open_s": (0.0, 7200.0), "close_gain": (0.0, 1.0),
    "close_s": (0.0, 14_400.0), "close_c": (5.0, 30.0), "close_before_sunset_h": (0.0, 8.0), "warm_night_c": (0.0, 40.0),
    "part_pct": (10.0, 100.0), "part_s": (0.0, 7200.0), "part_gain": (1.0, 20.0), "fall_k": (0.1, 10.0),
    "overcast_days": (0.0, 30.0), "overcast_least_h": (0.0, 12.0), "overcast_from_h": (6.0, 14.0), "overcast_h": (0.0, 10.0),
    "blanket_gust_m_s": (3.0, 20.0), "calm_s": (0.0, 7200.0), "pause_s": (30.0, 3600.0), "travel_s": (60.0, 1800.0),
    "open_w_m2_k": (0.1, 20.0), "closed_w_m2_k": (0.0, 20.0), "film_ratio": (0.5, 3.0), "transmission": (0.1, 1.0),
    "tilt_gain": (0.5, 3.0), "vent_c": (10.0, 40.0), "vent_band_k": (0.5, 20.0), "vent_rh_pct": (50.0, 100.0),
    "vent_rh_band_pct": (1.0, 50.0), "vent_rh_most_pct": (0.0, 100.0), "vent_dry_c": (5.0, 40.0), "pulse_pct": (0.0, 100.0),
    "pulse_after_s": (0.0, 14_400.0), "pulse_s": (0.0, 7200.0), "pulse_c": (5.0, 40.0), "bottom_c": (-10.0, 40.0),
    "bottom_never_c": (-10.0, 30.0), "bottom_wind_m_s": (1.0, 20.0), "gust_limit_m_s": (1.0, 25.0),
    "gust_shut_m_s": (3.0, 25.0), "gust_fall_m_s_min": (0.01, 60.0), "rain_pct": (0.0, 99.0), "blind_pct": (0.0, 100.0),
    "shade_c": (20.0, 45.0), "shade_band_k": (0.5, 20.0), "shade_most_pct": (0.0, 100.0), "shade_sun_w_m2": (0.0, 1500.0),
    "vent_step_pct": (1.0, 50.0), "vent_wait_s": (0.0, 3600.0), "frost_c": (-5.0, 20.0), "heat_margin_k": (0.2, 10.0),
    "fan_rh_pct": (50.0, 100.0), "dry_pct": (1.0, 60.0), "wet_pct": (1.0, 60.0), "soil_c": (0.0, 30.0),
    "sun_w_m2": (0.0, 1000.0), "water_from_h": (0.0, 12.0), "water_until_h": (0.0, 14.0), "water_s": (0.0, 14_400.0),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameters:
    """Defaults: the handbook 2.2 and 2.3, unverified unless said."""

    # -- blanket
    open_after_sunrise_h: float = 0.5
    open_gain: float = 1.1  # of the break-even radiation, for `open_s`
    open_s: float = 600.0
    close_gain: float = 0.8  # of it, for `close_s`
    close_s: float = 1800.0
    close_c: float = 18.0  # inside, in the last hours before sunset
    close_before_sunset_h: float = 3.0
    warm_night_c: float = 12.0  # outside, above which it stays up
    part_pct: float = 40.0  # first step of the morning
    part_s: float = 1500.0
    part_gain: float = 3.0  # of the break-even, from which the step is left out
    fall_k: float = 1.5  # by which the air may fall in it
    overcast_days: float = 2.0  # with less than `overcast_least_h` open, then opened around noon anyway
    overcast_least_h: float = 2.0
    overcast_from_h: float = 10.0
    overcast_h: float = 5.0
    blanket_gust_m_s: float = 10.0  # it stands above
    calm_s: float = 900.0  # after wind and rain
    pause_s: float = 30.0  # between two moves
    travel_s: float = 360.0  # of the whole way; the permit ends after one and a half
    open_w_m2_k: float = 5.0
    closed_w_m2_k: float = 1.3
    film_ratio: float = 1.15
    transmission: float = 0.70
    tilt_gain: float = 1.3
    # -- vents
    vent_c: float = 27.0
    vent_band_k: float = 4.0
    vent_rh_pct: float = 85.0  # by day, above `vent_dry_c` inside
    vent_rh_band_pct: float = 10.0
    vent_rh_most_pct: float = 20.0
    vent_dry_c: float = 21.0
    pulse_pct: float = 10.0
    pulse_after_s: float = 2700.0  # of the blanket's opening
    pulse_s: float = 900.0
    pulse_c: float = 15.0  # inside, at least
    bottom_c: float = 12.0  # outside, at least
    bottom_never_c: float = 5.0  # outside; never below
    bottom_wind_m_s: float = 8.0  # never above
    gust_limit_m_s: float = 8.0  # of the top vent, from here down to a fifth at `gust_shut_m_s`
    gust_shut_m_s: float = 12.0
    gust_fall_m_s_min: float = 0.4  # the highest gust is forgotten so fast, so that vents do not follow each
    rain_pct: float = 5.0
    blind_pct: float = 30.0
    shade_c: float = 31.0  # inside, from here the net is drawn
    shade_band_k: float = 4.0
    shade_most_pct: float = 80.0
    shade_sun_w_m2: float = 400.0  # and only in so much sun
    vent_step_pct: float = 5.0
    vent_wait_s: float = 120.0
    # -- heat, air, water
    frost_c: float = 5.0  # seedlings 8
    heat_margin_k: float = 1.0  # above frost, heat comes; at three times as much it goes
    fan_rh_pct: float = 92.0
    dry_pct: float = 24.0  # soil moisture that asks for water
    wet_pct: float = 28.0
    soil_c: float = 12.0
    sun_w_m2: float = 150.0  # less is overcast
    water_from_h: float = 1.0  # after sunrise
    water_until_h: float = 5.0
    water_s: float = 5400.0  # most in a day

    def __post_init__(self) -> None:
        """Refuse what no house can do."""
        within(self, WHAT, **LIMITS)
        for low, high in (("closed_w_m2_k", "open_w_m2_k"), ("bottom_never_c", "bottom_c"), ("gust_limit_m_s", "gust_shut_m_s")):
            ordered(self, WHAT, low, high)
        ordered(self, WHAT, "dry_pct", "wet_pct")
        ordered(self, WHAT, "water_from_h", "water_until_h")


class Blanket(NamedTuple):
    """Memory of the blanket; each (n,)."""

    up: Array  # bool: it shall be up
    full: Array  # bool: all the way
    sent: Drive  # where it was last sent to, and its moves
    gains_ns: Array  # int64, since when it would gain; NEVER while not
    loses_ns: Array  # and lose
    opened_ns: Array  # int64, last opening
    opened_c: Array  # air then
    run_s: Array  # of its present move, with permit
    held_pct: Array  # where it was stopped; NaN while it is not
    open_s: Array  # today
    dark_days: Array
    by_day: Array  # bool, at the last run


class Vents(NamedTuple):
    """Memory of the vents."""

    top: Drive
    bottom: Drive
    net: Drive


class State(NamedTuple):
    """Memory of the controller."""

    blanket: Blanket
    vents: Vents
    windy_ns: Array  # (n,) int64, last run with a gust over the blanket's limit, or unknown
    stormy_ns: Array  # over the vents' limit
    breezy_ns: Array  # with wind over the bottom vent's limit, or unknown
    peak_m_s: Array  # highest gust, as far as it is not forgotten; NaN unknown
    wet_ns: Array  # with rain or snow
    heats: Array  # (n,) bool
    stirs: Array
    waters: Array
    watered_s: Array  # today
    run_ns: Array  # int64


BLANKET: Final = Ask("blanket", "value", "temperature", "balance of radiation and heat", "按辐射与热量平衡")
PERMIT: Final = Ask("blanket_permit", "value", "temperature", "only while the blanket is to move", "仅在需要运动时许可")
PERMIT_PERSON: Final = Ask(
    "blanket_permit", "at_most", "personnel_safety", "somebody is at the blanket, or nobody knows", "卷帘区有人或未知"
)
PERMIT_WIND: Final = Ask("blanket_permit", "at_most", "equipment", "wind, or wind unknown", "大风或风速未知")
PERMIT_RAIN: Final = Ask("blanket_permit", "at_most", "equipment", "rain or snow", "雨雪")
PERMIT_BLIND: Final = Ask("blanket_permit", "at_most", "equipment", "position of the blanket unknown", "保温被位置未知")
TOP: Final = Ask("vent_top", "value", "temperature", "cooling by the top vent", "上通风口降温")
TOP_DRY: Final = Ask("vent_top", "at_least", "humidity_gas", "drying", "放风排湿")
TOP_WIND: Final = Ask("vent_top", "at_most", "equipment", "wind, or wind unknown", "大风或风速未知")
TOP_RAIN: Final = Ask("vent_top", "at_most", "equipment", "rain or snow", "雨雪")
TOP_COLD: Final = Ask("vent_top", "at_most", "survival", "near frost", "接近霜冻")
BOTTOM: Final = Ask("vent_bottom", "value", "temperature", "cooling by the bottom vent", "下通风口降温")
BOTTOM_WIND: Final = Ask("vent_bottom", "at_most", "equipment", "rain or wind, or wind unknown", "雨雪、大风或风速未知")
BOTTOM_COLD: Final = Ask("vent_bottom", "at_most", "survival", "cold draught at the crop", "冷风直吹作物")
NET: Final = Ask("shade_net", "value", "temperature", "shade in heat and sun", "高温强光遮阳")
NET_WIND: Final = Ask("shade_net", "at_most", "equipment", "wind, or wind unknown", "大风或风速未知")
HEAT: Final = Ask("heater", "at_least", "survival", "near frost", "接近霜冻")
STIR: Final = Ask("circulation_fan", "value", "humidity_gas", "moving humid or heated air", "高湿或加热时循环")
WATER: Final = Ask("irrigation_valve", "value", "temperature", "dry soil on a sunny morning", "晴天上午土壤偏干")


class _Now(NamedTuple):
    """What is known at a run; each (n,)."""

    ns: Array
    run_s: Array
    air_c: Array
    outside_c: Array
    sun_w_m2: Array
    gust_m_s: Array
    dry: Array  # bool, known to be
    after_h: Array
    before_h: Array
    day: Array  # bool
    night: Array  # bool; neither when unknown
    works: Array  # bool


class SolarGreenhouse:
    """See rules.control.controller.Controller."""

    READS: tuple[str, ...] = (
        "air_temp_c", "air_temp_east_c", "air_temp_west_c", "air_rh_pct", "soil_temp_c", "soil_vwc_pct",
        "blanket_pos_pct", "vent_top_pct", "snow_bool", "person_present_bool",
        "weather.temp_c", "weather.rad_w_m2", "weather.wind_speed_m_s", "weather.wind_gust_m_s", "weather.rain_bool",
        "set.frost_c", "set.ventilation_c", "hour", "hours_after_sunrise", "hours_before_sunset", "mode",
    )  # fmt: skip
    ASKS: tuple[Ask, ...] = (
        BLANKET, PERMIT, PERMIT_PERSON, PERMIT_WIND, PERMIT_RAIN, PERMIT_BLIND, TOP, TOP_DRY, TOP_WIND, TOP_RAIN, TOP_COLD,
        BOTTOM, BOTTOM_WIND, BOTTOM_COLD, NET, NET_WIND, HEAT, STIR, WATER,
    )  # fmt: skip
    EVERY_S = 30.0

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Figures by their names in Parameters."""
        return Parameters(**chosen(Parameters(), given, WHAT))

    def start(self, n: int, time_ns: int, parameters: Parameters) -> State:
        """Nothing known: the blanket is taken to be where it is found."""
        no, zero, past, never = np.zeros(n, np.bool_), np.zeros(n), np.full(n, LONG_AGO), np.full(n, NEVER)
        sent = start_drive(unknown(n), time_ns, _roller(parameters))
        blanket = Blanket(no, no, sent, never, never, past, unknown(n), zero, unknown(n), zero, zero, no)
        windows = _windows(parameters)
        vents = Vents(*(start_drive(zero, time_ns, moves) for moves in (windows, windows, NET_MOVES)))
        return State(blanket, vents, past, past, past, unknown(n), past, no, no, no, zero, np.full(n, time_ns))

    def step(self, state: State, time_ns: int, inputs: Mapping[str, Array], parameters: Parameters) -> Turn:
        """One run."""
        p, i = parameters, inputs
        now = _now(state, time_ns, i)
        windy_ns = np.where(now.gust_m_s <= p.blanket_gust_m_s, state.windy_ns, now.ns)
        stormy_ns = np.where(now.gust_m_s > p.gust_shut_m_s, now.ns, state.stormy_ns)
        breezy_ns = np.where(i["weather.wind_speed_m_s"] <= p.bottom_wind_m_s, state.breezy_ns, now.ns)
        fallen_m_s = state.peak_m_s - p.gust_fall_m_s_min * now.run_s / 60.0
        peak_m_s = np.where(np.isnan(now.gust_m_s), np.nan, np.fmax(now.gust_m_s, fallen_m_s))
        wet_ns = np.where((i["weather.rain_bool"] > 0.5) | (i["snow_bool"] > 0.5), now.ns, state.wet_ns)
        last_ns = (windy_ns, wet_ns, stormy_ns, breezy_ns)
        calm, rainless, stormless, still = (now.ns - since >= nanoseconds(p.calm_s) for since in last_ns)
        fair = rainless & now.dry
        frost_c = np.where(np.isfinite(i["set.frost_c"]), i["set.frost_c"], p.frost_c)

        pos = i["blanket_pos_pct"]
        blanket, balance = _blanket(state.blanket, now, pos, i, p, calm=calm, fair=fair, frost_c=frost_c)
        person, blind = ~(i["person_present_bool"] < 0.5), np.isnan(pos)
        stopped = person | blind | ~calm | ~rainless | ~now.works
        blanket, goal_pct, permit = _roll(blanket, now, pos, stopped, p)

        vents, opened = _vent(state.vents, now, blanket, i, p, peak_m_s=peak_m_s, stormless=stormless, fair=fair)
        margin_k = now.air_c - frost_c
        heats = np.where(np.isfinite(margin_k), margin_k < p.heat_margin_k * np.where(state.heats, 3.0, 1.0), False)
        stirs = i["air_rh_pct"] >= p.fan_rh_pct - np.where(state.stirs, 4.0, 0.0)
        waters, watered_s = _water(state, now, pos, i, p)

        works = now.works
        demands = {
            BLANKET: _ask(works, goal_pct),
            PERMIT: _ask(works, permit.astype(np.float64)),
            PERMIT_PERSON: _ask(person, 0.0),
            PERMIT_WIND: _ask(~calm, 0.0),
            PERMIT_RAIN: _ask(~rainless, 0.0),
            PERMIT_BLIND: _ask(blind, 0.0),
            TOP: _ask(works, opened.top_pct),
            TOP_DRY: _ask(works & (opened.dry_pct > 0.0), np.minimum(opened.dry_pct, opened.top_pct)),
            TOP_WIND: _ask(opened.wind_pct < 100.0, opened.wind_pct),
            TOP_RAIN: _ask(~rainless, p.rain_pct),
            TOP_COLD: _ask(margin_k < p.heat_margin_k, 0.0),
            BOTTOM: _ask(works, opened.bottom_pct),
            BOTTOM_WIND: _ask(~(stormless & still & rainless), 0.0),
            BOTTOM_COLD: _ask(~(now.outside_c >= p.bottom_never_c), 0.0),
            NET: _ask(works, opened.net_pct),
            NET_WIND: _ask(~(stormless & still), 0.0),
            HEAT: _ask(heats & works, 1.0),
            STIR: _ask(works, (stirs | heats).astype(np.float64)),
            WATER: _ask(works, waters.astype(np.float64)),
        }
        after = State(blanket, vents, windy_ns, stormy_ns, breezy_ns, peak_m_s, wet_ns, heats, stirs, waters, watered_s, now.ns)
        terms = {
            "air_temp_c": now.air_c,
            "frost_c": frost_c,
            "break_even_w_m2": balance,
            "sun_w_m2": now.sun_w_m2,
            "gains_min": _minutes(blanket.gains_ns, now.ns),
            "loses_min": _minutes(blanket.loses_ns, now.ns),
            "blanket_goal_pct": blanket.sent.position,
            "blanket_moves_count": _moves(blanket.sent, now.ns).astype(np.float64),
            "blanket_open_h": blanket.open_s / 3600.0,
            "dark_days_d": blanket.dark_days,
            "calm_bool": calm.astype(np.float64),
            "fair_bool": fair.astype(np.float64),
            "vent_temp_pct": opened.temp_pct,
            "vent_dry_pct": opened.dry_pct,
            "vent_wind_pct": opened.wind_pct,
            "gust_peak_m_s": peak_m_s,
            "shade_pct": opened.net_pct,
            "watered_min": watered_s / 60.0,
        }
        return Turn(after, demands, terms)


def _now(state: State, time_ns: int, i: Mapping[str, Array]) -> _Now:
    ns = np.full(len(state.heats), time_ns)
    after_h, before_h = i["hours_after_sunrise"], i["hours_before_sunset"]
    day = (after_h > 0.0) & (before_h > 0.0)
    return _Now(
        ns,
        clamp((ns - state.run_ns) / NS_PER_S, 0.0, 3.0 * SolarGreenhouse.EVERY_S),
        middle(i["air_temp_c"], i["air_temp_east_c"], i["air_temp_west_c"]),
        i["weather.temp_c"],
        i["weather.rad_w_m2"],
        i["weather.wind_gust_m_s"],
        (i["weather.rain_bool"] < 0.5) & (i["snow_bool"] < 0.5),
        after_h,
        before_h,
        day,
        np.isfinite(after_h) & np.isfinite(before_h) & ~day,
        ~is_in(i["mode"], IDLE),
    )


# -- blanket -------------------------------------------------------------------------------------------------------------


_GUARD: Final = Guard(SolarGreenhouse.EVERY_S)


@lru_cache
def _roller(p: Parameters) -> Moves:
    return Moves(least=10.0, per_day=MOVES_PER_DAY, wait_s=p.pause_s)


def _moves(sent: Drive, ns: Array) -> Array:
    """Moves in the last 24 hours, int64 (n,)."""
    return np.asarray((ns[:, None] - sent.moves_ns < DAY_NS).sum(axis=1))


def _blanket(
    old: Blanket, now: _Now, pos: Array, i: Mapping[str, Array], p: Parameters, *, calm: Array, fair: Array, frost_c: Array
) -> tuple[Blanket, Array]:
    """Where the blanket shall be, and the radiation from which it gains [W/m2]."""
    even = blanket_break_even_w_m2(
        now.air_c, now.outside_c, open_w_m2_k=p.open_w_m2_k, closed_w_m2_k=p.closed_w_m2_k, film_ratio=p.film_ratio,
        transmission=p.transmission, tilt_gain=p.tilt_gain,
    )  # fmt: skip
    gains_ns = np.where(now.sun_w_m2 > np.maximum(p.open_gain * even, 20.0), np.minimum(old.gains_ns, now.ns), NEVER)
    loses_ns = np.where(now.sun_w_m2 < p.close_gain * even, np.minimum(old.loses_ns, now.ns), NEVER)
    gains, loses = now.ns - gains_ns >= nanoseconds(p.open_s), now.ns - loses_ns >= nanoseconds(p.close_s)

    # A day with little light counts when it ends.
    ends = old.by_day & now.night
    dark_days = np.where(ends, np.where(old.open_s < p.overcast_least_h * 3600.0, old.dark_days + 1.0, 0.0), old.dark_days)
    open_s = np.where(ends, 0.0, old.open_s) + np.where(now.day & (pos > 50.0), now.run_s, 0.0)
    noon = (i["hour"] >= p.overcast_from_h) & (i["hour"] < p.overcast_from_h + p.overcast_h)
    anyway = noon & (dark_days >= p.overcast_days) & (now.air_c > frost_c + 3.0)

    found = np.isnan(old.sent.position) & np.isfinite(pos)  # the first time it is seen
    was_up, was_full = np.where(found, pos > 20.0, old.up), np.where(found, pos > 70.0, old.full)
    sent = old.sent._replace(position=np.where(found, pos, old.sent.position))
    morning = now.after_h < 3.5
    need = np.where(morning, 2, 1)  # moves to open, and one is kept for the evening
    budget = _moves(sent, now.ns) + need + 1 <= MOVES_PER_DAY
    hours = (now.after_h >= p.open_after_sunrise_h) & (now.before_h >= 1.0)
    opens = ~was_up & hours & fair & calm & budget & np.isfinite(even) & (gains | anyway)
    late = (now.before_h < p.close_before_sunset_h) & (now.before_h > 0.0)
    cold_night = ~(now.outside_c >= p.warm_night_c)
    cools = (late & (now.air_c < p.close_c)) | (loses & ~anyway & ~(now.air_c > p.vent_c - 5.0)) | now.night
    closes = was_up & cools & cold_night
    up = (was_up | opens) & ~closes

    opened_ns, opened_c = np.where(opens, now.ns, old.opened_ns), np.where(opens, now.air_c, old.opened_c)
    waited = now.ns - opened_ns >= nanoseconds(p.part_s)
    warm = (waited & ~(now.air_c < opened_c - p.fall_k)) | (now.sun_w_m2 >= p.part_gain * even) | ~morning
    full = up & (was_full | (was_up & warm) | (opens & ~morning))
    target = np.where(up, np.where(full, 100.0, p.part_pct), 0.0)
    known = np.isfinite(sent.position)
    sent, _ = move(sent, now.ns, np.where(known & now.works, target, np.nan), _roller(p), _GUARD)
    return old._replace(
        up=up, full=full, sent=sent, gains_ns=gains_ns, loses_ns=loses_ns, opened_ns=opened_ns, opened_c=opened_c, open_s=open_s,
        run_s=np.where(sent.position != old.sent.position, 0.0, old.run_s), dark_days=dark_days,
        by_day=np.where(now.day, True, np.where(now.night, False, old.by_day)),
    ), even  # fmt: skip


def _roll(blanket: Blanket, now: _Now, pos: Array, stopped: Array, p: Parameters) -> tuple[Blanket, Array, Array]:
    """(memory, where to roll to now, whether the roller may run): it stands where it is while anything forbids it."""
    sent = blanket.sent.position
    away = np.abs(pos - sent) > ARRIVED_PCT
    run_s = np.where(away, blanket.run_s, 0.0)
    permit = away & ~stopped & (run_s < 1.5 * p.travel_s)
    at_stop = np.where(np.isfinite(pos), pos, sent)
    held = np.where(stopped & away | np.isnan(pos), np.where(np.isnan(blanket.held_pct), at_stop, blanket.held_pct), np.nan)
    goal = clamp(np.where(np.isnan(held), sent, held), 0.0, 100.0)
    return blanket._replace(run_s=np.where(permit, run_s + now.run_s, run_s), held_pct=held), goal, permit


# -- vents ---------------------------------------------------------------------------------------------------------------


NET_MOVES: Final = Moves(least=20.0, per_day=24, wait_s=600.0)


@lru_cache
def _windows(p: Parameters) -> Moves:
    return Moves(least=p.vent_step_pct, per_day=200, wait_s=p.vent_wait_s)


class _Opened(NamedTuple):
    """How far vents shall and may be open; each (n,)."""

    top_pct: Array
    bottom_pct: Array
    temp_pct: Array
    dry_pct: Array
    wind_pct: Array
    net_pct: Array


def _vent(
    old: Vents,
    now: _Now,
    blanket: Blanket,
    i: Mapping[str, Array],
    p: Parameters,
    *,
    peak_m_s: Array,
    stormless: Array,
    fair: Array,
) -> tuple[Vents, _Opened]:
    """Top and bottom vents."""
    guard, windows = _GUARD, _windows(p)
    bare = i["blanket_pos_pct"] > 20.0  # a covered vent passes nothing
    vent_c = np.where(np.isfinite(i["set.ventilation_c"]), i["set.ventilation_c"], p.vent_c)
    by_sun = np.where((now.sun_w_m2 > 300.0) & (now.outside_c > 10.0), 50.0, 0.0)
    temp_pct = np.where(np.isnan(now.air_c), by_sun, p_band(now.air_c, vent_c, p.vent_band_k))
    temp_pct = np.where(bare | np.isnan(i["blanket_pos_pct"]), temp_pct, 0.0)
    humid = p_band(i["air_rh_pct"], p.vent_rh_pct, p.vent_rh_band_pct, high=p.vent_rh_most_pct)
    since = now.ns - blanket.opened_ns
    pulses = (since >= nanoseconds(p.pulse_after_s)) & (since < nanoseconds(p.pulse_after_s + p.pulse_s)) & (now.air_c > p.pulse_c)
    pulse = np.where(pulses & bare & fair, p.pulse_pct, 0.0)
    drying = np.where(now.day & bare & (now.air_c > p.vent_dry_c), humid, 0.0)
    dry_pct = np.fmax(np.fmax(drying, pulse), 0.0)
    wanted = np.maximum(temp_pct, dry_pct)
    top, top_pct = move(old.top, now.ns, wanted, windows, guard)

    limit = np.floor(curve(peak_m_s, [p.gust_limit_m_s, p.gust_shut_m_s], [100.0, 20.0]) / 20.0) * 20.0
    known = np.isfinite(peak_m_s) & np.isfinite(i["weather.rain_bool"])
    wind_pct = np.where(~stormless, 0.0, np.where(known, limit, p.blind_pct))
    may = (now.outside_c > p.bottom_c) & (i["vent_top_pct"] >= 90.0) & bare
    below = np.where(may & np.isfinite(now.air_c), p_band(now.air_c, vent_c + p.vent_band_k / 2.0, p.vent_band_k), 0.0)
    bottom, bottom_pct = move(old.bottom, now.ns, below, windows, guard)
    shade = p_band(now.air_c, p.shade_c, p.shade_band_k, high=p.shade_most_pct)
    shade = np.where((now.sun_w_m2 > p.shade_sun_w_m2) & np.isfinite(shade), shade, 0.0)
    net, net_pct = move(old.net, now.ns, shade, NET_MOVES, guard)
    return Vents(top, bottom, net), _Opened(top_pct, bottom_pct, temp_pct, dry_pct, wind_pct, net_pct)


# -- water ---------------------------------------------------------------------------------------------------------------


def _water(state: State, now: _Now, pos: Array, i: Mapping[str, Array], p: Parameters) -> tuple[Array, Array]:
    """(whether to irrigate, for how long today [s])."""
    watered_s = np.where(now.night, 0.0, state.watered_s)
    window = (now.after_h >= p.water_from_h) & (now.after_h < p.water_until_h) & (watered_s < p.water_s)
    bright = (now.sun_w_m2 >= p.sun_w_m2) & (pos > 50.0) & (i["soil_temp_c"] > p.soil_c)
    dry = i["soil_vwc_pct"] < np.where(state.waters, p.wet_pct, p.dry_pct)
    waters = window & bright & dry & now.works
    return waters, watered_s + np.where(waters, now.run_s, 0.0)


def _minutes(since_ns: Array, ns: Array) -> Array:
    """Since when something has held [min]; NaN where it does not."""
    holds = since_ns < NEVER
    return np.where(holds, (ns - np.where(holds, since_ns, ns)) / NS_PER_S / 60.0, np.nan)


def _ask(when: Array, value: Any) -> Array:
    return np.where(when, value, np.nan)


CONTROLLER: Final = SolarGreenhouse()
