"""What the journal holds for people: alarm changes, floods, and answers to tests of the alarm path. Pure.

Decisions of kinds `shadow` and `shadow_demand` are what a rule would have done: nobody is told. An alarm whose state stays the same
(a comment, an assignee) tells nobody either.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from people.escalation import Change
from telemetry.decision import Decision
from telemetry.record import Event
from telemetry.transaction import Transaction

CUT_EVENT: Final = "follower_cut_off"
CUT_OFF: Final = "NOTIFY-JOURNAL-CUT-OFF"
TEST_REQUEST: Final = "alarm_test"
FLOOD: Final = "FLOOD"


class Flood(NamedTuple):
    """An area ("site/area") in which more alarms came than a person can answer; the change tells of it as one alarm."""

    area: str
    is_on: bool
    change: Change


class Answer(NamedTuple):
    """Core has taken a test of the alarm path."""

    id: str
    time_ms: int


Notice = Change | Flood | Answer


def notices(transaction: Transaction, *, live_ms: int | None, now_ms: int) -> Iterator[Notice]:
    """In journal order. live_ms: when it was read, if it is news; None: it is the past, dated by the journal's own clock."""
    if CUT_EVENT.encode() in transaction.entries:  # decoding every sample would be dear
        yield from _cuts(transaction, now_ms)
    for decision in transaction.read_decisions():
        time_ms = decision.time_ns // 1_000_000
        since_ms = min(time_ms, now_ms) if live_ms is None else live_ms
        if decision.kind == "alarm":
            if decision.body.get("to") != decision.body.get("from") and not _is_follower(decision.body):
                yield _alarm(decision, since_ms)
        elif decision.kind == "flood":
            yield _flood(decision, since_ms)
        elif decision.kind == "answer" and decision.body.get("request") == TEST_REQUEST:
            yield Answer(decision.subject, time_ms)


def _is_follower(body: dict[str, Any]) -> bool:
    """Raised while another alarm of its first-out group stands: that one is told. A P1 always is."""
    return body.get("event") == "raise" and body.get("first_out") is False and body.get("priority") != "P1"


def _alarm(decision: Decision, since_ms: int) -> Change:
    body, (_, _, place) = decision.body, decision.subject.partition("@")
    site, _, device = place.partition("/")
    return Change(
        cause=f"{decision.position}/{decision.phase}/{decision.time_ns}/{decision.subject}",
        alarm=decision.subject,
        site=site,
        area=str(body.get("area") or ""),
        priority=str(body.get("priority") or "P2"),
        event=str(body.get("event")),
        to=str(body.get("to")),
        time_ms=decision.time_ns // 1_000_000,
        since_ms=since_ms,
        text=_filled(body.get("message"), body.get("value"), device),
    )


def _filled(message: Any, value: Any, device: str) -> dict[str, str]:
    """A rule's message with its places filled in."""
    shown = f"{value:.4g}" if isinstance(value, int | float) and math.isfinite(value) else "?"
    texts = message if isinstance(message, dict) else {}
    return {str(k): str(v).replace("{value}", shown).replace("{device}", device) for k, v in texts.items() if v}


def _flood(decision: Decision, since_ms: int) -> Flood:
    is_on, count = decision.body.get("event") == "raise", decision.body.get("count", "?")
    site, _, area = decision.subject.partition("/")
    text = {
        "en": f"Alarm flood: {count} alarms in {decision.subject}; P3 and P4 are told when it has ended",
        "zh": f"报警泛滥：{decision.subject} 共 {count} 条报警；P3 和 P4 在结束后汇总通知",
    }
    change = own_change(f"{FLOOD}@{decision.subject}", is_on=is_on, priority="P2", text=text, time_ms=decision.time_ns // 1_000_000,
                        since_ms=since_ms, cause=f"{decision.position}/{decision.time_ns}/{FLOOD}@{decision.subject}",
                        place=(site, area))  # fmt: skip
    return Flood(decision.subject, is_on, change)


def _cuts(transaction: Transaction, now_ms: int) -> Iterator[Change]:
    entries = transaction.read_entries()
    for index, record in entries.records:
        if isinstance(record, Event) and record.name == CUT_EVENT and not record.device:
            yield cut_off(transaction.first + index, int(entries.time_ns[index]) // 1_000_000, int(record.body["before"]), now_ms)


def cut_off(position: int, time_ms: int, before: int, now_ms: int) -> Change:
    """A journal that was deleted before everybody had read it."""
    text = {
        "en": f"The disk was nearly full: the journal before position {before} was deleted unread. Free space; look which alarms stand.",
        "zh": f"磁盘空间不足：日志位置 {before} 之前的内容未读完即被删除，数据有缺口。请清理磁盘，并查看当前报警。",
    }
    return own_change(
        CUT_OFF, is_on=True, priority="P2", text=text, time_ms=time_ms, since_ms=now_ms, cause=f"{position}/{CUT_OFF}"
    )


def own_change(
    alarm: str,
    *,
    is_on: bool,
    priority: str,
    text: dict[str, str],
    time_ms: int,
    since_ms: int,
    cause: str,
    place: tuple[str, str] = ("", ""),
) -> Change:
    """A change of an alarm that no rule raised and nobody can acknowledge: it ends by itself."""
    event, to = ("raise", "UNACK") if is_on else ("clear", "NORM")
    return Change(cause, alarm, *place, priority, event, to, time_ms, since_ms, text)
