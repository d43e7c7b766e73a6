"""The selector at the panel: whether an actuator takes our commands (AUTO), somebody works it by hand there (LOCAL), or it is OFF.

Its device tells it by an ordinary point (`selector` of the actuator): 0 AUTO, 1 LOCAL, 2 OFF. The panel always wins. Until a device has
said otherwise its actuators are in AUTO; what it said last holds while it is silent. A value that is none of the three counts as LOCAL.
"""

from typing import Final, NamedTuple

import numpy as np

from devices.feedback import usable
from telemetry.plan import Plan
from telemetry.site import SELECTOR
from telemetry.span import Span

AUTO: Final = "AUTO"


class PanelChange(NamedTuple):
    """The selector of an actuator was turned."""

    actuator: str
    mode: str


class Panels:
    """What stands at which panel, under one configuration."""

    def __init__(self) -> None:
        self._modes: dict[str, str] = {}  # of actuators that are not in AUTO
        self._actuators: dict[int, list[str]] = {}  # by point of the selector
        self._is_selector = np.zeros(0, np.bool_)  # by point
        self._told = np.zeros(0)  # by point: what the selector said last

    def configure(self, plan: Plan) -> None:
        """Take the plan; actuators that are gone, or have no selector any more, are in AUTO."""
        self._actuators.clear()
        self._is_selector = np.zeros(len(plan.point_owner), np.bool_)
        for group in plan.groups:
            if not group.is_active:
                continue
            for actuator in group.profile.actuators:
                columns = [n for n, point in enumerate(group.profile.points) if point.name == actuator.selector]
                for column in columns:
                    for device, point in zip(group.devices, group.points[:, column].tolist(), strict=True):
                        self._actuators.setdefault(point, []).append(f"{device.key}/{actuator.name}")
                    self._is_selector[group.points[:, column]] = True
        names = {name for known in self._actuators.values() for name in known}
        self._keep({name: mode for name, mode in self._modes.items() if name in names})

    def _keep(self, modes: dict[str, str]) -> None:
        self._modes, self._told = dict(modes), np.zeros(len(self._is_selector))
        codes = {mode: code for code, mode in SELECTOR.items()}
        for point, names in self._actuators.items():
            self._told[point] = codes[self.mode(names[0])]

    def mode(self, actuator: str) -> str:
        """AUTO, LOCAL or OFF."""
        return self._modes.get(actuator, AUTO)

    def turn(self, change: PanelChange) -> None:
        """Take a change."""
        if change.mode == AUTO:
            self._modes.pop(change.actuator, None)
        else:
            self._modes[change.actuator] = change.mode

    def changes(self, span: Span) -> list[tuple[int, PanelChange]]:
        """(entry, change) of selectors that were turned in a span, by usable samples; to be taken by `turn` in this order."""
        frames = span.entries.frames
        if not self._actuators or not len(frames):
            return []
        rows = np.flatnonzero(self._is_selector[frames.point])
        rows, frame = usable(span, rows)
        value, points = frames.value[rows], frames.point[rows]
        turned = np.isin(points, points[value != self._told[points]])  # nearly none: a selector stands for months
        found: list[tuple[int, PanelChange]] = []
        for point, said, f in zip(points[turned].tolist(), value[turned].tolist(), frame[turned].tolist(), strict=True):
            before, mode = SELECTOR.get(self._told[point], "LOCAL"), SELECTOR.get(said, "LOCAL")
            self._told[point] = said
            if mode != before:
                found += [(int(frames.entry[f]), PanelChange(name, mode)) for name in self._actuators[point]]
        return found

    def snapshot(self) -> dict[str, str]:
        """Modes other than AUTO by actuator."""
        return dict(self._modes)

    def restore(self, saved: dict[str, str]) -> None:
        """Inverse of `snapshot`, after `configure`."""
        self._keep(saved)
