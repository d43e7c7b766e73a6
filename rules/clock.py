"""What the clock, the sun, the batch and the mode of an area say, as columns that change at full minutes.

Times of rules have a resolution of one minute: the clock's cells take their values at every full minute of UTC, and hold until the
next. A mode or a batch changes with the request that says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.area import AreaState
from telemetry import sun
from telemetry.plan import NS_PER_S, Plan
from telemetry.site import MODES, SiteConfig

Array = NDArray[Any]
MINUTE_NS: Final = 60 * NS_PER_S
CLOCKS: Final = {  # name in the language: unit of the value
    "hour": "h",
    "weekday": "",
    "sun_up": "",
    "sun_elevation_deg": "deg",
    "hours_after_sunrise": "h",
    "hours_before_sunset": "h",
    "day_of_batch": "d",
    "mode": "",
}

OF_AREA: Final = ("mode", "day_of_batch")
OF_SUN: Final = ("hours_after_sunrise", "hours_before_sunset")


def full_minutes(after_ns: int, until_ns: int) -> Array:
    """Every full minute in (after, until], int64 ns."""
    return np.arange(after_ns // MINUTE_NS + 1, until_ns // MINUTE_NS + 1, dtype=np.int64) * MINUTE_NS


def clock_values(plan: Plan, areas: Mapping[str, AreaState], cells: Sequence[tuple[str, str, str]], times_ns: Array) -> Array:
    """Values of the clock's cells (site, area, name) at times; shape (times, cells)."""
    out = np.full((len(times_ns), len(cells)), np.nan)
    if not len(times_ns):  # mostly: between two minutes
        return out
    made: dict[tuple[str, str], Array] = {}
    for k, (site, area, name) in enumerate(cells):
        if name in OF_AREA or name.startswith("set."):
            out[:, k] = area_value(plan.sites[site], area, areas.get(f"{site}/{area}", AreaState()), name, times_ns)
            continue
        if (site, name) not in made:
            made |= {(site, told): value for told, value in _site_values(plan, site, name, times_ns).items()}
        out[:, k] = made[site, name]
    return out


def area_value(config: SiteConfig, place: str, state: AreaState, name: str, times_ns: Array) -> Array:
    """The mode's number, the day of the batch, or a set point ("set.NAME"), at times (n,)."""
    if name == "mode":
        return np.full(len(times_ns), float(MODES.index(state.mode)))
    spec = None
    if name != "day_of_batch":
        spec = next(area for area in config.areas if area.name == place).setpoints.get(name.removeprefix("set."))
        if spec is None or spec.value is not None:
            return np.full(len(times_ns), np.nan if spec is None else spec.value)
    local_s = times_ns / NS_PER_S + config.offset_s(times_ns)
    if state.batch_ns is None:
        day = np.full(len(times_ns), np.nan)
    else:
        day = local_s / sun.DAY_S - (state.batch_ns / NS_PER_S + config.offset_s(np.array([state.batch_ns]))[0]) / sun.DAY_S
    if spec is None:
        return np.asarray(np.floor(day))
    knots = np.array(spec.by_day or spec.by_hour)
    return np.asarray(np.interp(day if spec.by_day else np.mod(local_s, sun.DAY_S) / 3600.0, knots[:, 0], knots[:, 1]))


def _site_values(plan: Plan, site: str, name: str, times_ns: Array) -> dict[str, Array]:
    """A value of the site's clock by its name, and what is known with it."""
    if name not in OF_SUN:
        return {name: _site_value(plan, site, name, times_ns)}
    config, unix_s = plan.sites[site], times_ns / NS_PER_S
    rise_s, set_s = sun.sunrise_sunset_s(unix_s, config.latitude, config.longitude)
    return dict(zip(OF_SUN, (np.asarray(unix_s - rise_s) / 3600.0, np.asarray(set_s - unix_s) / 3600.0), strict=True))


def _site_value(plan: Plan, site: str, name: str, times_ns: Array) -> Array:
    config = plan.sites[site]
    unix_s = times_ns / NS_PER_S
    local_s: Array = unix_s + config.offset_s(times_ns)
    match name:
        case "hour":
            return np.asarray(np.mod(local_s, sun.DAY_S) / 3600.0)
        case "weekday":
            return np.asarray(np.mod(np.floor(local_s / sun.DAY_S) + 3, 7) + 1.0)
        case "sun_up":
            return np.asarray(sun.elevation_at_deg(unix_s, config.latitude, config.longitude) > sun.HORIZON_DEG, np.float64)
        case "sun_elevation_deg":
            return np.asarray(sun.elevation_at_deg(unix_s, config.latitude, config.longitude))
    return np.full(len(times_ns), np.nan)
