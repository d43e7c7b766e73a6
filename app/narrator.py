"""The journal in words: one line per thing that a person wants to know. Reads, writes nothing."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.cells import cell_len

from app.words import say, text_of
from store.journal_reader import Gap, JournalReader
from store.snapshot import valid_snapshots
from telemetry.calibration import Calibrator
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.site import parse_site
from telemetry.transaction import Transaction

EVENT_WORDS: Final = {
    "birth": "online",
    "offline": "offline",
    "broker_up": "connected to the broker",
    "broker_lost": "lost the broker",
    "drained": "the broker's backlog is read",
    "upgrade": "a new build decides otherwise:",
    "follower_cut_off": "the disk is nearly full: a follower was cut off",
}
ALARM_WORDS: Final = {
    "raise": "raised",
    "clear": "cleared",
    "acknowledge": "acknowledged",
    "shelve": "shelved",
    "unshelve": "back from the shelf",
    "reset": "reset",
    "out_of_service": "out of service",
    "in_service": "in service again",
    "rule_removed": "ended: its rule was removed",
    "suppress": "suppressed by design",
    "unsuppress": "no longer suppressed",
    "chatter": "shelved for a while: it chatters",
    "comment": "commented",
    "assign": "assigned",
}
COMMAND_WORDS: Final = {  # in the order of a command's life
    "requested": "requested",
    "authorised": "authorised",
    "queued": "waiting",
    "sent": "sent",
    "accepted": "accepted",
    "confirmed": "confirmed",
    "refused": "refused",
    "expired": "expired",
    "superseded": "superseded",
    "lost": "no answer",
    "failed_safe": "in safe position",
}
ACTUATOR_MODES: Final = ("AUTO", "MANUAL", "LOCAL", "OFF")
COMMANDS_TOLD: Final = frozenset({"sent", "confirmed", "refused", "expired", "lost", "failed_safe"})
SERVICE: Final = "service"
STANDING: Final = ("UNACK", "ACKED", "RTNUN", "LATCH")
SUBJECT_WIDTH: Final = 34


def clock_text(time_ns: int) -> str:
    """Time of day as this terminal's clock shows it."""
    return datetime.fromtimestamp(time_ns / NS_PER_S).astimezone().strftime("%H:%M:%S")


def length(seconds: float) -> str:
    """A length of time to two figures: 12 s, 5 min, 3.2 h, 2 days."""
    for size, least, unit in ((86_400, 2, " days"), (3_600, 1, " h"), (60, 2, " min")):
        if seconds >= least * size:
            count = seconds / size
            return (f"{count:.2g}" if count < 100 else f"{count:,.0f}") + say(unit)
    return f"{seconds:.0f}" + say(" s")


@dataclass(slots=True)
class Known:
    """What the journal says now: the configuration, alarms that are not normal (subject to state), devices whose clock is wrong."""

    plan: Plan = field(default_factory=Plan)
    alarms: dict[str, str] = field(default_factory=dict)
    wrong_clocks: set[str] = field(default_factory=set)

    def take(self, transaction: Transaction) -> None:
        """Follow the journal by one transaction."""
        configure(self.plan, (record for _, record in transaction.read_entries().records))
        for decision in transaction.read_decisions():
            if decision.kind == "alarm":
                self.alarms[decision.subject] = str(decision.body.get("to"))
            elif decision.kind == "clock_wrong":
                (self.wrong_clocks.add if decision.body.get("wrong") else self.wrong_clocks.discard)(decision.subject)

    def standing(self) -> int:
        """Alarms that want somebody."""
        return sum(state in STANDING for state in self.alarms.values())


def known(data_dir: Path) -> Known:
    """From the newest snapshot and what was journaled after it."""
    position, now = -1, Known()
    for at, state in valid_snapshots(data_dir / "snapshots", skipped=[], is_other_build_allowed=True):
        with contextlib.suppress(KeyError, ValueError, TypeError, IndexError):  # of a build with another state: an older one may do
            position, now = at, _of_snapshot(state["engine"])
            break
    with contextlib.closing(JournalReader(data_dir / "journal")) as reader:
        while True:
            try:
                transactions = reader.read(position, rows_max=10_000)
            except Gap as gap:
                position = gap.available - 1
                continue
            if not transactions:
                return now
            for transaction in transactions:
                now.take(transaction)
                position = transaction.last


