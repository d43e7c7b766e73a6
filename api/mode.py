"""Who works an actuator now, as the journal's decisions say: the rules (AUTO), a person or program (MANUAL), the panel (LOCAL, OFF)."""

from dataclasses import dataclass, replace
from typing import Final

from api.about import split_subject
from telemetry.decision import Decision

AUTO: Final = "AUTO"


@dataclass(frozen=True, slots=True)
class ActuatorMode:
    """Of one actuator. panel: what the selector there says; until_ns: end of the override in force, None without one."""

    site: str
    device: str
    actuator: str
    panel: str = AUTO
    until_ns: int | None = None
    reason: str = ""
    is_unsafe: bool = False

    @property
    def key(self) -> str:
        """ "site/device/actuator"."""
        return f"{self.site}/{self.device}/{self.actuator}"

    @property
    def mode(self) -> str:
        """The panel always wins."""
        return self.panel if self.panel != AUTO else "MANUAL" if self.until_ns is not None else AUTO


def following(before: ActuatorMode | None, decision: Decision) -> ActuatorMode:
    """The mode after a decision of kind "mode"; `before` None: nobody has spoken."""
    body, found = decision.body, before or ActuatorMode(*split_subject(decision))
    if "panel" in body:
        return replace(found, panel=str(body["panel"]))
    if body.get("mode") != "MANUAL":
        return replace(found, until_ns=None, reason="", is_unsafe=False)
    return replace(
        found, until_ns=int(body["until_ns"]), reason=str(body.get("reason", "")), is_unsafe=bool(body.get("unsafe", False))
    )
