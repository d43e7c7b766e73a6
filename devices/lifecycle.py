"""The life of a command as a table: (state, event) -> (state, effects). The drawing in docs/commands.md is made from it.

Events: authorise, hold, send, supersede, deadline, restart, measured, fail_safe are ours; accepted, refused, expired, superseded are
answers of the device. Effects: publish, close (no longer open), fault (a decision, and an alarm), fail (position unknown, tried again
later), fail_safe (order the declared position).
"""

from typing import Final

# (state, event) -> (state, effects). A pair that is missing changes nothing.
TABLE: Final[dict[tuple[str, str], tuple[str, tuple[str, ...]]]] = {
    ("requested", "authorise"): ("authorised", ()),
    ("requested", "supersede"): ("superseded", ("close",)),
    ("requested", "deadline"): ("expired", ("close", "fault", "fail")),
    ("authorised", "send"): ("sent", ("publish",)),
    ("authorised", "hold"): ("queued", ()),
    ("queued", "send"): ("sent", ("publish",)),
    ("queued", "supersede"): ("superseded", ("close",)),
    ("queued", "deadline"): ("expired", ("close", "fault", "fail")),
    ("sent", "send"): ("sent", ("publish",)),
    ("sent", "accepted"): ("accepted", ()),
    ("sent", "refused"): ("refused", ("close", "fault", "fail", "fail_safe")),
    ("sent", "expired"): ("expired", ("close", "fault", "fail", "fail_safe")),
    ("sent", "superseded"): ("superseded", ("close", "fault", "fail", "fail_safe")),  # by whom, then?
    ("sent", "supersede"): ("superseded", ("close",)),
    ("sent", "deadline"): ("lost", ("close", "fault", "fail", "fail_safe")),
    ("sent", "restart"): ("lost", ("close", "fault", "fail", "fail_safe")),
    ("accepted", "measured"): ("confirmed", ("close",)),
    ("accepted", "supersede"): ("superseded", ("close",)),
    ("accepted", "deadline"): ("lost", ("close", "fault", "fail", "fail_safe")),
    ("lost", "fail_safe"): ("failed_safe", ()),
    ("expired", "fail_safe"): ("failed_safe", ()),
    ("refused", "fail_safe"): ("failed_safe", ()),
    ("superseded", "fail_safe"): ("failed_safe", ()),
}
STATES: Final = (
    "requested", "authorised", "queued", "sent", "accepted", "confirmed", "refused", "expired", "superseded", "lost", "failed_safe",
)  # fmt: skip
WAITING: Final = frozenset({"requested", "queued"})  # not sent yet; "authorised" is passed, never stood in
FAULTS: Final = {
    "refused": "COMMAND_REFUSED",
    "expired": "COMMAND_EXPIRED",
    "superseded": "COMMAND_SUPERSEDED",
    "lost": "COMMAND_LOST",
}


def drawing() -> str:
    """A Mermaid state diagram of the table."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> requested"]
    for (state, event), (after, effects) in TABLE.items():
        lines.append(f"    {state} --> {after}: {event}" + (f" / {', '.join(effects)}" if effects else ""))
    return "\n".join([*lines, "```", ""])
