"""An alarm as the live pages show it: what the journal's decisions about it add up to."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from api.about import split_subject
from telemetry.decision import Decision

NORMAL: Final = "NORM"
REMARKS: Final = frozenset({"comment", "assign"})  # decisions that say something of an alarm and leave its state
COMMENTS_MAX: Final = 20  # newest kept; all are in history


class Comment(NamedTuple):
    """What a person wrote beside an alarm."""

    time_ns: int
    author: str
    text: str


@dataclass(slots=True)
class Alarm:
    """An alarm that is not NORM. `body` is the evidence of its last change of state; assignee "": nobody has taken it."""

    subject: str
    rule: str
    site: str
    device: str
    state: str
    priority: str
    raised_ns: int
    changed_ns: int
    position: int
    body: dict[str, Any]
    assignee: str = ""
    comments: list[Comment] = field(default_factory=list)


def following(before: Alarm | None, decision: Decision) -> Alarm:
    """The alarm after a decision about it; `before` None: it was NORM."""
    body = decision.body
    if body.get("event") in REMARKS:
        return _remarked(before, decision)
    site, device, rule = split_subject(decision)
    raises = before is None or body.get("event") == "raise"
    if raises and "value" in body:
        # What the message is about; `value` goes on to that of the last change.
        body = {**body, "value_at_raise": body["value"]}
    return Alarm(
        decision.subject,
        rule,
        site,
        device,
        str(body.get("to", NORMAL)),
        str(body.get("priority") or (before.priority if before else "")),
        decision.time_ns if raises or before is None else before.raised_ns,
        decision.time_ns,
        decision.position,
        {**(before.body if before else {}), **body},
        before.assignee if before else "",
        before.comments if before else [],
    )


def _remarked(before: Alarm | None, decision: Decision) -> Alarm:
    """The same alarm with one more comment, or another assignee."""
    site, device, rule = split_subject(decision)
    body, time_ns = decision.body, decision.time_ns
    alarm = before or Alarm(
        decision.subject, rule, site, device, NORMAL, str(body.get("priority", "")), time_ns, time_ns, decision.position, body
    )
    assignee, comments = alarm.assignee, alarm.comments
    if body["event"] == "assign":
        assignee = str(body.get("assignee", ""))
    else:
        comments = [*comments, Comment(time_ns, str(body.get("author", "")), str(body.get("text", "")))][-COMMENTS_MAX:]
    return replace(alarm, position=decision.position, assignee=assignee, comments=comments)
