"""Whether a command may be sent now, and why not: the panel, the device's proof of life, blindness, and the pace of the drive."""

from devices.drive import Command, Drive, Wanted
from devices.moment import Moment
from devices.panel import AUTO, Panels
from telemetry.site import ActuatorSpec


class Permit:
    """What of panels and devices decides. proven: devices "site/device" heard since the last START, loss of the broker or last will."""

    def __init__(self, sabotage: frozenset[str]) -> None:
        self._sabotage = sabotage
        self.panels = Panels()
        self.proven: set[str] = set()

    def is_permitted(self, drive: Drive) -> bool:
        """The panel leaves the actuator to us."""
        return self.panels.mode(drive.name) == AUTO

    def panel_says(self, drive: Drive) -> str:
        """Why it does not."""
        return f"the panel says {self.panels.mode(drive.name)}"

    def is_reachable(self, drive: Drive, spec: ActuatorSpec) -> bool:
        """A device that forgets no command by itself gets none before it is known to be there."""
        return spec.expires or "ignore_proof" in self._sabotage or drive.name.rpartition("/")[0] in self.proven

    def may_resend(self, spec: ActuatorSpec) -> bool:
        """A dose is repeated only to a device that executes an id once."""
        return spec.dedupes or spec.kind != "pulse" or "double_send_pulse" in self._sabotage

    def withheld(self, drive: Drive, wanted: Wanted | Command, spec: ActuatorSpec, m: Moment, *, is_blind: bool) -> str:
        """Why a command may not be sent now; "" when it may. A fail-safe waits for nothing but the panel and its device."""
        if not self.is_permitted(drive):
            return self.panel_says(drive)
        if not self.is_reachable(drive, spec):
            return "the device is not proven online"
        if isinstance(wanted, Command) and wanted.is_fail_safe:
            return ""
        if is_blind and "send_blind" not in self._sabotage:
            return "blind"
        is_paced = drive.may_move_ns(wanted.value, drive.level(wanted), spec) > m.now_ns and "ignore_pacing" not in self._sabotage
        return "travel or minimum on/off time" if is_paced else ""