def _of_snapshot(engine: dict[str, Any]) -> Known:
    """Rules are keyed "site/RULE@version" there; devices are numbers."""
    plan, stages = Plan.from_snapshot(engine["plan"]), engine["stages"]
    alarms = {
        f"{rule.partition('/')[2].rpartition('@')[0]}@{plan.devices[device].key}": str(alarm[0])
        for rule, device, alarm in (*stages["Alarms"]["alarms"], *stages.get("CommandAlarms", {"alarms": []})["alarms"])
    }
    wrong = {plan.devices[number].key for number in np.flatnonzero(stages["Admit"]["device"]["clock"])}
    return Known(plan, alarms, wrong)


def configure(plan: Plan, records: Iterable[Any]) -> None:
    """Take over configurations among records."""
    for record in records:
        if isinstance(record, Config):
            plan.apply(parse_site(record.text))


class Narrator:
    """Transactions as lines for people."""

    def __init__(self, plan: Plan | None = None, *, with_samples: bool = False) -> None:
        self._with_samples = with_samples
        self._plan = plan or Plan()

    def lines(self, transaction: Transaction) -> Iterator[tuple[str, str]]:
        """(subject, line) of records, of samples when asked for, then of decisions."""
        entries = transaction.read_entries()
        calibrator = Calibrator(entries.frames)
        for index, record in entries.records:
            calibrator.until(index, self._plan)
            configure(self._plan, [record])
        calibrator.until(len(entries), self._plan)
        for index, record in entries.records:
            subject, text = record_words(record)
            if text:
                yield subject, line(int(entries.time_ns[index]), subject, text)
        if self._with_samples:
            frames, derived = calibrator.frames, transaction.read_admission().derived
            points, values = np.concatenate([frames.point, derived.point]), np.concatenate([frames.value, derived.value])
            times = np.concatenate([frames.ts_ns[frames.frame_of_sample], derived.ts_ns])
            for point, value, ts_ns in zip(points.tolist(), values.tolist(), times.tolist(), strict=True):
                name, unit = self._point(point)
                yield name, line(ts_ns, name, f"{value:g} {unit}".rstrip())
        for decision in transaction.read_decisions():
            text = self.decision_words(decision)
            if text:
                subject = "" if decision.kind == "blind" else decision.subject.rpartition("@")[2]
                yield subject, line(decision.time_ns, subject, text)

    def _point(self, number: int) -> tuple[str, str]:
        if not 0 <= number < len(self._plan.point_owner):
            return f"point {number}", ""
        spec = self._plan.point_spec(number)
        return self._plan.point_name(number), "" if spec is None or spec.unit == "bool" else spec.unit

    def decision_words(self, decision: Decision) -> str:
        """An alarm, command or fault in words; "" for the rest."""
        body = decision.body
        match decision.kind:
            case "alarm":
                return alarm_words(decision)
            case "area":
                return area_words(body)
            case "flood" if body.get("event") == "raise":
                return say("FLOOD of alarms: {count} in 10 min", count=body.get("count", ""))
            case "flood":
                return say("the flood of alarms is over: {count} in all", count=body.get("count", ""))
            case "command" if body.get("state") in COMMANDS_TOLD:
                value, measured = self._value(decision.subject, body.get("value")), body.get("measured")
                seen = "" if measured is None else say(" (measured {value})", value=self._value(decision.subject, measured))
                return f"{value} {say(COMMAND_WORDS[str(body['state'])])}{seen}  {because(body)}"
            case "answer" if not body.get("accepted", True):
                return say("request refused: {reason}", reason=body.get("reason", ""))
            case "clock_wrong" if body.get("wrong"):
                skew = say("fast") if body["skew_s"] > 0 else say("slow")
                return say(
                    "CLOCK WRONG: {length} {skew}; its samples are kept and move nothing",
                    length=length(abs(body["skew_s"])),
                    skew=skew,
                )
            case "clock_wrong":
                return say("clock is right again")
            case "calibration" if body.get("expired"):
                return say("CALIBRATION EXPIRED: the values are kept and marked UNCERTAIN until it is renewed")
            case "calibration":
                return say("calibration is in force again")
            case "fault" if "fault" in body:
                return ""  # its alarm says so
            case "fault":
                return say("FAULT: {error}", error=body.get("error") or body.get("reason") or body.get("state") or "")
            case "mode":
                return mode_words(body)
            case "blind" if body.get("blind"):
                return say("blind: what came meanwhile is being read, nothing is moved")
            case "blind":
                return say("sees again")
        return ""

    def _value(self, actuator: str, value: object) -> str:
        if not isinstance(value, int | float):
            return say("nothing")
        device, _, name = actuator.rpartition("/")
        owner = self._plan.device(device)
        spec = None if owner is None else owner.actuator(name)
        unit = "" if spec is None or spec.unit == "bool" else f" {spec.unit}"
        if spec is not None and spec.kind == "switch":
            return say("on") if value >= (spec.low + spec.high) / 2 else say("off")
        return f"{round(value, 1):g}{unit}"


