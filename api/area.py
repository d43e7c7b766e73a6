"""An area as the live pages show it: its operating mode, its batch, and whether alarms flood it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rules.area import AreaState
from rules.clock import area_value
from telemetry.decision import Decision
from telemetry.site import SiteConfig


@dataclass(frozen=True, slots=True)
class Area:
    """batch_ns: when the batch was of day 0 (None: there is none); flood_ns: since when alarms flood it (None: they do not)."""

    site: str
    name: str
    mode: str = "AUTO"
    batch: str = ""
    batch_ns: int | None = None
    flood_ns: int | None = None

    def day_of_batch(self, config: SiteConfig, now_ns: int) -> int | None:
        """The batch's day by the site's clock, as rules see it; None without a batch."""
        if self.batch_ns is None:
            return None
        state = AreaState(self.mode, self.batch_ns, self.batch)
        return int(area_value(config, self.name, state, "day_of_batch", np.array([now_ns]))[0])


def following(before: Area | None, decision: Decision) -> Area:
    """The area after a decision of kind "area" or "flood" about it."""
    site, _, name = decision.subject.partition("/")
    area, body = before or Area(site, name), decision.body
    if decision.kind == "flood":
        begins = body.get("event") == "raise"
        return Area(site, name, area.mode, area.batch, area.batch_ns, decision.time_ns if begins else None)
    told: dict[str, Any] = body.get("to") or {}
    return Area(site, name, str(told.get("mode", area.mode)), str(told.get("batch") or ""), told.get("batch_ns"), area.flood_ns)
