"""Houses of one kind in the lab for some hours, each with a fault of its own, and what their air truly was."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.lab import Lab
from app.site_files import load_site
from simulators.fault import Injection
from simulators.weather import Scenario
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S
from telemetry.site import SiteConfig

SITES: Final = Path(__file__).parents[2] / "sites"
WINTER: Final = Scenario(mean_temp_c=-4.0, daily_range_k=9.0, dew_point_c=-8.0, sky="clear")
SUMMER: Final = Scenario(mean_temp_c=28.0, daily_range_k=9.0, dew_point_c=21.0, sky="clear")
WINTER_S, SUMMER_S = 1_768_406_400.0, 1_784_217_600.0  # midnights in China: 15 January, 17 July 2026
LOST: Final = 0.01  # of the commands
EVERY_S: Final = 60.0
HOUR_S: Final = 3600.0


def site_of(kind: str, names: Sequence[str]) -> SiteConfig:
    """A site with a mast and these houses of a kind, as the demo sites have one."""
    demo = load_site(SITES / ("pig-farm" if kind == "pig_house" else "nursery"))
    device = next(device for device in demo.devices if device.profile == kind)
    place = next(area for area in demo.areas if area.name == device.area)
    yard = next(area for area in demo.areas if area.name == "yard")
    mast = next(device for device in demo.devices if device.profile == "weather_station")
    return demo.model_copy(update={
        "areas": [yard, *(place.model_copy(update={"name": name}) for name in names)],
        "devices": [mast, *(device.model_copy(update={"name": name, "area": name}) for name in names)],
        "profiles": {name: demo.profiles[name] for name in (kind, "weather_station")},
    })  # fmt: skip


class Day:
    """A run of one kind. truth: by point (moments, houses), every minute from the beginning; names: of the houses."""

    def __init__(
        self,
        kind: str,
        faults: Mapping[str, Sequence[tuple[Any, ...]]],
        *,
        scenario: Scenario,
        start_s: float,
        hours: float,
        watched: Sequence[str],
        **lab: Any,
    ) -> None:
        """faults: by house, (fault, part, after hours, for hours[, strength]). Every house loses one command in a hundred."""
        self.names = list(faults)
        planned = [Injection("command_lost", name, strength=LOST, at_s=start_s) for name in self.names]
        for name, given in faults.items():
            for fault, part, after_h, for_h, *strength in given:
                at_s, for_s = start_s + after_h * HOUR_S, for_h * HOUR_S
                planned.append(Injection(fault, name, part, strength[0] if strength else None, at_s=at_s, for_s=for_s))
        site = site_of(kind, self.names)
        self.lab = Lab(site, seed=1, hours=hours, scenario=scenario, start_s=start_s, faults=planned, **lab)
        self.start_ns = int(start_s * NS_PER_S)
        group = next(d.device.place.group for d in self.lab.devices if d.device.profile.name == kind)
        rows: list[dict[str, Any]] = []
        self.lab.begin()
        while not self.lab.is_over:
            self.lab.advance()
            if self.lab.clock.now_ns() >= self.start_ns + len(rows) * EVERY_S * NS_PER_S:
                drives = group.drives.fractions()
                truth = group.houses.truth(drives) | group.houses.panel(drives)
                rows.append(
                    {name: np.array(truth[name], float) for name in watched} | {f"@{n}": np.array(v) for n, v in drives.items()}
                )
        self.truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def of(self, point: str, house: str, *, from_h: float = 0.0, to_h: float = 1e9) -> np.ndarray:
        """True values of a point in a house, every minute between two hours of the run; "@name" is a drive, 0..1."""
        column = self.truth[point][:, self.names.index(house)]
        return column[int(from_h * 60) : int(min(to_h * 60, len(column)))]

    def raised(self, alarm: str, house: str) -> list[float]:
        """Hours of the run at which an alarm of a house was raised."""
        subject = f"{alarm}@{self.lab.site.site}/{house}"
        return [(d.time_ns - self.start_ns) / NS_PER_S / HOUR_S for d in self._raises() if d.subject == subject]

    def alarms(self, house: str) -> set[str]:
        """Names of all alarms that a house raised."""
        place = f"@{self.lab.site.site}/{house}"
        return {d.subject.partition("@")[0] for d in self._raises() if d.subject.endswith(place)}

    def _raises(self) -> list[Decision]:
        return [d for d in self.lab.decisions if d.kind == "alarm" and d.body.get("event") == "raise"]