def mode_words(body: dict[str, Any]) -> str:
    """Who works an actuator from now on."""
    if "panel" in body:
        return say("the panel says {mode}", mode=say(str(body["panel"])))
    if body.get("mode") != "MANUAL":
        return say("override over: the rules have it again")
    if body.get("unsafe"):
        return say("UNSAFE by hand, under survival limits: {reason}", reason=body.get("reason", ""))
    return say("by hand: {reason}", reason=body.get("reason", ""))


def line(time_ns: int, subject: str, text: str) -> str:
    """Time, who it is about, what."""
    who = subject or say(SERVICE)
    return f"{clock_text(time_ns)}  {who}{' ' * (SUBJECT_WIDTH - cell_len(who))}  {text}"  # a Chinese letter is two cells wide


def record_words(record: Any) -> tuple[str, str]:
    """(Who, what) of a record; what is "" for what says nothing to a person."""
    match record:
        case Start():
            return "", say("core began, epoch {epoch}", epoch=record.epoch)
        case Config():
            return record.site, say("configuration in force, {sha256}", sha256=record.sha256[:12])
        case Request(kind="config"):
            return str(record.body.get("site", "")), say("{author} changes the configuration", author=record.author)
        case Request():
            about = str(record.body.get("alarm") or record.body.get("actuator") or record.body.get("area") or "")
            what = f"{record.author}: {record.kind} {about.partition('@')[0] if '@' in about else ''}".rstrip()
            return about.rpartition("@")[2], what
        case Clock():
            return "", say("the wall clock jumped by {seconds:+.1f} s", seconds=record.jump_ns / NS_PER_S)
        case Event(name="records"):  # that accounting counted an acknowledgement or a birth
            return "", ""
        case Event(name="reject"):
            return record.device, say(
                "REJECTED {reason}: {detail}", reason=record.body.get("reason", ""), detail=record.body.get("detail", "")
            )
        case Event():
            words = say(EVENT_WORDS.get(record.name, record.name))
            return record.device, f"{words}  {record.body.get('reason', '')}".rstrip()
        case Ack() if record.status != "accepted":  # the command's own line says that
            return record.device, f"{say('answers')} {record.status} {record.reason}".rstrip()
    return "", ""


def alarm_words(decision: Decision) -> str:
    """Priority, what happened, the message with its value and device filled in, and the rule."""
    body, rule = decision.body, decision.subject.partition("@")[0]
    happened = say(ALARM_WORDS.get(str(body.get("event")), str(body.get("event", ""))))
    if body.get("event") == "clear" and body.get("to") == "RTNUN":
        happened = say("cleared, not yet acknowledged")
    if body.get("event") in {"comment", "assign"}:
        happened += f" ({body.get('author', '')}: {body.get('text') or body.get('assignee') or '-'})"
    return say(
        "ALARM {priority} {happened}: {text} [{rule}]",
        priority=body.get("priority", ""),
        happened=happened,
        text=alarm_text(decision),
        rule=rule,
    )


def area_words(body: dict[str, Any]) -> str:
    """An area's mode and batch, and who said so."""
    told = body.get("to") or {}
    text = say("{author} says: mode {mode}", author=body.get("author", ""), mode=told.get("mode", ""))
    if told.get("batch_ns") is None:
        return text
    return text + say(", batch {name}", name=told.get("batch") or "-")


def alarm_text(decision: Decision) -> str:
    """The alarm's message in the reader's language, with value and device filled in."""
    value = decision.body.get("value")
    shown = f"{round(value, 1):.6g}" if isinstance(value, float) else ""
    device = decision.subject.rpartition("@")[2].rpartition("/")[2]
    return text_of(decision.body.get("message")).replace("{value}", shown).replace("{device}", device)


def because(body: dict[str, Any]) -> str:
    """Why a command was given: the rule and its condition; a rule's message has places that only its alarm fills in."""
    source, reason = str((body.get("winner") or {}).get("source", "")), str(body.get("reason", ""))
    rule = source.partition("@")[0]
    if "@" not in source:
        return reason
    return rule if "{" in reason else f"{rule}: {reason}"
