"""States of an alarm and what leads from one to the next (ISA-18.2, IEC 62682).

NORM normal, UNACK active unacknowledged, ACKED active acknowledged, RTNUN returned unacknowledged, LATCH returned and acknowledged but
waiting for a reset, SHLVD shelved, DSUPR suppressed by design, OOSRV out of service.
"""

from typing import Final, NamedTuple

from telemetry.record import Request
from telemetry.site import RuleSpec
from telemetry.span import UNREAD, Read

ANIMALS_SHELVE_MAX_S: Final = 3_600

# (state, event) -> next state; a pair that is missing changes nothing. "-": where the condition then stands.
TABLE: Final[dict[tuple[str, str], str]] = {
    ("NORM", "raise"): "-",
    ("UNACK", "acknowledge"): "ACKED",
    ("UNACK", "clear"): "RTNUN",
    ("ACKED", "clear"): "NORM",
    ("RTNUN", "acknowledge"): "NORM",
    ("RTNUN", "raise"): "-",
    ("LATCH", "raise"): "-",
    ("LATCH", "reset"): "NORM",
    ("NORM", "shelve"): "SHLVD",
    ("UNACK", "shelve"): "SHLVD",
    ("ACKED", "shelve"): "SHLVD",
    ("RTNUN", "shelve"): "SHLVD",
    ("SHLVD", "unshelve"): "-",
    ("UNACK", "suppress"): "DSUPR",
    ("ACKED", "suppress"): "DSUPR",
    ("DSUPR", "unsuppress"): "-",
    ("DSUPR", "clear"): "NORM",
    ("NORM", "out_of_service"): "OOSRV",
    ("UNACK", "out_of_service"): "OOSRV",
    ("ACKED", "out_of_service"): "OOSRV",
    ("RTNUN", "out_of_service"): "OOSRV",
    ("SHLVD", "out_of_service"): "OOSRV",
    ("DSUPR", "out_of_service"): "OOSRV",
    ("OOSRV", "in_service"): "-",
}


class Alarm(NamedTuple):
    """One alarm of one device. until_ns: end of its shelving; asked_by: the first of the two persons a shelving needs."""

    state: str = "NORM"
    on: bool = False  # its condition
    suppressed: bool = False
    value: float = float("nan")
    area: str = ""
    since_ns: int = 0
    until_ns: int | None = None
    asked_by: str = ""
    asked_ns: int = 0
    assignee: str = ""
    held_ns: int = 0  # since when its condition held when it last turned on
    read: Read = UNREAD  # what it read when it last turned on or off
    raised: bool = False  # since it was last normal

    @property
    def is_idle(self) -> bool:
        """Nothing about it differs from an alarm that never was."""
        return self.state == "NORM" and not (self.on or self.suppressed or self.asked_by)


NEW: Final = Alarm()


def following(alarm: Alarm, event: str, *, latching: bool) -> str | None:
    """The next state; None when the event does nothing here. A latching alarm waits for a reset where another one would be normal."""
    after = TABLE.get((alarm.state, event))
    if after == "-":
        after = "NORM" if not alarm.on else "DSUPR" if alarm.suppressed else "UNACK"
    return "LATCH" if after == "NORM" and latching and alarm.raised and event != "reset" else after


def refusal(request: Request, spec: RuleSpec, *, has_animals: bool) -> str:
    """Why a request is refused whatever the alarm's state; "" when it is not."""
    if request.kind == "comment" and not 0 < len(str(request.body.get("text", ""))) <= 2_000:
        return "a comment needs a `text` of at most 2,000 characters"
    if request.kind != "shelve":
        return ""
    seconds, longest = request.body.get("seconds"), spec.shelve_max_s
    if has_animals and spec.priority == "P2":
        longest = min(longest, ANIMALS_SHELVE_MAX_S)
    if spec.priority == "P1":
        return "a P1 alarm is never shelved"
    if longest <= 0:
        return f"{spec.id} is never shelved"
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= longest:
        return f"shelving needs `seconds` between 1 and {longest:g}"
    return "" if request.body.get("reason") else "shelving needs a `reason`"
