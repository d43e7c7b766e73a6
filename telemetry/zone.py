"""Clocks of time zones, as a short table that travels with a site's configuration.

A replay on another machine, with other tables of the world's zones, must say the same: so the table is made once, when a configuration
is first read, and journaled with it.
"""

import datetime as dt
import functools
import zoneinfo
from difflib import get_close_matches
from typing import Final

FIRST_YEAR, LAST_YEAR = 2015, 2045
DAY_S: Final = 86_400


def known_zone(name: str) -> str:
    """The name itself. Raises ValueError with the likely one where there is no such zone."""
    known = _zones()
    if name in known:
        return name
    near = get_close_matches(name[:64], known, n=1)
    meant = f"did you mean {near[0]}?" if near else "write it like Asia/Shanghai"
    msg = f"no time zone {name[:64]!r}, {meant}"
    raise ValueError(msg)


@functools.cache
def _zones() -> set[str]:
    return zoneinfo.available_timezones()  # reads some 600 files


@functools.lru_cache(maxsize=64)
def offsets(name: str) -> list[tuple[int, int]]:
    """(from this moment on, s since 1970; s ahead of UTC), ascending, for the years 2015 to 2045; the last holds from then on."""
    zone = zoneinfo.ZoneInfo(name)

    def ahead(unix_s: int) -> int:
        found = dt.datetime.fromtimestamp(unix_s, zone).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    first = int(dt.datetime(FIRST_YEAR, 1, 1, tzinfo=dt.UTC).timestamp())
    last = int(dt.datetime(LAST_YEAR, 1, 1, tzinfo=dt.UTC).timestamp())
    made = [(0, ahead(first))]
    for day in range(first, last, DAY_S):
        if ahead(day + DAY_S) == made[-1][1]:
            continue
        low, high = day, day + DAY_S  # the clock changes after low, at high at the latest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ahead(middle) == made[-1][1] else (low, middle)
        made.append((high, ahead(high)))
    return made
