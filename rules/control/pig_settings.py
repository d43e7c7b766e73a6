"""Parameters of the pig house controller. Handbook sections 4.2 to 4.4; what is not said to be read or computed there is unverified."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rules.control.feed_phases import USUAL, FeedPhase
from rules.control.memory import require
from rules.control.settings import ascending, numbers, rows, setting

# CIGR 2002 at 20 C with the appetite of 3.6 (1 - exp(-0.0165 W)) kg/d: weight kg, W.
_HEAT = ((6, 44), (8, 55), (12, 75), (18, 100), (25, 114), (35, 143), (50, 175), (70, 202), (90, 219), (110, 229))
# Natural peaks of feeding in the morning and the late afternoon; per cent of the day by its hours.
_FEED_BY_HOUR = (2, 0, 0, 2, 0, 4, 9, 10, 8, 4, 4, 4, 4, 4, 5, 8, 9, 8, 5, 4, 3, 3, 0, 0)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Units in the names; `_by_kg` are curves over the weight of one pig, `_by_day` over its age or the day of its batch.

    Air is per place of the house, at the suction that is set.
    """

    places: float = setting(1000, 1, 100_000)
    placed_age_d: float = setting(63, 0, 300)  # of pigs on day 0 of their batch
    weight_by_day: tuple[tuple[float, float], ...] = rows(
        ((0, 1.4), (21, 5.6), (42, 13.0), (63, 25.0), (80, 37.9), (100, 56.0), (120, 75.8), (140, 96.0), (165, 120.0)), 0.5, 400
    )  # Gompertz fit
    heat_w_by_kg: tuple[tuple[float, float], ...] = rows(_HEAT, 1, 2000)

    # temperature
    room_c_by_kg: tuple[tuple[float, float], ...] = rows(
        ((6, 28), (8, 27), (12, 25.5), (18, 23.5), (25, 22), (35, 21), (50, 20), (70, 19), (90, 18), (110, 17)), 5, 35
    )
    heat_on_k: float = setting(1.0, 0.5, 5)  # below the set point
    heat_off_k: float = setting(0.3, -2, 4)  # below 0 it is above the set point
    dead_zone_k: float = setting(0.5, 0, 5)  # by which cooling begins later, up to 15 min after heat
    frost_c: float = setting(5.0, 0, 15)  # of an empty room
    creep_c_by_day: tuple[tuple[float, float], ...] = rows(((0, 34), (21, 26)), 15, 40)
    creep_until_kg: float = setting(
        12.0, 1, 500
    )  # lamps are for lighter pigs; above the sows' own weight where litters lie beside them
    hot_k: float = setting(6.0, 2, 15)  # all fans, whatever a hand says
    curtain_k: float = setting(8.0, 3, 20)

    # air
    fan_m3_h: float = setting(54.0, 1, 1000)  # first stage at full speed
    stage_m3_h: float = setting(36.0, 1, 1000)  # each of fan_2 to fan_4
    tunnel_m3_h: float = setting(54.0, 1, 2000)
    fan_lowest_pct: float = setting(40.0, 10, 100)
    fan_pa: float = setting(150.0, 50, 1000)  # where the fan's straight curve ends at full speed
    suction_pa: float = setting(15.0, 5, 40)  # 12 to 25
    suction_band_pa: float = setting(3.0, 0, 20)  # either side of it, where inlets stand still
    cold_m3_h_by_kg: tuple[tuple[float, float], ...] = rows(
        ((9.5, 3.4), (24, 5.1), (51, 12), (93, 17)), 0.5, 500
    )  # MWPS-32, middle of its classes
    mild_m3_h_by_kg: tuple[tuple[float, float], ...] = rows(((9.5, 17), (24, 25), (51, 41), (93, 59)), 1, 500)
    co2_max_ppm: float = setting(3000.0, 800, 5000)
    co2_trim_ppm: float = setting(300.0, 10, 5000)  # over it, by which the first stage gains 10 %
    rh_max_pct: float = setting(75.0, 40, 95)
    rh_trim_pct: float = setting(3.0, 0.5, 50)
    nh3_max_ppm: float = setting(15.0, 2, 50)
    nh3_trim_ppm: float = setting(3.0, 0.5, 50)
    trim_max_pct: float = setting(50.0, 0, 100)  # of the first stage, all trims together
    duty_s: float = setting(300.0, 60, 1800)
    band_k: float = setting(1.1, 0.3, 10)  # first stage from minimum to full
    stages_k: tuple[float, ...] = numbers((1.4, 2.8, 3.8), 0.5, 15)
    tunnel_k: float = setting(4.5, 1, 20)
    pad_k: float = setting(6.0, 2, 25)
    hysteresis_k: float = setting(0.4, 0.1, 1.5)
    stage_down_s: float = setting(90.0, 0, 900)
    dwell_s: float = setting(60.0, 0, 600)  # of the change-over between inlets and tunnel
    pad_rh_pct: float = setting(80.0, 50, 90)  # outside, above it a pad does not run
    pad_dry_h: tuple[float, ...] = numbers((4.0, 5.5), 0, 24)  # hours of the day in which it dries
    sprinkle_k: float = setting(5.0, 2, 20)
    sprinkle_s: float = setting(90.0, 10, 600)
    sprinkle_every_s: float = setting(720.0, 60, 3600)
    sprinkle_from_kg: float = setting(20.0, 5, 500)
    inlet_least_pct: float = setting(4.0, 0, 30)
    inlet_step_pct: float = setting(3.0, 0.5, 20)

    # feed, water, manure
    feed_kg_by_kg: tuple[tuple[float, float], ...] = rows(
        ((6, 0.34), (12, 0.65), (25, 1.22), (50, 2.02), (70, 2.47), (90, 2.78), (110, 3.01), (140, 3.24)), 0.05, 20
    )
    feed_ration: float = setting(1.05, 0.3, 1.5)  # of that: with 5 % of waste
    feed_share_by_hour: tuple[float, ...] = numbers(_FEED_BY_HOUR, 0, 100)
    feed_phases: tuple[FeedPhase, ...] = USUAL
    auger_kg_min: float = setting(30.0, 0.5, 500)
    auger_max_s: float = setting(900.0, 60, 3600)
    medication: tuple[tuple[float, float], ...] = rows(
        (), -100, 1000, ascends=False
    )  # first and last day of the batch, such as [[3, 7]]
    scrape_h: tuple[float, ...] = ascending((5.5, 9.5, 12.5, 14.5, 18.5, 20.5, 23.5), 0, 24)  # hours of the day
    scraper_pass_s: float = setting(600.0, 30, 1200)
    scraper_reverse_s: float = setting(20.0, 5, 60)
    agitation_air_s: float = setting(600.0, 60, 3600)  # air proven before slurry moves
    agitation_start_ppm: float = setting(10.0, 1, 20)
    agitation_trip_ppm: float = setting(50.0, 10, 100)
    purge_s: float = setting(2700.0, 1800, 7200)  # most air after slurry moved
    disinfect_s: float = setting(1800.0, 300, 86_400)  # the room stays shut, then it is aired

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        require(self.heat_off_k < self.heat_on_k, "heat_off_k must be below heat_on_k: the heater goes off nearer to the set point")
        stages = (*self.stages_k, self.tunnel_k, self.pad_k)
        require(np.diff(stages) > 0.0, "stages_k, tunnel_k and pad_k rise from stage to stage, in that order")
        require(self.band_k <= self.stages_k[0], "band_k must not reach beyond the first of stages_k")
        require(self.hot_k >= self.stages_k[-1], "hot_k must not be below the last of stages_k")
        require(self.curtain_k >= self.hot_k, "curtain_k must not be below hot_k: curtains are the last means")
        require(sum(self.feed_share_by_hour) > 0.0, "feed_share_by_hour needs at least one hour above 0")
        require(self.lowest_share > 0.0, "fan_lowest_pct is too slow against suction_pa: the fan's shutter would stay shut")
        require(self.agitation_start_ppm < self.agitation_trip_ppm, "agitation_start_ppm must be below agitation_trip_ppm")

    @property
    def back_share(self) -> float:
        """Suction over what the fan can hold at full speed."""
        return self.suction_pa / self.fan_pa

    @property
    def lowest_share(self) -> float:
        """Air at the lowest speed over that at full speed, by the fan laws: (s - k / s) / (1 - k)."""
        speed = self.fan_lowest_pct / 100.0
        return (speed - self.back_share / speed) / (1.0 - self.back_share)


def along(x: Any, pairs: tuple[tuple[float, float], ...]) -> NDArray[Any]:
    """A curve of `rows` at x (n,): straight between, constant beyond; NaN for NaN."""
    return np.asarray(np.interp(x, *_knots(pairs)))


@functools.cache
def _knots(pairs: tuple[tuple[float, float], ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    places, values = np.array(pairs, np.float64).T
    return places.copy(), values.copy()
